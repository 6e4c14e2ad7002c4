"""Kept sessions on their way to another version: answered there, and not taken up here yet."""

import asyncio
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gatestream.protos.gatestream.v1 import gatestream_pb2 as pb
from gatestream.server.config import Limits, TickLimits
from gatestream.server.core.catalog import Catalog
from gatestream.server.core.checkpointer import Checkpointer
from gatestream.server.core.migration import migrate
from gatestream.server.core.named import SessionState
from gatestream.server.core.reply_sink import CloseReason
from gatestream.server.core.run import Run
from gatestream.server.durability.checkpoints import Key, Writes, Written
from gatestream.server.durability.memory import MemoryStore
from gatestream.server.errors import StoreUnavailable
from tests.support.artifacts import accumulator
from tests.support.engine import expect_long_runs
from tests.support.in_process import Client, serving_here

LIMITS = Limits(sessions=8)
KEY = Key("tenant", "m", "s")


class Store(MemoryStore):
    """It writes when it may, and may be away."""

    def __init__(self) -> None:
        super().__init__(0.0)
        self.writes = asyncio.Event()
        self.writes.set()
        self.away = False

    async def write(self, writes: Writes) -> Written:
        await self.writes.wait()
        return await super().write(writes)

    async def close(self, *args: Any) -> Any:
        if self.away:
            raise StoreUnavailable("away")
        return await super().close(*args)

    async def tip(self) -> int:
        """The sequence of the newest checkpoint of the session."""
        return (await self.read(KEY)).checkpoints[-1].sequence


@asynccontextmanager
async def versions(folder: Path, store: Store, *, before_answer: bool, steps: int = 64) -> AsyncIterator[Catalog]:
    paths = [accumulator(folder / f"{k}.onnx", name="m", version=str(k)) for k in (1, 2)]
    checkpointer = Checkpointer(store, LIMITS, before_answer=before_answer)
    async with serving_here(*paths, limits=LIMITS, checkpointer=checkpointer, tick=TickLimits(steps=steps)) as catalog:
        yield catalog


async def opened(catalog: Catalog, name: str, version: str) -> Client:
    client = Client(catalog, LIMITS)
    await client.open(0, version=version, session_id=name, on_disconnect=pb.ON_DISCONNECT_PARK)
    await client.step(0, 1.0)
    return client


@asynccontextmanager
async def moving(
    folder: Path, store: Store, monkeypatch: pytest.MonkeyPatch, *, before_answer: bool = False
) -> AsyncIterator[tuple[Catalog, Client, threading.Event]]:
    """A session has been answered at position 5, on the version that it leaves; the other one is busy with a run."""
    async with versions(folder, store, before_answer=before_answer) as catalog:
        before, after = catalog.find("m", "1"), catalog.find("m", "2")
        client, other = await opened(catalog, "s", "1"), await opened(catalog, "busy", "2")
        may, compute = threading.Event(), after.engine._compute

        def slowly(run: Run) -> Any:
            may.wait(5)
            return compute(run)

        monkeypatch.setattr(after.engine, "_compute", slowly)
        expect_long_runs(after.engine)
        other.send(0, 1.0)
        while not after.engine.running:
            await asyncio.sleep(0)
        client.send(0, 1.0, length=4)
        assert await migrate(before, after) == 1
        assert list((await client.hear()).results.first) == [1]
        assert after.engine.running
        yield catalog, client, may
        may.set()


async def test_what_is_told_is_stored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = Store()
    async with moving(tmp_path, store, monkeypatch, before_answer=True):
        assert await store.tip() == 5


async def test_it_is_closed_where_it_stands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = Store()
    async with moving(tmp_path, store, monkeypatch) as (_, client, may):
        client.say(close=pb.Close(handle=[0], sequence=[5]))
        may.set()
        closed = (await client.hear()).closed
        assert (list(closed.position), closed.reason) == ([5], pb.CLOSE_REASON_REQUESTED)


async def test_it_is_not_said_to_be_closed_where_the_store_does_not_say_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Store()
    async with moving(tmp_path, store, monkeypatch) as (_, client, may):
        store.away = True
        client.say(close=pb.Close(handle=[0]))
        may.set()
        assert (await client.hear()).closed.reason == pb.CLOSE_REASON_PARKED
        store.away = False


async def test_what_its_client_has_is_noted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = Store()
    async with moving(tmp_path, store, monkeypatch) as (catalog, client, may):
        client.say(acknowledge=pb.Acknowledge(handle=[0], sequence=[5]))
        may.set()
        table = catalog.find("m", "2").engine.sessions
        async with asyncio.timeout(5):
            while table.durable[table.tenants.find("tenant", "s")] != 5:
                await asyncio.sleep(0.01)


async def test_steps_count_from_a_state_that_is_set_meanwhile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = Store()
    async with moving(tmp_path, store, monkeypatch) as (catalog, client, may):
        model, replaces = catalog.find("m", "2"), asyncio.Event()
        replace = store.replace

        async def slow(*args: Any) -> bool:
            await replaces.wait()
            return await replace(*args)

        monkeypatch.setattr(store, "replace", slow)
        state = SessionState(model.layout.fingerprint, 100, [np.full(2, 1000, "<f4").tobytes()])
        setting = asyncio.ensure_future(model.lifecycle.named.set_state("tenant", "s", state))
        await asyncio.sleep(0)
        may.set()
        while model.engine.running or not model.engine.sessions.kept[model.engine.sessions.tenants.find("tenant", "s")]:
            await asyncio.sleep(0.001)
        x = np.ones((1, 2), "<f4").tobytes()
        client.say(steps=pb.Steps(handle=[0], first=[5], input=[x]))
        client.say(steps=pb.Steps(handle=[0], first=[100], input=[x]))
        replaces.set()
        assert await setting == 100
        assert (await client.hear()).error.reason == pb.REASON_POSITION_MISMATCH
        assert list((await client.hear()).results.first) == [100]


