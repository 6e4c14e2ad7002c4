"""Models that come and go while another is served: its streams do not notice."""

import asyncio
import gc
import weakref
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from gatestream.protos.gatestream.v1 import gatestream_pb2 as pb
from gatestream.server.backend.artifact import Artifact
from gatestream.server.config import Limits, ServerConfig
from gatestream.server.core.accounts import Accounts
from gatestream.server.core.catalog import Catalog, ModelState
from gatestream.server.core.checkpointer import Checkpointer
from gatestream.server.durability.memory import MemoryStore
from gatestream.server.errors import ArtifactError, ConfigError, NotFound
from gatestream.server.loader import Loader
from tests.support.artifacts import accumulator, save
from tests.support.in_process import Client

LIMITS = Limits(sessions=8)


@asynccontextmanager
async def serving(*paths: Path, checkpointer: Checkpointer | None = None) -> AsyncIterator[tuple[Catalog, Loader]]:
    catalog = Catalog(Accounts(LIMITS))
    tasks: list[asyncio.Task[None]] = []

    def spawn(task: object) -> asyncio.Task[None]:
        tasks.append(asyncio.ensure_future(task))  # type: ignore[call-overload]
        return tasks[-1]

    config = ServerConfig(artifacts=paths, provider="cpu", limits=LIMITS)
    loader = Loader(catalog, config, spawn, checkpointer=checkpointer)
    try:
        for path in paths:
            await loader.load(path)
        yield catalog, loader
    finally:
        for task in tasks:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task


@pytest.fixture
def made(tmp_path: Path) -> Callable[[str], Path]:
    return lambda name: accumulator(tmp_path / f"{name}.onnx", name=name)


async def test_a_neighbour_does_not_notice(made: Callable[[str], Path]) -> None:
    async with serving(made("first")) as (catalog, loader):
        neighbour, taken = Client(catalog, LIMITS), 0
        assert (await neighbour.open(0, "first")).opened.created
        done = asyncio.Event()

        async def go_on() -> None:
            nonlocal taken
            while not done.is_set():
                taken += 1
                assert await neighbour.step(0, 1.0) == taken
                await asyncio.sleep(0)

        going = asyncio.ensure_future(go_on())
        for k in range(3):
            before = taken
            model = await loader.load(made("second"))
            assert taken > before, "it was stepped while the other was loaded"
            assert [each.spec.name for each in catalog] == ["first", "second"]
            assert model.state is ModelState.READY
            client = Client(catalog, LIMITS)
            assert (await client.open(0, "second")).opened.created
            assert [await client.step(0, 2.0) for _ in range(3)] == [2, 4, 6]
            await loader.unload("second", 0.01 * k)
            assert (await client.hear()).closed.reason == pb.CLOSE_REASON_DRAINED
            assert catalog.find("").spec.name == "first"
        done.set()
        await going


async def test_sessions_may_end_by_themselves(made: Callable[[str], Path]) -> None:
    async with serving(made("first"), made("second")) as (catalog, loader):
        client = Client(catalog, LIMITS)
        await client.open(0, "second")
        unloading = asyncio.ensure_future(loader.unload("second", 60.0))
        await asyncio.sleep(0)
        assert catalog.find("second").state is ModelState.DRAINING
        refused = await client.open(1, "second")
        assert refused.error.reason == pb.REASON_DRAINING
        assert refused.error.message == "model 'second' is being unloaded; open the session on another server"
        assert [await client.step(0, 1.0) for _ in range(2)] == [1, 2]
        client.say(close=pb.Close(handle=[0]))
        assert (await client.hear()).closed.reason == pb.CLOSE_REASON_REQUESTED
        await unloading
        gone = await client.open(1, "second")
        assert (gone.error.reason, gone.error.message) == (
            pb.REASON_MODEL_UNKNOWN,
            "no model 'second' here; there is: first",
        )
        assert (await client.open(1, "first")).opened.created


async def test_what_was_accepted_is_answered(made: Callable[[str], Path]) -> None:
    async with serving(made("first"), made("second")) as (catalog, loader):
        client = Client(catalog, LIMITS)
        await client.open(0, "second")
        for _ in range(3):
            client.send(0, 1.0, length=4)
        await loader.unload("second", 0.0)
        said = [await client.hear()]
        while not said[-1].HasField("closed"):
            said.append(await client.hear())
        answered = sum(sum(each.results.length or [0]) for each in said)
        refused = sum(sum(each.error.length) for each in said)
        assert answered + refused == 12
        assert said[-1].closed.position == [answered]


