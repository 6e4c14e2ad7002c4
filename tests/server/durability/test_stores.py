"""What every store does, whichever it is."""

import asyncio
import time
from collections.abc import AsyncIterator
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest

from gatestream.server.durability.checkpoints import (
    CLOSED_SECONDS,
    TERM,
    Checkpoint,
    Key,
    Meaning,
    Owned,
    Store,
    Stored,
)
from gatestream.server.errors import (
    AlreadyExists,
    CheckpointUnfit,
    EpochStale,
    InvalidRequest,
    NotFound,
    NotReplayable,
)
from tests.server.durability.stores import MEANING, OPEN, at, claim, key, opened, writes
from tests.server.durability.valkey_server import SERVER

S = key("s")


@pytest.fixture(params=list(OPEN))
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
async def store(kind: str, tmp_path: Path) -> AsyncIterator[Store]:
    async with opened(kind, tmp_path) as store:
        yield store


async def stored(store: Store, which: Key = S) -> list[int]:
    """The sequences of a session's checkpoints."""
    return [item.sequence for item in (await store.read(which)).checkpoints]


async def make(store: Store, *sequences: int, owner: str = "a", which: Key = S, acknowledged: int = 0) -> None:
    """A session at epoch 1, made at 0, written at each of these."""
    await store.claim(which, claim(owner, first=at(0)))
    for sequence in sequences:
        done = await store.write(writes(owner, [(which, 1, at(sequence), acknowledged)]))
        assert done.taken.all()


async def test_a_new_session_has_its_first_checkpoint(store: Store) -> None:
    answer = await store.claim(S, claim(first=at(0), taken_up=False))
    assert (answer.epoch, answer.created, answer.checkpoint, answer.durable, answer.tip) == (1, True, None, 0, 0)
    found = await store.read(S)
    assert (found.key, found.epoch, found.owner, found.meaning) == (S, 1, "a", MEANING)
    assert list(found.checkpoints) == [at(0)]
    assert abs(found.written - time.time()) < 60


async def test_one_that_is_not_there_is_not_found(store: Store) -> None:
    for ask in (store.claim(S, claim()), store.read(S)):
        with pytest.raises(NotFound, match="no session 's'"):
            await ask


async def test_one_that_must_not_be_there_exists(store: Store) -> None:
    await make(store)
    with pytest.raises(AlreadyExists):
        await store.claim(S, claim(first=at(0), taken_up=False))
    assert (await store.read(S)).epoch == 1


async def test_an_epoch_that_is_not_higher_is_told_the_sessions(store: Store) -> None:
    await store.claim(S, claim(epoch=7, first=at(0)))
    for epoch in (1, 7):
        with pytest.raises(EpochStale) as caught:
            await store.claim(S, claim(epoch=epoch))
        assert caught.value.epoch == 7
    assert (await store.claim(S, claim(epoch=9))).epoch == 9
    assert (await store.claim(S, claim())).epoch == 10


@pytest.mark.parametrize("epoch", [-1, 2**53])
async def test_an_epoch_out_of_range_is_refused(store: Store, epoch: int) -> None:
    with pytest.raises(InvalidRequest, match=f"epoch is {epoch}"):
        await store.claim(S, claim(epoch=epoch, first=at(0)))


async def test_the_highest_epoch_and_sequence_are_kept_exactly(store: Store) -> None:
    most = 2**53 - 1
    await store.claim(S, claim(epoch=most - 1, first=at(0)))
    high = Checkpoint(most, most - 1, at(0).state)
    done = await store.write(writes("a", [(S, most - 1, high, most)]))
    assert (done.taken.tolist(), done.durable.tolist()) == ([True], [most])
    assert (await store.claim(S, claim(epoch=most, acknowledged=most))).checkpoint == high


async def test_the_anchor_and_the_tip_stay(store: Store) -> None:
    await make(store, 3, 5)
    # None is acknowledged but the first.
    assert await stored(store) == [0, 5]
    done = await store.write(writes("a", [(S, 1, at(8), 6)]))
    assert (done.durable.tolist(), await stored(store)) == ([5], [5, 8])
    done = await store.write(writes("a", [(S, 1, at(9), 9)]))
    assert (done.durable.tolist(), await stored(store)) == ([9], [9])


