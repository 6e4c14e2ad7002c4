import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from gatestream.model import checkpoint
from gatestream.model.config import NetworkConfig
from gatestream.model.network import State
from gatestream.model.tasks.reber import Reber, Streams, illegal
from gatestream.model.tasks.task import Evaluation, Session, Window
from gatestream.model.training import Settings, Trainer, TrainingError, train

SETTINGS = Settings(updates=12, learning_rate=0.01, interval=4, seed=3)


class Counting:
    """A task in two streams of numbers, scored as told."""

    score_label = "score"

    def __init__(self, scores: list[float], solved_at: int | None = None, size: float = 1.0) -> None:
        self.identity: dict[str, Any] = {"task": "counting"}
        self.scores = scores
        self.solved_at = solved_at
        self.size = size
        self.windows = 0
        self.judged = 0

    def config(self, name: str, hidden: int, layers: int) -> NetworkConfig:
        return NetworkConfig(
            name=name, task="counting", encoder="none", inputs=1, hidden=hidden, layers=layers, outputs=1
        )

    def window(self) -> Window:
        self.windows += 1
        inputs = np.full((2, 3, 1), self.windows / 10, dtype=np.float32)
        return Window(inputs, inputs * self.size, np.array([False, self.windows % 2 == 0]))

    def evaluate(self, sessions: Callable[[int], Session]) -> Evaluation:
        del sessions
        self.judged += 1
        score = self.scores[self.judged - 1]
        return Evaluation(score, f"score {score}", solved=self.judged == self.solved_at)

    def state(self) -> dict[str, Any]:
        return {"windows": self.windows, "judged": self.judged}

    def restore(self, state: dict[str, Any]) -> None:
        self.windows, self.judged = state["windows"], state["judged"]


def counting(scores: list[float], settings: Settings = SETTINGS, **options: Any) -> Trainer:
    task = Counting(scores, **options)
    return Trainer(task, task.config("n", hidden=4, layers=2), settings)


def weights(trainer: Trainer) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in trainer.network.state_dict().items()}


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def test_a_run_that_goes_on_is_bit_for_bit_the_run_that_was_not_interrupted(tmp_path: Path) -> None:
    scores = [3.0, 1.0, 2.0]
    whole = counting(scores)
    train(whole, tmp_path / "whole", progress=False)

    part = counting(scores)
    for _ in range(8):
        part.update()
        if len(part.losses) % 4 == 0:
            part.evaluate()
            checkpoint.save(tmp_path / "part", part.network, part.state())
    part.update()  # is lost

    rest = counting(scores)
    rest.restore(checkpoint.load(tmp_path / "part"))
    assert len(rest.losses) == 8
    train(rest, tmp_path / "part", progress=False)

    assert rest.losses == whole.losses
    assert rest.evaluations == whole.evaluations
    assert same(weights(rest), weights(whole))


def test_reber_goes_on_bit_for_bit(tmp_path: Path) -> None:
    def begin() -> Trainer:
        task = Reber(8, 20, seed=3, judged=(4, 500))
        return Trainer(task, task.config("reber", hidden=8, layers=1), SETTINGS)

    whole, part, rest = begin(), begin(), begin()
    train(whole, tmp_path / "whole", progress=False)
    for _ in range(4):
        part.update()
    part.evaluate()
    part.update()
    checkpoint.save(tmp_path / "part", part.network, part.state())
    rest.restore(checkpoint.load(tmp_path / "part"))
    train(rest, tmp_path / "part", progress=False)
    assert rest.losses == whole.losses
    assert same(weights(rest), weights(whole))


def test_the_seed_makes_the_weights_and_nothing_else_moves() -> None:
    torch.manual_seed(0)
    one = weights(counting([]))
    after = torch.rand(1)
    torch.manual_seed(0)
    assert torch.equal(torch.rand(1), after)
    assert same(one, weights(counting([])))
    assert not same(one, weights(counting([], dataclasses.replace(SETTINGS, seed=4))))


def test_the_state_is_carried_where_no_session_begins_and_its_history_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    trainer = counting([])
    seen = []
    fast = trainer.network.fast

    def watched(xs: torch.Tensor, state: State) -> tuple[torch.Tensor, State]:
        seen.append(state)
        return fast(xs, state)

    monkeypatch.setattr(trainer.network, "fast", watched)
    trainer.update()
    trainer.update()
    (first, _), (h, c) = seen
    assert not first.any()
    for part in (h, c):
        assert part[0].any()
        assert not part[1].any()
        assert part.grad_fn is None


def test_the_learning_rate_falls_along_half_a_cosine() -> None:
    trainer = counting([0.0] * 3)
    rates = []
    for _ in range(12):
        trainer.update()
        rates.append(trainer._optimiser.param_groups[0]["lr"])
    assert rates[0] == 0.01
    assert rates[6] == pytest.approx(0.005)
    assert rates == sorted(rates, reverse=True)
    assert rates[-1] < 0.0002