@pytest.mark.parametrize("store", [None, MemoryStore()], ids=["without a store", "with one"])
async def test_nothing_of_it_is_kept(made: Callable[[str], Path], store: MemoryStore | None) -> None:
    checkpointer = None if store is None else Checkpointer(store, LIMITS)
    async with serving(made("first"), made("second"), checkpointer=checkpointer) as (catalog, loader):
        # As a server does when it has started.
        gc.collect()
        gc.freeze()
        try:
            model = catalog.find("second")
            kept = [weakref.ref(each) for each in (model.engine, model.engine.rows.runner, model.lifecycle)]
            del model
            assert (await Client(catalog, LIMITS).open(0, "second")).opened.created
            most = catalog.accounts.most.rows
            await loader.unload("second", 0.0)
            assert [each() for each in kept] == [None] * 3
            assert catalog.accounts.most.rows == most // 2
        finally:
            gc.unfreeze()


async def test_what_is_unloaded_stays_so(made: Callable[[str], Path]) -> None:
    """Who asked for it when it was being unloaded may come when it is."""
    async with serving(made("first"), made("second")) as (catalog, loader):
        model = catalog.find("second")
        await loader.retire(model, 0.0)
        await loader.retire(model, 60.0)
        assert model.state is ModelState.UNLOADED
        assert [each.name for each in catalog] == ["first"]


async def test_a_name_is_taken_once(made: Callable[[str], Path], tmp_path: Path) -> None:
    async with serving(made("first")) as (catalog, loader):
        with pytest.raises(ConfigError, match="a second model named 'first' of version '1' was to be loaded"):
            await loader.load(made("first"))
        twice = await asyncio.gather(loader.load(made("second")), loader.load(made("second")), return_exceptions=True)
        assert sorted(type(each).__name__ for each in twice) == ["ConfigError", "Model"]
        (tmp_path / "spoilt.onnx").write_bytes(b"nothing")
        with pytest.raises(ArtifactError):
            await loader.load(tmp_path / "spoilt.onnx")
        assert [each.spec.name for each in catalog] == ["first", "second"]
        with pytest.raises(NotFound, match="no model 'third' here"):
            await loader.unload("third", 0.0)


