"""The same traffic with all short cuts and with none: every answer and every state is the same, bit for bit."""

import asyncio
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gatestream.protos.gatestream.v1 import gatestream_pb2 as pb
from gatestream.protos.inference import open_inference_grpc_pb2 as oip
from gatestream.server.backend.few_steps import FewSteps
from gatestream.server.config import Limits, TickLimits
from gatestream.server.core import engine
from gatestream.server.core.alone import Alone
from gatestream.server.core.catalog import Catalog
from gatestream.server.core.planner import Planner
from gatestream.server.transport import codec, oip_codec
from gatestream.server.transport.native import ClientStream
from gatestream.server.transport.oip import InferenceStream
from tests.support.in_process import serving_here
from tests.support.lstm import Lstm

LSTM = Lstm.random(features=3, hidden=8)
HANDLES = 24
"""More than as many entries as make a message one that is remembered."""
LIMITS = Limits(sessions=64, chunk_length=40)
TICK = TickLimits(rows=16, steps=8)

LENGTHS = st.one_of(st.just(1), st.integers(1, 9))
SOME = st.lists(st.integers(0, HANDLES - 1), min_size=1, max_size=HANDLES, unique=True)
OPERATIONS = st.one_of(
    # Messages like each other: of one session, and of many.
    st.tuples(st.just("steps"), st.lists(st.integers(0, 2), min_size=1, max_size=1), LENGTHS, st.integers(1, 5)),
    st.tuples(st.just("steps"), st.just(list(range(HANDLES))), LENGTHS, st.integers(1, 4)),
    st.tuples(st.just("steps"), SOME, LENGTHS, st.integers(1, 3)),
    st.tuples(st.just("wrong"), SOME, st.sampled_from(["nan", "first", "handle", "size"])),
    st.tuples(st.sampled_from(["reset", "close", "open"]), SOME),
    st.tuples(
        st.just("infer"), st.integers(1, 2), LENGTHS, st.integers(1, 5), st.booleans(), st.none() | st.integers(0, 9)
    ),
    st.tuples(st.just("wait")),
)


@pytest.fixture(scope="module")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return LSTM.save(tmp_path_factory.mktemp("model") / "lstm.onnx")


class Told:
    """What two streams were told, by session and in order, whatever messages it came in."""

    def __init__(self) -> None:
        self.by_session: dict[Any, list[Any]] = {}

    def add(self, session: Any, *what: Any) -> None:
        self.by_session.setdefault(session, []).append(what)

    def own(self, data: bytes) -> None:
        message = pb.ServerMessage.FromString(data)
        kind = message.WhichOneof("kind")
        part = getattr(message, str(kind))
        if kind == "opened":
            self.add(part.handle, "opened", part.position)
        elif kind == "results":
            row = 0
            for k, handle in enumerate(part.handle):
                for step in range(part.length[k] if part.length else 1):
                    columns = [
                        column[row * 4 * LSTM.hidden : (row + 1) * 4 * LSTM.hidden]
                        for column in (*part.output, *part.gate)
                    ]
                    self.add(handle, "step", part.first[k] + step, *columns)
                    row += 1
        elif kind == "error":
            for k, handle in enumerate(part.handle):
                self.add(handle, "error", part.reason, *(column[k] for column in (part.first, part.length) if column))
        else:
            for k, handle in enumerate(part.handle):
                self.add(handle, kind, part.position[k])

    def other(self, data: bytes) -> None:
        answer = oip.ModelStreamInferResponse.FromString(data)
        response = answer.infer_response
        position = response.parameters["gatestream_position"].int64_param
        self.add("infer", response.id, answer.error_message, position, list(response.raw_output_contents))


def steps(handles: list[int], x: Any, length: int, **fields: Any) -> bytes:
    lengths = [] if length == 1 else [length] * len(handles)
    message = pb.Steps(handle=handles, length=lengths, input=[x.astype("<f4").tobytes()], **fields)
    return pb.ClientMessage(steps=message).SerializeToString()


def infer(sequence: int, x: Any, start: bool, number: int, first: int | None = None) -> bytes:
    asked = oip.ModelInferRequest(model_name="lstm", id=f"{number}" if start else "")
    asked.inputs.add(name="x", datatype="FP32", shape=[1, *x.shape])
    asked.raw_input_contents.append(x.astype("<f4").tobytes())
    asked.parameters["sequence_id"].int64_param = sequence
    asked.parameters["sequence_start"].bool_param = start
    if first is not None:
        asked.parameters["gatestream_first"].int64_param = first
    return asked.SerializeToString()