async def test_what_is_written_again_takes_its_place(store: Store) -> None:
    await make(store, 3)
    await store.write(writes("a", [(S, 1, at(3, seed=1), 0)]))
    assert list((await store.read(S)).checkpoints) == [at(0), at(3, seed=1)]


async def test_a_session_goes_back_to_what_the_client_can_send_again(store: Store) -> None:
    await make(store, 5)
    answer = await store.claim(S, claim(acknowledged=3))
    assert (answer.checkpoint, answer.durable, answer.tip) == (at(0), 0, 5)
    # Going back deletes nothing.
    assert await stored(store) == [0, 5]
    # Behind the tip, what is written is kept where it is the anchor.
    done = await store.write(writes("a", [(S, 2, at(2), 3)]))
    assert (done.taken.tolist(), done.durable.tolist(), await stored(store)) == ([True], [2], [2, 5])
    done = await store.write(writes("a", [(S, 2, at(4), 3)]))
    assert (done.taken.tolist(), done.durable.tolist(), await stored(store)) == ([True], [2], [2, 5])


async def test_what_is_acknowledged_beyond_where_a_session_stands_counts_as_that(store: Store) -> None:
    await make(store, 5)
    await store.claim(S, claim(acknowledged=3))
    done = await store.write(writes("a", [(S, 2, at(2), 2**53)]))
    assert (done.durable.tolist(), await stored(store)) == ([2], [2, 5])


async def test_a_client_that_lacks_more_than_is_kept_is_told_so(store: Store) -> None:
    await make(store, 5, acknowledged=5)
    with pytest.raises(NotReplayable, match="acknowledged is 4"):
        await store.claim(S, claim(acknowledged=4))
    assert (await store.read(S)).epoch == 1


async def test_the_state_in_a_slot_is_kept_where_it_is_what_is_asked_for(store: Store) -> None:
    await make(store, 5)
    answer = await store.claim(S, claim(acknowledged=7, resident=(1, at(7))))
    assert (answer.checkpoint, answer.durable) == (None, 5)
    # It stands elsewhere; then its epoch is not the session's.
    answer = await store.claim(S, claim(acknowledged=6, resident=(2, at(7))))
    assert answer.checkpoint == at(5)
    answer = await store.claim(S, claim(acknowledged=7, resident=(2, at(7))))
    assert answer.checkpoint == at(5)


async def test_without_a_log_the_newest_becomes_the_only_checkpoint(store: Store) -> None:
    await make(store, 5)
    answer = await store.claim(S, claim())
    newest = at(5)._replace(sequence=TERM + 5)
    assert (answer.checkpoint, answer.durable, await stored(store)) == (newest, TERM + 5, [TERM + 5])
    resident = at(7)._replace(sequence=TERM + 7)
    answer = await store.claim(S, claim(resident=(2, resident)))
    newest = at(7)._replace(sequence=2 * TERM + 7)
    assert (answer.checkpoint, answer.durable, await stored(store)) == (newest, 2 * TERM + 7, [2 * TERM + 7])
    # A slot that has gone back is not the newest, and one of an earlier epoch is nobody's.
    answer = await store.claim(S, claim(resident=(3, at(6))))
    assert answer.checkpoint == at(7)._replace(sequence=3 * TERM + 7)
    answer = await store.claim(S, claim(resident=(3, at(9)._replace(sequence=9 * TERM))))
    assert answer.checkpoint == at(7)._replace(sequence=4 * TERM + 7)


async def test_a_log_of_before_a_session_was_taken_up_fits_it_no_more(store: Store) -> None:
    # Its owner was killed before its client's answers were stored: the other client goes on from further back.
    await make(store, 5)
    await store.claim(S, claim())
    await store.write(writes("a", [(S, 2, at(TERM + 6), TERM + 6)]))
    with pytest.raises(NotReplayable, match="acknowledged is 7"):
        await store.claim(S, claim(acknowledged=7))