async def test_what_is_not_stored_is_not_told_where_the_move_comes_to_nothing(tmp_path: Path) -> None:
    store = Store()
    async with versions(tmp_path, store, before_answer=True, steps=1) as catalog:
        before, after = catalog.find("m", "1"), catalog.find("m", "2")
        client = await opened(catalog, "s", "1")
        store.writes.clear()
        client.send(0, 10.0)
        await before.engine.quiet()
        client.send(0, 1.0, length=60)
        await asyncio.sleep(0)
        assert await migrate(before, after) == 1
        twin = after.engine.sessions.tenants.find("tenant", "s")
        after.lifecycle.registry.end(np.array([twin]), CloseReason.DRAINED)
        store.writes.set()
        refused = 0
        while not (message := await client.hear()).HasField("closed"):
            assert message.error.reason == pb.REASON_SESSION_CLOSED
            refused += sum(message.error.length)
        assert refused == 61
        client.stream.disconnect()
        async with asyncio.timeout(5):
            while catalog.check():
                await asyncio.sleep(0.01)


async def test_all_are_moved_however_much_is_pending(tmp_path: Path) -> None:
    store, limits = Store(), Limits(sessions=8, rows_per_stream=4, chunk_length=4)
    paths = [accumulator(tmp_path / f"{k}.onnx", name="m", version=str(k)) for k in (1, 2)]
    checkpointer = Checkpointer(store, limits, before_answer=True)
    async with serving_here(*paths, limits=limits, checkpointer=checkpointer) as catalog:
        client = Client(catalog, limits)
        for handle in range(4):
            await client.open(handle, version="1", session_id=f"s{handle}", on_disconnect=pb.ON_DISCONNECT_PARK)
        store.writes.clear()
        for handle in range(4):
            client.send(handle, 1.0 + handle)
        await catalog.find("m", "1").engine.quiet()
        # The rows of its answers are those that the stream may have.
        assert await migrate(catalog.find("m", "1"), catalog.find("m", "2")) == 4
        store.writes.set()
        for _ in range(4):
            assert (await client.hear()).HasField("results")
        for model in catalog:
            await model.engine.quiet()
        for handle in range(4):
            assert await client.step(handle, 10.0) == 11.0 + handle
        assert await store.read(KEY._replace(session_id="s3"))


async def test_an_open_asks_the_store_though_its_stream_is_to_end_the_session(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Store()
    async with moving(tmp_path, store, monkeypatch) as (catalog, _, may):
        other = Client(catalog, LIMITS)
        other.say(open=pb.Open(handle=0, session_id="s", model="m"))
        await asyncio.sleep(0)
        may.set()
        assert (await other.hear()).opened.position == 5
        assert await other.step(0, 10.0) == 15
        await asyncio.sleep(0.3)
        assert await other.step(0, 10.0) == 25
        assert (await store.read(KEY)).epoch == 2


async def test_a_copy_of_it_has_its_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = Store()
    async with moving(tmp_path, store, monkeypatch) as (catalog, _, may):
        forking = asyncio.ensure_future(catalog.find("m", "2").lifecycle.named.fork("tenant", "s", "twin"))
        await asyncio.sleep(0)
        may.set()
        assert await forking == ("twin", 5)
        assert (await store.read(KEY._replace(session_id="twin"))).checkpoints[-1].position == 5


async def test_one_that_ends_with_its_stream_is_set_in_the_store_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Store()
    async with moving(tmp_path, store, monkeypatch) as (catalog, _, may):
        model = catalog.find("m", "2")
        model.engine.sessions.parks[model.engine.sessions.tenants.find("tenant", "s")] = False
        state = SessionState(model.layout.fingerprint, 100, [np.full(2, 1000, "<f4").tobytes()])
        setting = asyncio.ensure_future(model.lifecycle.named.set_state("tenant", "s", state))
        await asyncio.sleep(0)
        may.set()
        assert await setting == 100
        assert [each.position for each in (await store.read(KEY)).checkpoints] == [100]


async def test_one_whose_place_is_not_known_stays_where_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store, claims, replaces = Store(), asyncio.Event(), asyncio.Event()
    async with versions(tmp_path, store, before_answer=False) as catalog:
        before, after = catalog.find("m", "1"), catalog.find("m", "2")
        await opened(catalog, "s", "1")
        other = Client(catalog, LIMITS)
        claim, replace = store.claim, store.replace

        async def claimed(*args: Any) -> Any:
            await claims.wait()
            return await claim(*args)

        async def replaced(*args: Any) -> bool:
            await replaces.wait()
            return await replace(*args)

        monkeypatch.setattr(store, "claim", claimed)
        monkeypatch.setattr(store, "replace", replaced)
        other.say(open=pb.Open(handle=0, session_id="s", on_disconnect=pb.ON_DISCONNECT_PARK))
        await asyncio.sleep(0.01)
        state = SessionState(before.layout.fingerprint, 100, [np.full(2, 1000, "<f4").tobytes()])
        setting = asyncio.ensure_future(before.lifecycle.named.set_state("tenant", "s", state))
        await asyncio.sleep(0.01)
        claims.set()
        assert (await other.hear()).opened.position == 1
        assert await migrate(before, after) == 0
        replaces.set()
        assert await setting == 100
        assert await migrate(before, after) == 1
        x = np.ones((1, 2), "<f4").tobytes()
        other.say(steps=pb.Steps(handle=[0], first=[100], input=[x]))
        assert list((await other.hear()).results.first) == [100]
