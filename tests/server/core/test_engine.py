"""The step loop on a real model, with an owner that writes down what it is told."""

import asyncio
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gatestream.server.core.batches import OUTPUTS, Entries
from gatestream.server.errors import Exhausted, OutOfStep
from tests.support.artifacts import POISON
from tests.support.engine import Recorder, bench, expect_long_runs


async def test_steps_are_answered_in_order_and_carry_the_state(accumulator_path: Path) -> None:
    async with bench(accumulator_path) as b:
        owner = Recorder()
        first, second = b.open(owner, 10), b.open(owner, 11)
        b.steps(owner, [10, 11], [first, second], [[1], [5]])
        b.steps(owner, [10], [first], [[2, 3, 4, 5, 6]])
        await b.engine.quiet()
        assert owner.take() == [
            ("opened", 10, 0, True),
            ("opened", 11, 0, True),
            ("results", [10, 11], [0, 0], [1, 1], [1, 5]),
            ("results", [10], [1], [5], [3, 6, 10, 15, 21]),
        ]
        assert owner.rows == 0
        assert b.engine.sessions.position[[first, second]].tolist() == [6, 1]


async def test_a_step_that_fails_is_refused_alone_with_what_stands_behind_it(accumulator_path: Path) -> None:
    async with bench(accumulator_path) as b:
        owner, other = Recorder(), Recorder()
        bad, good, late = b.open(owner, 0), b.open(owner, 1), b.open(other, 2)
        b.steps(owner, [0, 1], [bad, good], [[1], [2]])
        await b.engine.quiet()
        b.steps(owner, [0, 1], [bad, good], [[POISON], [3]])
        b.steps(owner, [0], [bad], [[4]])
        b.lifecycle.held.reset(owner, np.array([bad]), np.array([0]))
        b.lifecycle.held.close(owner, np.array([good]))
        await b.engine.quiet()
        b.steps(other, [2], [late], [[7]])
        b.steps(owner, [0], [bad], [[5]])
        await b.engine.quiet()
        heard = owner.take()
        assert heard[3:] == [
            ("STEP_FAILED", [0], [1], [1], [1]),
            ("PRECEDING_FAILED", [0], [1], [2], [1]),
            ("PRECEDING_FAILED", [0], [1], [], []),
            ("results", [1], [1], [1], [5]),
            ("closed", "REQUESTED", [1], [2]),
            ("results", [0], [1], [1], [6]),
        ]
        assert other.take()[1:] == [("results", [2], [0], [1], [7])]
        assert (owner.rows, other.rows) == (0, 0)


async def test_what_contradicts_the_position_is_refused_alone(accumulator_path: Path) -> None:
    async with bench(accumulator_path) as b:
        owner = Recorder()
        slots = np.array([b.open(owner, 0), b.open(owner, 1)])
        owner.take()
        x = np.array([[1, 1], [2, 2]], np.float32)
        entries = Entries.of(np.array([0, 1]), slots, np.array([1, 1]), np.array([0, 1]), b.engine.reply_mask[slots])
        b.engine.submit(owner, entries, np.array([3, 0]), [x])
        await b.engine.quiet()
        assert owner.take() == [("POSITION_MISMATCH", [0], [0], [3], [1]), ("results", [1], [0], [1], [2])]


async def test_numbers_that_would_poison_the_state_are_refused_alone(accumulator_path: Path) -> None:
    async with bench(accumulator_path) as b:
        owner = Recorder()
        slots = [b.open(owner, handle) for handle in range(3)]
        owner.take()
        b.steps(owner, [0, 1, 2], slots, [[1, np.nan], [2, 3], [np.inf]])
        await b.engine.quiet()
        assert owner.take() == [("NOT_FINITE", [0, 2], [0, 0], [0, 0], [2, 1]), ("results", [1], [0], [2], [2, 5])]


