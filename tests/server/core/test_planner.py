"""What the next run computes: what has just come where that is short and nothing waits, else those whose turn it is."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from gatestream.server.backend.run_time import RunTime
from gatestream.server.core.planner import Planner
from tests.support.engine import Bench, Recorder, bench


class Known(RunTime):
    """Every run is expected to take so many seconds."""

    seconds = 1e-4

    def expected(self, batch: int, steps: int) -> float:
        return self.seconds


@pytest.fixture
def known() -> Known:
    return Known()


@pytest.fixture
async def b(accumulator_path: Path, known: Known) -> AsyncIterator[Bench]:
    """Its runs take four rows, and four steps at most."""
    async with bench(accumulator_path) as made:
        made.engine.rows.run_time = known
        yield made


def single(b: Bench, owner: Recorder, session: int) -> None:
    """A step comes that is told nobody yet."""
    x = bytes(b.engine.layout.inputs[0].row_bytes)
    assert b.engine.submit_one(owner, session, session, 1, -1, [x], 1)


def planner_of(b: Bench) -> Planner:
    return b.engine._planner


@pytest.mark.parametrize("count", [1, 3])
async def test_a_few_single_steps_are_one_run(b: Bench, count: int) -> None:
    owner = Recorder()
    sessions = [b.open(owner, k) for k in range(count)]
    for session in sessions:
        single(b, owner, session)
    run = planner_of(b).at_once()
    assert run is not None
    assert (sorted(run.sessions), run.steps, run.rows, run.where) == (sessions, 1, count, "at_once")
    # They are in this run, and in no other.
    assert planner_of(b).at_once() is None
    b.engine._step(run)


async def test_what_is_expected_to_be_long_goes_to_the_thread(b: Bench, known: Known) -> None:
    owner = Recorder()
    session = b.open(owner, 0)
    known.seconds = 1.0
    single(b, owner, session)
    assert planner_of(b).at_once() is None
    run = planner_of(b).queued()
    assert run is not None
    assert run.where == "thread"
    b.engine._step(run)


@pytest.mark.parametrize(("length", "queued"), [(4, False), (5, True)])
async def test_a_chunk_that_is_longer_than_a_run_is_queued(b: Bench, length: int, queued: bool) -> None:
    owner = Recorder()
    session = b.open(owner, 0)
    b.steps(owner, [0], [session], [[1.0] * length])
    run = planner_of(b).at_once()
    assert (run is None) == queued
    if run is not None:
        assert (run.members, run.steps, run.rows) == (1, length, length)
        b.engine._step(run)
        return
    rows = 0
    while (run := planner_of(b).queued()) is not None:
        assert run.rows <= 4
        rows += run.rows
        b.engine._step(run)
    assert rows == length


async def test_a_step_waits_for_those_of_its_session_that_are_queued(b: Bench) -> None:
    owner = Recorder()
    session, other = b.open(owner, 0), b.open(owner, 1)
    b.steps(owner, [0], [session], [[1.0] * 6])
    assert planner_of(b).at_once() is None
    single(b, owner, session)
    single(b, owner, other)
    assert planner_of(b).few() is None
    # It stands behind the chunk, and the other session's step behind nothing.
    b.engine.edits.take_in()
    told: list[tuple[int, int]] = []
    while (run := planner_of(b).queued()) is not None:
        told += list(zip(map(int, run.sessions), map(int, run.lengths), strict=True))
        b.engine._step(run)
    assert sum(length for which, length in told if which == session) == 7
    # Nor does it wait for those.
    assert (other, 1) in told[:2]
