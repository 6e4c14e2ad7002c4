"""Sessions that are parked in a store and come back, while others go on."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gatestream.server.core.batches import OUTPUTS
from gatestream.server.core.transitions import Phase
from gatestream.server.durability.store import SessionState
from gatestream.server.errors import Exhausted, NotFound, OutOfStep
from tests.support.engine import Bench, Recorder, bench


class SlowStore:
    """States in memory. Every call waits until it is let through, unless the store is open."""

    def __init__(self, *, is_open: bool = True) -> None:
        self.states: dict[tuple[str, str], SessionState] = {}
        self.gate = asyncio.Event()
        self.waiting = 0
        if is_open:
            self.gate.set()

    async def _turn(self) -> None:
        self.waiting += 1
        await self.gate.wait()
        self.waiting -= 1

    async def put(self, tenant: str, session_id: str, state: SessionState) -> None:
        await self._turn()
        self.states[tenant, session_id] = state

    async def get(self, tenant: str, session_id: str) -> SessionState:
        await self._turn()
        if (tenant, session_id) not in self.states:
            raise NotFound(f"session {session_id} is not in the store")
        return self.states[tenant, session_id]

    async def delete(self, tenant: str, session_id: str) -> None:
        await self._turn()
        self.states.pop((tenant, session_id), None)

    def close(self) -> None:
        self.gate.clear()


@pytest.fixture
async def store() -> SlowStore:
    return SlowStore()


@pytest.fixture
async def b(accumulator_path: Path, store: SlowStore) -> AsyncIterator[Bench]:
    """With two slots, for six sessions."""
    async with bench(accumulator_path, sessions=2, parked=4, store=store) as made:
        yield made


def phase(b: Bench, name: str) -> Phase:
    return Phase(int(b.engine.sessions.phase[b.engine.sessions.find("", name)]))


def one(b: Bench, owner: Recorder, handle: int, session: int, value: float) -> None:
    b.engine.submit_one(owner, handle, session, 1, -1, (np.full(2, value, np.float32).tobytes(),), OUTPUTS)


async def left(b: Bench, name: str, *values: float) -> int:
    """A session that no stream holds, with steps taken."""
    owner = Recorder()
    session = b.open(owner, 0, name)
    b.steps(owner, [0], [session], [list(values)])
    await b.engine.quiet()
    b.engine.sessions.detach(session)
    return session


async def stalled(store: SlowStore, waiting: int = 1) -> None:
    while store.waiting < waiting:
        await asyncio.sleep(0)


async def test_a_parked_session_gives_its_slot_away_and_goes_on_where_it_was(b: Bench, store: SlowStore) -> None:
    session = await left(b, "s", 1, 2)
    generation = b.engine.sessions.generation
    assert await b.lifecycle.parking.park("", "s")
    assert phase(b, "s") is Phase.PARKED
    assert b.engine.sessions.generation != generation, "whoever knew it looks it up again"
    kept = store.states["", "s"]
    assert (kept.position, np.frombuffer(kept.rows[0], "<f4").tolist()) == (2, [3, 3])
    # Two others have all slots there are, and overwrite its row.
    others = [await left(b, name, 100) for name in ("a", "b")]
    assert b.engine.sessions.resident == 2
    with pytest.raises(Exhausted, match="all 2 sessions are taken"):
        b.open(Recorder(), 1, "s", create=False)
    assert phase(b, "s") is Phase.PARKED
    assert await b.lifecycle.parking.park("", "a")
    owner = Recorder()
    assert b.open(owner, 7, "s", create=False) == session
    assert phase(b, "s") is Phase.RESTORING
    b.steps(owner, [7], [session], [[10.0]])
    await b.engine.quiet()
    assert owner.take() == [("opened", 7, 2, False), ("results", [7], [2], [1], [13])]
    assert phase(b, "s") is Phase.RESIDENT
    assert others[0] != session


async def test_while_one_comes_back_its_neighbour_notices_nothing(b: Bench, store: SlowStore) -> None:
    session = await left(b, "s", 1)
    neighbour = Recorder()
    beside = b.open(neighbour, 0, "n")
    neighbour.take()
    assert await b.lifecycle.parking.park("", "s")
    store.close()
    owner = Recorder()
    b.open(owner, 7, "s", create=False)
    b.steps(owner, [7], [session], [[10.0, 20.0]])
    one(b, owner, 7, session, 30)
    await stalled(store)
    before = dict(b.engine.counted().runs)
    for value in range(100):
        one(b, neighbour, 0, beside, 1)
        if value % 10 == 0:
            b.steps(neighbour, [0], [beside], [[1.0]])
        for _ in range(4):
            await asyncio.sleep(0)
    runs = b.engine.counted().runs
    assert neighbour.take() == [("results", [0], [0], [110], list(range(1, 111)))]
    assert runs["alone"] + runs["at_once"] > before["alone"] + before["at_once"], "not even by a place in line"
    assert owner.take() == [], "it waits"
    store.gate.set()
    await b.engine.quiet()
    assert owner.take() == [("opened", 7, 1, False), ("results", [7], [1], [3], [11, 31, 61])]


async def test_one_that_is_wanted_meanwhile_is_not_parked(b: Bench, store: SlowStore) -> None:
    session = await left(b, "s", 1)
    store.close()
    parking = asyncio.ensure_future(b.lifecycle.parking.park("", "s"))
    await stalled(store)
    owner = Recorder()
    b.open(owner, 7, "s", create=False)
    b.steps(owner, [7], [session], [[10.0]])
    await asyncio.sleep(0.01)
    assert owner.take() == []
    store.gate.set()
    assert await parking is False
    await b.engine.quiet()
    assert owner.take() == [("opened", 7, 1, False), ("results", [7], [1], [1], [11])]
    assert not await b.lifecycle.parking.park("", "s"), "a stream holds it"


async def test_one_that_ends_while_it_is_parked_is_forgotten(b: Bench, store: SlowStore) -> None:
    session = await left(b, "s", 1)
    store.close()
    parking = asyncio.ensure_future(b.lifecycle.parking.park("", "s"))
    await stalled(store)
    b.lifecycle.close(Recorder(), np.array([session]))
    b.engine.remove(np.array([session]))
    with pytest.raises(OutOfStep, match="the session was closed"):
        await parking
    # Its number and its row are another's before the store has answered.
    other = Recorder()
    assert b.open(other, 1) == session
    store.gate.set()
    b.steps(other, [1], [session], [[5.0]])
    await b.engine.quiet()
    while store.states:
        await asyncio.sleep(0)
    assert other.take()[-1] == ("results", [1], [0], [1], [5])


async def test_one_that_ends_while_it_comes_back_leaves_nothing(b: Bench, store: SlowStore) -> None:
    session = await left(b, "s", 7)
    assert await b.lifecycle.parking.park("", "s")
    store.close()
    gone = Recorder()
    b.open(gone, 7, "s", create=False)
    b.steps(gone, [7], [session], [[1.0]])
    await stalled(store)
    b.lifecycle.detach(gone, np.array([session]))
    other = Recorder()
    assert b.open(other, 1) == session
    b.steps(other, [1], [session], [[5.0]])
    store.gate.set()
    await b.engine.quiet()
    for _ in range(20):
        await asyncio.sleep(0)
    assert other.take()[-1] == ("results", [1], [0], [1], [5])
    while store.states:
        await asyncio.sleep(0)
    assert (await b.lifecycle.state("", b.engine.sessions.session_id(session))).position == 1


@pytest.mark.parametrize("rows", [None, [], [bytes(3)]])
async def test_a_state_that_cannot_be_had_ends_the_session(
    b: Bench, store: SlowStore, rows: list[bytes] | None
) -> None:
    session = await left(b, "s", 7)
    assert await b.lifecycle.parking.park("", "s")
    if rows is None:
        store.states.clear()
    else:
        store.states["", "s"] = replace(store.states["", "s"], rows=rows)
    owner = Recorder()
    b.open(owner, 7, "s", create=False)
    b.steps(owner, [7], [session], [[1.0]])
    await b.engine.quiet()
    heard = owner.take()
    assert [what[0] for what in heard] == ["SESSION_CLOSED", "SESSION_CLOSED", "closed"]
    assert heard[-1] == ("closed", "ADMINISTERED", [7], [1])
    with pytest.raises(NotFound):
        b.engine.sessions.find("", "s")
    assert (b.engine.sessions.resident, owner.rows) == (0, 0)


async def test_by_name_a_parked_session_is_as_any_other(b: Bench, store: SlowStore) -> None:
    await left(b, "s", 1, 2)
    assert await b.lifecycle.parking.park("", "s")
    assert (await b.lifecycle.state("", "s")).position == 2
    assert phase(b, "s") is Phase.DETACHED
    assert await b.lifecycle.parking.park("", "s")
    assert await b.lifecycle.fork("", "s", "twin") == ("twin", 2)
    assert await b.lifecycle.parking.park("", "s")
    assert await b.lifecycle.parking.park("", "twin")
    assert await b.lifecycle.set_state("", "s", store.states["", "twin"]) == 2
    assert await b.lifecycle.parking.park("", "s")
    assert await b.lifecycle.close_by_id("", "s") == 2
    assert await b.lifecycle.parking.park("", "twin") is False, "it is parked already"


async def test_sequences_are_parked_too(b: Bench) -> None:
    holder = Recorder()
    session = b.lifecycle.sequence(holder, "", "sequence:5", start=True)
    one(b, holder, 0, session, 4)
    await b.engine.quiet()
    assert await b.lifecycle.parking.park("", "sequence:5")
    assert b.engine.sessions.census() == (0, 0, 0, 1)
    assert b.lifecycle.sequence(holder, "", "sequence:5", start=False) == session
    one(b, holder, 1, session, 5)
    await b.engine.quiet()
    assert [heard[4] for heard in holder.take()] == [[4], [9]]


async def test_a_sequence_that_goes_on_meanwhile_is_not_parked(b: Bench, store: SlowStore) -> None:
    holder = Recorder()
    session = b.lifecycle.sequence(holder, "", "sequence:5", start=True)
    one(b, holder, 0, session, 4)
    await b.engine.quiet()
    store.close()
    parking = asyncio.ensure_future(b.lifecycle.parking.park("", "sequence:5"))
    await stalled(store)
    assert b.lifecycle.sequence(holder, "", "sequence:5", start=False) == session
    one(b, holder, 1, session, 5)
    await asyncio.sleep(0.01)
    store.gate.set()
    assert await parking is False
    await b.engine.quiet()
    assert [heard[4] for heard in holder.take()] == [[4], [9]]


async def test_a_parked_session_whose_time_is_over_ends_in_the_store_too(
    accumulator_path: Path, store: SlowStore
) -> None:
    async with bench(accumulator_path, sessions=2, parked=4, store=store, idle_timeout=10.0) as b:
        await left(b, "s", 1)
        assert await b.lifecycle.parking.park("", "s")
        b.now = 11.0
        assert await b.lifecycle.expire() == 1
        while store.states:
            await asyncio.sleep(0)
        assert b.engine.sessions.taken == 0


ACTS = st.lists(
    st.one_of(
        st.tuples(st.sampled_from(["steps", "steps", "open", "leave", "park", "close"]), st.integers(0, 4)),
        st.tuples(st.sampled_from(["store opens", "store closes", "wait"]), st.just(0)),
    ),
    max_size=60,
)


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(ACTS)
def test_whatever_happens_each_session_gives_its_sums(accumulator_path: Path, acts: list[tuple[str, int]]) -> None:
    """Five sessions, three slots, and a store that takes as long as it likes."""

    async def play() -> None:
        store = SlowStore()
        async with bench(accumulator_path, sessions=3, parked=4, store=store) as b:
            table = b.engine.sessions
            sums = dict.fromkeys(range(5), 0.0)
            expected: dict[int, list[float]] = {k: [] for k in range(5)}
            owners = {k: Recorder() for k in range(5)}
            held: set[int] = set()
            tasks: list[asyncio.Task[Any]] = []
            for act, k in acts:
                name, owner, session = f"s{k}", owners[k], table.get("", f"s{k}")
                if act == "open" and k not in held:
                    try:
                        b.open(owner, k, name)
                    except Exhausted:
                        continue
                    if session is None:
                        sums[k] = 0.0
                    held.add(k)
                elif act == "steps" and k in held and session is not None:
                    b.steps(owner, [k], [session], [[1.0, 2.0]])
                    expected[k] += [sums[k] + 1, sums[k] + 3]
                    sums[k] += 3
                elif act == "leave" and k in held and session is not None and table.phase[session] == Phase.RESIDENT:
                    table.detach(session)
                    held.discard(k)
                elif act == "park" and session is not None and k not in held:
                    tasks.append(asyncio.ensure_future(b.lifecycle.parking.park("", name)))
                elif act == "close" and k in held and session is not None:
                    b.lifecycle.close(owner, np.array([session]))
                    held.discard(k)
                elif act == "store opens":
                    store.gate.set()
                elif act == "store closes":
                    store.close()
                await asyncio.sleep(0)
            store.gate.set()
            await b.engine.quiet()
            await asyncio.gather(*tasks, return_exceptions=True)
            for k, owner in owners.items():
                assert [y for heard in owner.heard if heard[0] == "results" for y in heard[4]] == expected[k]
                assert not [heard for heard in owner.heard if heard[0].isupper()]
            for k in range(5):
                if table.get("", f"s{k}") is not None:
                    try:
                        state = await asyncio.wait_for(b.lifecycle.state("", f"s{k}"), 10)
                    except Exhausted:
                        assert table.resident == 3
                        continue
                    assert np.frombuffer(state.rows[0], "<f4")[0] == sums[k]

    asyncio.run(play())
