"""Sessions that outlive their stream: opened again, gone back, handed over; the store is the real one in memory."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gatestream.server.core import checkpointer as checkpointer_module
from gatestream.server.core.claims import Wish
from gatestream.server.core.kept import key_of, meaning
from gatestream.server.core.transitions import Phase
from gatestream.server.durability.checkpoints import TERM, Checkpoint, Claim, Key, Owned, Stored
from gatestream.server.durability.memory import MemoryStore
from gatestream.server.errors import CheckpointUnfit, Elsewhere, EpochStale, NotFound
from tests.support.engine import Bench, Recorder, bench

PARKS = Wish(parks=True)


@pytest.fixture
async def b(accumulator_path: Path) -> AsyncIterator[Bench]:
    async with bench(accumulator_path, sessions=3, store=MemoryStore()) as made:
        yield made


async def opened(b: Bench, name: str = "s", wish: Wish = PARKS, owner: Recorder | None = None) -> tuple[Recorder, int]:
    owner = owner or Recorder()
    session = b.open(owner, 7, name, wish=wish)
    await b.engine.quiet()
    return owner, session


async def stepped(b: Bench, owner: Recorder, session: int, *values: float) -> list[Any]:
    b.steps(owner, [7], [session], [list(values)])
    await b.engine.quiet()
    return [y for heard in owner.take() if heard[0] == "results" for y in heard[4]]


async def round_(b: Bench) -> None:
    assert b.checkpointer is not None
    await b.checkpointer.round()


def leave(b: Bench, owner: Recorder, session: int) -> None:
    b.lifecycle.held.disconnected(owner, np.array([session]))


async def test_a_session_stays_when_its_stream_ends_and_stands_where_it_stood(b: Bench) -> None:
    owner, session = await opened(b)
    assert owner.take() == [("opened", 7, 0, True)]
    assert owner.stands == (0, 1, 0, 0)
    assert await stepped(b, owner, session, 1, 2) == [1, 3]
    leave(b, owner, session)
    assert b.engine.sessions.phase[session] == Phase.DETACHED
    again, same = await opened(b)
    assert same == session
    assert again.take() == [("opened", 7, 2, False)]
    assert again.stands == (2, 2, TERM + 2, TERM + 2)
    assert await stepped(b, again, session, 4) == [7]


async def test_a_session_goes_back_to_what_its_client_can_send_again(b: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    owner, session = await opened(b)
    await round_(b)
    monkeypatch.setattr(checkpointer_module, "_TELL_SECONDS", 3600.0)
    await stepped(b, owner, session, 1, 2)
    b.engine.sessions.acknowledge(session, 0, -1)
    await round_(b)
    await stepped(b, owner, session, 3, 4)
    b.engine.sessions.acknowledge(session, -1, 3)
    await round_(b)
    # It hears so some times a second.
    assert owner.take() == []
    assert b.checkpointer is not None
    b.checkpointer.tell_soon()
    await round_(b)
    assert owner.take() == [("durable", [7], [2])]
    leave(b, owner, session)
    again, session = await opened(b, wish=Wish(parks=True, epoch=5, acknowledged=3))
    assert again.take() == [("opened", 7, 2, False)]
    assert again.stands == (2, 5, 2, 2)
    assert await stepped(b, again, session, 3, 4, 5) == [6, 10, 15]


async def test_steps_that_are_refused_say_nothing_of_what_their_client_has(b: Bench) -> None:
    owner, session = await opened(b)
    await stepped(b, owner, session, 1, 2)
    table = b.engine.sessions
    for first, acknowledged in ((2, 2), (9, 2), (0, 2), (-1, 2)):
        table.acknowledge(session, first, -1)
        assert table.acknowledged[session] == acknowledged
        table.acknowledge_all(np.array([session]), np.array([first]), None)
        assert table.acknowledged[session] == acknowledged


async def test_a_checkpoint_is_of_whoever_has_the_slot(b: Bench) -> None:
    assert b.checkpointer is not None
    store = b.checkpointer.store
    rounds = asyncio.create_task(b.checkpointer.run())
    slots = []
    for name, value in (("s", 1.0), ("t", 5.0)):
        owner, session = await opened(b, name)
        await stepped(b, owner, session, value)
        slots.append(int(b.engine.sessions.slot[session]))
        key = key_of(b.engine, session)
        async with asyncio.timeout(10):
            while (await store.read(key)).checkpoints[-1].sequence == 0:
                await asyncio.sleep(0.01)
        b.lifecycle.held.close(owner, np.array([session]))
        await b.engine.quiet()
        with pytest.raises(NotFound):
            await store.read(key)
    assert slots[0] == slots[1]
    rounds.cancel()


async def test_it_stays_where_it_stands_if_its_client_lacks_nothing(b: Bench) -> None:
    owner, session = await opened(b)
    await stepped(b, owner, session, 1, 2, 3)
    leave(b, owner, session)
    again, session = await opened(b, wish=Wish(parks=True, epoch=2, acknowledged=3))
    assert again.stands == (3, 2, 3, 0)


async def test_resets_count_in_the_sequence_and_not_in_the_position(b: Bench) -> None:
    owner, session = await opened(b)
    await stepped(b, owner, session, 1)
    b.lifecycle.held.reset(owner, np.array([session]), np.array([7]), np.array([1]))
    b.lifecycle.held.reset(owner, np.array([session]), np.array([7]), np.array([1]))
    await b.engine.quiet()
    assert owner.take() == [("reset", [7], [1]), ("POSITION_MISMATCH", [7], [1], [], [])]
    await round_(b)
    leave(b, owner, session)
    again, session = await opened(b)
    assert again.stands == (1, 2, TERM + 2, TERM + 2)
    assert await stepped(b, again, session, 5) == [5]


async def test_an_epoch_that_is_not_higher_changes_nothing(b: Bench) -> None:
    owner, session = await opened(b, wish=Wish(parks=True, epoch=3))
    for epoch in (1, 3):
        with pytest.raises(EpochStale, match="the session has 3") as caught:
            b.open(Recorder(), 1, "s", wish=Wish(parks=True, epoch=epoch))
        assert caught.value.epoch == 3
    owner.take()
    assert await stepped(b, owner, session, 1) == [1]


async def test_of_two_that_open_it_at_once_the_later_has_it(b: Bench) -> None:
    owner, session = await opened(b)
    await stepped(b, owner, session, 1)
    one, two = Recorder(), Recorder()
    b.open(one, 1, "s", wish=Wish(parks=True, epoch=2, acknowledged=1))
    b.open(two, 2, "s", wish=Wish(parks=True, epoch=3, acknowledged=1))
    b.steps(two, [2], [session], [[5.0]])
    await b.engine.quiet()
    assert owner.take() == [("lost", 7), ("closed", "TAKEN_OVER", [7], [1])]
    assert one.take() == [("lost", 1), ("closed", "TAKEN_OVER", [1], [1])]
    assert two.take() == [("opened", 2, 1, False), ("results", [2], [1], [1], [6])]


async def test_what_is_queued_is_dropped_with_its_stream(b: Bench) -> None:
    owner, session = await opened(b)
    b.steps(owner, [7], [session], [[1.0] * 100])
    b.steps(owner, [7], [session], [[1.0] * 100])
    leave(b, owner, session)
    again = Recorder()
    b.open(again, 1, "s", wish=Wish(parks=True, epoch=2, acknowledged=0))
    await b.engine.quiet()
    assert again.take() == [("opened", 1, 0, False)]


async def test_steps_that_name_a_position_wait_for_opened(b: Bench) -> None:
    owner = Recorder()
    session = b.open(owner, 7, "s", wish=PARKS)
    column = (np.ones(2, np.float32).tobytes(),)
    b.engine.submit_one(owner, 7, session, 1, 0, column, 1)
    b.engine.submit_one(owner, 7, session, 1, -1, column, 1)
    await b.engine.quiet()
    refused, *heard = owner.take()
    assert refused[0] == "POSITION_MISMATCH"
    assert heard == [("opened", 7, 0, True), ("results", [7], [0], [1], [1])]


async def test_one_that_is_handed_over_is_told_so_and_goes_on_from_the_store(b: Bench) -> None:
    owner, session = await opened(b)
    await stepped(b, owner, session, 1, 2)
    assert b.lifecycle.kept is not None
    b.lifecycle.kept.hand_over(np.array([session]))
    await round_(b)
    assert owner.take() == [("lost", 7), ("closed", "PARKED", [7], [2])]
    assert b.engine.sessions.tenants.get("", "s") is None
    again, session = await opened(b)
    assert again.stands == (2, 2, TERM + 2, TERM + 2)
    assert await stepped(b, again, session, 3) == [6]


async def test_a_closed_one_is_there_no_more(b: Bench) -> None:
    owner, session = await opened(b)
    await stepped(b, owner, session, 1)
    closing = asyncio.create_task(b.checkpointer.run()) if b.checkpointer else None
    b.lifecycle.held.close(owner, np.array([session]))
    await b.engine.quiet()
    assert owner.take() == [("closed", "REQUESTED", [7], [1])]
    again, _ = await opened(b, wish=Wish(parks=True, epoch=9, acknowledged=1))
    assert again.take() == [("opened", 7, 0, True)]
    assert closing is not None
    closing.cancel()


@pytest.mark.parametrize("here", [True, False])
async def test_one_that_the_store_claimed_and_could_not_say_so_is_let_go_of_when_it_is_wanted(
    b: Bench, here: bool
) -> None:
    owner, session = await opened(b)
    assert b.checkpointer is not None
    assert b.lifecycle.kept is not None
    key, meant = b.lifecycle.kept.key(session), meaning(b.engine.layout, "")
    if not here:
        b.lifecycle.kept.hand_over(np.array([session]))
        await round_(b)
    owner.take()
    store = b.checkpointer.store
    await store.beat("other")
    await store.claim(key, Claim(b.checkpointer.owner, 5, meant, None, taken_up=True, acknowledged=0))
    theirs = Claim("other", 6, meant, None, taken_up=True, acknowledged=0)
    with pytest.raises(Owned):
        await store.claim(key, theirs)
    await b.checkpointer.beat_once()
    assert (await store.claim(key, theirs)).epoch == 6
    assert [heard for heard in owner.take() if heard[0] == "closed"] == [("closed", "FENCED", [7], [0])] * here


async def test_an_open_behind_one_that_fails_is_answered(b: Bench) -> None:
    _, session = await opened(b)
    assert b.lifecycle.kept is not None
    b.lifecycle.kept.hand_over(np.array([session]))
    await round_(b)
    late, next_ = Recorder(), Recorder()
    b.open(late, 3, "s", wish=Wish(parks=True, epoch=1, acknowledged=0))
    b.open(next_, 4, "s", wish=Wish(parks=True, epoch=2, acknowledged=0))
    await b.engine.quiet()
    heard = [each for each in next_.take() if each[0] != "durable"]
    assert heard == [("not opened", 4, "STORE_UNAVAILABLE")]
    again, _ = await opened(b, wish=Wish(parks=True, epoch=3, acknowledged=0))
    assert again.take() == [("opened", 7, 0, False)]


async def test_a_former_owner_hears_once_that_it_has_lost_a_session_that_was_fenced(b: Bench) -> None:
    owner, session = await opened(b)
    assert b.checkpointer is not None
    assert b.lifecycle.kept is not None
    key, meant = b.lifecycle.kept.key(session), meaning(b.engine.layout, "")
    await b.checkpointer.store.claim(key, Claim(b.checkpointer.owner, 5, meant, None, taken_up=True, acknowledged=0))
    owner.take()
    next_ = Recorder()
    b.open(next_, 4, "s", wish=Wish(parks=True, epoch=2, acknowledged=0))
    await b.engine.quiet()
    assert owner.take() == [("lost", 7), ("closed", "TAKEN_OVER", [7], [0])]
    assert next_.take() == [("not opened", 4, "EPOCH_STALE")]


@pytest.mark.parametrize("size", [0, 4, 12])
async def test_a_state_of_another_length_is_not_loaded(b: Bench, size: int) -> None:
    assert b.checkpointer is not None
    assert b.lifecycle.kept is not None
    key, meant = Key("", b.engine.layout.name, "s"), meaning(b.engine.layout, "")
    store = b.checkpointer.store
    await store.put(Stored(key, 0, "", meant, (Checkpoint(3, 3, bytes(size)),)))
    for asked in (b.lifecycle.named.state("", "s"), b.lifecycle.named.fork("", "s", "twin")):
        with pytest.raises(CheckpointUnfit, match=f"has {size} bytes; this model's has 8"):
            await asked
    owner, _ = await opened(b)
    assert owner.take() == [("not opened", 7, "CHECKPOINT_UNFIT")]
    await round_(b)
    assert ((await store.read(key)).owner, b.engine.sessions.tenants.get("", "s")) == ("", None)


@pytest.mark.parametrize("lives", [True, False])
async def test_by_name_a_session_is_asked_for_whose_owner_has_died(b: Bench, lives: bool) -> None:
    assert b.checkpointer is not None
    key, meant = Key("", b.engine.layout.name, "s"), meaning(b.engine.layout, "")
    store = b.checkpointer.store
    if lives:
        await store.beat("other")
    await store.claim(key, Claim("other", 1, meant, Checkpoint(2, 2, bytes(8)), taken_up=False))
    named = b.lifecycle.named
    if lives:
        for asked in (named.state("", "s"), named.close("", "s")):
            with pytest.raises(Elsewhere, match="has an owner, which serves it"):
                await asked
        return
    assert (await named.state("", "s")).position == 2
    assert (await store.read(key))[1:3] == (1, "other"), "it has not been claimed"
    assert await named.close("", "s") == 2
    with pytest.raises(NotFound):
        await store.read(key)
