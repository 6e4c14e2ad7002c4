"""What is taken out of a session's queue, and what stays."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gatestream.server.core.controls import Then
from gatestream.server.errors import OutOfStep, Reason, Refused
from tests.support.engine import Bench, Recorder, bench

WHY = OutOfStep("no", Reason.PRECEDING_FAILED)


@pytest.fixture
async def b(accumulator_path: Path) -> AsyncIterator[Bench]:
    async with bench(accumulator_path) as made:
        yield made


class Line:
    """A session's queue: a control that has its turn and waits, and behind it steps, two controls, and steps between.

    The second of the controls moves the session.
    """

    def __init__(self, b: Bench):
        self.b = b
        self.owner = Recorder()
        self.session = b.open(self.owner, 0)
        self.heard: list[Any] = []
        self.may = asyncio.Event()
        self.then: Then = lambda: None

    def queue(self, *, must: bool = False) -> None:
        """Have it stand."""
        engine = self.b.engine
        engine.wait_for(self.session, self._wait, self._said("first"), self.owner)
        self._steps(1.0)
        engine.control(
            np.array([self.session]), lambda *_: self.heard.append("plain"), self._said("plain"), self.owner, must=must
        )
        self._steps(2.0)
        engine.control(
            np.array([self.session]), lambda *_: self.heard.append("moves"), self._said("moves"), self.owner, moves=True
        )
        self._steps(3.0)

    def _steps(self, value: float) -> None:
        self.b.steps(self.owner, [0], [self.session], [[value]])

    def _said(self, name: str) -> Any:
        def fail(error: Refused, *_: Any) -> None:
            self.heard.append((name, error.reason))

        return fail

    async def _wait(self) -> Then:
        await self.may.wait()
        return self.then

    async def answers(self) -> list[tuple[str, Any]]:
        """What becomes of it all."""
        self.may.set()
        await self.b.engine.quiet()
        told = []
        for heard in self.owner.take():
            if heard[0] == "results":
                told += [("taken", value) for value in heard[4]]
            elif heard[0] == "PRECEDING_FAILED":
                told.append(("refused", sum(heard[4])))
        assert self.b.engine.check() == []
        return told


@pytest.mark.parametrize("until_moved", [False, True])
async def test_steps_are_cut_off_and_controls_are_done(b: Bench, until_moved: bool) -> None:
    line = Line(b)
    line.queue()
    await asyncio.sleep(0.01)
    b.engine.edits.cut_off(np.array([line.session]), WHY, until_moved=until_moved)
    expected = [("refused", 2), ("taken", 3)] if until_moved else [("refused", 3)]
    assert await line.answers() == expected
    assert line.heard == ["plain", "moves"]


@pytest.mark.parametrize("must", [False, True])
async def test_all_behind_a_control_is_refused_but_for_what_must_be_done(b: Bench, must: bool) -> None:
    line = Line(b)
    line.then = lambda: b.engine.edits.refuse_behind(line.session, WHY)
    line.queue(must=must)
    assert sum(count for _, count in await line.answers()) == 3
    plain = "plain" if must else ("plain", Reason.PRECEDING_FAILED)
    assert sorted(map(str, line.heard)) == sorted(map(str, [plain, ("moves", Reason.PRECEDING_FAILED)]))


async def test_steps_are_withdrawn_up_to_the_next_control(b: Bench) -> None:
    line, withdrawn = Line(b), list[Any]()
    line.then = lambda: withdrawn.extend(b.engine.edits.withdraw_behind(line.session))
    line.queue()
    await line.answers()
    assert [(each.handle, each.length) for each in withdrawn] == [(0, 1)]
    assert np.frombuffer(withdrawn[0].columns[0], "<f4")[0] == 1.0
    assert line.heard == [("plain", Reason.SESSION_CLOSED), ("moves", Reason.SESSION_CLOSED)]


async def test_what_stands_in_a_queue(b: Bench) -> None:
    line = Line(b)
    one = np.array([line.session])
    assert b.engine.edits.idle(one).tolist() == [line.session]
    line.queue()
    assert not b.engine.edits.idle(one).size
    assert b.engine.edits.steps(line.session) == 3
    assert not b.engine.edits.is_last(line.session)
    assert await line.answers() == [("taken", 1), ("taken", 3), ("taken", 6)]
