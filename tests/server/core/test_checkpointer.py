"""The loop that writes checkpoints."""

import asyncio
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from structlog.testing import capture_logs

from gatestream.server.arrays import Ints
from gatestream.server.config import Limits
from gatestream.server.core import checkpointer as checkpointer_module
from gatestream.server.core.accounts import Accounts
from gatestream.server.core.checkpointer import Checkpointer
from gatestream.server.core.send_queue import SendQueue
from gatestream.server.durability.checkpoints import Key
from gatestream.server.durability.memory import MemoryStore
from gatestream.server.errors import StoreUnavailable


@pytest.mark.parametrize("turns", range(6))
async def test_it_ends_when_it_is_cancelled_whatever_comes_in_the_same_turn(turns: int) -> None:
    checkpointer = Checkpointer(MemoryStore(), Limits(), before_answer=True)
    running = asyncio.create_task(checkpointer.run())
    await asyncio.sleep(0.01)
    checkpointer.close([], np.empty(0, np.int64))
    for _ in range(turns):
        await asyncio.sleep(0)
    running.cancel()
    for _ in range(20):
        await asyncio.sleep(0)
    assert running.cancelled()


@pytest.fixture
def gate() -> Any:
    return Checkpointer(MemoryStore(), Limits(), before_answer=True).gate


@pytest.fixture
def queue() -> SendQueue:
    return SendQueue(Accounts(Limits()).of(""))


async def test_answers_that_come_one_turn_after_another_are_one_group(gate: Any, queue: SendQueue) -> None:
    gate.hold(queue)
    gate.hold(queue)
    for comes in (range(9), range(0)):
        company = asyncio.create_task(gate.company(60))
        for turn in range(20):
            await asyncio.sleep(0)
            assert company.done() <= (turn > len(comes) + 3)
            if turn in comes:
                gate.hold(queue)
        assert company.done()
        gate.begin()


async def test_an_answer_alone_waits_for_none_where_none_came_before(gate: Any, queue: SendQueue) -> None:
    for _ in range(3):
        gate.hold(queue)
        company = gate.company(60)
        with pytest.raises(StopIteration):
            company.send(None)
        gate.begin()


async def test_a_group_does_not_wait_for_an_end_of_answers(gate: Any, queue: SendQueue) -> None:
    company = asyncio.create_task(gate.company(0.01))
    gate.hold(queue)
    gate.hold(queue)
    while not company.done():
        gate.hold(queue)
        await asyncio.sleep(0)


class Away(MemoryStore):
    """A store that does not answer until it is there."""

    there = False
    closed = 0

    async def close(self, keys: Sequence[Key], epochs: Ints) -> npt.NDArray[np.bool_]:
        if not self.there:
            raise StoreUnavailable("it is away")
        self.closed += len(keys)
        return await super().close(keys, epochs)


async def test_so_many_ended_sessions_are_remembered_while_the_store_is_away() -> None:
    store = Away()
    checkpointer = Checkpointer(store, Limits())

    def end(begin: int, count: int) -> asyncio.Future[bool]:
        keys = [Key("t", "m", f"{begin + k}") for k in range(count)]
        return checkpointer.close(keys, np.ones(count, np.int64))

    with capture_logs() as logs:
        for begin in range(0, 70_000, 10_000):
            waiting = end(begin, 10_000)
        with pytest.raises(StoreUnavailable):
            await checkpointer.round()
        assert waiting.done(), "who ends a session does not wait for the store"
        end(70_000, 5)
    said = [each["event"] for each in logs if each["event"].startswith("more sessions have ended")]
    assert (len(said), checkpointer.stats.left) == (1, 70_005 - 2**16)
    store.there = True
    await checkpointer.round()
    assert store.closed == 2**16
    end(80_000, 7)
    await checkpointer.round()
    assert (store.closed, checkpointer.stats.left) == (2**16 + 7, 70_005 - 2**16)


@pytest.mark.parametrize("within", [True, False])
@pytest.mark.parametrize("may", [True, False])
async def test_who_waits_for_a_round_has_it_before_it_is_due_where_rounds_take_little_of_the_time(
    may: bool, within: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checkpointer_module, "_LONGEST_SECONDS", 3600.0)
    monkeypatch.setattr(checkpointer_module, "_PART", 1e-9)
    monkeypatch.setattr(checkpointer_module, "_PART_ASKED", 1e9 if may else 1e-9)
    again = asyncio.Event()

    class Watched(Checkpointer):
        rounds = 0

        async def round(self) -> None:
            self.rounds += 1
            if self.rounds == 2:
                again.set()
            await super().round()
            if within:
                self.tell_soon()

    checkpointer = Watched(MemoryStore(), Limits())
    running = asyncio.create_task(checkpointer.run())
    while not checkpointer.rounds:
        await asyncio.sleep(0.01)
    for _ in range(10):
        checkpointer.tell_soon()
    if may:
        await again.wait()
    else:
        await asyncio.sleep(0.3)
        assert checkpointer.rounds == 1
    running.cancel()
