"""Controls in their turn: what is done together, what waits, and what becomes of those that fail."""

import asyncio
from collections.abc import AsyncIterator, Coroutine
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gatestream.server.arrays import Ints
from gatestream.server.core.admission import Caller
from gatestream.server.core.batches import OUTPUTS
from gatestream.server.core.controls import Then
from gatestream.server.errors import NotFound, Refused
from tests.support.engine import Bench, Recorder, bench, expect_long_runs


@pytest.fixture
async def b(accumulator_path: Path) -> AsyncIterator[Bench]:
    async with bench(accumulator_path) as made:
        yield made


class Asked:
    """Who asks for controls, and writes down what became of them."""

    def __init__(self) -> None:
        self.heard: list[Any] = []
        self.gate = asyncio.Event()

    def do(self, _owner: Any, sessions: Ints, handles: Ints) -> None:
        self.heard.append(("done", sessions.tolist(), handles.tolist()))

    def breaks(self, *_: Any) -> None:
        raise ZeroDivisionError("broken")

    def fail(self, error: Refused, _owner: Any, sessions: Ints, handles: Ints) -> None:
        self.heard.append((error.reason.name, sessions.tolist(), handles.tolist()))

    def wait(self) -> Coroutine[Any, Any, Then]:
        self.heard.append("begun")
        return self._wait()

    async def _wait(self) -> Then:
        await self.gate.wait()
        return lambda: self.heard.append("then")

    async def wait_in_vain(self) -> Then:
        await self.gate.wait()
        raise NotFound("it is nowhere")

    async def wait_and_break(self) -> Then:
        raise ZeroDivisionError("broken")

    async def break_at_last(self) -> Then:
        return self.breaks


async def test_what_several_ask_for_is_done_as_one(b: Bench) -> None:
    asked, owner = Asked(), Recorder()
    sessions = [b.open(owner, handle) for handle in range(3)]
    for k, session in enumerate(sessions):
        b.engine.control(np.array([session]), asked.do, asked.fail, owner, np.array([10 + k]))
    await b.engine.quiet()
    assert asked.heard == [("done", sessions, [10, 11, 12])]


async def test_one_that_breaks_is_said_and_the_line_goes_on(b: Bench) -> None:
    asked, owner = Asked(), Recorder()
    session = b.open(owner, 0)
    b.engine.control(np.array([session]), asked.breaks, asked.fail, owner, np.array([7]))
    b.steps(owner, [0], [session], [[1.0]])
    await b.engine.quiet()
    assert asked.heard == [("STEP_FAILED", [session], [7])]
    assert owner.take()[-1] == ("results", [0], [0], [1], [1])
    assert owner.rows == 0


async def test_what_stands_behind_waits_and_nobody_else(b: Bench) -> None:
    asked, owner, other = Asked(), Recorder(), Recorder()
    session, free = b.open(owner, 0), b.open(other, 0)
    b.steps(owner, [0], [session], [[1.0]])
    b.engine.wait_for(session, asked.wait, asked.fail, Caller(owner.account))
    b.steps(owner, [0], [session], [[2.0]])
    for k in range(50):
        b.steps(other, [0], [free], [[1.0]])
        async with asyncio.timeout(30):
            while not (answers := [heard[4] for heard in other.take() if heard[0] == "results"]):
                await asyncio.sleep(0)
        assert answers == [[k + 1]]
    assert asked.heard == ["begun"]
    assert [heard[4] for heard in owner.take() if heard[0] == "results"] == [[1]]
    asked.gate.set()
    await b.engine.quiet()
    assert asked.heard == ["begun", "then"]
    assert owner.take() == [("results", [0], [1], [1], [3])]


@pytest.mark.parametrize(
    ("how", "reason"),
    [("wait_in_vain", "SESSION_UNKNOWN"), ("wait_and_break", "STEP_FAILED"), ("break_at_last", "STEP_FAILED")],
)
async def test_what_is_waited_for_in_vain_is_said_and_the_line_goes_on(b: Bench, how: str, reason: str) -> None:
    asked, owner = Asked(), Recorder()
    asked.gate.set()
    session = b.open(owner, 0)
    b.engine.wait_for(session, getattr(asked, how), asked.fail, Caller(owner.account))
    b.steps(owner, [0], [session], [[1.0]])
    await b.engine.quiet()
    assert [heard[:2] for heard in asked.heard] == [(reason, [session])]
    assert owner.take()[-1] == ("results", [0], [0], [1], [1])