async def test_what_is_over_a_bound_is_refused_and_then_taken(accumulator_path: Path) -> None:
    async with bench(accumulator_path, rows=6, rows_per_stream=5, chunk_length=5) as b:
        owner, other = Recorder(), Recorder()
        first, second = b.open(owner, 0), b.open(other, 1)
        owner.take(), other.take()
        b.steps(owner, [0], [first], [[1] * 5])
        b.steps(owner, [0], [first], [[1]])
        b.steps(other, [1], [second], [[1] * 2])
        assert [heard[0] for heard in owner.take() + other.take()] == ["ROWS_EXHAUSTED"] * 2
        await b.engine.quiet()
        b.steps(owner, [0], [first], [[1]])
        b.steps(other, [1], [second], [[1] * 2])
        await b.engine.quiet()
        assert owner.take()[-1] == ("results", [0], [0], [6], [1, 2, 3, 4, 5, 6])
        assert other.take() == [("results", [1], [0], [2], [1, 2])]


async def test_a_session_goes_to_whoever_opened_it_last(accumulator_path: Path) -> None:
    async with bench(accumulator_path) as b:
        before, after = Recorder(), Recorder()
        slot = b.open(before, 3, session_id="s")
        b.steps(before, [3], [slot], [[1, 2, 3, 4, 5]])
        assert b.open(after, 0, session_id="s", create=False) == slot
        b.steps(after, [0], [slot], [[6]])
        await b.engine.quiet()
        assert before.take() == [
            ("opened", 3, 0, True),
            ("lost", 3),
            ("results", [3], [0], [5], [1, 3, 6, 10, 15]),
            ("closed", "TAKEN_OVER", [3], [5]),
        ]
        assert after.take() == [("opened", 0, 5, False), ("results", [0], [5], [1], [21])]


async def test_a_slot_that_a_running_tick_still_writes_is_not_given_away(accumulator_path: Path) -> None:
    async with bench(accumulator_path, sessions=1, chunk_length=1000) as b:
        gone = Recorder()
        slot = b.open(gone, 0)
        expect_long_runs(b.engine)
        b.steps(gone, [0], [slot], [[1] * 1000])
        while not b.engine._running:
            await asyncio.sleep(0)
        b.lifecycle.held.disconnected(gone, np.array([slot]))
        with pytest.raises(Exhausted):
            b.open(Recorder(), 0)
        owner = Recorder()
        while True:
            with suppress(Exhausted):
                slot = b.open(owner, 0)
                break
            await asyncio.sleep(0)
        b.steps(owner, [0], [slot], [[7]])
        await b.engine.quiet()
        assert owner.take()[-1] == ("results", [0], [0], [1], [7])
        taken = sum(sum(heard[3]) for heard in gone.heard if heard[0] == "results")
        refused = sum(sum(heard[4]) for heard in gone.heard if heard[0] == "SESSION_CLOSED")
        assert taken + refused == 1000


async def test_idleness_is_counted_from_the_last_answer(accumulator_path: Path) -> None:
    async with bench(accumulator_path, idle_timeout=10.0) as b:
        owner = Recorder()
        stepped, _silent = b.open(owner, 0), b.open(owner, 1)
        b.now = 9.0
        b.steps(owner, [0], [stepped], [[1]])
        await b.engine.quiet()
        b.now = 10.5
        assert await b.lifecycle.expiry.expire() == 1
        assert owner.take()[-1] == ("closed", "IDLE", [1], [0])
        b.now = 18.9
        assert await b.lifecycle.expiry.expire() == 0
        b.now = 19.1
        b.steps(owner, [0], [stepped], [[1]])
        assert await b.lifecycle.expiry.expire() == 0, "a session with work queued is not idle"
        await b.engine.quiet()
        assert len(b.engine.sessions) == 1


