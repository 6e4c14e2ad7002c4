"""Steps that an idle engine takes without a line: what they give, and that nobody can tell."""

import asyncio
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gatestream.server.arrays import Ints
from gatestream.server.backend import few_steps
from gatestream.server.core import engine
from gatestream.server.core.batches import OUTPUTS
from tests.support.artifacts import POISON
from tests.support.engine import Bench, Recorder, bench


def one(b: Bench, owner: Recorder, handle: int, slot: int, *values: float, first: int = -1) -> bool:
    x = np.repeat(np.array(values, np.float32)[:, None], 2, axis=1).tobytes()
    return b.engine.submit_one(owner, handle, slot, len(values), first, (x,), OUTPUTS)


async def alone(b: Bench, owner: Recorder) -> int:
    """Open a session and take 70 steps of it, one by one: the engine has learned that it is alone. Its slot."""
    slot = b.open(owner, 0)
    for _ in range(70):
        one(b, owner, 0, slot, 1)
        await b.engine.quiet()
    owner.take()
    return slot


async def test_a_session_that_is_alone_is_answered_before_its_message_is_put_away(accumulator_path: Path) -> None:
    async with bench(accumulator_path) as b:
        owner = Recorder()
        slot = b.open(owner, 0)
        owner.take()
        answered = 0
        for k in range(200):
            one(b, owner, 0, slot, 1, first=k)
            answered += len(owner.heard)
            await b.engine.quiet()
            assert owner.take() == [("results", [0], [k], [1], [k + 1])]
        # At times the engine waits, to see whether there is company.
        assert 130 < answered < 200
        # The first one finds a row that is to be set.
        assert b.engine.counted().runs["alone"] == 199
        assert owner.rows == 0


