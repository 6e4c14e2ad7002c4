"""More sessions than slots, all of which step without a pause: none is ever at rest where it was written."""

import asyncio
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gatestream.server.core.claims import Wish
from gatestream.server.core.run import Run
from gatestream.server.core.transitions import Phase
from gatestream.server.core.yielding import Slots
from gatestream.server.durability.checkpoints import Writes, Written
from gatestream.server.durability.memory import MemoryStore
from gatestream.server.errors import Exhausted, StoreUnavailable
from tests.support.engine import Bench, Recorder, bench, expect_long_runs

PARKS = Wish(parks=True)


class Store(MemoryStore):
    """A write takes longer than a session rests between two steps."""

    away = False

    def __init__(self) -> None:
        super().__init__()
        self.goes_on = asyncio.Event()
        self.goes_on.set()

    async def write(self, writes: Writes) -> Written:
        await asyncio.sleep(0.005)
        await self.goes_on.wait()
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
    while b.checkpointer.writes_within(1):
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


async def test_one_with_much_to_do_does_not_keep_the_others_from_having_their_turns(
    b: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    owners, sessions = await opened(b, 3)
    table, compute = b.engine.sessions, b.engine._compute
    (parked,) = (k for k in range(3) if table.phase[sessions[k]] == Phase.PARKED)
    busy, other = (k for k in range(3) if k != parked)

    def slowly(run: Run) -> Any:
        time.sleep(0.002)
        return compute(run)

    monkeypatch.setattr(b.engine, "_compute", slowly)
    # It has had its slot for longest, and some seconds' work.
    b.steps(owners[busy], [0], [sessions[busy]], [[0.0] * 4_000])
    walking = asyncio.create_task(walk(b, sessions[other], owners[other], asyncio.get_running_loop().time() + 2))
    async with asyncio.timeout(2):
        b.lifecycle.places.bring_back(sessions[parked])
        b.steps(owners[parked], [0], [sessions[parked]], [[1.0]])
        while not any(heard[0] == "results" for heard in owners[parked].heard):
            await asyncio.sleep(0.01)
    assert table.position[sessions[busy]] < 4_000
    await walking


async def test_nobody_is_stopped_while_a_write_hangs(b: Bench, store: Store) -> None:
    owners, sessions = await opened(b, 3)
    assert b.checkpointer is not None
    (parked,) = (k for k in range(3) if b.engine.sessions.phase[sessions[k]] == Phase.PARKED)
    resident = next(k for k in range(2) if k != parked)
    store.goes_on.clear()
    b.steps(owners[resident], [0], [sessions[resident]], [[1.0]])
    while b.checkpointer.writes_within(1):
        await asyncio.sleep(0.01)
    b.lifecycle.places.bring_back(sessions[parked])
    session = sessions[resident]
    position = int(b.engine.sessions.position[session])
    for k in range(30):
        b.steps(owners[resident], [0], [session], [[0.0]])
        async with asyncio.timeout(0.5):
            while b.engine.sessions.position[session] <= position + k:
                await asyncio.sleep(0.001)
        await asyncio.sleep(0.02)
    store.goes_on.set()


async def test_a_write_that_takes_long_for_once_costs_no_more_than_that(b: Bench, store: Store) -> None:
    owners, sessions = await opened(b, 3)
    table, loop = b.engine.sessions, asyncio.get_running_loop()
    (parked,) = (k for k in range(3) if table.phase[sessions[k]] == Phase.PARKED)
    until = loop.time() + 3
    walks = [asyncio.create_task(walk(b, sessions[k], owners[k], until)) for k in range(3) if k != parked]
    await asyncio.sleep(0.3)
    store.goes_on.clear()
    loop.call_later(1.3, store.goes_on.set)
    await asyncio.sleep(0.02)
    b.lifecycle.places.bring_back(sessions[parked])
    b.steps(owners[parked], [0], [sessions[parked]], [[1.0]])
    async with asyncio.timeout(4):
        while table.position[sessions[parked]] == 0:
            await asyncio.sleep(0.01)
    await asyncio.gather(*walks)


async def test_the_only_slot_is_left_to_a_new_session_for_as_long_as_it_takes_to_come_back(
    accumulator_path: Path, store: Store
) -> None:
    async with bench(accumulator_path, sessions=1, held_sessions=8, store=store) as b:
        assert b.checkpointer is not None
        rounds = asyncio.create_task(b.checkpointer.run())
        owners, sessions = await opened(b, 2)
        until = asyncio.get_running_loop().time() + 3
        walks = [asyncio.create_task(walk(b, s, o, until)) for s, o in zip(sessions, owners, strict=True)]
        await asyncio.sleep(0.3)
        # Which nobody does.
        assert b.lifecycle.residence is not None
        assert b.lifecycle.residence.ask_for_new("") == 0.5
        assert max(longest for _, longest in await asyncio.gather(*walks)) < 2
        await b.engine.quiet()
        rounds.cancel()


async def test_a_session_is_asked_again_when_its_turn_is_over(b: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    owners, sessions = await opened(b, 1)
    residence = b.lifecycle.residence
    assert residence is not None
    yielding = residence._yielding
    yields, asked = yielding._yield, 0

    def ask() -> None:
        nonlocal asked
        asked += 1
        yielding.ask(1, None, residence)
        assert b.engine.admission.rows <= 1, "more than one stands in its queue"

    async def and_then(*args: Any) -> Any:
        then = await yields(*args)
        # Before the engine notices, somebody is short of a slot.
        asyncio.get_running_loop().call_soon(ask)
        return then

    monkeypatch.setattr(yielding, "_yield", and_then)
    expect_long_runs(b.engine)
    for _ in range(6):
        ask()
        for _ in range(5):
            await asyncio.sleep(0)
    await b.engine.quiet()
    assert asked > 6
    assert not yielding._turns_asked
    b.steps(owners[0], [0], [sessions[0]], [[1.0]])
    await b.engine.quiet()
    assert owners[0].take()[-1] == ("results", [0], [0], [1], [1.0])


@pytest.mark.parametrize("what", ["step", "close"])
async def test_what_comes_just_when_a_slot_is_given_up(b: Bench, monkeypatch: pytest.MonkeyPatch, what: str) -> None:
    """Where runs are made on the other thread, something may come before it is noticed that the slot is gone."""
    owners, (session, other) = await opened(b, 2)
    for owner, each in zip(owners, (session, other), strict=True):
        b.steps(owner, [0], [each], [[5.0]])
    await b.engine.quiet()
    residence, table = b.lifecycle.residence, b.engine.sessions
    assert residence is not None
    while table.sequences(session) != table.written[session]:
        await asyncio.sleep(0.001)
    yielding = residence._yielding
    given_up = yielding._given_up

    def comes() -> None:
        if what == "step":
            b.lifecycle.places.bring_back(session)
            b.steps(owners[0], [0], [session], [[1.0]])
        else:
            b.lifecycle.held.close(owners[0], np.array([session]))

    def and_then(which: int, birth: int, slots: Slots) -> bool | None:
        done = given_up(which, birth, slots)
        if which == session and table.slot[session] < 0:
            asyncio.get_running_loop().call_soon(comes)
        return done

    monkeypatch.setattr(yielding, "_given_up", and_then)
    compute = b.engine._compute

    def slowly(run: Run) -> Any:
        time.sleep(0.02)
        return compute(run)

    monkeypatch.setattr(b.engine, "_compute", slowly)
    expect_long_runs(b.engine)
    b.steps(owners[1], [0], [other], [[1.0]])
    while not b.engine.running:
        await asyncio.sleep(0)
    residence.ask_for_new("")
    if what == "close":
        # Behind the yield.
        b.steps(owners[0], [0], [session], [[100.0]])
    while b.engine.sessions.sequences(other) != 2:
        await asyncio.sleep(0.001)
    await b.engine.quiet()
    told = [heard for heard in owners[0].take() if heard[0] in ("results", "closed")]
    if what == "step":
        assert told[-1] == ("results", [0], [1], [1], [6])
    else:
        assert told[-2:] == [("results", [0], [1], [1], [105]), ("closed", "REQUESTED", [0], [2])]
    b.lifecycle.places.bring_back(other)
    b.steps(owners[1], [0], [other], [[0.0]])
    await b.engine.quiet()
    assert owners[1].take()[-1] == ("results", [0], [2], [1], [6])
    assert table.check() == []


async def test_shares_that_change_while_sessions_wait(b: Bench) -> None:
    owners, sessions = await opened(b, 3)
    until = asyncio.get_running_loop().time() + 1
    walks = [asyncio.create_task(walk(b, s, o, until)) for s, o in zip(sessions, owners, strict=True)]
    await asyncio.sleep(0.3)
    b.engine.sessions.share = 1
    counts = [count for count, _ in await asyncio.gather(*walks)]
    assert min(counts) > 10
