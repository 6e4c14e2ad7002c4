"""What is asked of sessions by name."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gatestream.server.core.batches import OUTPUTS
from gatestream.server.core.claims import Wish
from gatestream.server.core.named import SessionState
from gatestream.server.core.reply_sink import CloseReason
from gatestream.server.core.stored import Meant
from gatestream.server.durability.checkpoints import TERM, Checkpoint, Claim, Claimed, Key
from gatestream.server.durability.memory import MemoryStore
from gatestream.server.errors import AlreadyExists, EpochStale, Exhausted, InvalidRequest, OutOfStep, StoreUnavailable
from tests.support.artifacts import ACCUMULATOR_FINGERPRINT
from tests.support.engine import Bench, Recorder, bench

PARKS = Wish(parks=True)


@pytest.fixture
async def b(accumulator_path: Path) -> AsyncIterator[Bench]:
    async with bench(accumulator_path, sequence_timeout=5.0, idle_timeout=60.0) as made:
        yield made


async def test_states_go_from_session_to_session(b: Bench) -> None:
    owner = Recorder()
    slot = b.open(owner, 0, "s")
    b.steps(owner, [0], [slot], [[1.0, 2.0]])
    kept = await b.lifecycle.named.state("", "s")
    assert (kept.position, np.frombuffer(kept.rows[0], "<f4").tolist()) == (2, [3, 3])
    assert await b.lifecycle.named.fork("", "s", "twin") == ("twin", 2)
    b.open(owner, 1, "other")
    assert await b.lifecycle.named.set_state("", "other", kept) == 2
    assert await b.lifecycle.named.state("", "twin") == await b.lifecycle.named.state("", "other") == kept
    with pytest.raises(AlreadyExists):
        await b.lifecycle.named.fork("", "s", "twin")


@pytest.mark.parametrize(
    ("state", "says"),
    [
        (SessionState("of others", 1, [bytes(8)]), "state.weights_fingerprint is 'of others'"),
        (SessionState(ACCUMULATOR_FINGERPRINT, 1, [bytes(4)]), r"state.state has columns of \[4\] bytes"),
        (SessionState(ACCUMULATOR_FINGERPRINT, 1, []), r"state.state has columns of \[\] bytes"),
        (SessionState(ACCUMULATOR_FINGERPRINT, 2**52, [bytes(8)]), "state.position is 4503599627370496"),
        (
            SessionState(ACCUMULATOR_FINGERPRINT, 1, [np.array([0, np.nan], "<f4").tobytes()]),
            "state.state 's' holds NaN or infinity",
        ),
    ],
)
async def test_a_state_that_does_not_fit_changes_nothing(b: Bench, state: SessionState, says: str) -> None:
    owner = Recorder()
    slot = b.open(owner, 0, "s")
    b.steps(owner, [0], [slot], [[1.0]])
    before = await b.lifecycle.named.state("", "s")
    with pytest.raises(InvalidRequest, match=says):
        await b.lifecycle.named.set_state("", "s", state)
    assert await b.lifecycle.named.state("", "s") == before


def behind(may: asyncio.Event, call: Any) -> Any:
    """The same call, made when it may be."""

    async def made(*args: Any) -> Any:
        await may.wait()
        return await call(*args)

    return made


def set_to(position: int, value: float) -> SessionState:
    return SessionState(ACCUMULATOR_FINGERPRINT, position, [np.full(2, value, "<f4").tobytes()])


@pytest.mark.parametrize("parks", [False, True])
async def test_steps_behind_a_state_that_is_not_set_are_refused(accumulator_path: Path, parks: bool) -> None:
    async with bench(accumulator_path, store=MemoryStore()) as b:
        owner = Recorder()
        session = b.open(owner, 0, "s", wish=Wish(parks=parks))
        await b.engine.quiet()
        b.steps(owner, [0], [session], [[1.0]])
        setting = asyncio.ensure_future(b.lifecycle.named.set_state("", "s", set_to(50, 7), Meant(sequence=40)))
        await asyncio.sleep(0)
        b.steps(owner, [0], [session], [[2.0]])
        with pytest.raises(OutOfStep, match="sequence is 40; the session stands at 1"):
            await setting
        await b.engine.quiet()
        heard = owner.take()
        assert ("results", [0], [0], [1], [1]) in heard
        assert heard[-1][0] == "PRECEDING_FAILED"
        assert b.engine.sessions.accepted[session] == 1
        b.steps(owner, [0], [session], [[4.0]])
        await b.engine.quiet()
        assert owner.take()[-1] == ("results", [0], [1], [1], [5])


async def test_a_state_that_is_set_while_the_session_is_claimed(accumulator_path: Path) -> None:
    async with bench(accumulator_path, store=MemoryStore()) as b:
        owner = Recorder()
        session = b.open(owner, 0, "s", wish=Wish(parks=True))
        assert await b.lifecycle.named.set_state("", "s", set_to(50, 7)) == 50
        b.steps(owner, [0], [session], [[1.0]])
        await b.engine.quiet()
        assert owner.take()[-1] == ("results", [0], [50], [1], [8])
        assert b.engine.sessions.accepted[session] == 51


async def test_a_copy_takes_room_in_the_store(accumulator_path: Path) -> None:
    async with bench(accumulator_path, store=MemoryStore(), parked_sessions=2) as b:
        owner = Recorder()
        b.open(owner, 0, "s", wish=Wish(parks=True))
        await b.engine.quiet()
        await b.lifecycle.named.fork("", "s", "one")
        with pytest.raises(Exhausted, match="it may have 2"):
            await b.lifecycle.named.fork("", "s", "two")
        with pytest.raises(Exhausted, match="it may have 2"):
            await b.lifecycle.named.fork("", "one", "three")
        owner.take()
        for handle, (name, heard) in enumerate((("one", "opened"), ("four", "not opened")), 1):
            b.open(owner, handle, name, wish=Wish(parks=True))
            await b.engine.quiet()
            assert owner.take()[-1][0] == heard


async def test_of_two_states_the_one_that_is_refused_leaves_the_other_alone(b: Bench) -> None:
    owner = Recorder()
    session = b.open(owner, 0, "s")
    b.steps(owner, [0], [session], [[1.0]])
    refused = asyncio.ensure_future(b.lifecycle.named.set_state("", "s", set_to(5, 7), Meant(sequence=40)))
    taken = asyncio.ensure_future(b.lifecycle.named.set_state("", "s", set_to(100, 7)))
    await asyncio.sleep(0)
    b.steps(owner, [0], [session], [[1.0]])
    with pytest.raises(OutOfStep):
        await refused
    assert await taken == 100
    await b.engine.quiet()
    assert owner.take()[-1] == ("results", [0], [100], [1], [8])
    assert b.engine.sessions.accepted[session] == b.engine.sessions.position[session] == 101


@pytest.mark.parametrize("parks", [False, True])
@pytest.mark.parametrize("behind", ["state", "open"])
async def test_steps_of_a_state_that_is_not_set_are_refused_whatever_stands_behind_them(
    accumulator_path: Path, parks: bool, behind: str
) -> None:
    async with bench(accumulator_path, store=MemoryStore()) as b:
        owner, other, named = Recorder(), Recorder(), b.lifecycle.named
        session = b.open(owner, 0, "s", wish=Wish(parks=parks))
        await b.engine.quiet()
        b.steps(owner, [0], [session], [[1.0]])
        setting = asyncio.ensure_future(named.set_state("", "s", set_to(50, 700), Meant(sequence=40)))
        await asyncio.sleep(0)
        b.engine.submit_one(owner, 0, session, 1, 50, (np.full(2, 5, "<f4").tobytes(),), OUTPUTS)
        if behind == "open":
            b.open(other, 0, "s", wish=PARKS)
        else:
            last = asyncio.ensure_future(named.set_state("", "s", set_to(90, 900)))
            await asyncio.sleep(0)
            b.steps(owner, [0], [session], [[2.0]])
        with pytest.raises(OutOfStep, match="sequence is 40; the session stands at 1"):
            await setting
        await b.engine.quiet()
        heard = [each for each in owner.take() if each[0] in ("results", "PRECEDING_FAILED")]
        assert heard[:2] == [("results", [0], [0], [1], [1]), ("PRECEDING_FAILED", [0], [1], [1], [1])]
        if behind == "open":
            assert len(heard) == 2
            assert other.stands is not None
            assert other.stands.position == 1
        else:
            assert await last == 90
            assert [each[:4] for each in heard[2:]] == [("results", [0], [90], [1])]


async def test_a_state_that_nobody_waits_for_any_more_and_that_is_not_set(b: Bench) -> None:
    owner = Recorder()
    session = b.open(owner, 0, "s")
    await b.engine.quiet()
    b.steps(owner, [0], [session], [[1.0] * 12])
    setting = asyncio.ensure_future(b.lifecycle.named.set_state("", "s", set_to(50, 700), Meant(sequence=40)))
    await asyncio.sleep(0)
    setting.cancel()
    await b.engine.quiet()
    assert setting.cancelled()
    table = b.engine.sessions
    assert (table.position[session], table.accepted[session], table.setting[session]) == (12, 12, False)
    assert b.engine.check() == []


async def test_no_step_is_taken_where_an_open_says_and_a_state_will_be_set(
    accumulator_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, claims, replaces = MemoryStore(), asyncio.Event(), asyncio.Event()
    claims.set()
    monkeypatch.setattr(store, "claim", behind(claims, store.claim))
    monkeypatch.setattr(store, "replace", behind(replaces, store.replace))
    async with bench(accumulator_path, store=store) as b:
        owner, other, table = Recorder(), Recorder(), b.engine.sessions
        session = b.open(owner, 0, "s", wish=PARKS)
        await b.engine.quiet()
        b.steps(owner, [0], [session], [[1.0] * 5])
        await b.engine.quiet()
        claims.clear()
        b.open(other, 7, "s", wish=PARKS)
        await asyncio.sleep(0.01)
        setting = asyncio.ensure_future(b.lifecycle.named.set_state("", "s", set_to(100, 700)))
        await asyncio.sleep(0.01)
        claims.set()
        await asyncio.sleep(0.05)
        assert other.take()[-1] == ("opened", 7, 5, False)
        step = np.ones(2, "<f4").tobytes()
        b.engine.submit_one(other, 7, session, 1, 5, (step,), OUTPUTS)
        await asyncio.sleep(0.01)
        replaces.set()
        assert await setting == 100
        await b.engine.quiet()
        assert other.take()[-1][0] == "POSITION_MISMATCH"
        assert table.accepted[session] == table.position[session] == 100
        b.engine.submit_one(other, 7, session, 1, 100, (step,), OUTPUTS)
        await b.engine.quiet()
        assert other.take()[-1] == ("results", [7], [100], [1], [701])


async def test_a_session_is_asked_to_be_closed_by_name_no_more_often_than_may_wait(
    accumulator_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, may = MemoryStore(), asyncio.Event()
    monkeypatch.setattr(store, "close", behind(may, store.close))
    async with bench(accumulator_path, store=store, sessions=2, rows=64, rows_per_stream=64, chunk_length=64) as b:
        assert b.checkpointer is not None
        rounds = asyncio.create_task(b.checkpointer.run())
        owner = Recorder()
        b.open(owner, 0, "s", wish=PARKS)
        await b.engine.quiet()
        calls = [asyncio.ensure_future(b.lifecycle.named.close("", "s")) for _ in range(200)]
        await asyncio.sleep(0.05)
        assert b.engine.admission.rows <= 64
        may.set()
        done = await asyncio.gather(*calls, return_exceptions=True)
        assert sum(each == 0 for each in done) == 1
        assert {type(each) for each in done if each != 0} == {Exhausted, OutOfStep}
        await b.engine.quiet()
        b.open(Recorder(), 1, "t", wish=PARKS)
        await b.engine.quiet()
        assert b.engine.check() == []
        rounds.cancel()


@pytest.mark.parametrize("what", ["state", "fork"])
@pytest.mark.parametrize("fenced", [False, True])
async def test_before_the_answer_a_copy_is_told_of_when_it_is_stored(
    accumulator_path: Path, monkeypatch: pytest.MonkeyPatch, what: str, fenced: bool
) -> None:
    store, may = MemoryStore(0.0), asyncio.Event()
    async with bench(accumulator_path, store=store, before_answer=True) as b:
        assert b.checkpointer is not None
        assert b.lifecycle.kept is not None
        rounds, owner, named = asyncio.create_task(b.checkpointer.run()), Recorder(), b.lifecycle.named
        session = b.open(owner, 0, "s", wish=PARKS)
        await b.engine.quiet()
        monkeypatch.setattr(store, "write", behind(may, store.write))
        b.steps(owner, [0], [session], [[1.0, 2.0]])
        await b.engine.quiet()
        copying = asyncio.ensure_future(named.state("", "s") if what == "state" else named.fork("", "s", "twin"))
        await asyncio.sleep(0.02)
        assert not copying.done()
        if fenced:
            key = b.lifecycle.kept.key(session)
            await store.claim(key, Claim("other", 9, b.lifecycle.kept.meaning, None, True))
        may.set()
        if fenced:
            with pytest.raises(StoreUnavailable, match="let go of before its state was stored"):
                await copying
        else:
            copied: Any = await copying
            assert (copied.position if what == "state" else copied[1]) == 2
        rounds.cancel()


async def test_what_is_written_while_a_state_is_set_is_not_put_back(
    accumulator_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, may = MemoryStore(), asyncio.Event()
    monkeypatch.setattr(store, "replace", behind(may, store.replace))
    async with bench(accumulator_path, store=store) as b:
        assert b.checkpointer is not None
        assert b.lifecycle.kept is not None
        owner = Recorder()
        session = b.open(owner, 0, "s", wish=PARKS)
        await b.engine.quiet()
        b.steps(owner, [0], [session], [[1.0, 2.0]])
        await b.engine.quiet()
        key = b.lifecycle.kept.key(session)
        setting = asyncio.ensure_future(b.lifecycle.named.set_state("", "s", set_to(50, 700)))
        await asyncio.sleep(0.01)
        round_ = asyncio.ensure_future(b.checkpointer.round())
        await asyncio.sleep(0.01)
        may.set()
        assert await setting == 50
        await round_
        assert [each.position for each in (await store.read(key)).checkpoints] == [50]
        b.steps(owner, [0], [session], [[1.0]])
        await b.engine.quiet()
        await b.checkpointer.round()
        assert (await store.read(key)).checkpoints[-1].position == 51


async def test_one_that_was_not_to_be_kept_after_all_is_set_here(accumulator_path: Path) -> None:
    class Away(MemoryStore):
        async def claim(self, key: Key, claim: Claim) -> Claimed:
            raise StoreUnavailable("away")

    async with bench(accumulator_path, store=Away()) as b:
        owner, other = Recorder(), Recorder()
        session = b.open(owner, 0, "s")
        b.steps(owner, [0], [session], [[1.0]])
        b.open(other, 0, "s", wish=Wish(parks=True))
        setting = asyncio.ensure_future(b.lifecycle.named.set_state("", "s", set_to(50, 7)))
        assert await setting == 50
        assert ("not opened", 0, "STORE_UNAVAILABLE") in other.take()
        assert (await b.lifecycle.named.state("", "s")).position == 50


async def test_a_session_is_closed_by_name_while_it_is_claimed(accumulator_path: Path) -> None:
    async with bench(accumulator_path, store=MemoryStore()) as b:
        assert b.checkpointer is not None
        rounds = asyncio.create_task(b.checkpointer.run())
        owner, second = Recorder(), Recorder()
        async with asyncio.timeout(5):
            for handle, holder in enumerate((owner, second)):
                b.open(holder, handle, "s", wish=Wish(parks=True))
                assert await b.lifecycle.named.close("", "s") == 0
                assert ("opened", handle, 0, True) in holder.take()
        rounds.cancel()
        assert b.checkpointer.ending == {}


async def test_a_close_behind_a_refused_open_leaves_the_stores_session_alone(accumulator_path: Path) -> None:
    store = MemoryStore()
    async with bench(accumulator_path, store=store) as b:
        assert b.lifecycle.kept is not None
        owner, other = Recorder(), Recorder()
        session = b.open(owner, 0, "s")
        key = b.lifecycle.kept.key(session)
        theirs = Claim("other", 1, b.lifecycle.kept.meaning, Checkpoint(0, 0, bytes(8)), False)
        await store.claim(key, theirs)
        b.open(other, 0, "s", wish=Wish(parks=True))
        await b.lifecycle.named.close("", "s")
        assert (await store.read(key)).owner == "other"


async def test_a_refused_state_behind_which_an_open_waits(accumulator_path: Path) -> None:
    async with bench(accumulator_path, store=MemoryStore()) as b:
        owner, other = Recorder(), Recorder()
        session = b.open(owner, 0, "s", wish=Wish(parks=True))
        await b.engine.quiet()
        b.steps(owner, [0], [session], [[1.0]])
        setting = asyncio.ensure_future(b.lifecycle.named.set_state("", "s", set_to(50, 7), Meant(sequence=40)))
        await asyncio.sleep(0)
        b.open(other, 0, "s", wish=Wish(parks=True, epoch=9))
        with pytest.raises(OutOfStep):
            await setting
        await b.engine.quiet()
        assert b.engine.sessions.accepted[session] == b.engine.sessions.position[session] == 1


class Doubtful(MemoryStore):
    """It sets a state, and for so often does not say so."""

    def __init__(self, times: int) -> None:
        super().__init__()
        self.times = times

    async def replace(self, key: Key, owner: str, epoch: int, checkpoint: Checkpoint) -> bool:
        done = await super().replace(key, owner, epoch, checkpoint)
        if self.times:
            self.times -= 1
            raise StoreUnavailable("away, and it was done")
        return done


async def test_a_store_that_does_not_say_what_it_did_is_asked_until_it_does(accumulator_path: Path) -> None:
    store = Doubtful(3)
    async with bench(accumulator_path, store=store) as b:
        assert b.lifecycle.kept is not None
        owner, neighbour = Recorder(), Recorder()
        session, other = (
            b.open(holder, 0, name, wish=Wish(parks=True)) for holder, name in ((owner, "s"), (neighbour, "n"))
        )
        await b.engine.quiet()
        b.steps(owner, [0], [session], [[1.0]])
        setting = asyncio.ensure_future(b.lifecycle.named.set_state("", "s", set_to(50, 7)))
        await asyncio.sleep(0)
        b.steps(owner, [0], [session], [[2.0]])
        b.steps(neighbour, [0], [other], [[5.0]])
        while store.times > 1:
            await asyncio.sleep(0.001)
        # It waits, and nobody else does.
        assert neighbour.take()[-1] == ("results", [0], [0], [1], [5])
        assert owner.take()[-1] == ("results", [0], [0], [1], [1])
        assert await setting == 50
        await b.engine.quiet()
        assert owner.take() == [("results", [0], [50], [1], [9])]
        stored = await store.read(b.lifecycle.kept.key(session))
        assert [(each.sequence, each.position) for each in stored.checkpoints] == [(2, 50)]


async def test_a_session_that_ends_while_nobody_knows_whether_its_state_was_set(accumulator_path: Path) -> None:
    store = Doubtful(10**6)
    async with bench(accumulator_path, store=store) as b:
        session = b.open(Recorder(), 0, "s", wish=Wish(parks=True))
        await b.engine.quiet()
        setting = asyncio.ensure_future(b.lifecycle.named.set_state("", "s", set_to(50, 7)))
        while store.times == 10**6:
            await asyncio.sleep(0.001)
        # Another would wait for this one, and so on without end.
        for _ in range(3):
            with pytest.raises(StoreUnavailable, match="has yet to say whether it has the state before this one"):
                await b.lifecycle.named.set_state("", "s", set_to(60, 7))
        b.lifecycle.registry.end(np.array([session]), CloseReason.FENCED)
        with pytest.raises(StoreUnavailable, match="opening it again shows that"):
            await setting
        # Then nobody asks the store any more.
        while b.engine.check():
            await asyncio.sleep(0.001)


async def test_a_session_that_ends_while_its_state_is_on_its_way_to_the_store(accumulator_path: Path) -> None:
    class Slow(MemoryStore):
        answers = asyncio.Event()

        async def replace(self, key: Key, owner: str, epoch: int, checkpoint: Checkpoint) -> bool:
            done = await super().replace(key, owner, epoch, checkpoint)
            await self.answers.wait()
            return done

    store = Slow()
    async with bench(accumulator_path, store=store) as b:
        assert b.lifecycle.kept is not None
        session = b.open(Recorder(), 0, "s", wish=Wish(parks=True))
        await b.engine.quiet()
        key = b.lifecycle.kept.key(session)
        setting = asyncio.ensure_future(b.lifecycle.named.set_state("", "s", set_to(50, 7)))
        while (await store.read(key)).checkpoints[-1].position != 50:
            await asyncio.sleep(0.001)
        b.lifecycle.registry.end(np.array([session]), CloseReason.DRAINED)
        with pytest.raises(StoreUnavailable, match="opening it again shows that"):
            await setting
        store.answers.set()
        while b.engine.check():
            await asyncio.sleep(0.001)


async def test_who_has_the_number_of_a_session_that_ended_so_is_given_its_states(accumulator_path: Path) -> None:
    class Late(MemoryStore):
        asked, gives_up = False, asyncio.Event()

        async def replace(self, key: Key, owner: str, epoch: int, checkpoint: Checkpoint) -> bool:
            if self.asked:
                return await super().replace(key, owner, epoch, checkpoint)
            self.asked = True
            await self.gives_up.wait()
            raise StoreUnavailable("it took too long")

    store = Late()
    async with bench(accumulator_path, store=store) as b:
        session = b.open(Recorder(), 0, "s", wish=Wish(parks=True))
        await b.engine.quiet()
        setting = asyncio.ensure_future(b.lifecycle.named.set_state("", "s", set_to(50, 7)))
        while not store.asked:
            await asyncio.sleep(0.001)
        b.lifecycle.registry.end(np.array([session]), CloseReason.DRAINED)
        with pytest.raises(StoreUnavailable):
            await setting
        store.gives_up.set()
        while b.engine.check():
            await asyncio.sleep(0.001)
        assert b.open(Recorder(), 0, "other", wish=Wish(parks=True)) == session
        assert await b.lifecycle.named.set_state("", "other", set_to(5, 1)) == 5


async def test_nothing_is_asked_of_the_store_for_who_waits_no_longer(accumulator_path: Path) -> None:
    async with bench(accumulator_path, store=MemoryStore()) as b:
        owner = Recorder()
        session = b.open(owner, 0, "s", wish=Wish(parks=True))
        setting = asyncio.ensure_future(b.lifecycle.named.set_state("", "s", set_to(50, 7)))
        await asyncio.sleep(0)
        setting.cancel()
        await b.engine.quiet()
        assert b.engine.sessions.accepted[session] == b.engine.sessions.position[session] == 0


async def test_a_state_that_is_set_behind_one_that_waits_for_a_claim(accumulator_path: Path) -> None:
    async with bench(accumulator_path, store=MemoryStore()) as b:
        owner = Recorder()
        session = b.open(owner, 0, "s", wish=Wish(parks=True))
        first = asyncio.ensure_future(b.lifecycle.named.set_state("", "s", set_to(50, 7)))
        while ("opened", 0, 0, True) not in owner.take():
            await asyncio.sleep(0)
        second = asyncio.ensure_future(b.lifecycle.named.set_state("", "s", set_to(90, 1)))
        assert (await first, await second) == (50, 90)
        assert b.engine.sessions.accepted[session] == b.engine.sessions.position[session] == 90


async def test_a_state_is_set_in_the_store_for_the_client_that_comes_back(accumulator_path: Path) -> None:
    store = MemoryStore()
    async with bench(accumulator_path, store=store) as b:
        assert b.lifecycle.kept is not None
        owner = Recorder()
        session = b.open(owner, 0, "s", wish=Wish(parks=True, epoch=4))
        await b.engine.quiet()
        key = b.lifecycle.kept.key(session)
        b.lifecycle.kept.leave(np.array([session]))
        with pytest.raises(OutOfStep, match="sequence is 1; the session stands at 0"):
            await b.lifecycle.named.set_state("", "s", set_to(50, 7), Meant(1, 4))
        with pytest.raises(EpochStale):
            await b.lifecycle.named.set_state("", "s", set_to(50, 7), Meant(0, 3))
        assert await b.lifecycle.named.set_state("", "s", set_to(50, 7), Meant(0, 4)) == 50
        stored = await store.read(key)
        [only] = stored.checkpoints
        assert (stored.epoch, only.sequence, only.position) == (4, 1, 50)
        # A client that has no log is not in its way, and its own epoch is above the other's.
        assert await b.lifecycle.named.set_state("", "s", set_to(60, 7)) == 60
        stored = await store.read(key)
        assert (stored.epoch, stored.checkpoints[-1].sequence) == (5, 1 + TERM + 1)


async def test_a_state_is_set_in_the_store_while_what_was_before_is_still_written(
    accumulator_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, may = MemoryStore(), asyncio.Event()
    monkeypatch.setattr(store, "write", behind(may, store.write))
    async with bench(accumulator_path, store=store) as b:
        assert b.lifecycle.kept is not None
        assert b.checkpointer is not None
        owner = Recorder()
        session = b.open(owner, 0, "s", wish=Wish(parks=True, epoch=4))
        await b.engine.quiet()
        key = b.lifecycle.kept.key(session)
        b.steps(owner, [0], [session], [[1.0, 2.0]])
        await b.engine.quiet()
        round_ = asyncio.ensure_future(b.checkpointer.round())
        await asyncio.sleep(0.01)
        b.lifecycle.kept.leave(np.array([session]))
        setting = asyncio.ensure_future(b.lifecycle.named.set_state("", "s", set_to(50, 7), Meant(0, 4)))
        await asyncio.sleep(0.01)
        may.set()
        # It stands elsewhere, when that is written.
        with pytest.raises((OutOfStep, EpochStale)):
            await setting
        await round_
        assert [each.position for each in (await store.read(key)).checkpoints] == [0, 2]
