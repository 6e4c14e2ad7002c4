"""An owner that cannot take its answers: it ends, everybody else is answered, and nothing stays counted."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gatestream.server.arrays import Array, Ints
from gatestream.server.core.batches import OUTPUTS
from gatestream.server.core.reply_sink import CloseReason
from gatestream.server.errors import Refused
from tests.support.artifacts import POISON
from tests.support.engine import Bench, Recorder, bench, expect_long_runs


@dataclass(eq=False)
class Failing(Recorder):
    """An owner that runs out of memory whenever it is told something of these kinds."""

    at: set[str] = field(default_factory=set)

    def _may(self, kind: str) -> None:
        if kind in self.at:
            raise MemoryError(kind)

    def opened(self, *what: Any) -> None:
        self._may("opened")
        super().opened(*what)

    def lost(self, handle: int) -> None:
        self._may("lost")
        super().lost(handle)

    def result(self, handle: int, first: int, length: int, outputs: Sequence[bytes], gates: Sequence[bytes]) -> None:
        self._may("result")
        super().result(handle, first, length, outputs, gates)

    def results(self, handles: Ints, first: Ints, lengths: Ints, outputs: list[Array], gates: list[Array]) -> None:
        self._may("results")
        super().results(handles, first, lengths, outputs, gates)

    def refused(self, error: Refused, handles: Ints, positions: Ints, first: Ints, lengths: Ints) -> None:
        self._may("refused")
        super().refused(error, handles, positions, first, lengths)

    def reset_done(self, handles: Ints, positions: Ints) -> None:
        self._may("reset_done")
        super().reset_done(handles, positions)

    def closed(self, handles: Ints, positions: Ints, reason: CloseReason) -> None:
        self._may("closed")
        super().closed(handles, positions, reason)


def single(b: Bench, owner: Recorder, handle: int, slot: int, value: float) -> None:
    b.engine.submit_one(owner, handle, slot, 1, -1, (np.full(2, value, np.float32).tobytes(),), OUTPUTS)


async def settle(b: Bench) -> None:
    await asyncio.wait_for(b.engine.quiet(), 30)
    assert b.engine.admission.rows == 0
    assert len(b.engine._queues) == 0


@pytest.mark.parametrize("elsewhere", [False, True])
@pytest.mark.parametrize("kind", ["result", "results"])
async def test_the_others_of_the_tick_are_answered(accumulator_path: Path, kind: str, elsewhere: bool) -> None:
    async with bench(accumulator_path) as b:
        owners = [Recorder(), Failing(at={kind}), Recorder()]
        slots = [b.open(owner, handle) for handle, owner in enumerate(owners)]
        if elsewhere:
            expect_long_runs(b.engine)
        for value in (1, 2):
            for handle, (owner, slot) in enumerate(zip(owners, slots, strict=True)):
                if kind == "result":
                    single(b, owner, handle, slot, value)
                else:
                    b.steps(owner, [handle], [slot], [[value, value]])
            await settle(b)
        assert [heard[0] for heard in owners[1].take()] == ["opened", "failed", "failed"]
        for handle in (0, 2):
            sums = [y for heard in owners[handle].take() if heard[0] == "results" for y in heard[4]]
            assert sums == ([1, 3] if kind == "result" else [1, 2, 4, 6])
            assert owners[handle].rows == 0
        # What it asked for was done.
        assert b.engine.sessions.position[slots].tolist() == [len(sums)] * 3


async def test_one_that_is_alone(accumulator_path: Path) -> None:
    async with bench(accumulator_path) as b:
        owner = Failing()
        slot = b.open(owner, 0)
        for _ in range(40):
            single(b, owner, 0, slot, 1)
            await settle(b)
        owner.at = {"result"}
        single(b, owner, 0, slot, 1)
        await settle(b)
        assert owner.heard[-1] == ("failed", "result")
        owner.at = set()
        single(b, owner, 0, slot, 1)
        await settle(b)
        (*_, (*_, sums)) = owner.heard
        assert sums[-1] == 42


async def test_in_whatever_else_it_is_told(accumulator_path: Path) -> None:
    async with bench(accumulator_path) as b:
        failing, heir, other = Failing(at={"refused", "reset_done", "closed", "lost"}), Recorder(), Recorder()
        slots = np.array([b.open(failing, handle, session_id=f"s{handle}") for handle in range(4)])
        kept = b.open(other, 9)
        b.steps(failing, [0], [int(slots[0])], [[POISON]])
        b.lifecycle.held.reset(failing, slots[:2], np.arange(2))
        b.lifecycle.held.close(failing, slots[1:2])
        single(b, failing, 2, int(slots[2]), float("nan"))
        b.open(heir, 5, session_id="s3", create=False)
        await settle(b)
        assert {what for kind, *what in failing.take() if kind == "failed" for what in what} == {
            "refused",
            "reset_done",
            "closed",
            "lost",
        }
        assert heir.take() == [("opened", 5, 0, False)]
        b.lifecycle.held.disconnected(failing, slots)
        assert len(b.engine.sessions) == 2
        b.steps(other, [9], [kept], [[1]])
        await settle(b)
        assert other.take()[-1] == ("results", [9], [0], [1], [1])


async def test_memory_that_is_lacking_before_anybody_is_told(
    accumulator_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with bench(accumulator_path) as b:
        owners = [Recorder(), Recorder()]
        slots = [b.open(owner, handle) for handle, owner in enumerate(owners)]
        for name in ("_each", "flatten"):
            with monkeypatch.context() as patch:

                def lacking(*_: Any) -> Any:
                    raise MemoryError

                patch.setattr(f"gatestream.server.core.batches.{name}", lacking)
                for handle, (owner, slot) in enumerate(zip(owners, slots, strict=True)):
                    if name == "_each":
                        single(b, owner, handle, slot, 1)
                    else:
                        b.steps(owner, [handle], [slot], [[1]])
                await settle(b)
            for owner in owners:
                assert owner.take()[-1][0] == "failed"
                assert owner.rows == 0
        b.steps(owners[0], [0], slots[:1], [[1]])
        await settle(b)
        assert owners[0].take() == [("results", [0], [2], [1], [3])]