async def test_of_a_session_that_has_ended_meanwhile_nothing_is_done(b: Bench) -> None:
    asked, owner = Asked(), Recorder()
    session = b.open(owner, 0)
    b.engine.wait_for(session, asked.wait, asked.fail, Caller(owner.account))
    while not asked.heard:
        await asyncio.sleep(0)
    b.engine.remove(np.array([session]))
    asked.gate.set()
    await b.engine.quiet()
    for _ in range(10):
        await asyncio.sleep(0)
    assert asked.heard == ["begun", ("SESSION_CLOSED", [session], [session])]


async def test_of_a_session_that_ended_when_it_had_just_begun_nothing_is_waited_for(b: Bench) -> None:
    asked, owner = Asked(), Recorder()
    asked.gate.set()
    touched: list[int] = []

    async def touches() -> Then:
        touched.append(session)
        return lambda: None

    session = b.open(owner, 0)
    b.engine.wait_for(session, touches, asked.fail, Caller(owner.account))
    # Its turn comes, and the coroutine has yet to begin.
    b.engine._controls.run()
    b.engine.remove(np.array([session]))
    again = b.open(owner, 1)
    assert again == session, "the number is another's"
    await b.engine.quiet()
    for _ in range(5):
        await asyncio.sleep(0)
    assert touched == []
    b.steps(owner, [1], [again], [[5.0]])
    await b.engine.quiet()
    assert owner.take()[-1] == ("results", [1], [0], [1], [5])


async def test_one_that_cannot_begin_to_wait_leaves_the_others_alone(b: Bench) -> None:
    asked, owner = Asked(), Recorder()
    asked.gate.set()
    one, two = b.open(owner, 0), b.open(owner, 1)

    def breaks() -> Coroutine[Any, Any, Then]:
        raise ZeroDivisionError("broken")

    for session, wait in ((one, breaks), (two, asked.wait)):
        b.engine.wait_for(session, wait, asked.fail, Caller(owner.account))
    b.steps(owner, [0, 1], [one, two], [[1.0], [2.0]])
    await b.engine.quiet()
    assert ("STEP_FAILED", [one], [one]) in asked.heard
    assert "then" in asked.heard


async def test_nothing_is_done_while_a_run_is_under_way(b: Bench) -> None:
    asked, owner, other = Asked(), Recorder(), Recorder()
    session, long = b.open(owner, 0), b.open(other, 0)
    b.engine.wait_for(session, asked.wait, asked.fail, Caller(owner.account))
    while not asked.heard:
        await asyncio.sleep(0)
    running: list[bool] = []

    async def wait() -> Then:
        await asked.gate.wait()
        return lambda: running.append(b.engine._running)

    b.engine.wait_for(long, wait, asked.fail, Caller(owner.account))
    expect_long_runs(b.engine)
    third = b.open(other, 1)
    b.steps(other, [1], [third], [[1.0] * 400])
    while not b.engine._running:
        await asyncio.sleep(0)
    asked.gate.set()
    await b.engine.quiet()
    assert running == [False]


@pytest.mark.parametrize("many", [False, True])
async def test_a_step_that_comes_alone_does_not_overtake_it(b: Bench, many: bool) -> None:
    asked, owner = Asked(), Recorder()
    session = b.open(owner, 0)
    for _ in range(3):
        b.steps(owner, [0], [session], [[1.0]])
        await b.engine.quiet()
    b.engine.wait_for(session, asked.wait, asked.fail, Caller(owner.account))
    while not asked.heard:
        await asyncio.sleep(0)
    owner.take()
    if many:
        b.steps(owner, [0], [session], [[1.0]])
    else:
        b.engine.submit_one(owner, 0, session, 1, -1, (np.ones(2, np.float32).tobytes(),), OUTPUTS)
    for _ in range(20):
        await asyncio.sleep(0)
    assert owner.take() == []
    asked.gate.set()
    await b.engine.quiet()
    assert owner.take() == [("results", [0], [3], [1], [4])]
