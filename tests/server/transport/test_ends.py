"""How kept sessions end, or do not, where the store, another server, or what else is asked of them is in the way."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gatestream.protos.gatestream.v1 import gatestream_pb2 as pb
from gatestream.server.config import Limits, TickLimits
from gatestream.server.core import kept
from gatestream.server.core.catalog import Catalog
from gatestream.server.core.checkpointer import Checkpointer
from gatestream.server.core.migration import migrate
from gatestream.server.core.named import SessionState
from gatestream.server.core.reply_sink import CloseReason
from gatestream.server.durability.checkpoints import Claim, Claimed, Key, Stored
from gatestream.server.errors import AlreadyExists, EpochStale, NotFound, StoreUnavailable
from gatestream.server.transport.oip import InferenceCall
from tests.server.transport.test_fenced import LIMITS, Served, Slow, opened, step
from tests.server.transport.test_oip import Client as Door
from tests.support.artifacts import accumulator
from tests.support.in_process import Client, serving_here
from tests.support.open_inference import request, sums

PARK = pb.ON_DISCONNECT_PARK
DURABILITIES = pytest.mark.parametrize("before_answer", [False, True], ids=["behind", "before-answer"])


def key_of(catalog: Catalog, name: str) -> Key:
    return Key("tenant", catalog.find("").layout.name, name)


async def until(holds: Callable[[], Awaitable[bool]]) -> None:
    async with asyncio.timeout(20):
        while not await holds():
            await asyncio.sleep(0.01)


@pytest.mark.parametrize("how", ["close", "move"])
async def test_what_many_sessions_are_not_told_is_refused_in_one_message_of_each(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    monkeypatch.setattr(kept, "HANDOVER_SECONDS", 0.2)
    limits, store, handles = Limits(sessions=48), Slow(), list(range(40))
    paths = [accumulator(tmp_path / f"{k}.onnx", name="m", version=str(k)) for k in (1, 2)]
    checkpointer = Checkpointer(store, limits, before_answer=True)
    async with serving_here(*paths, limits=limits, checkpointer=checkpointer) as catalog:
        client = Client(catalog, limits)
        for handle in handles:
            await client.open(handle, session_id=f"s{handle}", version="1", on_disconnect=PARK)
        store.may.clear()
        for _ in range(10):
            step(client, handles, 1.0)
        before = catalog.find("m", "1")
        await before.engine.quiet()
        if how == "close":
            client.say(close=pb.Close(handle=handles))
        else:
            await migrate(before, catalog.find("m", "2"))
        await asyncio.sleep(0.5)
        store.may.set()
        heard = [await client.hear() for _ in range(50)]
        for message in heard[:10]:
            assert list(message.error.handle) == handles
            assert message.error.reason == pb.REASON_SESSION_CLOSED
        assert {message.closed.reason for message in heard[10:]} == {pb.CLOSE_REASON_FENCED}
        assert sorted(handle for message in heard[10:] for handle in message.closed.handle) == handles


@DURABILITIES
@pytest.mark.parametrize("unary", [False, True])
async def test_a_session_that_another_server_has_is_not_said_to_be_closed(
    accumulator_path: Path, before_answer: bool, unary: bool
) -> None:
    store = Slow()
    checkpointer = Checkpointer(store, LIMITS, before_answer=before_answer)
    async with serving_here(accumulator_path, limits=LIMITS, checkpointer=checkpointer) as catalog:
        served = Served(catalog, store)
        client = await opened(served, "s", 1.0, 2.0)
        await until(lambda: at(store, key_of(catalog, "s"), 2))
        await served.claim("s")
        if unary:
            with pytest.raises(StoreUnavailable, match="did not say that it has closed the session"):
                await catalog.find("").lifecycle.named.close("tenant", "s")
        else:
            client.say(close=pb.Close(handle=[0]))
        assert (await client.hear()).closed.reason == pb.CLOSE_REASON_PARKED
        assert (await store.read(key_of(catalog, "s"))).owner == "other"


async def at(store: Slow, key: Key, position: int) -> bool:
    return (await store.read(key)).checkpoints[-1].position == position


async def test_a_session_that_an_operator_has_deleted_is_said_to_be_closed(accumulator_path: Path) -> None:
    store = Slow()
    async with serving_here(accumulator_path, limits=LIMITS, checkpointer=Checkpointer(store, LIMITS)) as catalog:
        client = await opened(Served(catalog, store), "s", 1.0)
        await until(lambda: at(store, key_of(catalog, "s"), 1))
        await store.delete([key_of(catalog, "s")])
        client.say(close=pb.Close(handle=[0]))
        assert (await client.hear()).closed.reason == pb.CLOSE_REASON_REQUESTED


def reads_slowly(store: Slow, monkeypatch: pytest.MonkeyPatch) -> tuple[asyncio.Event, asyncio.Event]:
    """Have what the store has read be told later; what is set when it has been read, and when it may be told."""
    read, was_read, may_go_on = store.read, asyncio.Event(), asyncio.Event()

    async def slowly(key: Key) -> Stored:
        stored = await read(key)
        was_read.set()
        await may_go_on.wait()
        return stored

    monkeypatch.setattr(store, "read", slowly)
    return was_read, may_go_on


class Mute(Slow):
    """A store that does claims and does not say so, while it is mute."""

    def __init__(self) -> None:
        super().__init__()
        self.mute = False

    async def claim(self, key: Key, claim: Claim) -> Claimed:
        claimed = await super().claim(key, claim)
        if self.mute:
            raise StoreUnavailable("no answer")
        return claimed


@DURABILITIES
async def test_a_session_that_was_claimed_without_a_word_is_closed_when_that_is_asked_again(
    accumulator_path: Path, before_answer: bool
) -> None:
    store = Mute()
    checkpointer = Checkpointer(store, LIMITS, before_answer=before_answer)
    async with serving_here(accumulator_path, limits=LIMITS, checkpointer=checkpointer) as catalog:
        close = catalog.find("").lifecycle.named.close
        await opened(Served(catalog, store), "s", 1.0, 2.0)
        store.mute = True
        assert (await Client(catalog, LIMITS).open(0, session_id="s", on_disconnect=PARK)).HasField("error")
        store.mute = False
        with pytest.raises(StoreUnavailable):
            await close("tenant", "s")
        assert await close("tenant", "s") == 2
        with pytest.raises(NotFound):
            await store.read(key_of(catalog, "s"))


async def test_what_was_claimed_without_a_word_is_let_go_of_at_the_next_beat(accumulator_path: Path) -> None:
    store = Mute()
    checkpointer = Checkpointer(store, LIMITS)
    async with serving_here(accumulator_path, limits=LIMITS, checkpointer=checkpointer) as catalog:
        store.mute = True
        assert (await Client(catalog, LIMITS).open(0, session_id="s", on_disconnect=PARK)).HasField("error")
        assert (await store.read(key_of(catalog, "s"))).owner == checkpointer.owner
        await checkpointer.beat_once()
        assert (await store.read(key_of(catalog, "s"))).owner == ""


async def test_what_is_claimed_without_a_word_while_a_beat_looks_at_it_is_looked_at_by_the_next(
    accumulator_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Mute()
    checkpointer = Checkpointer(store, LIMITS)
    async with serving_here(accumulator_path, limits=LIMITS, checkpointer=checkpointer) as catalog:
        key = key_of(catalog, "s")
        store.mute = True
        assert (await Client(catalog, LIMITS).open(0, session_id="s", on_disconnect=PARK)).HasField("error")
        was_read, may_go_on = reads_slowly(store, monkeypatch)
        beat = asyncio.create_task(checkpointer.beat_once())
        await was_read.wait()
        assert (await Client(catalog, LIMITS).open(0, session_id="s", on_disconnect=PARK)).HasField("error")
        may_go_on.set()
        await beat
        await checkpointer.beat_once()
        assert await nobody_has(store, key)


@DURABILITIES
async def test_a_state_that_comes_too_late_takes_nothing_from_who_has_the_session(
    accumulator_path: Path, monkeypatch: pytest.MonkeyPatch, before_answer: bool
) -> None:
    store = Slow()
    checkpointer = Checkpointer(store, LIMITS, before_answer=before_answer)
    async with serving_here(accumulator_path, limits=LIMITS, checkpointer=checkpointer) as catalog:
        model, key = catalog.find(""), key_of(catalog, "s")
        await opened(Served(catalog, store), "s", 1.0, 2.0)
        await until(lambda: at(store, key, 2))
        assert model.lifecycle.kept is not None
        model.lifecycle.kept.leave(np.array([model.engine.sessions.tenants.find("tenant", "s")]))
        await until(lambda: nobody_has(store, key))
        was_read, may_go_on = reads_slowly(store, monkeypatch)
        state = SessionState(model.layout.fingerprint, 9, [np.zeros(2, "<f4").tobytes()])
        setting = asyncio.create_task(model.lifecycle.named.set_state("tenant", "s", state))
        await was_read.wait()
        client = Client(catalog, LIMITS)
        assert (await client.open(0, session_id="s", on_disconnect=PARK)).opened.position == 2
        may_go_on.set()
        with pytest.raises(EpochStale):
            await setting
        assert await client.step(0, 1.0) == 4
        await until(lambda: at(store, key, 3))
        assert (await store.read(key)).owner == checkpointer.owner


async def test_a_session_that_another_server_has_is_not_said_to_be_closed_since_one_is_opened(
    accumulator_path: Path,
) -> None:
    store = Slow()
    async with serving_here(accumulator_path, limits=LIMITS, checkpointer=Checkpointer(store, LIMITS)) as catalog:
        served, key = Served(catalog, store), key_of(catalog, "s")
        client, other = await opened(served, "s", 1.0), await opened(served, "t", 1.0)
        await until(lambda: at(store, key, 1))
        await until(lambda: at(store, key_of(catalog, "t"), 1))
        await served.claim("s")
        store.may.clear()
        # A round of checkpoints is under way until the store may write.
        assert await other.step(0, 5.0) == 6
        await asyncio.sleep(0.2)
        client.say(close=pb.Close(handle=[0]))
        await asyncio.sleep(0.05)
        third = Client(catalog, LIMITS)
        third.say(open=pb.Open(handle=0, session_id="s", on_disconnect=PARK))
        await asyncio.sleep(0.05)
        store.may.set()
        assert (await client.hear()).closed.reason == pb.CLOSE_REASON_PARKED
        # In this store nobody lives.
        assert (await third.hear()).opened.position == 1


async def test_a_message_that_cannot_be_taken_back_fails_its_stream_and_no_other(accumulator_path: Path) -> None:
    store = Slow()
    checkpointer = Checkpointer(store, LIMITS, before_answer=True)
    async with serving_here(accumulator_path, limits=LIMITS, checkpointer=checkpointer) as catalog:
        served = Served(catalog, store)
        client = await opened(served, "s", 1.0)
        others = [await opened(served, f"t{k}", 1.0) for k in range(4)]
        store.may.clear()
        step(client, [0], 1.0)
        for other in others:
            step(other, [0], 1.0)
        client.stream.send_queue.instead = lambda *_: 1 // 0  # type: ignore[assignment]
        await served.fence("s")
        for other in others:
            assert (await other.hear()).HasField("results")
        assert await client.stream.send_queue.take() is None
        assert client.stream.send_queue.failure is not None
        client.stream.disconnect()


async def test_a_close_behind_an_open_that_is_refused_ends_nothing(
    accumulator_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Slow()
    async with serving_here(accumulator_path, limits=LIMITS, checkpointer=Checkpointer(store, LIMITS)) as catalog:
        first = await opened(Served(catalog, store), "s", 1.0)
        await until(lambda: at(store, key_of(catalog, "s"), 1))
        # It is told, and is yet to be stored.
        assert await first.step(0, 1.0) == 2

        async def away(*_: Any) -> Claimed:
            raise StoreUnavailable("away")

        monkeypatch.setattr(store, "claim", away)
        other = Client(catalog, LIMITS)
        other.say(open=pb.Open(handle=0, session_id="s", on_disconnect=PARK))
        other.say(close=pb.Close(handle=[0]))
        assert (await other.hear()).error.reason == pb.REASON_STORE_UNAVAILABLE
        assert (await first.hear()).closed.reason == pb.CLOSE_REASON_TAKEN_OVER
        await until(lambda: nobody_has(store, key_of(catalog, "s")))
        assert await at(store, key_of(catalog, "s"), 2)


async def nobody_has(store: Slow, key: Key) -> bool:
    return (await store.read(key)).owner == ""


@pytest.mark.parametrize("how", ["a close that is not stored", "the end of its model", "a state that nobody waits for"])
async def test_what_is_forgotten_here_may_be_forgotten_in_the_store(
    accumulator_path: Path, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    monkeypatch.setattr(kept, "HANDOVER_SECONDS", 0.2)
    store = Slow()
    checkpointer = Checkpointer(store, LIMITS, before_answer=True)
    async with serving_here(accumulator_path, limits=LIMITS, checkpointer=checkpointer) as catalog:
        model, key = catalog.find(""), key_of(catalog, "s")
        client = await opened(Served(catalog, store), "s", 1.0)
        if how == "a close that is not stored":
            store.may.clear()
            step(client, [0], 1.0)
            await model.engine.quiet()
            client.say(close=pb.Close(handle=[0]))
            await asyncio.sleep(0.5)
            store.may.set()
        elif how == "the end of its model":
            await model.lifecycle.expiry.end_all(CloseReason.DRAINED)
        else:
            assert model.lifecycle.kept is not None
            model.lifecycle.kept.leave(np.array([model.engine.sessions.tenants.find("tenant", "s")]))
            await until(lambda: nobody_has(store, key))
            claim, claims = store.claim, asyncio.Event()

            async def claimed(*asked: Any) -> Claimed:
                done = await claim(*asked)
                claims.set()
                await asyncio.Event().wait()
                return done

            monkeypatch.setattr(store, "claim", claimed)
            state = SessionState(model.layout.fingerprint, 9, [np.zeros(2, "<f4").tobytes()])
            setting = asyncio.create_task(model.lifecycle.named.set_state("tenant", "s", state))
            await claims.wait()
            setting.cancel()
            await asyncio.wait([setting])
            await checkpointer.beat_once()
        await until(lambda: nobody_has(store, key))
        assert await store.prune(time.time() + 1000) == 1


@pytest.mark.parametrize("there", [False, True])
async def test_a_kept_session_is_stored_first_however_its_stream_opened_it(accumulator_path: Path, there: bool) -> None:
    store = Slow()
    checkpointer = Checkpointer(store, LIMITS, before_answer=True)
    async with serving_here(accumulator_path, limits=LIMITS, checkpointer=checkpointer) as catalog:
        model = catalog.find("")
        await opened(Served(catalog, store), "s", 1.0)
        if not there:
            assert model.lifecycle.kept is not None
            model.lifecycle.kept.leave(np.array([model.engine.sessions.tenants.find("tenant", "s")]))
        client = Client(catalog, LIMITS)
        assert (await client.open(0, session_id="s", mode=pb.OPEN_MODE_RESUME)).opened.position == 1
        store.may.clear()
        step(client, [0], 10.0)
        await model.engine.quiet()
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(client.hear(), 0.2)
        store.may.set()
        assert (await client.hear()).results.handle == [0]


# ---- Sequences ----------------------------------------------------------------------------------


@pytest.mark.parametrize("seconds", [0.0, 0.002, 0.02])
@pytest.mark.parametrize("gone", [False, True])
async def test_of_two_starts_on_two_versions_one_has_the_sequence(tmp_path: Path, seconds: float, gone: bool) -> None:
    class Counted(Slow):
        claims = 0

        async def claim(self, key: Key, claim: Claim) -> Claimed:
            self.claims += 1
            await asyncio.sleep(seconds)
            return await super().claim(key, claim)

    store = Counted()
    paths = [accumulator(tmp_path / f"{k}.onnx", name="m", version=str(k)) for k in (1, 2)]
    checkpointer = Checkpointer(store, LIMITS, before_answer=True)
    async with serving_here(*paths, limits=LIMITS, checkpointer=checkpointer) as catalog:
        calls, asked = [], []
        for version in ("1", "2"):
            start = request([[1, 0]], 5, start=True)
            start.model_name, start.model_version = "m", version
            calls.append(InferenceCall(catalog, LIMITS, "tenant"))
            asked.append(asyncio.ensure_future(calls[-1].infer(start.SerializeToString())))
        await asyncio.sleep(0)
        if gone:
            asked[0].cancel()
            calls[0].end()
        first, second = await asyncio.wait_for(asyncio.gather(*asked, return_exceptions=True), 20)
        assert isinstance(first, asyncio.CancelledError if gone else bytes | AlreadyExists)
        assert isinstance(second, bytes)
        assert store.claims <= 3
        for call in calls:
            call.end()


@pytest.mark.parametrize("before_answer", [None, True])
async def test_a_sequence_that_is_moved_before_its_last_request_is_done_ends(
    tmp_path: Path, before_answer: bool | None
) -> None:
    store = Slow()
    checkpointer = None if before_answer is None else Checkpointer(store, LIMITS, before_answer=True)
    paths = [accumulator(tmp_path / f"{k}.onnx", name="accumulator", version=str(k)) for k in (1, 2)]
    tick = TickLimits(steps=1)
    async with serving_here(*paths, limits=LIMITS, checkpointer=checkpointer, tick=tick) as catalog:
        door, one, two = Door(catalog), catalog.find("accumulator", "1"), catalog.find("accumulator", "2")
        door.say([[1, 0]], 5, start=True, first=0)
        await door.hear()
        door.say([[1, 0]] * 5, 5, first=1, end=True)
        assert await migrate(two, one) == 1
        assert sums((await door.hear()).infer_response)[-1] == [6, 0]

        async def gone() -> bool:
            return (
                not len(one.engine.sessions) and not len(two.engine.sessions) and not (await store.usage("tenant"))[0]
            )

        await until(gone)


@pytest.mark.parametrize("before_answer", [None, True])
async def test_a_sequence_that_begins_again_behind_its_last_request_goes_on(
    accumulator_path: Path, before_answer: bool | None
) -> None:
    checkpointer = None if before_answer is None else Checkpointer(Slow(), LIMITS, before_answer=True)
    async with serving_here(accumulator_path, limits=LIMITS, checkpointer=checkpointer) as catalog:
        door = Door(catalog)
        door.say([[1, 0]], 5, start=True, first=0)
        door.say([[1, 0]], 5, first=1, end=True)
        door.say([[10, 0]], 5, start=True)
        assert [await door.sums() for _ in range(3)] == [[[1, 0]], [[2, 0]], [[10, 0]]]
        door.say([[100, 0]], 5)
        assert await door.sums() == [[110, 0]]
