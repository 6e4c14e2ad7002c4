"""Kept sessions that give up their slots and have one again, while others go on."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from threading import Event
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from structlog.testing import capture_logs

from gatestream.server.core.batches import OUTPUTS
from gatestream.server.core.claims import Wish
from gatestream.server.core.reply_sink import CloseReason
from gatestream.server.core.transitions import Phase
from gatestream.server.durability.checkpoints import Claim, Claimed, Key, Stored, Writes, Written
from gatestream.server.durability.memory import MemoryStore
from gatestream.server.errors import CheckpointUnfit, Exhausted, NotFound, StoreUnavailable
from tests.support.engine import Bench, Recorder, bench, expect_long_runs

PARKS = Wish(parks=True)


class SlowStore(MemoryStore):
    """What is asked of it waits until it is let through, unless the store is open."""

    def __init__(self, *, is_open: bool = True) -> None:
        super().__init__(silence=1e9)
        self.gate = asyncio.Event()
        self.waiting = 0
        self.failure: Exception | None = None
        if is_open:
            self.gate.set()

    async def _turn(self) -> None:
        self.waiting += 1
        await self.gate.wait()
        self.waiting -= 1
        if self.failure is not None:
            raise self.failure

    async def claim(self, key: Key, claim: Claim) -> Claimed:
        await self._turn()
        return await super().claim(key, claim)

    async def write(self, writes: Writes) -> Written:
        await self._turn()
        return await super().write(writes)

    async def read(self, key: Key) -> Stored:
        await self._turn()
        return await super().read(key)

    def close_gate(self) -> None:
        self.gate.clear()


@pytest.fixture
async def store() -> SlowStore:
    return SlowStore()


@pytest.fixture
async def b(accumulator_path: Path, store: SlowStore) -> AsyncIterator[Bench]:
    """With two slots."""
    async with bench(accumulator_path, sessions=2, store=store) as made:
        yield made


def phase(b: Bench, session: int) -> Phase:
    return Phase(int(b.engine.sessions.phase[session]))


async def round_(b: Bench) -> None:
    assert b.checkpointer is not None
    await b.checkpointer.round()


async def opened(b: Bench, name: str, *values: float) -> tuple[Recorder, int]:
    """A session that a stream holds, with steps taken, and a checkpoint of exactly where it stands."""
    owner = Recorder()
    b.now += 1
    session = b.open(owner, 0, name, wish=PARKS)
    await b.engine.quiet()
    if values:
        await stepped(b, owner, session, *values)
    await round_(b)
    owner.take()
    return owner, session


async def stepped(b: Bench, owner: Recorder, session: int, *values: float) -> list[float]:
    b.now += 1
    b.lifecycle.places.bring_back(session)
    b.steps(owner, [0], [session], [list(values)])
    await b.engine.quiet()
    return [y for heard in owner.take() if heard[0] == "results" for y in heard[4]]


async def settled(b: Bench) -> None:
    """All is answered: one that waits for a slot has it when another is stored."""
    while b.engine.admission.rows:
        await round_(b)
        await asyncio.sleep(0)
    await b.engine.quiet()


async def stalled(store: SlowStore, waiting: int = 1) -> None:
    while store.waiting < waiting:
        await asyncio.sleep(0)


def long_runs(b: Bench, monkeypatch: pytest.MonkeyPatch) -> tuple[Event, Event]:
    """Have runs wait on their thread; what is set when one has begun, and what ends them when it is set."""
    begun, over, step = Event(), Event(), b.engine.rows.step

    def long_step(*args: Any, **kinds: Any) -> Any:
        begun.set()
        over.wait(10)
        return step(*args, **kinds)

    monkeypatch.setattr(b.engine.rows, "step", long_step)
    expect_long_runs(b.engine)
    return begun, over


async def test_the_one_used_least_gives_its_slot_up_and_has_one_again_for_its_next_step(b: Bench) -> None:
    first, one = await opened(b, "one", 1)
    second, two = await opened(b, "two", 10)
    await stepped(b, first, one, 2)
    await round_(b)
    third, three = await opened(b, "three", 100)
    assert [phase(b, each) for each in (one, two, three)] == [Phase.RESIDENT, Phase.PARKED, Phase.RESIDENT]
    assert second.take() == [("parked", 0)]
    assert await stepped(b, second, two, 5) == [15]
    assert phase(b, two) is Phase.RESIDENT
    assert phase(b, one) is Phase.PARKED
    await round_(b)
    assert await stepped(b, first, one, 5) == [8]
    await round_(b)
    assert await stepped(b, third, three, 5) == [105]


async def test_one_that_is_not_stored_where_it_stands_keeps_its_slot(b: Bench) -> None:
    first, one = await opened(b, "one")
    _, two = await opened(b, "two")
    await stepped(b, first, one, 1)
    b.engine.sessions.answered_at[one] = -1
    await opened(b, "three")
    assert (phase(b, one), phase(b, two)) == (Phase.RESIDENT, Phase.PARKED)
    b.steps(first, [0], [one], [[1.0]])
    b.open(Recorder(), 1, "four")
    with pytest.raises(Exhausted, match="all 2 sessions are taken"):
        b.open(Recorder(), 1, "five")


async def test_slots_that_nobody_can_give_up_keep_no_round_going(accumulator_path: Path, store: SlowStore) -> None:
    async with bench(accumulator_path, sessions=64, store=store) as b:
        for name in range(64):
            b.open(Recorder(), 7, str(name))
        assert b.engine.sessions.free_slots == 0
        assert b.checkpointer is not None
        b.checkpointer.hurry()
        running = asyncio.create_task(b.checkpointer.run())
        for _ in range(10):
            await asyncio.sleep(0)
        assert not running.done()
        running.cancel()


async def test_one_that_no_stream_holds_leaves_for_the_store(b: Bench) -> None:
    owner, session = await opened(b, "left", 1, 2)
    b.lifecycle.held.disconnected(owner, np.array([session]))
    await opened(b, "one")
    await opened(b, "two")
    assert b.engine.sessions.tenants.get("", "left") is None
    again, session = await opened(b, "left")
    assert again.stands.position == 2
    assert await stepped(b, again, session, 4) == [7]


async def test_while_one_comes_back_its_neighbour_notices_nothing(b: Bench, store: SlowStore) -> None:
    parked, session = await opened(b, "s", 1)
    neighbour, beside = await opened(b, "n")
    await opened(b, "third")
    assert phase(b, session) is Phase.PARKED
    store.close_gate()
    b.lifecycle.places.bring_back(session)
    column = (np.full(2, 30, np.float32).tobytes(),)
    b.steps(parked, [0], [session], [[10.0, 20.0]])
    b.engine.submit_one(parked, 0, session, 1, -1, column, OUTPUTS)
    await stalled(store)
    before = dict(b.engine.counted().runs)
    for value in range(100):
        b.engine.submit_one(neighbour, 0, beside, 1, -1, (np.ones(2, np.float32).tobytes(),), OUTPUTS)
        if value % 10 == 0:
            b.steps(neighbour, [0], [beside], [[1.0]])
        for _ in range(4):
            await asyncio.sleep(0)
    runs = b.engine.counted().runs
    assert neighbour.take() == [("results", [0], [0], [110], list(range(1, 111)))]
    assert runs["alone"] + runs["at_once"] > before["alone"] + before["at_once"], "not even by a place in line"
    assert [heard for heard in parked.take() if heard[0] == "results"] == [], "it waits"
    store.gate.set()
    await b.engine.quiet()
    assert parked.take() == [("results", [0], [1], [3], [11, 31, 61])]


async def test_it_waits_for_a_store_that_is_away(b: Bench, store: SlowStore) -> None:
    parked, session = await opened(b, "s", 1)
    await opened(b, "n")
    await opened(b, "third")
    store.failure = StoreUnavailable("away")
    b.lifecycle.places.bring_back(session)
    b.steps(parked, [0], [session], [[10.0]])
    await asyncio.sleep(0.05)
    parked.take()
    store.failure = None
    await b.engine.quiet()
    assert parked.take() == [("results", [0], [1], [1], [11])]


async def test_one_whose_checkpoint_cannot_be_had_is_lost_and_says_so(b: Bench, store: SlowStore) -> None:
    parked, session = await opened(b, "s", 1)
    await opened(b, "n")
    await opened(b, "third")
    parked.take()
    store.failure = CheckpointUnfit("damaged")
    b.lifecycle.places.bring_back(session)
    b.steps(parked, [0], [session], [[10.0]])
    await b.engine.quiet()
    assert [heard[:2] for heard in parked.take()] == [("SESSION_CLOSED", [0]), ("closed", "LOST")]
    store.failure = None


async def test_it_waits_for_a_slot_that_is_free_when_a_run_is_over(
    b: Bench, store: SlowStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    parked, session = await opened(b, "s", 1)
    gone, left = await opened(b, "left", 1)
    neighbour, beside = await opened(b, "n")
    b.lifecycle.held.disconnected(gone, np.array([left]))
    begun, over = long_runs(b, monkeypatch)
    store.close_gate()
    b.lifecycle.places.bring_back(session)
    b.steps(parked, [0], [session], [[10.0]])
    await stalled(store)
    b.steps(neighbour, [0], [beside], [[1.0]])
    while not begun.is_set():
        await asyncio.sleep(0)
    store.gate.set()
    for _ in range(20):
        await asyncio.sleep(0.001)
    assert b.engine.running
    over.set()
    await b.engine.quiet()
    assert parked.take()[-1] == ("results", [0], [1], [1], [11])


async def test_nothing_is_written_of_one_whose_state_is_on_its_way(
    b: Bench, store: SlowStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    parked, session = await opened(b, "s", 1)
    gone, left = await opened(b, "left", 7)
    neighbour, beside = await opened(b, "n")
    b.lifecycle.held.disconnected(gone, np.array([left]))
    b.engine.remove(np.array([left]))
    assert b.engine.sessions.free_slots == 1
    begun, over = long_runs(b, monkeypatch)
    store.close_gate()
    b.lifecycle.places.bring_back(session)
    b.steps(parked, [0], [session], [[10.0]])
    # Its client has all answers: the next checkpoint is to be the only one.
    b.engine.sessions.acknowledged[session] = 1
    b.engine.sessions.durable[session] = 0
    await stalled(store)
    b.steps(neighbour, [0], [beside], [[1.0]])
    while not begun.is_set():
        await asyncio.sleep(0)
    store.gate.set()
    for _ in range(10):
        await asyncio.sleep(0)
    written: list[tuple[str, float]] = []
    write = store.write

    async def noted(writes: Writes) -> Written:
        states = writes.states.view("<f4")[:, 0].tolist()
        written.extend(zip([key.session_id for key in writes.keys], states, strict=True))
        return await write(writes)

    monkeypatch.setattr(store, "write", noted)
    rounds = asyncio.create_task(round_(b))
    for _ in range(10):
        await asyncio.sleep(0)
    over.set()
    await rounds
    assert [value for name, value in written if name == "s"] in ([], [1.0])
    await b.engine.quiet()
    assert parked.take()[-1] == ("results", [0], [1], [1], [11])


async def test_a_client_that_keeps_too_much_of_a_parked_one_hears_that_it_is_stored(b: Bench) -> None:
    assert b.lifecycle.kept is not None
    parked, session = await opened(b, "s", 1, 2)
    await opened(b, "n")
    await opened(b, "third")
    assert phase(b, session) is Phase.PARKED
    b.engine.sessions.durable[session] = 0
    parked.take()
    for sequence, heard in ((1, []), (2, [("durable", [0], [2])])):
        b.lifecycle.kept.acknowledge(np.array([session]), np.array([sequence]))
        await round_(b)
        assert parked.take() == heard
    assert phase(b, session) is Phase.PARKED
    assert await stepped(b, parked, session, 4) == [7]


async def gone_back(b: Bench, name: str) -> tuple[Recorder, int]:
    """A session that stands between the checkpoint that it went back to and one further on, and holds its slot."""
    owner, session = await opened(b, name, 1, 2, 3)
    b.lifecycle.held.disconnected(owner, np.array([session]))
    epoch = int(b.engine.sessions.epoch[session]) + 1
    again = Recorder()
    session = b.open(again, 0, name, wish=Wish(parks=True, epoch=epoch, acknowledged=0))
    await b.engine.quiet()
    assert again.stands.position == 0
    assert await stepped(b, again, session, 1) == [1]
    await round_(b)
    assert b.engine.sessions.tip[session] == 3
    return again, session


async def test_one_that_went_back_gives_its_slot_up_where_nothing_is_stored(b: Bench) -> None:
    again, session = await gone_back(b, "s")
    await opened(b, "n")
    await opened(b, "third")
    assert phase(b, session) is Phase.PARKED
    again.take()
    assert await stepped(b, again, session, 2) == [3]
    await round_(b)
    assert await stepped(b, again, session, 3, 4) == [6, 10]


async def test_one_that_went_back_is_stored_where_it_stands_for_a_client_that_keeps_too_much(b: Bench) -> None:
    again, session = await gone_back(b, "s")
    await opened(b, "n")
    await opened(b, "third")
    again.take()
    b.lifecycle.held.acknowledge(np.array([session]), np.array([1]))
    await settled(b)
    # It hears so some times a second.
    assert b.checkpointer is not None
    b.checkpointer.tell_soon()
    await round_(b)
    assert again.take()[-1] == ("durable", [0], [1])


async def test_one_that_went_back_and_that_no_stream_holds_leaves(b: Bench) -> None:
    again, session = await gone_back(b, "s")
    b.lifecycle.held.disconnected(again, np.array([session]))
    await opened(b, "n")
    await opened(b, "third")
    assert b.engine.sessions.tenants.get("", "s") is None
    wish = Wish(parks=True, epoch=9, acknowledged=1)
    session = b.open(again, 0, "s", wish=wish)
    await settled(b)
    assert again.stands.position == 0


async def test_one_that_ends_while_the_store_is_asked_for_it_has_no_fault(b: Bench, store: SlowStore) -> None:
    _, session = await opened(b, "s", 1)
    await opened(b, "n")
    await opened(b, "third")
    store.close_gate()
    b.lifecycle.places.bring_back(session)
    await stalled(store)
    with capture_logs() as logs:
        b.lifecycle.registry.end(np.array([session]), CloseReason.FENCED)
        store.gate.set()
        await b.engine.quiet()
        await asyncio.sleep(0.01)
    assert logs == []


async def test_one_that_could_not_be_restored_for_a_fault_of_ours_may_be_opened_again(
    b: Bench, store: SlowStore
) -> None:
    parked, session = await opened(b, "s", 1)
    await opened(b, "n")
    await opened(b, "third")
    parked.take()
    store.failure = RuntimeError("a fault of ours")
    b.lifecycle.places.bring_back(session)
    b.steps(parked, [0], [session], [[10.0]])
    await b.engine.quiet()
    assert [heard[:2] for heard in parked.take()] == [("SESSION_CLOSED", [0]), ("closed", "PARKED")]
    store.failure = None
    again, session = await opened(b, "s")
    assert await stepped(b, again, session, 10) == [11]


async def test_a_sequence_that_begins_again_has_its_own_slot(b: Bench) -> None:
    owner, session = await opened(b, "sequence:5", 1)
    await opened(b, "n", 10)
    third, last = await opened(b, "third", 100)
    assert phase(b, session) is Phase.PARKED
    assert b.lifecycle.sequences.session(owner, "", "sequence:5", start=True) == session
    b.steps(owner, [0], [session], [[5.0]])
    await b.engine.quiet()
    assert owner.take()[-1] == ("results", [0], [1], [1], [5])
    assert await stepped(b, third, last, 1) == [101]


async def test_a_close_is_not_refused_since_its_session_is_coming_back(b: Bench) -> None:
    parked, session = await opened(b, "s", 1)
    await opened(b, "n")
    await opened(b, "third")
    parked.take()
    b.lifecycle.places.bring_back(session)
    held = b.lifecycle.held
    assert held.closable(parked, np.array([session]), np.array([0]), np.array([1])).tolist() == [True]
    b.steps(parked, [0], [session], [[1.0]])
    assert held.closable(parked, np.array([session]), np.array([0]), np.array([1])).tolist() == [False]
    await b.engine.quiet()


async def test_a_stream_that_holds_a_parked_one_may_close_reset_or_leave_it(accumulator_path: Path) -> None:
    async with bench(accumulator_path, sessions=3, store=SlowStore()) as b:
        holders = {name: await opened(b, name, 1) for name in ("closed", "reset", "left")}
        for name in ("x", "y", "z"):
            await opened(b, name)
        assert {phase(b, session) for _, session in holders.values()} == {Phase.PARKED}
        await close_reset_and_leave(b, holders)


async def close_reset_and_leave(b: Bench, holders: dict[str, tuple[Recorder, int]]) -> None:
    owner, session = holders["left"]
    b.lifecycle.held.disconnected(owner, np.array([session]))
    assert b.engine.sessions.tenants.get("", "left") is None
    owner, session = holders["reset"]
    b.lifecycle.held.reset(owner, np.array([session]), np.array([0]))
    owner, session = holders["closed"]
    b.lifecycle.held.close(owner, np.array([session]))
    while not [heard for heard in owner.heard if heard[0] == "closed"]:
        await round_(b)
        await asyncio.sleep(0)
    with pytest.raises(NotFound):
        await b.lifecycle.named.state("", "closed")
    owner, session = holders["reset"]
    assert await stepped(b, owner, session, 7) == [7]
    assert (await b.lifecycle.named.state("", "left")).position == 1


async def test_by_name_a_stored_session_is_as_any_other(b: Bench) -> None:
    owner, session = await opened(b, "s", 1, 2)
    b.lifecycle.held.disconnected(owner, np.array([session]))
    await opened(b, "one")
    await opened(b, "two")
    state = await b.lifecycle.named.state("", "s")
    assert (state.position, np.frombuffer(state.rows[0], "<f4").tolist()) == (2, [3, 3])
    assert await b.lifecycle.named.fork("", "s", "twin") == ("twin", 2)
    assert await b.lifecycle.named.set_state("", "s", await b.lifecycle.named.state("", "twin")) == 2
    assert await b.lifecycle.named.close("", "s") == 2
    with pytest.raises(NotFound):
        await b.lifecycle.named.state("", "s")
    again, session = await opened(b, "twin")
    assert await stepped(b, again, session, 4) == [7]


async def test_a_held_one_is_forked_and_set_in_the_store_before_the_answer(b: Bench) -> None:
    owner, session = await opened(b, "s", 1, 2)
    assert await b.lifecycle.named.fork("", "s", "twin") == ("twin", 2)
    state = await b.lifecycle.named.state("", "twin")
    await stepped(b, owner, session, 4)
    assert await b.lifecycle.named.set_state("", "s", state) == 2
    assert b.engine.sessions.stands(session) == (2, 1, 4, 4)
    assert await stepped(b, owner, session, 5) == [8]


async def test_a_tenant_has_as_many_as_it_may(accumulator_path: Path, store: SlowStore) -> None:
    async with bench(accumulator_path, sessions=2, store=store, parked_sessions=3) as b:
        for k in range(3):
            await opened(b, f"s{k}")
        owner = Recorder()
        b.open(owner, 0, "one-more", wish=PARKS)
        await b.engine.quiet()
        assert owner.take() == [("not opened", 0, "SESSIONS_EXHAUSTED")]


async def test_a_tenant_that_has_its_share_of_slots_gives_up_its_own(accumulator_path: Path, store: SlowStore) -> None:
    async with bench(accumulator_path, sessions=8, store=store) as b:
        table = b.engine.sessions
        table.share = 2
        first, one = await opened(b, "one", 1)
        _, two = await opened(b, "two", 10)
        _, three = await opened(b, "three", 100)
        assert [phase(b, each) for each in (one, two, three)] == [Phase.PARKED, Phase.RESIDENT, Phase.RESIDENT]
        assert await stepped(b, first, one, 5) == [6]
        assert [phase(b, each) for each in (one, two, three)] == [Phase.RESIDENT, Phase.PARKED, Phase.RESIDENT]
        # Those that the store does not know keep theirs.
        await round_(b)
        unkept = b.open(Recorder(), 0)
        assert [phase(b, each) for each in (one, two, three)] == [Phase.RESIDENT, Phase.PARKED, Phase.PARKED]
        assert await stepped(b, first, one, 7) == [13]
        # Of those without a slot there may be as many as of those with one.
        with pytest.raises(Exhausted, match="all 2 of this tenant's sessions are taken"):
            b.open(Recorder(), 2)
        assert phase(b, unkept) == Phase.RESIDENT


async def test_streams_hold_as_many_as_they_may_with_few_slots(accumulator_path: Path, store: SlowStore) -> None:
    async with bench(accumulator_path, sessions=2, held_sessions=7, store=store) as b:
        holders = [await opened(b, f"s{k}", k) for k in range(6)]
        for k, each in enumerate(holders):
            assert await stepped(b, *each, 10) == [k + 10]
            await round_(b)
        # One that no stream holds leaves for another, rather than that one gives up a slot alone.
        last, session = await opened(b, "left", 1)
        b.lifecycle.held.disconnected(last, np.array([session]))
        await stepped(b, *await opened(b, "another"), 1)
        assert b.engine.sessions.tenants.get("", "left") is None
        await round_(b)
        assert b.lifecycle.residence is not None
        assert b.lifecycle.residence.make_room(2)
        with pytest.raises(Exhausted, match=r"all 7 sessions are taken.*--held-sessions"):
            b.open(Recorder(), 1, "one-more", wish=PARKS)


async def test_one_that_no_stream_holds_leaves_where_slots_are_free_and_numbers_are_not(
    accumulator_path: Path, store: SlowStore
) -> None:
    async with bench(accumulator_path, sessions=2, held_sessions=3, store=store) as b:
        await opened(b, "one")
        owner, session = await opened(b, "left", 5)
        await opened(b, "two")
        assert b.lifecycle.residence is not None
        b.lifecycle.places.bring_back(session)
        await b.engine.quiet()
        b.lifecycle.held.disconnected(owner, np.array([session]))
        assert b.lifecycle.residence.make_room(1)
        assert (b.engine.sessions.taken, b.engine.sessions.free_slots) == (3, 1)
        await opened(b, "three")
        assert b.engine.sessions.tenants.get("", "left") is None
        assert (await b.lifecycle.named.state("", "left")).position == 1


async def test_a_parked_one_whose_time_is_over_is_closed_as_any_other(accumulator_path: Path, store: SlowStore) -> None:
    async with bench(accumulator_path, sessions=1, held_sessions=4, idle_timeout=60.0, store=store) as b:
        owner, session = await opened(b, "s", 1)
        await opened(b, "n")
        assert phase(b, session) is Phase.PARKED
        owner.take()
        b.now = 62.5
        assert await b.lifecycle.expiry.expire() == 1
        assert owner.take() == [("closed", "IDLE", [0], [1])]


async def test_checkpoints_are_written_while_very_much_is_forgotten(accumulator_path: Path) -> None:
    class Forgetful(SlowStore):
        async def prune(self, before: float) -> int:
            await asyncio.Event().wait()
            return 0

    async with bench(accumulator_path, store=Forgetful()) as b:
        assert b.checkpointer is not None
        pruning = asyncio.create_task(b.checkpointer.prune())
        _, session = await opened(b, "s", 1, 2)
        assert b.engine.sessions.written[session] == 2
        assert not pruning.done()
        pruning.cancel()


ACTS = st.lists(
    st.one_of(
        st.tuples(st.sampled_from(["steps", "steps", "open", "leave", "round", "close"]), st.integers(0, 4)),
        st.tuples(st.sampled_from(["store opens", "store closes"]), st.just(0)),
    ),
    max_size=60,
)


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(ACTS)
def test_whatever_happens_each_session_gives_its_sums(accumulator_path: Path, acts: list[tuple[str, int]]) -> None:
    """Five sessions, three slots, and a store that takes as long as it likes."""

    async def play() -> None:
        store = SlowStore()
        async with bench(accumulator_path, sessions=3, store=store) as b:
            table = b.engine.sessions
            sums = dict.fromkeys(range(5), 0.0)
            expected: dict[int, list[float]] = {k: [] for k in range(5)}
            owners = {k: Recorder() for k in range(5)}
            held: dict[int, int] = {}
            tasks: list[asyncio.Task[Any]] = []
            for act, k in acts:
                owner = owners[k]
                if act == "open" and k not in held and store.gate.is_set():
                    try:
                        held[k] = b.open(owner, k, f"s{k}", wish=PARKS)
                    except Exhausted:
                        continue
                    await settled(b)
                elif act == "steps" and k in held:
                    b.lifecycle.places.bring_back(held[k])
                    b.steps(owner, [k], [held[k]], [[1.0, 2.0]])
                    expected[k] += [sums[k] + 1, sums[k] + 3]
                    sums[k] += 3
                elif act == "leave" and k in held and b.engine.at_rest(held[k]):
                    b.lifecycle.held.disconnected(owner, np.array([held.pop(k)]))
                elif act == "close" and k in held and b.engine.at_rest(held[k]):
                    b.lifecycle.held.close(owner, np.array([held.pop(k)]))
                    sums[k] = 0.0
                    store.gate.set()
                    await settled(b)
                elif act == "round" and not tasks:
                    tasks.append(asyncio.ensure_future(round_(b)))
                elif act == "store opens":
                    store.gate.set()
                    await asyncio.gather(*tasks)
                    tasks.clear()
                elif act == "store closes":
                    store.close_gate()
                for _ in range(3):
                    await asyncio.sleep(0)
            store.gate.set()
            await asyncio.gather(*tasks)
            await settled(b)
            for k, owner in owners.items():
                assert [y for heard in owner.heard if heard[0] == "results" for y in heard[4]] == expected[k]
                assert not [heard for heard in owner.heard if heard[0].isupper()]
                if sums[k]:
                    state = await asyncio.wait_for(b.lifecycle.named.state("", f"s{k}"), 10)
                    assert np.frombuffer(state.rows[0], "<f4")[0] == sums[k]
            assert table.resident <= 3

    asyncio.run(play())
