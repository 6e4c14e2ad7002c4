from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from gatestream.model.counter_proof import Course, draw, hold_forget_gates, run
from gatestream.model.tasks.reber import Reber
from gatestream.model.training import Settings, Trainer


def test_a_held_forget_gate_is_exactly_1_and_stays_so() -> None:
    task = Reber(4, 10, seed=0)
    trainer = Trainer(task, task.config("n", 8, 2), Settings(updates=5, learning_rate=0.1, interval=5))
    hold_forget_gates(trainer.network)
    for _ in range(3):
        trainer.update()
    inputs = torch.from_numpy(task.window().inputs)
    state = trainer.network.initial_state(4)
    ys, _, (_, f, _, _) = trainer.network(inputs, state)
    assert torch.equal(f, torch.ones_like(f))
    torch.testing.assert_close(trainer.network.fast(inputs, state)[0], ys)


def test_the_courses_are_drawn(tmp_path: Path) -> None:
    course = Course([50], [3.0], [500], [2.0], [9.0])
    draw({"one": course, "other": course}, tmp_path / "a.png")
    with Image.open(tmp_path / "a.png") as picture:
        assert picture.size == (1440, 456)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_without_a_forget_gate_the_task_is_not_learned() -> None:
    learned, held = (run(hold=hold, updates=750, every=250) for hold in (False, True))
    assert np.mean(learned.drift) < 0.1
    assert max(learned.cell) < 100
    assert np.mean(held.drift) > 10
    assert held.cell[-1] > 10 * held.cell[0]