async def test_state_moves_between_sessions_in_order(accumulator_path: Path) -> None:
    async with bench(accumulator_path) as b:
        owner = Recorder()
        slot = b.open(owner, 0, session_id="s")
        b.steps(owner, [0], [slot], [[1, 2]])
        state = asyncio.ensure_future(b.lifecycle.named.state("", "s"))
        await asyncio.sleep(0)
        b.steps(owner, [0], [slot], [[10]])
        copied = await state
        assert (copied.position, np.frombuffer(copied.rows[0], np.float32).tolist()) == (2, [3, 3])
        await b.engine.quiet()
        twin, position = await b.lifecycle.named.fork("", "s", "twin")
        assert (twin, position) == ("twin", 3)
        assert await b.lifecycle.named.set_state("", "s", copied) == 2
        b.steps(owner, [0], [slot], [[100]])
        b.open(owner, 1, session_id="twin", create=False)
        b.steps(owner, [1], [b.engine.sessions.tenants.find("", "twin")], [[1000]])
        await b.engine.quiet()
        answers = [heard for heard in owner.take() if heard[0] == "results"]
        assert answers[-2:] == [("results", [0], [2], [1], [103]), ("results", [1], [3], [1], [1013])]
        assert await b.lifecycle.named.close("", "twin") == 4


async def test_a_state_that_follows_a_failed_step_is_not_set(accumulator_path: Path) -> None:
    async with bench(accumulator_path) as b:
        owner = Recorder()
        slot = b.open(owner, 0, session_id="s")
        state = await b.lifecycle.named.state("", "s")
        b.steps(owner, [0], [slot], [[POISON]])
        with pytest.raises(OutOfStep, match="before this one in the session failed"):
            await b.lifecycle.named.set_state("", "s", state)
        b.steps(owner, [0], [slot], [[4]])
        await b.engine.quiet()
        assert owner.take()[-1] == ("results", [0], [0], [1], [4])


async def test_what_stands_behind_a_close_in_line_is_answered_as_not_taken(accumulator_path: Path) -> None:
    async with bench(accumulator_path) as b:
        owner = Recorder()
        slot = b.open(owner, 0, session_id="s")
        expect_long_runs(b.engine)
        b.steps(owner, [0], [slot], [[1]])
        closing = asyncio.ensure_future(b.lifecycle.named.close("", "s"))
        await asyncio.sleep(0)
        b.steps(owner, [0], [slot], [[2, 3]])
        late = asyncio.ensure_future(b.lifecycle.named.state("", "s"))
        assert await closing == 1
        with pytest.raises(OutOfStep, match="was closed before"):
            await late
        assert owner.take() == [
            ("opened", 0, 0, True),
            ("results", [0], [0], [1], [1]),
            ("SESSION_CLOSED", [0], [1], [1], [2]),
            ("closed", "ADMINISTERED", [0], [1]),
        ]
        assert owner.rows == 0
        assert b.engine.sessions._slots.free == 8


@pytest.mark.parametrize("together", [True, False])
async def test_what_came_while_a_run_failed_is_behind_the_step_that_failed(
    accumulator_path: Path, together: bool
) -> None:
    """Also what had not been put in line yet: its client did not know of the failure."""
    async with bench(accumulator_path) as b:
        expect_long_runs(b.engine)
        owner = Recorder()
        slots = [b.open(owner, handle) for handle in range(2)]
        owner.take()
        b.steps(owner, [0, 1], slots, [[1], [POISON]])
        while not b.engine._running:
            await asyncio.sleep(0)
        if together:
            b.steps(owner, [0, 1], slots, [[5], [5]])
        else:
            for handle, slot in enumerate(slots):
                assert b.engine.submit_one(owner, handle, slot, 1, -1, (np.full(2, 5, np.float32).tobytes(),), OUTPUTS)
        await b.engine.quiet()
        heard = sorted(owner.take())
        behind = [handle for name, handles, *_ in heard if name == "PRECEDING_FAILED" for handle in handles]
        failed = [handles for name, handles, *_ in heard if name == "STEP_FAILED"]
        assert (failed, behind) == ([[1]], [1])
        assert sum(sum(lengths) for name, _, _, lengths, _ in heard if name == "results") == 2
        assert b.engine.sessions.accepted[slots].tolist() == b.engine.sessions.position[slots].tolist() == [2, 0]
        b.steps(owner, [0, 1], slots, [[3], [4]])
        await b.engine.quiet()
        # Whose step failed shares no run with others for a while.
        assert owner.take() == [("results", [0], [2], [1], [9]), ("results", [1], [0], [1], [4])]
        b.now += 11
        b.steps(owner, [0, 1], slots, [[3], [4]])
        await b.engine.quiet()
        assert owner.take() == [("results", [0, 1], [3, 1], [1, 1], [12, 8])]
        assert owner.rows == 0


