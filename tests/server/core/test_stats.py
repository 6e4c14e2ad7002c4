"""Every run of an engine is counted once, wherever it was made, and so is every session."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gatestream.server.backend.run_time import RunTime
from gatestream.server.core.batches import OUTPUTS
from gatestream.server.core.reply_sink import CloseReason
from gatestream.server.telemetry import ModelStats
from tests.support.artifacts import POISON
from tests.support.engine import Bench, Recorder, bench, expect_long_runs


def one(b: Bench, owner: Recorder, handle: int, slot: int, *values: float) -> None:
    x = np.repeat(np.array(values, np.float32)[:, None], 2, axis=1).tobytes()
    assert b.engine.submit_one(owner, handle, slot, len(values), -1, (x,), OUTPUTS)


@asynccontextmanager
async def short(path: Path) -> AsyncIterator[Bench]:
    """An engine that knows its runs to be short, and has counted none."""
    async with bench(path) as b:
        b.engine.rows.run_time = Fast()
        yield b


class Fast(RunTime):
    """However slow a run was, the next one is expected to be short."""

    def expected(self, batch: int, steps: int) -> float:
        return 0.0


def runs(stats: ModelStats) -> dict[str, int]:
    return {where: count for where, count in stats.runs.items() if count}


async def test_a_step_that_comes_alone(accumulator_path: Path) -> None:
    async with short(accumulator_path) as b:
        owner = Recorder()
        slot = b.open(owner, 0)
        for _ in range(3):
            one(b, owner, 0, slot, 1)
            await b.engine.quiet()
        # The first one of a session sets its state, which is not as simple.
        stats = b.engine.counted()
        assert runs(stats) == {"at_once": 1, "alone": 2}
        assert (stats.rows, stats.entries, stats.sizes[1][0]) == (3, 3, 3)


async def test_steps_that_come_together_are_one_run(accumulator_path: Path) -> None:
    async with short(accumulator_path) as b:
        owner = Recorder()
        slots = [b.open(owner, handle) for handle in range(3)]
        for handle, slot in enumerate(slots):
            one(b, owner, handle, slot, 1)
        await b.engine.quiet()
        b.steps(owner, [0, 1], slots[:2], [[1], [2]])
        await b.engine.quiet()
        stats = b.engine.counted()
        assert runs(stats) == {"at_once": 2}
        assert (stats.rows, {size: count for size, (count, _) in stats.sizes.items()}) == (5, {3: 1, 2: 1})


async def test_a_chunk_in_line_is_several_runs(accumulator_path: Path) -> None:
    """Of at most four rows each."""
    async with short(accumulator_path) as b:
        owner = Recorder()
        b.steps(owner, [0], [b.open(owner, 0)], [list(range(10))])
        await b.engine.quiet()
        stats = b.engine.counted()
        assert runs(stats) == {"loop": 3}
        assert (stats.rows, stats.entries, stats.step.counts[0]) == (10, 3, 10)


async def test_a_long_run_is_made_on_the_thread(accumulator_path: Path) -> None:
    async with bench(accumulator_path) as b:
        expect_long_runs(b.engine)
        owner = Recorder()
        one(b, owner, 0, b.open(owner, 0), 1)
        await b.engine.quiet()
        stats = b.engine.counted()
        assert runs(stats) == {"thread": 1}


async def test_how_long_a_run_waited_is_how_long_its_first_step_did(accumulator_path: Path) -> None:
    """By a clock that stands still while the model runs."""
    async with short(accumulator_path) as b:
        owner = Recorder()
        first, second = b.open(owner, 0), b.open(owner, 1)
        one(b, owner, 0, first, 1)
        b.now += 0.25
        one(b, owner, 1, second, 1)
        b.now += 0.5
        await b.engine.quiet()
        stats = b.engine.counted()
        assert (stats.wait.seconds, stats.run.seconds, stats.step.seconds) == (0.75, 0.0, 1.5)
        assert stats.waited == 1.5


async def test_the_parts_of_a_chunk_wait_from_one_run_to_the_next(accumulator_path: Path) -> None:
    async with short(accumulator_path) as b:
        owner = Recorder()
        slot = b.open(owner, 0)
        b.steps(owner, [0], [slot], [[1] * 10])
        b.now += 0.25
        await b.engine.quiet()
        stats = b.engine.counted()
        assert (sum(stats.runs.values()), stats.wait.seconds) == (3, 0.25)


@pytest.mark.parametrize("alone", [True, False])
async def test_a_run_that_fails(accumulator_path: Path, alone: bool) -> None:
    async with short(accumulator_path) as b:
        owner = Recorder()
        slots = [b.open(owner, handle) for handle in range(1 if alone else 3)]
        for handle, slot in enumerate(slots):
            one(b, owner, handle, slot, 1)
        await b.engine.quiet()
        before = sum(b.engine.counted().runs.values())
        for handle, slot in enumerate(slots):
            one(b, owner, handle, slot, POISON)
        await b.engine.quiet()
        stats = b.engine.counted()
        # Three fail as what has just come, then as what is queued; then one, two, and each of these.
        assert stats.failed_runs == (1 if alone else 6)
        assert (stats.failed_entries, sum(stats.runs.values())) == (len(slots), before)
        assert [heard[0] for heard in owner.heard].count("STEP_FAILED") == len(slots)


async def test_sessions_are_counted_when_they_are_made_and_when_they_end(accumulator_path: Path) -> None:
    async with bench(accumulator_path, idle_timeout=10.0) as b:
        owner, other = Recorder(), Recorder()
        slots = [b.open(owner, handle, f"s{handle}") for handle in range(6)]
        sessions = b.engine.sessions

        def there() -> tuple[int, int, int]:
            attached, _, sequences, _ = sessions.census()
            return sessions.taken, attached, sequences

        assert there() == (6, 6, 0)
        b.lifecycle.held.close(owner, np.array(slots[:1]))
        await b.engine.quiet()
        await b.lifecycle.named.close("", "s1")
        # Taken over, it goes on.
        b.open(other, 0, "s2", create=False)
        await b.engine.quiet()
        b.lifecycle.held.disconnected(other, np.array([slots[2]]))
        twin, _ = await b.lifecycle.named.fork("", "s3", "twin")
        b.lifecycle.sequences.session(owner, "", "sequence:1", start=True)
        assert there() == (5, 3, 1)
        b.now += 11.0
        await b.lifecycle.expiry.expire()
        assert there() == (0, 0, 0)
        b.open(owner, 0)
        await b.lifecycle.expiry.end_all(CloseReason.DRAINED)
        assert twin == "twin"
        stats = b.engine.counted()
        ended = {why: count for why, count in stats.ended.items() if count}
        assert ended == {"REQUESTED": 1, "ADMINISTERED": 1, "DISCONNECTED": 1, "IDLE": 5, "DRAINED": 1}
        assert stats.opened == stats.ended.total() == 9


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(
        st.lists(
            st.tuples(st.integers(0, 3), st.lists(st.sampled_from([1, 1, 1, POISON]), min_size=1, max_size=6)),
            min_size=1,
            max_size=4,
            unique_by=lambda chunk: chunk[0],
        ),
        max_size=6,
    ),
    st.booleans(),
)
def test_what_is_counted_is_what_owners_heard(
    accumulator_path: Path, messages: list[list[tuple[int, list[float]]]], long: bool
) -> None:
    """Every step that was answered by a number is in one run, and every step that was not in none."""

    async def run() -> None:
        async with short(accumulator_path) as b:
            if long:
                expect_long_runs(b.engine)
            owner = Recorder()
            slots = [b.open(owner, handle) for handle in range(4)]
            for message in messages:
                if len(message) == 1:
                    ((handle, values),) = message
                    one(b, owner, handle, slots[handle], *values)
                else:
                    b.steps(owner, [h for h, _ in message], [slots[h] for h, _ in message], [v for _, v in message])
                await asyncio.sleep(0)
            await b.engine.quiet()
            taken = sum(sum(heard[3]) for heard in owner.heard if heard[0] == "results")
            stats = b.engine.counted()
            assert stats.rows == sum(stats.step.counts) == taken
            assert sum(stats.run.counts) == sum(stats.wait.counts) == sum(stats.runs.values())
            assert (stats.failed_runs > 0) == any(heard[0] == "STEP_FAILED" for heard in owner.heard)

    asyncio.run(run())