async def test_company_is_noticed_and_then_waited_for(accumulator_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with bench(accumulator_path) as b:
        owner = Recorder()
        slots = [b.open(owner, handle) for handle in range(4)]
        for _ in range(100):
            one(b, owner, 0, slots[0], 1)
            await b.engine.quiet()
        runs: list[int] = []
        step, step_few, step_one = (getattr(b.engine.rows.runner, f"step{how}") for how in ("", "_few", "_one"))

        def watched(slots: Ints, *rest: Any) -> Any:
            runs.append(len(slots))
            return step(slots, *rest)

        def watched_few(slots: list[int], *rest: Any) -> Any:
            runs.append(len(slots))
            return step_few(slots, *rest)

        def watched_one(*step: Any) -> Any:
            runs.append(1)
            return step_one(*step)

        monkeypatch.setattr(b.engine.rows.runner, "step", watched)
        monkeypatch.setattr(b.engine.rows.runner, "step_one", watched_one)
        monkeypatch.setattr(b.engine.rows.runner, "step_few", watched_few)
        for _ in range(40):
            for handle, slot in enumerate(slots):
                one(b, owner, handle, slot, 1)
            await b.engine.quiet()
        assert sum(runs) == 160
        assert runs[-20:] == [4] * 20


async def test_a_lone_step_that_fails_is_refused_and_changes_nothing(accumulator_path: Path) -> None:
    async with bench(accumulator_path) as b:
        owner = Recorder()
        slot = await alone(b, owner)
        for value in (POISON, 1, POISON, POISON, 1):
            one(b, owner, 0, slot, value)
            await b.engine.quiet()
        assert owner.take() == [
            ("STEP_FAILED", [0], [70], [70], [1]),
            ("results", [0], [70], [1], [71]),
            ("STEP_FAILED", [0], [71], [71], [1]),
            ("STEP_FAILED", [0], [71], [71], [1]),
            ("results", [0], [71], [1], [72]),
        ]
        assert owner.rows == 0


async def test_a_lone_step_with_something_wrong_is_refused(accumulator_path: Path) -> None:
    async with bench(accumulator_path) as b:
        owner = Recorder()
        slot = await alone(b, owner)
        one(b, owner, 0, slot, 1, first=69)
        one(b, owner, 0, slot, float("nan"))
        one(b, owner, 0, slot, 1, first=70)
        await b.engine.quiet()
        assert owner.take() == [
            ("POSITION_MISMATCH", [0], [70], [69], [1]),
            ("NOT_FINITE", [0], [70], [70], [1]),
            ("results", [0], [70], [1], [71]),
        ]


async def test_after_a_reset_the_initial_state_comes_before_a_lone_step(accumulator_path: Path) -> None:
    async with bench(accumulator_path) as b:
        owner = Recorder()
        slot = b.open(owner, 0)
        for k in range(100):
            if k % 7 == 0:
                b.lifecycle.held.reset(owner, np.array([slot]), np.array([0]))
            one(b, owner, 0, slot, 1)
            await b.engine.quiet()
            assert owner.take()[-1] == ("results", [0], [k], [1], [k % 7 + 1])


# What happens between two looks at the loop: a session of three, and what it sends; or nothing, for a turn.
acts = st.one_of(
    st.tuples(st.integers(0, 2), st.sampled_from(["one", "one", "one", "chunk", "message", "reset"])), st.just(None)
)


@settings(max_examples=120)
@given(st.lists(acts, max_size=60), st.sampled_from([1, 2, 5, 64]))
def test_in_whatever_way_steps_come_each_session_gives_its_sums(
    accumulator_path: Path, script: list[tuple[int, str] | None], lonely: int
) -> None:
    async def play() -> None:
        async with bench(accumulator_path) as b:
            owners = [Recorder() for _ in range(3)]
            slots = [b.open(owner, handle) for handle, owner in enumerate(owners)]
            expected: list[list[float]] = [[], [], []]
            sums = [0.0, 0.0, 0.0]
            for owner in owners:
                owner.take()
            for act in script:
                if act is None:
                    await asyncio.sleep(0)
                    continue
                k, kind = act
                if kind == "reset":
                    b.lifecycle.held.reset(owners[k], np.array([slots[k]]), np.array([k]))
                    sums[k] = 0.0
                    continue
                values = [float(len(expected[k]) + j + 1) for j in range(3 if kind == "chunk" else 1)]
                if kind == "message":
                    b.steps(owners[k], [k], [slots[k]], [values])
                else:
                    one(b, owners[k], k, slots[k], *values)
                for value in values:
                    sums[k] += value
                    expected[k].append(sums[k])
            await b.engine.quiet()
            for k, owner in enumerate(owners):
                answers = [heard for heard in owner.take() if heard[0] == "results"]
                assert [y for heard in answers for y in heard[4]] == expected[k]
                assert [heard[2][0] for heard in answers] == np.cumsum(
                    [0, *(heard[3][0] for heard in answers)]
                ).tolist()[:-1]
                assert owner.rows == 0

    with patch.object(engine, "_LONELY_RUNS", lonely):
        asyncio.run(play())


async def test_steps_of_two_sessions_do_not_wait_for_each_other(accumulator_path: Path) -> None:
    """Two steps in one run take as long as in two, and it is not worth a turn of the loop to put them together."""
    async with bench(accumulator_path) as b:
        owner = Recorder()
        slots = [b.open(owner, handle) for handle in range(2)]
        owner.take()
        for k in range(200):
            for handle, slot in enumerate(slots):
                one(b, owner, handle, slot, 1)
            await b.engine.quiet()
            assert sorted(owner.take()) == [("results", [h], [k], [1], [k + 1]) for h in range(2)]
        runs = b.engine.counted().runs
        assert runs["alone"] > 2 * 100


async def test_while_something_is_queued_no_step_is_taken_alone(accumulator_path: Path) -> None:
    async with bench(accumulator_path) as b:
        owner, other = Recorder(), Recorder()
        slot = await alone(b, owner)
        beside = b.open(other, 1)
        other.take()
        b.steps(other, [1], [beside], [[1.0] * 9])
        one(b, owner, 0, slot, 1)
        assert owner.heard == []
        await b.engine.quiet()
        assert owner.take() == [("results", [0], [70], [1], [71])]
        assert other.take() == [("results", [1], [0], [9], list(range(1, 10)))]


async def test_after_a_long_run_the_next_step_is_not_taken_alone(accumulator_path: Path) -> None:
    """It might hold the loop for as long: where it is made is planned again."""
    async with bench(accumulator_path) as b:
        owner = Recorder()
        slot = await alone(b, owner)
        step_one = b.engine.rows.runner.step_one

        def slow(*step: Any) -> Any:
            b.now += 0.004
            return step_one(*step)

        b.engine.rows.runner.step_one = slow  # type: ignore[assignment, method-assign]
        one(b, owner, 0, slot, 1)
        assert owner.take() == [("results", [0], [70], [1], [71])]
        one(b, owner, 0, slot, 1)
        assert owner.heard == []
        await b.engine.quiet()
        assert owner.take() == [("results", [0], [71], [1], [72])]


async def test_a_step_whose_outputs_cannot_be_copied_is_taken_once(
    accumulator_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with bench(accumulator_path) as b:
        owner = Recorder()
        slot = await alone(b, owner)
        copy, failures = few_steps._to_bytes, [MemoryError("there is no room for a copy")]

        def full_once(array: Any) -> bytes:
            if failures:
                raise failures.pop()
            return copy(array)

        monkeypatch.setattr(few_steps, "_to_bytes", full_once)
        for _ in range(2):
            one(b, owner, 0, slot, 1)
            await b.engine.quiet()
        assert owner.take() == [("results", [0], [70], [2], [71, 72])]


async def test_an_owner_that_cannot_be_told_is_failed_and_the_session_has_taken_its_step(
    accumulator_path: Path,
) -> None:
    async with bench(accumulator_path) as b:
        owner = Recorder()
        slot = await alone(b, owner)

        def broken(*_answer: Any) -> None:
            raise MemoryError("there is no room for it")

        result, owner.result = owner.result, broken  # type: ignore[assignment, method-assign]
        assert one(b, owner, 0, slot, 1)
        assert owner.take() == [("failed", "there is no room for it")]
        owner.result = result  # type: ignore[method-assign]
        one(b, owner, 0, slot, 1)
        await b.engine.quiet()
        assert owner.take() == [("results", [0], [71], [1], [72])]