@settings(max_examples=40)
@given(members=st.lists(st.tuples(st.integers(1, 3), st.booleans()), min_size=2, max_size=12), long=st.booleans())
def test_whoever_fails_the_others_of_the_run_do_not(
    accumulator_path: Path, members: list[tuple[int, bool]], long: bool
) -> None:
    async def play() -> None:
        async with bench(accumulator_path, sessions=12) as b:
            if long:
                expect_long_runs(b.engine)
            owner = Recorder()
            slots = [b.open(owner, handle) for handle in range(len(members))]
            owner.take()
            rows = [[POISON] * poisoned + [1.0] * (length - poisoned) for length, poisoned in members]
            b.steps(owner, list(range(len(members))), slots, rows)
            await b.engine.quiet()
            heard = owner.take()
            refused = [handles for name, handles, *_ in heard if name == "STEP_FAILED"]
            assert sorted(refused) == [[handle] for handle, (_, poisoned) in enumerate(members) if poisoned]
            assert {name for name, *_ in heard} <= {"STEP_FAILED", "results"}
            # And once as what has just come, before they are queued.
            assert b.engine.counted().failed_runs <= 2 * len(members)
            total = [0 if poisoned else length for length, poisoned in members]
            assert b.engine.sessions.position[slots].tolist() == total
            sums = [b.engine.rows.read(int(b.engine.sessions.slot[slot]))[0].tolist() for slot in slots]
            assert sums == [[[each, each]] for each in total]
            assert not b.engine.check()

    asyncio.run(play())


async def test_no_row_is_given_away_while_a_failed_run_is_made_apart(accumulator_path: Path) -> None:
    """A session that ends meanwhile is stepped to no avail, and nobody else's state is touched."""
    async with bench(accumulator_path, sessions=8) as b:
        expect_long_runs(b.engine)
        owner, other = Recorder(), Recorder()
        slots = [b.open(owner, handle) for handle in range(8)]
        b.steps(owner, list(range(8)), slots, [[POISON], *[[1.0]] * 7])
        while not b.engine.counted().failed_runs:
            await asyncio.sleep(0)
        b.lifecycle.held.disconnected(owner, np.array(slots[4:]))
        with pytest.raises(Exhausted):
            b.open(other, 0)
        await b.engine.quiet()
        new = b.open(other, 0)
        b.steps(other, [0], [new], [[7]])
        await b.engine.quiet()
        assert other.take()[-1] == ("results", [0], [0], [1], [7])
        assert b.engine.sessions.position[slots[:4]].tolist() == [0, 1, 1, 1]


@pytest.mark.parametrize("long", [False, True])
async def test_nobody_waits_until_it_is_found_out_whose_steps_fail(accumulator_path: Path, long: bool) -> None:
    async with bench(accumulator_path, sessions=9) as b:
        if long:
            expect_long_runs(b.engine)
        owner, other = Recorder(), Recorder()
        slots = [b.open(owner, handle) for handle in range(8)]
        neighbour = b.open(other, 0)
        for begin in range(2):
            owner.take()
            b.steps(owner, list(range(8)), slots, [[POISON]] * 8)
            b.steps(other, [0], [neighbour], [[1]])
            while not any(heard[0] == "results" for heard in other.take()):
                await asyncio.sleep(0)
            refused = sum(heard[0] == "STEP_FAILED" for heard in owner.heard)
            await b.engine.quiet()
            assert [heard[0] for heard in owner.heard] == ["STEP_FAILED"] * 8
            # Since they failed before, it shared no run with them.
            assert begin == 0 or refused <= 1
        assert b.engine.sessions.position[slots].tolist() == [0] * 8
