"""Training by truncated backpropagation with carried state, in runs that can be interrupted and go on."""

import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from tqdm import tqdm

from gatestream.model import checkpoint
from gatestream.model.checkpoint import Checkpoint, TrainingState
from gatestream.model.network import Network, NetworkConfig, State
from gatestream.model.tasks.task import Evaluation, Session, Task


class TrainingError(RuntimeError):
    """Training cannot begin, go on or succeed; the message says why and what to do."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """How to train.

    Attributes:
        updates: the most that are made; the learning rate falls to nothing along half a cosine over them.
        learning_rate: Adam's, at the first update.
        interval: updates between two evaluations, each with a checkpoint.
        patience: evaluations without a better score after which training ends; None: it goes on.
        seed: of the initial weights.
    """

    updates: int
    learning_rate: float
    interval: int
    patience: int | None = None
    seed: int = 0


class Trainer:
    """One training run: the network, the optimiser, and everything that a checkpoint must hold.

    Attributes:
        network: what is being trained.
        losses: the loss of each update made: mean cross-entropy in nats, or mean squared error in units of
            the outputs' scale.
        evaluations: (updates made, score, summary) of each evaluation.
        finished: no update is left to make; the network has the best weights seen.
        solved: what the task last said.
    """

    def __init__(self, task: Task, config: NetworkConfig, settings: Settings) -> None:
        self.task = task
        with torch.random.fork_rng():
            torch.manual_seed(settings.seed)
            self.network = Network(config)
        self.settings = settings
        self.losses: list[float] = []
        self.evaluations: list[tuple[int, float, str]] = []
        self.finished = False
        self.solved: bool | None = None
        self._optimiser = torch.optim.Adam(self.network.parameters(), lr=settings.learning_rate, fused=True)
        self._state: State | None = None
        self._best: dict[str, Tensor] = {}

    @property
    def best(self) -> tuple[int, float, str]:
        """The evaluation with the lowest score, the latest among equals."""
        return min(reversed(self.evaluations), key=lambda evaluation: evaluation[1])

    def update(self) -> float:
        """Take one window: forward, truncated backward, one step of the optimiser.

        Returns:
            The loss.

        Raises:
            TrainingError: the loss is not finite.
        """
        window = self.task.window()
        h, c = self._state or self.network.initial_state(len(window.fresh))
        keep = torch.from_numpy(~window.fresh)[:, None, None]  # [streams, 1, 1]
        ys, (h, c) = self.network.fast(torch.from_numpy(window.inputs), (h * keep, c * keep))
        self._state = h.detach(), c.detach()  # the state is carried, its history is not
        loss = self._loss(ys, torch.from_numpy(window.targets))
        if not loss.isfinite():
            raise TrainingError(
                f"the loss is {loss.item()} after {len(self.losses)} updates; start over with a lower --learning-rate"
            )
        self._optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(self.network.parameters(), 1.0)
        progress = len(self.losses) / self.settings.updates
        for group in self._optimiser.param_groups:
            group["lr"] = self.settings.learning_rate * 0.5 * (1 + math.cos(math.pi * progress))
        self._optimiser.step()
        self.losses.append(loss.item())
        return self.losses[-1]

    def evaluate(self) -> Evaluation:
        """Judge the network as it is, remember the best one, and decide whether training is finished."""
        evaluation = self.task.evaluate(self._open)
        self.evaluations.append((len(self.losses), evaluation.score, evaluation.summary))
        if self.best is self.evaluations[-1]:
            self._best = {name: tensor.clone() for name, tensor in self.network.state_dict().items()}
        self.solved = evaluation.solved
        self.finished = bool(self.solved) or len(self.losses) >= self.settings.updates or self._stale()
        if self.finished:
            self.network.load_state_dict(self._best)
        return evaluation

    def state(self) -> TrainingState:
        """Everything but the network. A finished run keeps its history only."""
        tensors = {"losses": torch.tensor(self.losses, dtype=torch.float64)}
        values: dict[str, Any] = {
            "run": self._run(),
            "evaluations": self.evaluations,
            "finished": self.finished,
            "solved": self.solved,
        }
        if not self.finished:
            values["task"] = self.task.state()
            if self._state:
                tensors["h"], tensors["c"] = self._state
            for index, moments in self._optimiser.state_dict()["state"].items():
                tensors |= {f"optimiser.{index}.{name}": moment for name, moment in moments.items()}
            tensors |= {f"best.{name}": tensor for name, tensor in self._best.items()}
        return TrainingState(tensors, values)

    def restore(self, saved: Checkpoint) -> None:
        """Go on as if the run that wrote this checkpoint had never stopped.

        Raises:
            TrainingError: it is of another run; what differs is listed.
        """
        values, tensors = saved.training.values, saved.training.tensors
        self._require_same_run(saved)
        self.network.load_state_dict(saved.network.state_dict())
        self.losses = tensors["losses"].tolist()
        self.evaluations = [(update, score, summary) for update, score, summary in values["evaluations"]]
        self.finished, self.solved = values["finished"], values["solved"]
        if self.finished:
            return
        self.task.restore(values["task"])
        if "h" in tensors:
            self._state = tensors["h"], tensors["c"]
        optimiser = self._optimiser.state_dict()
        for name, tensor in tensors.items():
            if name.startswith("optimiser."):
                _, index, moment = name.split(".")
                optimiser["state"].setdefault(int(index), {})[moment] = tensor
        self._optimiser.load_state_dict(optimiser)
        self._best = {name.removeprefix("best."): t for name, t in tensors.items() if name.startswith("best.")}

    def _loss(self, ys: Tensor, targets: Tensor) -> Tensor:
        config = self.network.config
        if config.tokens:
            return torch.nn.functional.cross_entropy(ys.flatten(0, 1), targets.flatten())
        scale = torch.tensor(config.output_scale or 1.0)
        return ((ys - targets) / scale).square().mean()

    def _stale(self) -> bool:
        if self.settings.patience is None:
            return False
        since_best = len(self.evaluations) - 1 - self.evaluations.index(self.best)
        return since_best >= self.settings.patience

    def _open(self, batch: int) -> Session:
        state = self.network.initial_state(batch)

        def session(inputs: NDArray[Any]) -> NDArray[np.float32]:
            nonlocal state
            with torch.inference_mode():
                ys, state = self.network.fast(torch.from_numpy(inputs), state)
            return ys.numpy()

        return session

    def _run(self) -> dict[str, Any]:
        return self.task.identity | asdict(self.settings)

    def _require_same_run(self, saved: Checkpoint) -> None:
        theirs = saved.training.values.get("run", {}) | asdict(saved.network.config)
        ours = self._run() | asdict(self.network.config)
        differences = [
            f"{name} {theirs.get(name, 'not there')} there, {value} here"
            for name, value in ours.items()
            if theirs.get(name) != value
        ]
        if differences:
            raise TrainingError(
                f"the checkpoint is of another run ({'; '.join(differences)}); "
                "write to another file, or start over with --restart"
            )


def train(trainer: Trainer, path: Path, *, progress: bool = True) -> None:
    """Train until finished, with a checkpoint at every evaluation.

    Args:
        trainer: a run that has just begun, or was restored.
        path: where to write the checkpoint.
        progress: print a line about each evaluation, and on a terminal show a bar.

    Raises:
        TrainingError: see `Trainer.update`.
        OSError: the checkpoint cannot be written.
    """
    settings = trainer.settings
    with tqdm(
        total=settings.updates,
        initial=len(trainer.losses),
        unit=" updates",
        disable=None if progress else True,  # None: where standard error is no terminal
    ) as bar:
        while not trainer.finished:
            loss = trainer.update()
            bar.update()
            bar.set_postfix_str(f"loss {loss:.4f}", refresh=False)
            if len(trainer.losses) % settings.interval and len(trainer.losses) < settings.updates:
                continue
            evaluation = trainer.evaluate()
            checkpoint.save(path, trainer.network, trainer.state())
            if progress:
                tqdm.write(f"{len(trainer.losses)} updates, loss {loss:.4f}: {evaluation.summary}")