async def test_one_that_cannot_be_warmed_up_leaves_its_name(
    made: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    async with serving(made("first")) as (catalog, loader):
        path = made("second")
        with monkeypatch.context() as patch:
            patch.setattr(Loader, "_warm_up", _fails)
            with pytest.raises(RuntimeError, match="no warmth"):
                await loader.load(path)
        assert [each.spec.name for each in catalog] == ["first"]
        assert (await loader.load(path)).state is ModelState.READY


async def _fails(*_: object) -> None:
    raise RuntimeError("no warmth")


async def test_sessions_stay_on_their_version_and_new_ones_go_to_the_newest(tmp_path: Path) -> None:
    one, two, ten = (
        accumulator(tmp_path / f"{version}.onnx", name="m", version=version, initial=1000.0 * int(version))
        for version in ("1", "2", "10")
    )
    async with serving(one) as (catalog, loader):
        client = Client(catalog, LIMITS)
        assert (await client.open(0, session_id="old")).opened.version == "1"
        assert await client.step(0, 1.0) == 1001
        await loader.load(ten)
        await loader.load(two)
        assert [model.version for model in catalog.versions("m")] == ["1", "2", "10"]
        assert (await client.open(1)).opened.version == "10", "as numbers, and not in the order of their loading"
        assert (await client.open(2, version="2")).opened.version == "2"
        assert [await client.step(k, 1.0) for k in range(3)] == [1002, 10001, 2001]
        # Whoever takes a session up finds it where it is.
        other = Client(catalog, LIMITS)
        opened = (await other.open(5, session_id="old")).opened
        assert (opened.version, opened.position, opened.created) == ("1", 2, False)
        assert (await client.hear()).closed.reason == pb.CLOSE_REASON_TAKEN_OVER
        assert await other.step(5, 1.0) == 1003
        # Its id is that of one session of the model.
        refused = (await client.open(0, session_id="old", version="2")).error
        assert refused.reason == pb.REASON_SESSION_EXISTS
        assert "on version '1' of this model" in refused.message
        unloading = asyncio.ensure_future(loader.unload("m", 60.0, "10"))
        await asyncio.sleep(0)
        assert (await client.open(3)).opened.version == "2"
        refused = (await client.open(4, version="10")).error
        assert refused.message == "version '10' of model 'm' is being unloaded; open the session on another server"
        client.say(close=pb.Close(handle=[1]))
        assert (await client.hear()).closed.reason == pb.CLOSE_REASON_REQUESTED
        await unloading
        refused = (await client.open(4, version="10")).error
        assert refused.message == "model 'm' is here in version '1', '2', not '10'"
        assert catalog.totals().models["m"].opened == 4


async def test_a_version_may_be_called_anything(tmp_path: Path) -> None:
    names = ["10", "9", "9" * 5000, "2026-11", "٣", ""]
    paths = [accumulator(tmp_path / f"{k}.onnx", name="m", version=name) for k, name in enumerate(names)]
    async with serving(*paths) as (catalog, _):
        # Numbers are in their order, behind all others, which are in that of their loading.
        assert [model.version for model in catalog.versions("m")] == [*names[2:], "9", "10"]


async def test_one_takes_the_place_of_another(tmp_path: Path) -> None:
    paths = [accumulator(tmp_path / f"{k}.onnx", name="m", initial=1000.0 * k) for k in range(2)]
    async with serving(paths[0]) as (catalog, loader):
        client = Client(catalog, LIMITS)
        await client.open(0, session_id="old")
        (before,) = catalog
        await loader.serve(Artifact.load(paths[1]), again=True)
        retiring = asyncio.ensure_future(loader.retire(before, 60.0))
        await asyncio.sleep(0)
        await client.open(1)
        assert [await client.step(k, 1.0) for k in range(2)] == [1, 1001]
        opened = (await Client(catalog, LIMITS).open(0, session_id="old")).opened
        assert (opened.position, opened.created) == (1, False)
        assert (await client.hear()).closed.reason == pb.CLOSE_REASON_TAKEN_OVER
        await before.lifecycle.named.close("tenant", "old")
        await retiring
        assert [model.number for model in catalog] == [1]


KEPT: dict[str, Any] = {"session_id": "s", "on_disconnect": pb.ON_DISCONNECT_PARK}


@asynccontextmanager
async def stored_on_another_version(
    tmp_path: Path, renamed: str = "x"
) -> AsyncIterator[tuple[Catalog, Loader, Checkpointer]]:
    """Two versions of a model, of other weights, and a session of the older in the store, with one step taken.

    Args:
        tmp_path: for their files.
        renamed: what the newer calls its input.
    """
    old = accumulator(tmp_path / "1.onnx", name="m", version="1", initial=1000.0)
    graph, spec = onnx.load(old).graph, Artifact.load(old).spec
    [poison] = [each for each in graph.initializer if each.name == "poison"]
    poison.CopyFrom(onnx.numpy_helper.from_array(np.array(2e6, np.float32), "poison"))
    spec.version = "2"
    for item in spec.inputs:
        if item.name == "x":
            item.name = renamed
    for given in graph.input:
        given.name = renamed if given.name == "x" else given.name
    for node in graph.node:
        node.input[:] = [renamed if each == "x" else each for each in node.input]
    new = save(tmp_path / "2.onnx", graph, spec)
    checkpointer = Checkpointer(MemoryStore(), LIMITS)
    await checkpointer.beat_once()
    async with serving(old, checkpointer=checkpointer) as (catalog, loader):
        client = Client(catalog, LIMITS)
        assert (await client.open(0, **KEPT)).opened.version == "1"
        assert await client.step(0, 1.0) == 1001
        await loader.load(new)
        client.stream.disconnect()
        await checkpointer.round()
        for model in catalog:
            assert model.lifecycle.residence is not None
            model.lifecycle.residence.make_room(8)
        await checkpointer.round()
        assert [model.engine.sessions.taken for model in catalog] == [0, 0]
        yield catalog, loader, checkpointer
        await checkpointer.round()
        assert [each.engine.check() for each in catalog] == [[]] * len(list(catalog))


async def test_steps_that_are_sent_before_a_session_is_found_on_another_version_are_taken(tmp_path: Path) -> None:
    async with stored_on_another_version(tmp_path) as (catalog, *_):
        client = Client(catalog, LIMITS)
        client.say(open=pb.Open(handle=3, **KEPT))
        client.send(3, 1.0)
        client.send(3, 1.0, length=3)
        assert (await client.hear()).opened.position == 1
        assert await client.step(3, 1.0) == 1002
        rows = 1
        while rows < 5:
            rows += len(np.frombuffer((await client.hear()).results.output[0], "<f4")) // 2
        assert await client.step(3, 1.0) == 1007
        client.stream.disconnect()


async def test_steps_for_other_inputs_than_those_of_the_version_that_has_the_session_are_refused_so(
    tmp_path: Path,
) -> None:
    async with stored_on_another_version(tmp_path, renamed="z") as (catalog, *_):
        client = Client(catalog, LIMITS)
        client.say(open=pb.Open(handle=3, **KEPT))
        client.send(3, 1.0, length=2)
        heard = [await client.hear() for _ in range(2)]
        (refused,) = [each.error for each in heard if each.HasField("error")]
        assert (refused.reason, list(refused.handle), list(refused.length)) == (pb.REASON_MALFORMED, [3], [2])
        assert "version '1' of model 'm', which takes other inputs than version '2'" in refused.message
        assert [each.opened.version for each in heard if each.HasField("opened")] == ["1"]
        assert await client.step(3, 1.0) == 1002
        client.stream.disconnect()


async def test_of_two_that_open_a_session_at_once_the_later_has_it_where_it_fits(tmp_path: Path) -> None:
    async with stored_on_another_version(tmp_path) as (catalog, *_):
        one, two = Client(catalog, LIMITS), Client(catalog, LIMITS)
        one.say(open=pb.Open(handle=3, **KEPT))
        one.send(3, 1.0)
        two.say(open=pb.Open(handle=4, **KEPT))
        refused = (await two.hear()).error
        assert (refused.reason, refused.retry_after_ms > 0) == (pb.REASON_STORE_UNAVAILABLE, True)
        heard = [await one.hear() for _ in range(2)]
        assert [each.error.reason for each in heard if each.HasField("error")] == [pb.REASON_SESSION_CLOSED]
        assert [each.closed.reason for each in heard if each.HasField("closed")] == [pb.CLOSE_REASON_TAKEN_OVER]
        opened = (await two.open(4, **KEPT)).opened
        assert (opened.version, opened.position) == ("1", 1)
        assert await two.step(4, 1.0) == 1002
        one.stream.disconnect()
        two.stream.disconnect()


@pytest.mark.parametrize("version", ["", "2"])
async def test_a_close_behind_an_open_is_done_where_the_session_is(tmp_path: Path, version: str) -> None:
    async with stored_on_another_version(tmp_path) as (catalog, _, checkpointer):
        client = Client(catalog, LIMITS)
        client.say(open=pb.Open(handle=3, version=version, **KEPT))
        client.send(3, 1.0)
        client.say(close=pb.Close(handle=[3]))
        heard = [await client.hear() for _ in range(2)]
        if version:
            reasons = {pb.REASON_CHECKPOINT_UNFIT, pb.REASON_SESSION_CLOSED}
            assert {each.error.reason for each in heard} == reasons, "it was not opened, and is as it was"
            assert [model.engine.sessions.taken for model in catalog] == [0, 0]
        else:
            assert [each.WhichOneof("kind") for each in heard] == ["opened", "results"]
            last = asyncio.ensure_future(client.hear())
            while not last.done():
                await checkpointer.round()
                await asyncio.sleep(0)
            closed = last.result().closed
            assert (closed.reason, list(closed.position)) == (pb.CLOSE_REASON_REQUESTED, [2])
        opened = (await client.open(3, **KEPT)).opened
        assert (opened.version, opened.created) == (("1", False) if version else ("2", True))
        client.stream.disconnect()


async def test_a_half_close_behind_an_open_leaves_the_session_where_it_is(tmp_path: Path) -> None:
    async with stored_on_another_version(tmp_path) as (catalog, *_):
        client = Client(catalog, LIMITS)
        client.say(open=pb.Open(handle=3, **KEPT))
        client.send(3, 1.0)
        client.stream.half_close()
        heard = [await client.hear() for _ in range(3)]
        assert [each.WhichOneof("kind") for each in heard] == ["opened", "results", "closed"]
        assert (heard[2].closed.reason, list(heard[2].closed.position)) == (pb.CLOSE_REASON_PARKED, [2])
        assert await client.stream.send_queue.take() is None
        other = Client(catalog, LIMITS)
        assert (await other.open(0, **KEPT)).opened.position == 2
        other.stream.disconnect()


async def test_a_stored_session_is_opened_on_the_version_whose_weights_it_has(tmp_path: Path) -> None:
    """Also where the newest version has other weights; where no version has them, it is refused."""
    async with stored_on_another_version(tmp_path) as (catalog, loader, checkpointer):
        client = Client(catalog, LIMITS)
        client.say(open=pb.Open(handle=3, **KEPT))
        heard = await client.hear()
        opened = heard.opened
        assert heard.HasField("opened"), heard
        assert (opened.version, opened.position, opened.created) == ("1", 1, False)
        assert await client.step(3, 1.0) == 1002
        refused = (await Client(catalog, LIMITS).open(0, version="2", **KEPT)).error
        assert refused.reason == pb.REASON_SESSION_EXISTS
        client.stream.disconnect()
        await checkpointer.round()
        await loader.unload("m", 0.0, "1")
        await checkpointer.round()
        refused = (await Client(catalog, LIMITS).open(0, **KEPT)).error
        assert refused.reason == pb.REASON_CHECKPOINT_UNFIT
        assert [model.engine.sessions.taken for model in catalog] == [0]