async def test_a_living_owner_is_asked_to_hand_over(store: Store) -> None:
    await make(store)
    await make(store, which=key("other"))
    with pytest.raises(Owned):
        await store.claim(S, claim("b"))
    assert list(await store.beat("a")) == [S]
    assert (await store.read(S)).lives
    done = await store.write(writes("a", [(key("other"), 1, at(1), 0), (S, 1, at(1), 0)]))
    assert done.wanted.tolist() == [False, True]
    # Neither a wrong epoch nor another owner lets go of it.
    await store.release("a", [S], np.array([2]))
    await store.release("b", [S], np.array([1]))
    with pytest.raises(Owned):
        await store.claim(S, claim("b"))
    await store.release("a", [S], np.array([1]))
    assert not (await store.read(S)).lives
    assert (await store.claim(S, claim("b", acknowledged=1))).checkpoint == at(1)
    assert list(await store.beat("a")) == []


async def test_a_claim_that_must_fail_asks_for_nothing(store: Store) -> None:
    await make(store)
    with pytest.raises(EpochStale):
        await store.claim(S, claim("b", epoch=1))
    with pytest.raises(CheckpointUnfit):
        await store.claim(S, claim("b", meaning=Meaning("w", "l", "")))
    assert list(await store.beat("a")) == []


async def test_an_owner_claims_again_what_it_has(store: Store) -> None:
    await make(store)
    assert (await store.claim(S, claim())).epoch == 2


async def test_a_silent_owner_is_fenced(kind: str, tmp_path: Path) -> None:
    async with opened(kind, tmp_path, silence=0.3) as store:
        await make(store, 3)
        await asyncio.sleep(0.4)
        found = await store.read(S)
        assert (found.owner, found.lives) == ("a", False)
        assert (await store.claim(S, claim("b", acknowledged=3))).epoch == 2
        await store.beat("a")
        done = await store.write(writes("a", [(S, 1, at(4), 0)]))
        assert (done.taken.tolist(), done.wanted.tolist()) == ([False], [False])
        assert not await store.replace(S, "a", 1, at(4))
        assert not (await store.close([S], np.array([1]))).any()
        assert list((await store.read(S)).checkpoints)[-1:] == [at(3)]


@pytest.mark.parametrize("ahead", [1.0, 3600.0, 10 * 3600.0])
async def test_an_owner_that_died_before_valkeys_clock_was_put_back_is_fenced(tmp_path: Path, ahead: float) -> None:
    # The clock of the others counts since the machine was booted.
    async with opened("valkey", tmp_path) as store:
        await make(store, 3)
        with SERVER.client() as server:
            server.zincrby("gatestream:beats", ahead, "a")
        assert not (await store.read(S)).lives
        assert (await store.claim(S, claim("b", acknowledged=3))).epoch == 2
        done = await store.write(writes("a", [(S, 1, at(4), 0)]))
        assert not done.taken.any()
        # What an owner has that nobody asks for is let go of, and one that lives has its next beat.
        await make(store, 3, which=key("other"))
        await store.beat("b")
        await store.prune(0.0)
        assert (await store.read(key("other"))).owner == ("" if ahead > CLOSED_SECONDS else "a")
        assert (await store.read(S)).lives


async def test_an_owner_that_beats_is_not(kind: str, tmp_path: Path) -> None:
    async with opened(kind, tmp_path, silence=1.0) as store:
        await make(store)
        for _ in range(8):
            await asyncio.sleep(0.2)
            await store.beat("a")
        with pytest.raises(Owned):
            await store.claim(S, claim("b"))


async def test_a_write_inserts_nothing(store: Store) -> None:
    done = await store.write(writes("a", [(S, 1, at(1), 0)]))
    assert (done.taken.tolist(), done.durable.tolist()) == ([False], [0])
    with pytest.raises(NotFound):
        await store.read(S)


@pytest.mark.parametrize(("owner", "epoch"), [("a", 2), ("b", 1), ("", 1)])
async def test_a_write_of_another_owner_or_epoch_is_refused(store: Store, owner: str, epoch: int) -> None:
    await make(store)
    assert not (await store.write(writes(owner, [(S, epoch, at(1), 0)]))).taken.any()
    assert not await store.replace(S, owner, epoch, at(1))
    assert await stored(store) == [0]