async def live(catalog: Catalog, operations: list[Any]) -> tuple[dict[Any, list[Any]], list[bytes]]:
    """What was told, and the states at the end."""
    rng, told = np.random.default_rng(0), Told()
    own, other = ClientStream(catalog, LIMITS, "tenant"), InferenceStream(catalog, LIMITS, "tenant")
    (model,) = catalog

    def open_(handle: int) -> None:
        message = pb.Open(handle=handle, session_id=f"s{handle}", gates=handle % 3 == 0)
        own.receive(pb.ClientMessage(open=message).SerializeToString())

    async def read(stream: ClientStream | InferenceStream, tell: Callable[[bytes], None]) -> None:
        while True:
            item = await stream.send_queue.take()
            assert item is not None
            stream.rows -= item[1]
            tell(bytes(item[0]))

    readers = [asyncio.ensure_future(read(own, told.own)), asyncio.ensure_future(read(other, told.other))]
    for handle in range(HANDLES):
        open_(handle)
    for number, (kind, *operation) in enumerate(operations):
        match kind, *operation:
            case "steps", handles, length, times:
                for _ in range(times):
                    own.receive(steps(handles, rng.normal(size=(len(handles) * length, LSTM.features)), length))
            case "wrong", handles, how:
                x = rng.normal(size=(len(handles), LSTM.features))
                if how == "nan":
                    x[-1, 0] = np.nan
                if how == "size":
                    x = x[:, 1:]
                first = [2**40] * len(handles) if how == "first" else []
                own.receive(steps([40] * len(handles) if how == "handle" else handles, x, 1, first=first))
            case "reset", handles:
                own.receive(pb.ClientMessage(reset=pb.Reset(handle=handles)).SerializeToString())
            case "close", handles:
                own.receive(pb.ClientMessage(close=pb.Close(handle=handles)).SerializeToString())
            case "open", handles:
                for handle in handles:
                    open_(handle)
            case "infer", sequence, length, times, start, first:
                for k in range(times):
                    x = rng.normal(size=(length, LSTM.features))
                    other.receive(infer(sequence, x, start and k == 0, number, first))
            case _:
                await model.engine.quiet()
                await asyncio.sleep(0)
    await model.engine.quiet()
    for _ in range(50):
        await asyncio.sleep(0)
    for reader in readers:
        reader.cancel()
        with suppress(asyncio.CancelledError):
            await reader
    names = [f"s{handle}" for handle in range(HANDLES)] + ["sequence:1", "sequence:2"]
    states = []
    for name in names:
        slot = model.engine.sessions.tenants.get("tenant", name)
        states.append(b"" if slot is None else b"".join(row.tobytes() for row in model.engine.rows.read(slot)))
    own.disconnect()
    other.disconnect()
    return told.by_session, states


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(OPERATIONS, min_size=1, max_size=14), st.sampled_from([1, 2, 64]))
async def test_short_cuts_change_nothing(artifact: Path, operations: list[Any], lonely: int) -> None:
    seen = []
    for straight in (False, True):
        async with serving_here(artifact, limits=LIMITS, tick=TICK, straight=straight) as catalog:
            with patch.object(engine, "_LONELY_RUNS", lonely):
                seen.append(await live(catalog, operations))
    assert seen[0] == seen[1]
    assert sum(map(len, seen[0][0].values())) >= HANDLES


async def test_errors_come_in_the_order_of_what_they_are_of(artifact: Path) -> None:
    # What is wrong with the numbers of a step is found when it is taken in, with the size of a column at once.
    for straight in (False, True):
        async with serving_here(artifact, limits=LIMITS, tick=TICK, straight=straight) as catalog:
            for later in (("wrong", [0], "size"), ("open", [0])):
                told, _ = await live(catalog, [("wrong", [0], "nan"), later])
                assert [heard[0] for heard in told[0]] == ["opened", "error", "error"]
                assert told[0][1][1] == pb.REASON_NOT_FINITE


async def test_the_short_cuts_are_taken(artifact: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """That the test above compares two ways."""
    taken: Counter[str] = Counter()

    def noted(owner: Any, name: str) -> None:
        done = getattr(owner, name)

        def note(*arguments: Any) -> Any:
            result = done(*arguments)
            taken[f"{owner.__name__}.{name}"] += bool(result or name == "run")
            return result

        monkeypatch.setattr(owner, name, note)

    short_cuts = [
        *((codec._ChunkTemplate, "match"), (codec._StepsTemplate, "match")),
        *((Planner, "few"), (FewSteps, "run"), (Alone, "step")),
    ]
    for owner, name in short_cuts:
        noted(owner, name)
    # Of three requests the last is recognised, and not read.
    noted(oip_codec, "read")
    read = f"{oip_codec.__name__}.read"
    monkeypatch.setattr(engine, "_LONELY_RUNS", 2)
    alone = [("steps", [0], 1, 1), ("wait",)] * 8
    operations = [*alone, ("steps", list(range(HANDLES)), 1, 3), ("infer", 1, 1, 3, True, None)]
    async with serving_here(artifact, limits=LIMITS, tick=TICK, straight=False) as catalog:
        await live(catalog, operations)
    assert taken.pop(read) == 2
    assert set(+taken) == {f"{owner.__name__}.{name}" for owner, name in short_cuts}
    taken.clear()
    async with serving_here(artifact, limits=LIMITS, tick=TICK, straight=True) as catalog:
        await live(catalog, operations)
    assert taken.pop(read) == 3
    assert not +taken
