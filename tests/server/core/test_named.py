"""What is asked of sessions by name."""

from collections.abc import AsyncIterator
from pathlib import Path

import numpy as np
import pytest

from gatestream.server.core.named import SessionState
from gatestream.server.errors import AlreadyExists, InvalidRequest
from tests.support.artifacts import ACCUMULATOR_FINGERPRINT
from tests.support.engine import Bench, Recorder, bench


@pytest.fixture
async def b(accumulator_path: Path) -> AsyncIterator[Bench]:
    async with bench(accumulator_path, sequence_timeout=5.0, idle_timeout=60.0) as made:
        yield made


async def test_states_go_from_session_to_session(b: Bench) -> None:
    owner = Recorder()
    slot = b.open(owner, 0, "s")
    b.steps(owner, [0], [slot], [[1.0, 2.0]])
    kept = await b.lifecycle.named.state("", "s")
    assert (kept.position, np.frombuffer(kept.rows[0], "<f4").tolist()) == (2, [3, 3])
    assert await b.lifecycle.named.fork("", "s", "twin") == ("twin", 2)
    b.open(owner, 1, "other")
    assert await b.lifecycle.named.set_state("", "other", kept) == 2
    assert await b.lifecycle.named.state("", "twin") == await b.lifecycle.named.state("", "other") == kept
    with pytest.raises(AlreadyExists):
        await b.lifecycle.named.fork("", "s", "twin")


@pytest.mark.parametrize(
    ("state", "says"),
    [
        (SessionState("of others", 1, [bytes(8)]), "state.weights_fingerprint is 'of others'"),
        (SessionState(ACCUMULATOR_FINGERPRINT, 1, [bytes(4)]), r"state.state has columns of \[4\] bytes"),
        (SessionState(ACCUMULATOR_FINGERPRINT, 1, []), r"state.state has columns of \[\] bytes"),
        (SessionState(ACCUMULATOR_FINGERPRINT, 2**62, [bytes(8)]), "state.position is 4611686018427387904"),
        (
            SessionState(ACCUMULATOR_FINGERPRINT, 1, [np.array([0, np.nan], "<f4").tobytes()]),
            "state.state 's' holds NaN or infinity",
        ),
    ],
)
async def test_a_state_that_does_not_fit_changes_nothing(b: Bench, state: SessionState, says: str) -> None:
    owner = Recorder()
    slot = b.open(owner, 0, "s")
    b.steps(owner, [0], [slot], [[1.0]])
    before = await b.lifecycle.named.state("", "s")
    with pytest.raises(InvalidRequest, match=says):
        await b.lifecycle.named.set_state("", "s", state)
    assert await b.lifecycle.named.state("", "s") == before