async def test_of_many_writes_each_is_answered_for_itself(store: Store) -> None:
    keys = [key(f"{k}") for k in range(1500)]
    claims = [k for k in range(len(keys)) if k % 7]
    await asyncio.gather(*(store.claim(keys[k], claim(first=at(0))) for k in claims))
    rows = [(keys[k], 2 if k % 11 == 0 else 1, at(k + 1), k + 1 if k % 2 else 0) for k in range(len(keys))]
    done = await store.write(writes("a", rows))
    taken = [bool(k % 7 and k % 11) for k in range(len(keys))]
    assert done.taken.tolist() == taken
    assert done.durable.tolist() == [k + 1 if took and k % 2 else 0 for k, took in enumerate(taken)]
    for k in range(0, len(keys), 97):
        if taken[k]:
            assert (await store.read(keys[k])).checkpoints[-1] == at(k + 1)


async def test_what_stays_in_every_small_case(store: Store) -> None:
    pairs = [(tip,) for tip in range(3)] + list(combinations(range(4), 2))
    cases = [(has, new, ack) for has in pairs for new in range(5) for ack in range(6)]
    keys = [key(f"{k:03}") for k in range(len(cases))]
    for which, (has, _, _) in zip(keys, cases, strict=True):
        await store.put(Stored(which, 0, "", MEANING, tuple(map(at, has))))
        # It goes back to its anchor, or nowhere: both stay.
        await store.claim(which, claim(epoch=9, acknowledged=has[0]))
    rows = [(which, 9, at(new, seed=1), ack) for which, (_, new, ack) in zip(keys, cases, strict=True)]
    done = await store.write(writes("a", rows))
    for k, (has, new, ack) in enumerate(cases):
        known = {sequence: at(sequence) for sequence in has} | {new: at(new, seed=1)}
        anchor = max((each for each in known if each <= ack and each <= new), default=min(known))
        assert list((await store.read(keys[k])).checkpoints) == [known[each] for each in sorted({anchor, max(known)})]
        assert done.durable[k] == anchor, cases[k]


async def test_nothing_is_written(store: Store) -> None:
    none = np.zeros(0, np.int64)
    empty = writes("a", [(S, 1, at(1), 0)])
    empty = type(empty)("a", [], none, none, none, none, np.zeros((0, 8), np.uint8))
    assert (await store.write(empty)).taken.shape == (0,)
    assert (await store.close([], none)).shape == (0,)
    await store.release("a", [], none)
    assert await store.delete([]) == 0


async def test_replacing_leaves_one_checkpoint(store: Store) -> None:
    await make(store, 3)
    assert await store.replace(S, "a", 1, at(1))
    assert list((await store.read(S)).checkpoints) == [at(1)]


async def test_a_closed_session_keeps_its_epoch(store: Store) -> None:
    await store.claim(S, claim(epoch=4, first=at(0)))
    assert not (await store.close([S], np.array([3]))).any()
    assert (await store.close([S, key("none")], np.array([4, 1]))).tolist() == [True, False]
    assert not (await store.close([S], np.array([4]))).any()
    with pytest.raises(NotFound):
        await store.claim(S, claim(epoch=5))
    assert not (await store.write(writes("a", [(S, 4, at(1), 0)]))).taken.any()
    with pytest.raises(EpochStale) as caught:
        await store.claim(S, claim(epoch=4, first=at(0)))
    assert caught.value.epoch == 4
    answer = await store.claim(S, claim(first=at(0), taken_up=False))
    assert (answer.epoch, answer.created) == (5, True)


@pytest.mark.parametrize("meaning", [Meaning("x", MEANING.states, "3"), Meaning(MEANING.fingerprint, "x", "3")])
async def test_states_of_another_meaning_are_refused(store: Store, meaning: Meaning) -> None:
    await make(store)
    with pytest.raises(CheckpointUnfit, match=r"of session 's' of model 'm' is of other (weights|layout of states)"):
        await store.claim(S, claim(meaning=meaning))
    assert (await store.read(S)).epoch == 1


async def test_a_session_stays_on_its_version(store: Store) -> None:
    await make(store)
    answer = await store.claim(S, claim(meaning=MEANING._replace(version="4")))
    assert (answer.version, (await store.read(S)).meaning.version) == ("3", "3")


async def test_tenants_and_models_have_sessions_of_their_own(store: Store) -> None:
    keys = [Key(tenant, model, "s") for tenant in ("", "t", "tm") for model in ("m", "mm")]
    for k, each in enumerate(keys):
        await make(store, k + 1, which=each)
    for k, each in enumerate(keys):
        assert await stored(store, each) == [0, k + 1]
    await store.delete(keys[:1])
    with pytest.raises(NotFound):
        await store.read(keys[0])
    assert len(await store.page(None, None, None, 10)) == 5


