"""What streams ask of the sessions that they hold."""

from collections.abc import AsyncIterator
from pathlib import Path

import numpy as np
import pytest

from tests.support.engine import Bench, Recorder, bench


@pytest.fixture
async def b(accumulator_path: Path) -> AsyncIterator[Bench]:
    async with bench(accumulator_path, sequence_timeout=5.0, idle_timeout=60.0) as made:
        yield made


async def test_a_reset_has_its_turn(b: Bench) -> None:
    owner = Recorder()
    slot = b.open(owner, 0)
    b.steps(owner, [0], [slot], [[1.0, 1.0]])
    b.lifecycle.held.reset(owner, np.array([slot]), np.array([0]))
    b.steps(owner, [0], [slot], [[1.0]])
    await b.engine.quiet()
    assert owner.take()[1:] == [
        ("results", [0], [0], [2], [1, 2]),
        ("reset", [0], [2]),
        ("results", [0], [2], [1], [1]),
    ]
