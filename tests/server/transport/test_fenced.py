"""Sessions that another server claims while answers wait for the store: nothing of them is told, all of others is."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import numpy as np
import pytest

from gatestream.protos.gatestream.v1 import gatestream_pb2 as pb
from gatestream.server.config import Limits
from gatestream.server.core.catalog import Catalog
from gatestream.server.core.checkpointer import Checkpointer
from gatestream.server.core.kept import meaning
from gatestream.server.core.reply_sink import CloseReason
from gatestream.server.durability.checkpoints import Claim, Claimed, Key, Writes, Written
from gatestream.server.durability.memory import MemoryStore
from gatestream.server.errors import StoreUnavailable
from gatestream.server.transport.oip import InferenceCall
from tests.server.transport.test_oip import Client as Door
from tests.support.in_process import Client, serving_here
from tests.support.open_inference import request, sums

LIMITS = Limits(sessions=8)


class Slow(MemoryStore):
    """A store in which nobody lives, and that writes when it may."""

    def __init__(self) -> None:
        super().__init__(0.0)
        self.may = asyncio.Event()
        self.may.set()

    async def write(self, writes: Writes) -> Written:
        await self.may.wait()
        return await super().write(writes)


class Served:
    """A server whose answers wait for the store."""

    def __init__(self, catalog: Catalog, store: Slow):
        self.catalog = catalog
        self.store = store

    async def fence(self, name: str) -> None:
        """Have another server have a session, of which answers wait here."""
        await self.catalog.find("").engine.quiet()
        await self.claim(name)

    async def claim(self, name: str) -> None:
        """The same, whatever is under way here."""
        model = self.catalog.find("")
        key = Key("tenant", model.layout.name, name)
        held = (await self.store.read(key)).epoch
        meant = meaning(model.layout, model.version)
        await self.store.claim(key, Claim("other", held + 1, meant, None, taken_up=True, acknowledged=0))
        self.store.may.set()


@pytest.fixture
async def served(accumulator_path: Path) -> AsyncIterator[Served]:
    store = Slow()
    checkpointer = Checkpointer(store, LIMITS, before_answer=True)
    async with serving_here(accumulator_path, limits=LIMITS, checkpointer=checkpointer) as catalog:
        yield Served(catalog, store)
        store.may.set()


def step(client: Client, handles: list[int], value: float) -> None:
    x = np.full((len(handles), 2), value, "<f4").tobytes()
    client.say(steps=pb.Steps(handle=handles, input=[x]))


async def test_one_session_of_a_stream_is_closed_and_the_others_go_on(served: Served) -> None:
    client = Client(served.catalog, LIMITS)
    for handle in range(3):
        how = pb.ON_DISCONNECT_PARK if handle < 2 else None
        client.say(open=pb.Open(handle=handle, session_id=f"s{handle}", on_disconnect=how))
        assert (await client.hear()).opened.handle == handle
    step(client, [0, 1, 2], 1)
    assert list((await client.hear()).results.handle) == [0, 1, 2]
    served.store.may.clear()
    step(client, [0], 10)
    step(client, [0, 1, 2], 100)
    step(client, [1], 1000)
    await served.fence("s0")
    heard = [await client.hear() for _ in range(5)]
    refused = [message.error for message in heard if message.HasField("error")]
    assert [(list(each.handle), list(each.first), list(each.length)) for each in refused] == [
        ([0], [1], [1]),
        ([0], [2], [1]),
    ]
    assert all(each.reason == pb.REASON_SESSION_CLOSED and not each.position for each in refused)
    results = {
        (handle, value)
        for message in heard
        if message.HasField("results")
        for handle, value in zip(
            message.results.handle, np.frombuffer(message.results.output[0], "<f4")[::2].tolist(), strict=True
        )
    }
    assert results == {(1, 101), (2, 101), (1, 1101)}
    (closed,) = [message.closed for message in heard if message.HasField("closed")]
    assert (list(closed.handle), closed.reason) == ([0], pb.CLOSE_REASON_FENCED)
    step(client, [1, 2], 1)
    message = await client.hear()
    assert np.frombuffer(message.results.output[0], "<f4")[::2].tolist() == [1102, 102]
    assert client.stream.rows == 0
    # The handle is free, and the session is to be had again, where the other server left it.
    client.say(open=pb.Open(handle=0, session_id="s0", on_disconnect=pb.ON_DISCONNECT_PARK))
    opened = (await client.hear()).opened
    assert (opened.handle, opened.position) == (0, 1)
    client.stream.disconnect()
    assert client.stream.account.everyone.bytes == 0


async def test_an_answer_of_a_sequence_is_taken_back_and_its_repeat_is_taken(served: Served) -> None:
    door = Door(served.catalog)
    for sequence in (5, 6):
        door.say([[1, 0]], sequence, start=True, first=0)
        assert await door.sums() == [[1, 0]]
    served.store.may.clear()
    for sequence in (5, 6):
        door.say([[10, 0]], sequence, first=1)
    # It is told of no step that is not stored.
    door.say([[10, 0]], 5, first=1)
    call = InferenceCall(served.catalog, LIMITS, "tenant")
    asked = asyncio.ensure_future(call.infer(request([[100, 0]], 5, first=2).SerializeToString()))
    await asyncio.sleep(0)
    await served.fence("sequence:5")
    answers = [await door.hear() for _ in range(3)]
    reasons = [each.infer_response.parameters["gatestream_reason"].string_param for each in answers]
    assert reasons == ["REASON_STORE_UNAVAILABLE", "", "REASON_STORE_UNAVAILABLE"]
    assert all("gatestream_position" not in answers[k].infer_response.parameters for k in (0, 2))
    assert sums(answers[1].infer_response) == [[11, 0]]
    with pytest.raises(StoreUnavailable, match="another server has claimed the sequence"):
        await asked
    call.end()
    door.say([[10, 0]], 5, first=1)
    assert await door.sums() == [[11, 0]]
    assert door.stream.rows == 0


async def opened(served: Served, name: str, *values: float) -> Client:
    client = Client(served.catalog, LIMITS)
    await client.open(0, session_id=name, on_disconnect=pb.ON_DISCONNECT_PARK)
    for value in values:
        step(client, [0], value)
        assert (await client.hear()).HasField("results")
    return client


async def test_what_an_owner_is_told_is_stored_though_another_open_waits(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, before = served.store, await opened(served, "s", 1.0)
    key = Key("tenant", served.catalog.find("").layout.name, "s")
    may, claim = asyncio.Event(), store.claim

    async def slow(key: Key, asked: Claim) -> Claimed:
        await may.wait()
        return await claim(key, asked)

    monkeypatch.setattr(store, "claim", slow)
    step(before, [0], 2.0)
    after = Client(served.catalog, LIMITS)
    after.say(open=pb.Open(handle=0, session_id="s", mode=pb.OPEN_MODE_RESUME, epoch=9))
    assert (await before.hear()).HasField("results")
    assert (await store.read(key)).checkpoints[-1].sequence == 2
    may.set()
    assert (await after.hear()).opened.position == 2


@pytest.mark.parametrize("how", ["another stream", "the same stream", "half-closed"])
async def test_what_was_not_stored_is_not_told_to_who_had_the_session_then(served: Served, how: str) -> None:
    client, other = await opened(served, "s", 1.0), Client(served.catalog, LIMITS)
    served.store.may.clear()
    step(client, [0], 10.0)
    await served.catalog.find("").engine.quiet()
    taken_over = pb.Open(handle=1, session_id="s", on_disconnect=pb.ON_DISCONNECT_PARK)
    if how == "half-closed":
        client.stream.half_close()
    elif how == "another stream":
        other.say(open=taken_over)
    else:
        client.say(open=taken_over)
    await asyncio.sleep(0.01)
    await served.claim("s")
    refused = (await client.hear()).error
    assert (refused.reason, list(refused.handle), list(refused.first)) == (pb.REASON_SESSION_CLOSED, [0], [1])
    closed = (await client.hear()).closed
    left = pb.CLOSE_REASON_PARKED if how == "half-closed" else pb.CLOSE_REASON_TAKEN_OVER
    assert (list(closed.handle), closed.reason) == ([0], left)
    if how != "half-closed":
        heard = await (client if how == "the same stream" else other).hear()
        assert (list(heard.closed.handle), heard.closed.reason) == ([1], pb.CLOSE_REASON_FENCED)
    # Who waits until it is stored notices that it has ended.
    async with asyncio.timeout(5):
        while served.catalog.check():
            await asyncio.sleep(0.01)


async def test_a_chunk_is_refused_from_where_it_is_not_stored(served: Served) -> None:
    client = await opened(served, "s", 1.0)
    served.store.may.clear()
    x = np.ones((2_000, 2), "<f4").tobytes()
    client.say(steps=pb.Steps(handle=[0], length=[2_000], input=[x]))
    engine = served.catalog.find("").engine
    session = served.catalog.find("").engine.sessions.tenants.find("tenant", "s")
    while engine.sessions.position[session] < 100:
        await asyncio.sleep(0)
    served.catalog.find("").lifecycle.registry.end(np.array([session]), CloseReason.FENCED)
    served.store.may.set()
    at = 1
    while not (message := await client.hear()).HasField("closed"):
        [first], [length] = message.error.first, message.error.length
        assert (first, message.error.reason, list(message.error.position)) == (at, pb.REASON_SESSION_CLOSED, [])
        at += length
    assert (at, message.closed.reason) == (2_001, pb.CLOSE_REASON_FENCED)
    assert client.stream.rows == 0


async def test_what_was_not_stored_when_its_session_was_let_go_of_is_not_told(served: Served) -> None:
    client, model = await opened(served, "s", 1.0), served.catalog.find("")
    other = await opened(served, "other")
    served.store.may.clear()
    step(client, [0], 2.0)
    step(other, [0], 3.0)
    await model.engine.quiet()
    session = model.engine.sessions.tenants.find("tenant", "s")
    model.lifecycle.registry.end(np.array([session]), CloseReason.DRAINED)
    served.store.may.set()
    refused = (await client.hear()).error
    assert (refused.reason, list(refused.first)) == (pb.REASON_SESSION_CLOSED, [1])
    assert (await client.hear()).closed.reason == pb.CLOSE_REASON_FENCED
    assert (await other.hear()).HasField("results")


async def test_many_sessions_are_taken_back_at_once(accumulator_path: Path) -> None:
    store, many = Slow(), 300
    limits = Limits(sessions=many + 8)
    async with serving_here(
        accumulator_path, limits=limits, checkpointer=Checkpointer(store, limits, before_answer=True)
    ) as catalog:
        model, client = catalog.find(""), Client(catalog, limits)
        for k in range(many):
            client.say(open=pb.Open(handle=k, session_id=f"s{k}", on_disconnect=pb.ON_DISCONNECT_PARK))
        for _ in range(many):
            assert (await client.hear()).HasField("opened")
        store.may.clear()
        step(client, list(range(many)), 1.0)
        await model.engine.quiet()
        for k in range(many):
            key = Key("tenant", model.layout.name, f"s{k}")
            await store.claim(key, Claim("other", 99, meaning(model.layout, model.version), None, True, 0))
        store.may.set()
        refused = (await client.hear()).error
        assert sorted(refused.handle) == list(range(many))
        closed: list[int] = []
        while len(closed) < many:
            closed += (await client.hear()).closed.handle
        assert client.stream.rows == 0


async def test_a_close_waits_for_what_is_to_be_told_before_it(served: Served) -> None:
    client, other = await opened(served, "s", 1.0), await opened(served, "other")
    store, model = served.store, served.catalog.find("")
    key = Key("tenant", model.layout.name, "s")
    store.may.clear()
    step(other, [0], 1.0)
    step(client, [0], 10.0)
    await model.engine.quiet()
    # A round is under way, which the step is in, and the close has its turn.
    await asyncio.sleep(0.01)
    client.say(close=pb.Close(handle=[0]))
    await asyncio.sleep(0.05)
    assert (await store.read(key)).checkpoints[-1].sequence == 1
    store.may.set()
    assert (await client.hear()).HasField("results")
    assert (await client.hear()).closed.reason == pb.CLOSE_REASON_REQUESTED