@pytest.mark.parametrize("name", ["ä/:{}\"'%*?[]", "x" * 256, "日本", "a\nb", "{}", "\\u0000", "😀"])
async def test_any_name_is_a_name(store: Store, name: str) -> None:
    named = Key(name, name, name)
    await make(store, 1, which=named)
    assert [item.key for item in await store.page(name, name, None, 5)] == [named]
    assert (await store.claim(named, claim(acknowledged=1))).checkpoint == at(1)
    with pytest.raises(Owned):
        await store.claim(named, claim("b"))
    assert list(await store.beat("a")) == [named]
    assert (await store.close([named], np.array([2]))).all()


async def test_what_is_put_is_nobodys(store: Store) -> None:
    put = Stored(S, 6, "x", MEANING, (at(2), at(4)))
    await store.put(put)
    found = await store.read(S)
    assert (found.epoch, found.owner, list(found.checkpoints)) == (7, "", [at(2), at(4)])
    with pytest.raises(AlreadyExists):
        await store.put(put)
    await store.delete([S])
    await store.put(put._replace(epoch=1))
    assert (await store.read(S)).epoch == 8


async def test_pages_are_in_order_of_keys(store: Store) -> None:
    keys = [Key(tenant, model, name) for tenant in ("", "t", "u") for model in ("m", "n") for name in ("1", "2", "ä")]
    for each in reversed(keys):
        await make(store, 5, which=each)
    await store.close(keys[3:4], np.array([1]))
    del keys[3]
    seen: list[Key] = []
    while page := await store.page(None, None, seen[-1] if seen else None, 4):
        assert len(page) <= 4
        assert all(not item.checkpoints and item.owner == "a" and item.bytes == 32 for item in page)
        seen += [item.key for item in page]
    assert seen == keys
    assert [item.key for item in await store.page("t", None, None, 99)] == [k for k in keys if k.tenant == "t"]
    assert [item.key for item in await store.page(None, "n", None, 99)] == [k for k in keys if k.model == "n"]
    assert [item.key for item in await store.page("t", "n", keys[9], 99)] == [
        k for k in keys[10:] if k.tenant == "t" and k.model == "n"
    ]


async def test_what_is_deleted_is_refused_to_its_owner(store: Store) -> None:
    await make(store)
    assert await store.delete([S, key("none"), S]) == 1
    assert not (await store.write(writes("a", [(S, 1, at(1), 0)]))).taken.any()
    assert (await store.claim(S, claim(first=at(0)))).epoch == 2


async def test_prune_spares_what_a_living_owner_has(store: Store) -> None:
    for name in ("owned", "released", "closed", "ghosts"):
        await make(store, which=key(name), owner="ghost" if name == "ghosts" else "a")
    await store.release("a", [key("released")], np.array([1]))
    await store.close([key("closed")], np.array([1]))
    assert await store.prune(time.time() - 60) == 0
    assert await store.prune(time.time() + 60) == 2
    assert [item.key for item in await store.page(None, None, None, 9)] == [key("owned")]
    assert (await store.claim(key("closed"), claim(first=at(0)))).epoch == 1


async def test_usage_counts_what_is_there(store: Store) -> None:
    assert await store.usage("t") == (0, 0)
    for name in ("1", "2", "3"):
        await make(store, 1, which=key(name))
    await make(store, which=key("1", tenant="u"))
    assert await store.usage("t") == (3, 96)
    await store.close([key("1")], np.array([1]))
    assert await store.usage("t") == (2, 64)
    await store.delete([key("2")])
    await store.release("a", [key("3")], np.array([1]))
    assert await store.usage("t") == (1, 32)
    assert await store.prune(time.time() + 60) == 1
    assert (await store.usage("t"), await store.usage("u")) == ((0, 0), (1, 32))


async def test_a_store_that_is_closed_lets_go(kind: str, tmp_path: Path) -> None:
    async with opened(kind, tmp_path) as store:
        await make(store, owner="c")
        await store.beat("c")
        await make(store, which=key("2"))
        with pytest.raises(Owned):
            await store.claim(S, claim("b"))
        await store.release("c", [S], np.array([1]))
        assert (await store.claim(S, claim("b"))).epoch == 2
