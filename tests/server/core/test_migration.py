"""Sessions that are moved to another version of their model while they are stepped, against plain sums."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gatestream.protos.gatestream.v1 import gatestream_pb2 as pb
from gatestream.protos.inference import open_inference_grpc_pb2 as oip
from gatestream.protos.spec import KEY, from_metadata, to_json
from gatestream.server.config import Limits, TickLimits
from gatestream.server.core.catalog import Catalog
from gatestream.server.core.checkpointer import Checkpointer
from gatestream.server.core.kept import meaning
from gatestream.server.core.migration import migrate, obstacle
from gatestream.server.core.named import SessionState
from gatestream.server.core.reply_sink import CloseReason
from gatestream.server.durability.checkpoints import Claim, Key, Owned, Writes, Written
from gatestream.server.durability.memory import MemoryStore
from gatestream.server.errors import NotLoaded, StoreUnavailable
from gatestream.server.transport.oip import InferenceStream
from tests.support.any_models import spoken, with_constants
from tests.support.artifacts import POISON, accumulator
from tests.support.in_process import Client, serving_here
from tests.support.lstm import Lstm
from tests.support.open_inference import request

LIMITS = Limits(sessions=16)
MANY = Limits(sessions=128)
# A chunk takes as many runs as it has steps: what is sent stands in the queues.
TICK = TickLimits(steps=1)


@asynccontextmanager
async def versions(folder: Path, limits: Limits = LIMITS, **settings: Any) -> AsyncIterator[Catalog]:
    """Two versions of one model; a new session of each begins at another number."""
    paths = [
        accumulator(folder / f"{k}.onnx", name="m", version=str(k), initial=1000.0 * k)
        for k in (1, 2)
        if not (folder / f"{k}.onnx").exists()
    ] or [folder / f"{k}.onnx" for k in (1, 2)]
    async with serving_here(*paths, limits=limits, tick=TICK, **settings) as catalog:
        yield catalog


async def moved(catalog: Catalog, before: str = "1", after: str = "2") -> int:
    return await migrate(catalog.find("m", before), catalog.find("m", after))


async def sums(client: Client, steps: int) -> list[float]:
    """The first numbers of so many results, each of which follows the one before."""
    found: list[float] = []
    while len(found) < steps:
        answer = await client.hear()
        assert answer.HasField("results"), answer
        found += np.frombuffer(answer.results.output[0], "<f4").reshape(-1, 2)[:, 0].tolist()
    return found


@pytest.mark.parametrize("straight", [False, True])
async def test_a_stream_goes_on_where_it_was(tmp_path: Path, straight: bool) -> None:
    async with versions(tmp_path, straight=straight) as catalog:
        client = Client(catalog, LIMITS)
        await client.open(0, version="1", session_id="mine")
        client.send(0, 1.0, length=40)
        moving = asyncio.ensure_future(moved(catalog))
        await asyncio.sleep(0)
        assert not catalog.find("m", "1").engine.sessions.tenants.get("tenant", "mine")
        client.send(0, 2.0, length=30)
        client.say(reset=pb.Reset(handle=[0]))
        client.send(0, 3.0, length=2)
        assert await sums(client, 70) == [*range(1001, 1041), *range(1042, 1101, 2)]
        assert (await client.hear()).reset_done.position == [70]
        # It begins anew where the version that it is on begins.
        assert await sums(client, 2) == [2003, 2006]
        assert await moving == 1
        assert catalog.find("m", "1").engine.sessions.taken == 0
        client.say(close=pb.Close(handle=[0]))
        closed = (await client.hear()).closed
        assert (list(closed.position), closed.reason) == ([72], pb.CLOSE_REASON_REQUESTED)


async def test_a_stream_is_moved_in_pieces_and_its_messages_are_for_both_versions(tmp_path: Path) -> None:
    async with versions(tmp_path, limits=MANY) as catalog:
        client = Client(catalog, MANY)
        many = 40
        for handle in range(many):
            await client.open(handle, version="1")
        moving: asyncio.Future[int] | None = None
        turns = 30
        between = 0
        for turn in range(turns):
            # One packed message for all of them, with positions in every other one.
            x = np.full((2 * many, 2), 1 + turn, "<f4").tobytes()
            first = [2 * turn] * many if turn % 2 else []
            client.say(steps=pb.Steps(handle=range(many), length=[2] * many, first=first, input=[x]))
            if turn == 10:
                moving = asyncio.ensure_future(moved(catalog))
            await asyncio.sleep(0)
            between += all(len(model.engine.sessions) for model in catalog)
        assert between >= many // 8 - 1, "sessions of one stream are on both versions meanwhile"
        seen = [0.0] * many
        expected = 1000 + 2 * sum(range(1, turns + 1))
        while not all(each == expected for each in seen):
            answer = await client.hear()
            assert answer.HasField("results"), answer
            rows = np.frombuffer(answer.results.output[0], "<f4").reshape(-1, 2)[:, 0]
            ends = np.cumsum(list(answer.results.length) or [1] * len(answer.results.handle))
            for handle, end in zip(answer.results.handle, ends, strict=True):
                assert rows[end - 1] > seen[handle]
                seen[handle] = rows[end - 1]
        assert moving is not None
        assert await moving == many


async def test_a_version_that_is_unloaded_meanwhile_gets_no_more(tmp_path: Path) -> None:
    async with versions(tmp_path, limits=MANY) as catalog:
        client = Client(catalog, MANY)
        for handle in range(40):
            await client.open(handle, version="1")
        moving = asyncio.ensure_future(moved(catalog))
        await asyncio.sleep(0)
        catalog.find("m", "2").drain("it is being unloaded")
        with pytest.raises(NotLoaded, match="version '2' of model 'm' takes no sessions: it is draining"):
            await moving
        assert 0 < len(catalog.find("m", "1").engine.sessions) < 40
        for handle in range(40):
            assert await client.step(handle, 1.0) == 1001


async def test_a_message_for_versions_with_unlike_inputs_is_refused_in_part(tmp_path: Path) -> None:
    paths = [accumulator(tmp_path / f"{k}.onnx", features=k, name="m", version=str(k)) for k in (1, 2)]
    async with serving_here(*paths, limits=LIMITS) as catalog:
        client = Client(catalog, LIMITS)
        for handle in range(2):
            await client.open(handle, version=str(1 + handle))
        client.say(steps=pb.Steps(handle=[0, 1], input=[np.ones((2, 1), "<f4").tobytes()]))
        error = (await client.hear()).error
        assert list(error.handle) == [1]
        assert "is of another model than the message's first entry" in error.message
        assert list((await client.hear()).results.handle) == [0]


async def test_what_stands_behind_a_failed_step_is_refused(tmp_path: Path) -> None:
    async with versions(tmp_path) as catalog:
        client = Client(catalog, LIMITS)
        await client.open(0, version="1")
        client.send(0, 1.0, length=5)
        client.send(0, POISON)
        moving = asyncio.ensure_future(moved(catalog))
        await asyncio.sleep(0)
        client.send(0, 2.0, length=3)
        client.say(reset=pb.Reset(handle=[0]))
        assert await sums(client, 5) == [1001, 1002, 1003, 1004, 1005]
        failed, behind, reset = [(await client.hear()).error for _ in range(3)]
        assert [each.reason for each in (failed, behind, reset)] == [
            pb.REASON_STEP_FAILED,
            pb.REASON_PRECEDING_FAILED,
            pb.REASON_PRECEDING_FAILED,
        ]
        assert [list(each.position) for each in (failed, behind, reset)] == [[5]] * 3
        assert (list(failed.first), list(behind.length)) == ([5], [3])
        assert await moving == 1
        assert await client.step(0, 1.0) == 1006
        assert catalog.find("m", "2").engine.sessions.taken == 1


@pytest.mark.parametrize("when", ["disconnect", "close", "administered"])
async def test_it_may_end_while_it_is_moved(tmp_path: Path, when: str) -> None:
    async with versions(tmp_path) as catalog:
        client = Client(catalog, LIMITS)
        await client.open(0, version="1", session_id="mine")
        client.send(0, 1.0, length=20)
        old = catalog.find("m", "1")
        # Asked of the version that it is still on.
        closing = asyncio.ensure_future(old.lifecycle.named.close("tenant", "mine")) if when == "administered" else None
        await asyncio.sleep(0)
        moving = asyncio.ensure_future(moved(catalog))
        await asyncio.sleep(0)
        if when == "disconnect":
            client.stream.disconnect()
        elif when == "close":
            client.say(close=pb.Close(handle=[0]))
            assert await sums(client, 20) == list(range(1001, 1021))
            assert (await client.hear()).closed.position == [20]
        else:
            assert closing is not None
            assert await sums(client, 20) == list(range(1001, 1021))
            assert await closing == 20
            assert (await client.hear()).closed.reason == pb.CLOSE_REASON_ADMINISTERED
        await moving
        # A run may be under way, of which nobody wants the answer.
        async with asyncio.timeout(60):
            while any(model.engine.sessions.taken or model.engine.admission.rows for model in catalog):
                await asyncio.sleep(0.001)
        assert not catalog.has("mine", "tenant", "m")
        assert (await Client(catalog, LIMITS).open(0, session_id="mine")).opened.created


async def test_a_sequence_of_the_other_door_is_moved_too(tmp_path: Path) -> None:
    async with versions(tmp_path) as catalog:
        stream = InferenceStream(catalog, LIMITS, "tenant")

        async def ask(value: float, version: str = "", **fields: Any) -> tuple[float, str]:
            asked = request([[value, 0]], "a", **fields)
            asked.model_name, asked.model_version = "m", version
            stream.receive(asked.SerializeToString())
            item = await stream.send_queue.take()
            assert item is not None
            stream.rows -= item[1]
            answer = oip.ModelStreamInferResponse.FromString(bytes(item[0]))
            assert not answer.error_message, answer.error_message
            found = answer.infer_response
            return float(np.frombuffer(found.raw_output_contents[0], "<f4")[0]), found.model_version

        assert await ask(1, version="1", start=True) == (1001, "1")
        assert [await ask(1) for _ in range(3)] == [(1002, "1"), (1003, "1"), (1004, "1")]
        assert await moved(catalog) == 1
        assert [await ask(1) for _ in range(3)] == [(1005, "2"), (1006, "2"), (1007, "2")]
        assert await moved(catalog, "2", "1") == 1
        assert [await ask(1) for _ in range(2)] == [(1008, "1"), (1009, "1")]
        # It begins again on the newest, and is left on the other.
        assert await ask(1, start=True) == (2001, "2")
        assert [model.engine.sessions.taken for model in catalog] == [0, 1]
        assert await ask(1, end=True) == (2002, "2")


async def test_what_does_not_go_with_it_is_refused(tmp_path: Path) -> None:
    async with versions(tmp_path) as catalog:
        mine = catalog.find("m", "1").layout
        other = Lstm.random(features=3, hidden=4)
        async with serving_here(other.save(tmp_path / "lstm.onnx"), limits=LIMITS) as others:
            (lstm,) = others
            assert obstacle(mine, catalog.find("m", "2").layout) == ""
            assert obstacle(mine, lstm.layout).startswith("its weights are others (")
            client = Client(others, LIMITS)
            await client.open(0, gates=True)
            model = catalog.find("m")
            with pytest.raises(NotLoaded, match="1 sessions on version '1' ask for gates, which version"):
                await migrate(lstm, model)


async def test_there_is_to_be_room(tmp_path: Path) -> None:
    async with versions(tmp_path) as catalog:
        client = Client(catalog, LIMITS)
        for handle in range(18):
            await client.open(handle, version="12"[handle >= 9])
        with pytest.raises(NotLoaded, match="version '2' has room for 7 sessions more, and 9 are on version '1'"):
            await moved(catalog)
        assert [await client.step(handle, 1.0) for handle in (0, 9)] == [1001, 2001]


SENT = st.lists(
    st.one_of(
        st.tuples(st.just("send"), st.integers(0, 2), st.integers(1, 6)),
        st.tuples(st.just("reset"), st.integers(0, 2), st.just(0)),
        st.tuples(st.just("move"), st.integers(0, 1), st.just(0)),
        st.tuples(st.just("turns"), st.integers(1, 6), st.just(0)),
    ),
    max_size=25,
)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(SENT)
async def test_nothing_is_lost_whatever_happens_when(tmp_path: Path, sent: list[tuple[str, int, int]]) -> None:
    one = asyncio.Lock()

    async def move(catalog: Catalog, before: str, after: str) -> int:
        # Nobody moves them back meanwhile.
        async with one:
            return await moved(catalog, before, after)

    async with versions(tmp_path, limits=MANY) as catalog:
        client = Client(catalog, MANY)
        for handle in range(3):
            await client.open(handle, version="1")
        expected, moving = [0] * 3, []
        for what, which, length in sent:
            if what == "send":
                client.send(which, 1.0, length=length)
                expected[which] += length
            elif what == "reset":
                client.say(reset=pb.Reset(handle=[which]))
            elif what == "move":
                moving.append(asyncio.ensure_future(move(catalog, *("12", "21")[which])))
            else:
                for _ in range(which):
                    await asyncio.sleep(0)
        client.say(close=pb.Close(handle=range(3)))
        positions = [0] * 3
        closed: dict[int, int] = {}
        while len(closed) < 3:
            answer = await client.hear()
            assert not answer.HasField("error"), answer
            if answer.HasField("results"):
                lengths = list(answer.results.length) or [1] * len(answer.results.handle)
                for handle, first, length in zip(answer.results.handle, answer.results.first, lengths, strict=True):
                    assert first == positions[handle]
                    positions[handle] += length
            closed |= zip(answer.closed.handle, answer.closed.position, strict=True)
        assert positions == expected == [closed[handle] for handle in range(3)]
        await asyncio.gather(*moving)
        assert [model.engine.sessions.taken for model in catalog] == [0, 0]


async def test_constants_go_along(tmp_path: Path) -> None:
    speaker = np.array([[1, 2, 3], [10, 20, 30]], "<f4")
    paths = [with_constants(tmp_path / f"{k}.onnx", name="m") for k in (1, 2)]
    for k, path in enumerate(paths, 1):
        model = onnx.load(path)
        (entry,) = [each for each in model.metadata_props if each.key == KEY]
        spec = from_metadata({KEY: entry.value}, path.name)
        spec.version = str(k)
        entry.value = to_json(spec)
        onnx.save(model, path)
    async with serving_here(*paths, limits=LIMITS, tick=TICK) as catalog:
        client = Client(catalog, LIMITS)
        given = [pb.Constant(name="speaker", value=speaker.tobytes())]
        assert (await client.open(0, version="1", session_id="mine", constant=given)).opened.version == "1"
        x = np.arange(60, dtype="<f4").reshape(20, 3)

        def send(begin: int, end: int) -> None:
            client.say(steps=pb.Steps(handle=[0], length=[end - begin], input=[x[begin:end].tobytes()]))

        send(0, 12)
        moving = asyncio.ensure_future(moved(catalog))
        await asyncio.sleep(0)
        send(12, 20)
        rows: list[Any] = []
        while sum(map(len, rows)) < 20:
            rows.append(np.frombuffer((await client.hear()).results.output[0], "<f4").reshape(-1, 3))
        np.testing.assert_array_equal(np.concatenate(rows), spoken(x, speaker))
        assert await moving == 1
        # It keeps them through a reset, and whoever takes it up gives the same.
        client.say(reset=pb.Reset(handle=[0]))
        assert (await client.hear()).reset_done.position == [20]
        send(0, 1)
        answer = np.frombuffer((await client.hear()).results.output[0], "<f4")
        np.testing.assert_array_equal(answer, spoken(x[:1], speaker)[0])
        other = Client(catalog, LIMITS)
        wrong = [pb.Constant(name="speaker", value=(speaker + 1).tobytes())]
        assert (await other.open(0, session_id="mine", constant=wrong)).error.reason == pb.REASON_CONSTANT_MISMATCH
        assert (await other.open(1, session_id="mine", constant=given)).opened.version == "2"


@pytest.mark.parametrize("how", ["half-closed", "gone"])
async def test_one_whose_stream_has_ended_is_left_by_it_on_the_other_version_too(tmp_path: Path, how: str) -> None:
    checkpointer = Checkpointer(MemoryStore(), LIMITS)
    async with versions(tmp_path, checkpointer=checkpointer) as catalog:
        client = Client(catalog, LIMITS)
        await client.open(0, version="1", session_id="s", on_disconnect=pb.ON_DISCONNECT_PARK)
        assert await client.step(0, 5.0) == 1005
        if how == "half-closed":
            client.send(0, 1.0, length=3)
            client.stream.half_close()
        else:
            # As where the stream's many sessions are left some at a time, and this one's turn is not yet.
            client.stream._gone = True
        assert await moved(catalog) == 1
        async with asyncio.timeout(10):
            table = catalog.find("m", "2").engine.sessions
            while (session := table.tenants.get("tenant", "s")) is None or table.owner[session] is not None:
                await client.hear() if how == "half-closed" else await asyncio.sleep(0)


class Silent(MemoryStore):
    """Its answers to who sets a state may be lost."""

    answers = True
    asked = 0

    async def replace(self, *args: Any) -> bool:
        self.asked += 1
        if not self.answers:
            raise StoreUnavailable("away")
        return await super().replace(*args)


@asynccontextmanager
async def a_state_is_being_set(
    folder: Path,
) -> AsyncIterator[tuple[Catalog, Checkpointer, Silent, Client, "asyncio.Future[int]"]]:
    """To 50, of a session of the first version: the store does not say whether it is."""
    store = Silent()
    checkpointer = Checkpointer(store, LIMITS)
    async with versions(folder, checkpointer=checkpointer) as catalog:
        client, model = Client(catalog, LIMITS), catalog.find("m", "1")
        await client.open(0, version="1", session_id="s", on_disconnect=pb.ON_DISCONNECT_PARK)
        assert await client.step(0, 5.0) == 1005
        store.answers = False
        state = SessionState(model.layout.fingerprint, 50, [np.full(2, 7, "<f4").tobytes()])
        setting = asyncio.ensure_future(model.lifecycle.named.set_state("tenant", "s", state))
        while not store.asked:
            await asyncio.sleep(0.001)
        yield catalog, checkpointer, store, client, setting


async def test_a_state_that_is_set_when_the_stream_has_gone(tmp_path: Path) -> None:
    async with a_state_is_being_set(tmp_path) as (catalog, _, store, client, setting):
        client.stream.disconnect()
        store.answers = True
        assert await setting == 50
        table = catalog.find("m", "1").engine.sessions
        [session] = np.flatnonzero(table.kept)
        assert table.accepted[session] == table.position[session] == 50
        assert await moved(catalog) == 1
        [twin] = np.flatnonzero((table := catalog.find("m", "2").engine.sessions).kept)
        assert table.accepted[twin] == table.position[twin] == 50


async def test_a_version_ends_while_nobody_knows_whether_a_state_is_set(tmp_path: Path) -> None:
    async with a_state_is_being_set(tmp_path) as (catalog, checkpointer, store, client, setting):
        assert await moved(catalog) == 1
        await catalog.find("m", "1").lifecycle.expiry.end_all(CloseReason.DRAINED)
        with pytest.raises(StoreUnavailable, match="opening it again shows that"):
            await setting
        assert (await client.hear()).closed.reason == pb.CLOSE_REASON_PARKED
        await checkpointer.round()
        assert not (await store.read(Key("tenant", "m", "s"))).owner
        # Who asks the store notices that the session has ended.
        while catalog.check():
            await asyncio.sleep(0.01)


async def test_what_is_asked_for_while_it_is_moved_is_handed_over_when_it_stands(tmp_path: Path) -> None:
    async with a_state_is_being_set(tmp_path) as (catalog, checkpointer, store, client, setting):
        assert await moved(catalog) == 1
        key, kept = Key("tenant", "m", "s"), catalog.find("m", "2").lifecycle.kept
        assert kept is not None
        with pytest.raises(Owned):
            await store.claim(key, Claim("other", 9, kept.meaning, None, True))
        await checkpointer.beat_once()
        assert (await store.read(key)).owner == checkpointer.owner
        store.answers = True
        assert await setting == 50
        while (await store.read(key)).owner:
            await checkpointer.round()
            await asyncio.sleep(0.001)
        assert (await store.read(key)).checkpoints[-1].position == 50
        assert list((await client.hear()).closed.position) == [50]


async def test_where_a_session_will_stand_is_not_said_before_its_state_is_set(tmp_path: Path) -> None:
    async with a_state_is_being_set(tmp_path) as (_, _, store, client, setting):
        step = pb.Steps(handle=[0], first=[1], input=[np.ones(2, "<f4").tobytes()])
        client.say(steps=step)
        error = (await client.hear()).error
        assert (error.reason, list(error.position)) == (pb.REASON_POSITION_MISMATCH, [])
        store.answers = True
        assert await setting == 50
        client.say(steps=step)
        error = (await client.hear()).error
        # One step, and the state.
        assert (list(error.position), list(error.sequence)) == ([50], [2])


async def test_a_session_that_is_closed_by_name_while_it_is_moved_has_ended(tmp_path: Path) -> None:
    async with versions(tmp_path, checkpointer=Checkpointer(MemoryStore(), LIMITS)) as catalog:
        client = Client(catalog, LIMITS)
        await client.open(0, version="1", session_id="s", on_disconnect=pb.ON_DISCONNECT_PARK)
        client.send(0, 1.0, length=20)
        closing = asyncio.ensure_future(catalog.find("m", "1").lifecycle.named.close("tenant", "s"))
        await asyncio.sleep(0)
        assert await moved(catalog) == 1
        assert await closing == 20
        while not (answer := await client.hear()).HasField("closed"):
            pass
        assert answer.closed.reason == pb.CLOSE_REASON_ADMINISTERED


async def test_after_a_step_that_failed_on_the_way_it_goes_on_from_there(tmp_path: Path) -> None:
    async with versions(tmp_path) as catalog:
        client = Client(catalog, LIMITS)
        await client.open(0, version="1")
        client.send(0, 1.0, length=5)
        client.send(0, POISON, length=1)
        assert await moved(catalog) == 1
        await sums(client, 5)
        assert list((await client.hear()).error.position) == [5]
        for version in ("1", "2"):
            await catalog.find("m", version).engine.quiet()
        client.say(steps=pb.Steps(handle=[0], first=[5], input=[np.ones(2, "<f4").tobytes()]))
        assert await sums(client, 1) == [1006]


async def test_what_was_not_stored_before_a_session_was_moved_is_not_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, may = MemoryStore(0.0), asyncio.Event()
    may.set()
    write = store.write

    async def slow(writes: Writes) -> Written:
        await may.wait()
        return await write(writes)

    monkeypatch.setattr(store, "write", slow)
    checkpointer = Checkpointer(store, LIMITS, before_answer=True)
    async with versions(tmp_path, checkpointer=checkpointer) as catalog:
        client, model = Client(catalog, LIMITS), catalog.find("m", "1")
        await client.open(0, version="1", session_id="s", on_disconnect=pb.ON_DISCONNECT_PARK)
        assert await client.step(0, 1.0) == 1001
        may.clear()
        client.send(0, 10.0)
        await model.engine.quiet()
        client.send(0, 1.0, length=60)
        await asyncio.sleep(0)
        assert await moved(catalog) == 1
        key = Key("tenant", "m", "s")
        epoch = (await store.read(key)).epoch
        meant = meaning(model.layout, model.version)
        await store.claim(key, Claim("other", epoch + 1, meant, None, True, 0))
        may.set()
        refused = 0
        while not (message := await client.hear()).HasField("closed"):
            assert message.error.reason == pb.REASON_SESSION_CLOSED
            refused += sum(message.error.length)
        assert (refused, message.closed.reason in (pb.CLOSE_REASON_PARKED, pb.CLOSE_REASON_FENCED)) == (61, True)
