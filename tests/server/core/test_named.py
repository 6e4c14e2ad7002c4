"""What is asked of sessions by name."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import numpy as np
import pytest

from gatestream.server.core.claims import Wish
from gatestream.server.core.named import SessionState
from gatestream.server.core.stored import Meant
from gatestream.server.durability.checkpoints import Checkpoint, Claim, Claimed, Key
from gatestream.server.durability.memory import MemoryStore
from gatestream.server.errors import AlreadyExists, Exhausted, InvalidRequest, OutOfStep, StoreUnavailable
from tests.support.artifacts import ACCUMULATOR_FINGERPRINT
from tests.support.engine import Bench, Recorder, bench


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
