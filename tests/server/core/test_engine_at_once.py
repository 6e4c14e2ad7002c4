"""Steps that an idle engine takes without a line: what they give, and that nobody can tell."""

import asyncio
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gatestream.server.arrays import Ints
from gatestream.server.core.batches import OUTPUTS
from tests.support.artifacts import POISON
from tests.support.engine import Bench, Recorder, bench


def one(b: Bench, owner: Recorder, handle: int, slot: int, *values: float, first: int = -1) -> bool:
    x = np.repeat(np.array(values, np.float32)[:, None], 2, axis=1).tobytes()
    return b.engine.submit_one(owner, handle, slot, len(values), first, (x,), OUTPUTS)


async def alone(b: Bench, owner: Recorder) -> int:
    """Open a session and take 40 steps of it, one by one: the engine has learned that it is alone. Its slot."""
    slot = b.open(owner, 0)
    for _ in range(40):
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
        for k in range(100):
            one(b, owner, 0, slot, 1, first=k)
            answered += len(owner.heard)
            await b.engine.quiet()
            assert owner.take() == [("results", [0], [k], [1], [k + 1])]
        # At times the engine waits, to see whether there is company.
        assert 60 < answered < 100
        assert owner.rows == 0


async def test_company_is_noticed_and_then_waited_for(accumulator_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with bench(accumulator_path) as b:
        owner = Recorder()
        slots = [b.open(owner, handle) for handle in range(4)]
        for _ in range(50):
            one(b, owner, 0, slots[0], 1)
            await b.engine.quiet()
        runs = []
        step, step_few = b.engine.rows.runner.step, b.engine.rows.runner.step_few

        def watched(slots: Ints, *rest: Any) -> Any:
            runs.append(len(slots))
            return step(slots, *rest)

        def watched_few(slots: list[int], *rest: Any) -> Any:
            runs.append(len(slots))
            return step_few(slots, *rest)

        monkeypatch.setattr(b.engine.rows.runner, "step", watched)
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
            ("STEP_FAILED", [0], [40], [40], [1]),
            ("results", [0], [40], [1], [41]),
            ("STEP_FAILED", [0], [41], [41], [1]),
            ("STEP_FAILED", [0], [41], [41], [1]),
            ("results", [0], [41], [1], [42]),
        ]
        assert owner.rows == 0


async def test_a_lone_step_with_something_wrong_is_refused(accumulator_path: Path) -> None:
    async with bench(accumulator_path) as b:
        owner = Recorder()
        slot = await alone(b, owner)
        one(b, owner, 0, slot, 1, first=39)
        one(b, owner, 0, slot, float("nan"))
        one(b, owner, 0, slot, 1, first=40)
        await b.engine.quiet()
        assert owner.take() == [
            ("POSITION_MISMATCH", [0], [40], [39], [1]),
            ("NOT_FINITE", [0], [40], [40], [1]),
            ("results", [0], [40], [1], [41]),
        ]


async def test_after_a_reset_the_initial_state_comes_before_a_lone_step(accumulator_path: Path) -> None:
    async with bench(accumulator_path) as b:
        owner = Recorder()
        slot = b.open(owner, 0)
        for k in range(40):
            if k % 7 == 0:
                b.lifecycle.held.reset(owner, np.array([slot]), np.array([0]))
            one(b, owner, 0, slot, 1)
            await b.engine.quiet()
            assert owner.take()[-1] == ("results", [0], [k], [1], [k % 7 + 1])


# What happens between two looks at the loop: a session of three, and what it sends; or nothing, for a turn.
acts = st.one_of(
    st.tuples(st.integers(0, 2), st.sampled_from(["one", "one", "one", "chunk", "message", "reset"])), st.just(None)
)


@settings(max_examples=60)
@given(st.lists(acts, max_size=60))
def test_in_whatever_way_steps_come_each_session_gives_its_sums(
    accumulator_path: Path, script: list[tuple[int, str] | None]
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

    asyncio.run(play())