def test_the_best_weights_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trainer = counting([2.0, 1.0, 5.0])
    snapshots = []
    evaluate = trainer.task.evaluate

    def watched(sessions: Callable[[int], Session]) -> Evaluation:
        snapshots.append(weights(trainer))
        return evaluate(sessions)

    monkeypatch.setattr(trainer.task, "evaluate", watched)
    train(trainer, tmp_path / "n", progress=False)
    assert trainer.best == (8, 1.0, "score 1.0")
    assert same(dict(checkpoint.load(tmp_path / "n").network.state_dict()), snapshots[1])
    assert not same(snapshots[1], snapshots[2])


def test_it_ends_early_when_solved(tmp_path: Path) -> None:
    trainer = counting([2.0, 1.0, 5.0], solved_at=2)
    train(trainer, tmp_path / "n", progress=False)
    assert (len(trainer.losses), trainer.finished, trainer.solved) == (8, True, True)


def test_it_ends_early_when_the_score_no_longer_improves(tmp_path: Path) -> None:
    settings = dataclasses.replace(SETTINGS, updates=100, patience=2)
    trainer = counting([3.0, 1.0, 2.0, 1.5, 0.0], settings)
    train(trainer, tmp_path / "n", progress=False)
    assert len(trainer.losses) == 16
    assert trainer.best[0] == 8


def test_the_last_update_is_judged_even_off_the_interval(tmp_path: Path) -> None:
    trainer = counting([3.0, 2.0, 1.0], dataclasses.replace(SETTINGS, updates=9))
    train(trainer, tmp_path / "n", progress=False)
    assert [update for update, _, _ in trainer.evaluations] == [4, 8, 9]


def test_a_finished_checkpoint_holds_the_history_alone(tmp_path: Path) -> None:
    trainer = counting([1.0, 1.0, 1.0])
    train(trainer, tmp_path / "n", progress=False)
    saved = checkpoint.load(tmp_path / "n")
    assert list(saved.training.tensors) == ["losses"]
    again = counting([1.0, 1.0, 1.0])
    again.restore(saved)
    assert again.finished
    assert again.losses == trainer.losses
    assert again.evaluations == trainer.evaluations


def test_another_run_is_refused_with_what_differs(tmp_path: Path) -> None:
    trainer = counting([1.0] * 3)
    train(trainer, tmp_path / "n", progress=False)
    other = counting([1.0] * 3, dataclasses.replace(SETTINGS, seed=9, updates=13))
    with pytest.raises(TrainingError, match=r"updates 12 there, 13 here; seed 3 there, 9 here.*--restart"):
        other.restore(checkpoint.load(tmp_path / "n"))


def test_a_network_that_was_never_trained_cannot_be_gone_on_with(tmp_path: Path) -> None:
    trainer = counting([])
    checkpoint.save(tmp_path / "n", trainer.network)
    with pytest.raises(TrainingError, match="updates not there there, 12 here"):
        trainer.restore(checkpoint.load(tmp_path / "n"))


def test_a_loss_that_is_not_finite_ends_the_run() -> None:
    with pytest.raises(TrainingError, match="the loss is inf after 0 updates; start over with a lower"):
        counting([], size=1e30).update()


def test_reber_is_learned_within_seconds() -> None:
    """Not to the end, which the slow test sees, but the short-range grammar."""
    task = Reber(32, 50, seed=0)
    settings = Settings(updates=400, learning_rate=0.02, interval=400)
    trainer = Trainer(task, task.config("reber", hidden=16, layers=1), settings)

    def mistakes() -> float:
        streams = Streams(16, 99)
        inputs, _, legal = streams.take(200)
        with torch.inference_mode():
            scores, _ = trainer.network.fast(torch.from_numpy(inputs), trainer.network.initial_state(16))
        return illegal(scores.numpy(), legal) / inputs.size

    assert mistakes() > 0.5
    for _ in range(150):
        trainer.update()
    assert mistakes() < 0.1


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_reber_is_solved_from_any_seed(seed: int, tmp_path: Path) -> None:
    """Ten sessions of 1,000,000 symbols each, unbroken, without an illegal prediction."""
    task = Reber(64, 100, seed)
    settings = Settings(updates=2000, learning_rate=0.01, interval=250, seed=seed)
    trainer = Trainer(task, task.config("reber", hidden=32, layers=1), settings)
    train(trainer, tmp_path / "n", progress=False)
    assert trainer.solved
    streams, state = Streams(10, seed + 1000), trainer.network.initial_state(10)
    for _ in range(100):
        inputs, _, legal = streams.take(10_000)
        with torch.inference_mode():
            scores, state = trainer.network.fast(torch.from_numpy(inputs), state)
        assert illegal(scores.numpy(), legal) == 0
