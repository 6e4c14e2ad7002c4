"""More sessions than slots, all of which step without a pause: none is ever at rest where it was written."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from gatestream.server.core.claims import Wish
from gatestream.server.core.transitions import Phase
from gatestream.server.durability.checkpoints import Writes, Written
from gatestream.server.durability.memory import MemoryStore
from gatestream.server.errors import Exhausted, StoreUnavailable
from tests.support.engine import Bench, Recorder, bench

PARKS = Wish(parks=True)


class Store(MemoryStore):
    """A write takes longer than a session rests between two steps."""

    away = False

    async def write(self, writes: Writes) -> Written:
        await asyncio.sleep(0.005)
        if self.away:
            raise StoreUnavailable("away")
        return await super().write(writes)


@pytest.fixture
async def store() -> Store:
    return Store()


@pytest.fixture
async def b(accumulator_path: Path, store: Store) -> AsyncIterator[Bench]:
    """With two slots."""
    async with bench(accumulator_path, sessions=2, held_sessions=8, store=store) as made:
        assert made.checkpointer is not None
        rounds = asyncio.create_task(made.checkpointer.run())
        yield made
        await made.engine.quiet()
        rounds.cancel()


async def walk(b: Bench, session: int, owner: Recorder, until: float) -> tuple[int, float]:
    """Step without a pause, as a program does that feeds a session; how many steps were answered, the longest wait."""
    loop = asyncio.get_running_loop()
    count, longest = 0, 0.0
    while (asked := loop.time()) < until:
        owner.take()
        b.lifecycle.places.bring_back(session)
        b.steps(owner, [0], [session], [[1.0]])
        while not any(heard[0] == "results" for heard in owner.heard):
            await asyncio.sleep(0)
        count, longest = count + 1, max(longest, loop.time() - asked)
        assert owner.heard[-1] == ("results", [0], [count - 1], [1], [count])
        await asyncio.sleep(0.002)
    return count, longest


async def opened(b: Bench, count: int) -> tuple[list[Recorder], list[int]]:
    """So many sessions, more than there are slots."""
    owners, sessions = [Recorder() for _ in range(count)], list[int]()
    for k, owner in enumerate(owners):
        while len(sessions) == k:
            try:
                sessions.append(b.open(owner, 0, f"s{k}", wish=PARKS))
            except Exhausted:
                await asyncio.sleep(0.01)
        await b.engine.quiet()
    return owners, sessions


async def test_sessions_that_never_rest_take_turns(b: Bench) -> None:
    owners, sessions = await opened(b, 4)
    until = asyncio.get_running_loop().time() + 2
    each = await asyncio.gather(*(walk(b, s, o, until) for s, o in zip(sessions, owners, strict=True)))
    counts = [count for count, _ in each]
    assert 3 * min(counts) > max(counts), counts


async def test_a_session_is_opened_though_those_that_have_the_slots_never_rest(b: Bench) -> None:
    owners, sessions = await opened(b, 2)
    until = asyncio.get_running_loop().time() + 1.5
    walks = [asyncio.create_task(walk(b, s, o, until)) for s, o in zip(sessions, owners, strict=True)]
    async with asyncio.timeout(1):
        while True:
            await asyncio.sleep(0.02)
            try:
                b.open(Recorder(), 0, "late", wish=PARKS)
                break
            except Exhausted:
                continue
    await asyncio.gather(*walks)


async def test_those_that_have_slots_go_on_while_the_store_is_away(b: Bench, store: Store) -> None:
    owners, sessions = await opened(b, 3)
    assert b.checkpointer is not None
    store.away = True
    while b.checkpointer.written_lately:
        b.steps(owners[2], [0], [sessions[2]], [[1.0]])
        await asyncio.sleep(0.01)
    await b.engine.quiet()
    (parked,) = (k for k in range(3) if b.engine.sessions.phase[sessions[k]] == Phase.PARKED)
    # It waits for a slot, and nobody is stopped for that.
    b.lifecycle.places.bring_back(sessions[parked])
    resident = next(k for k in range(2) if k != parked)
    until = asyncio.get_running_loop().time() + 1
    _, longest = await walk(b, sessions[resident], owners[resident], until)
    assert b.engine.sessions.phase[sessions[parked]] == Phase.RESTORING
    assert longest < 0.5
    store.away = False
