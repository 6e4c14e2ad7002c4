"""Whatever streams of two tenants do, through both doors: what was counted for them is given back, once."""

import asyncio
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gatestream.protos.gatestream.v1 import gatestream_pb2 as pb
from gatestream.protos.inference import open_inference_grpc_pb2 as oip
from gatestream.server.backend.artifact import Artifact
from gatestream.server.config import Limits, ServerConfig, TickLimits
from gatestream.server.core.accounts import Accounts
from gatestream.server.core.catalog import Catalog, build
from gatestream.server.core.reply_sink import CloseReason
from gatestream.server.errors import Exhausted, InvalidRequest, Refused
from gatestream.server.transport.native import ClientStream
from gatestream.server.transport.oip import InferenceCall, InferenceStream
from tests.support.artifacts import POISON
from tests.support.engine import Recorder, bench

LIMITS = Limits(
    sessions=6,
    sessions_per_stream=4,
    rows=60,
    rows_per_stream=24,
    chunk_length=20,
    reply_bytes_per_stream=4096,
    reply_bytes=16_000,
)
VALUES = st.sampled_from([1.0, 1.0, 1.0, POISON, float("nan")])
OPERATIONS = st.one_of(
    st.tuples(st.just("open"), st.integers(0, 3), st.integers(0, 3), st.integers(0, 2)),
    st.tuples(st.just("steps"), st.lists(st.tuples(st.integers(0, 4), st.integers(1, 21), VALUES), max_size=3)),
    st.tuples(st.sampled_from(["reset", "close"]), st.lists(st.integers(0, 4), max_size=3)),
    st.tuples(st.just("infer"), st.integers(0, 2), st.integers(1, 21), VALUES, st.booleans(), st.booleans()),
    st.tuples(st.sampled_from(["run", "read", "half-close", "vanish", "state"])),
)
Operation = tuple[Any, ...]
LIFE = st.lists(st.tuples(st.integers(0, 5), OPERATIONS), max_size=40)


def own_message(operation: Operation) -> pb.ClientMessage:
    match operation:
        case ("open", handle, name, mode):
            return pb.ClientMessage(open=pb.Open(handle=handle, session_id=f"s{name}" if name else "", mode=mode))
        case ("steps", entries):
            chunks = [np.full((length, 2), value, "<f4") for _, length, value in entries]
            return pb.ClientMessage(
                steps=pb.Steps(
                    handle=[handle for handle, _, _ in entries],
                    length=[length for _, length, _ in entries],
                    input=[b"".join(chunk.tobytes() for chunk in chunks)],
                )
            )
        case ("reset", handles):
            return pb.ClientMessage(reset=pb.Reset(handle=handles))
        case _:
            return pb.ClientMessage(close=pb.Close(handle=operation[1]))


def request(sequence: int, length: int, value: float, start: bool, end: bool) -> bytes:
    asked = oip.ModelInferRequest(model_name="accumulator", id="an-id")
    asked.inputs.add(name="x", datatype="FP32", shape=[1, length, 2])
    asked.raw_input_contents.append(np.full((length, 2), value, "<f4").tobytes())
    asked.parameters["sequence_id"].int64_param = sequence
    asked.parameters["sequence_start"].bool_param = start
    asked.parameters["sequence_end"].bool_param = end
    return asked.SerializeToString()


def end(call: InferenceCall, _answer: asyncio.Future[Any]) -> None:
    call.end()


async def live(models: Catalog, life: list[tuple[int, Operation]]) -> None:
    """Six streams of two tenants, four of the own wire; what vanishes is followed by another."""

    def made(k: int) -> ClientStream | InferenceStream:
        return (ClientStream if k < 4 else InferenceStream)(models, LIMITS, "ab"[k % 2])

    streams = [made(k) for k in range(6)]
    calls: list[asyncio.Future[Any]] = []
    (model,) = models
    for k, operation in life:
        stream = streams[k]
        match operation[0]:
            case "run":
                for _ in range(3):
                    await asyncio.sleep(0)
            case "read":
                with suppress(TimeoutError):
                    async with asyncio.timeout(0):
                        if (item := await stream.send_queue.take()) is not None:
                            stream.rows -= item[1]
            case "half-close":
                stream.half_close()
            case "vanish":
                stream.disconnect()
                streams[k] = made(k)
            case "state":
                calls.append(asyncio.ensure_future(model.lifecycle.named.state("ab"[k % 2], "s1")))
            case "infer" if isinstance(stream, InferenceStream):
                stream.receive(request(*operation[1:]))
            case "infer":
                call = InferenceCall(models, LIMITS, "ab"[k % 2])
                calls.append(asyncio.ensure_future(call.infer(request(*operation[1:]))))
                calls[-1].add_done_callback(partial(end, call))
            case _ if isinstance(stream, ClientStream):
                stream.receive(own_message(operation).SerializeToString())
        assert models.accounts.bytes >= 0
    for stream in streams:
        stream.disconnect()
    for answer in await asyncio.gather(*calls, return_exceptions=True):
        assert not isinstance(answer, Exception) or isinstance(answer, Refused), answer
    await model.engine.quiet()


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(LIFE)
async def test_all_that_was_counted_is_given_back(accumulator_path: Path, life: list[tuple[int, Operation]]) -> None:
    config = ServerConfig(
        artifacts=(accumulator_path,), provider="cpu", limits=LIMITS, tick=TickLimits(rows=8, steps=4)
    )
    models = Catalog(Accounts(LIMITS))
    models.add(build(Artifact.load(accumulator_path), models.reserve("accumulator"), config, models.accounts))
    models.divide(several=True)
    (model,) = models
    task = asyncio.create_task(model.engine.run())
    try:
        await live(models, life)
        accounts = models.accounts
        assert (model.engine.admission.rows, accounts.bytes) == (0, 0)
        assert models.check() == []
        for tenant in "ab":
            account = accounts.of(tenant)
            assert (account.rows, account.bytes, account.streams) == (0, 0, 0)
        # Sequences alone are left, and have an end of their own.
        await model.lifecycle.expiry.end_all(CloseReason.DRAINED)
        for tenant in "ab":
            for k in range(accounts.most.sessions):
                model.engine.sessions.create(tenant, f"after-{k}", 0.0)
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


async def test_sequences_whose_time_is_over_make_room_before_they_are_swept(accumulator_path: Path) -> None:
    async with bench(accumulator_path, sessions=4, sequence_timeout=10.0) as b:
        b.engine.sessions.share = 3
        owner = Recorder()

        def start(tenant: str, name: str) -> int:
            return b.lifecycle.sequences.session(owner, tenant, f"sequence:{name}", start=True)

        for name in ("1", "2"):
            start("a", name)
        held = b.open(owner, 0)
        b.now = 5.0
        start("a", "3")
        with pytest.raises(Exhausted, match="this tenant's"):
            start("a", "4")
        with pytest.raises(Exhausted, match="all 4 sessions"):
            start("b", "1")
        b.now = 10.5
        # Of its own, where it has as many as it may; else anybody's.
        start("a", "4")
        assert b.engine.sessions.tenants.get("a", "sequence:1") is None
        assert b.engine.sessions.tenants.get("a", "sequence:3") is not None
        start("b", "1")
        assert len(b.engine.sessions) == 4
        with pytest.raises(Exhausted):
            start("b", "2")
        assert b.engine.sessions.owner[held] is owner


async def test_a_sweep_of_many_leaves_the_loop_its_turns(accumulator_path: Path) -> None:
    async with bench(accumulator_path, sessions=2000, sequence_timeout=10.0) as b:
        for k in range(2000):
            b.lifecycle.sequences.session(Recorder(), "a", f"sequence:{k}", start=True)
        b.now = 10.5
        sweep = asyncio.create_task(b.lifecycle.expiry.expire())
        left = []
        while not sweep.done():
            await asyncio.sleep(0)
            left.append(len(b.engine.sessions))
        assert await sweep == 2000
        assert len(set(left)) > 3


async def test_an_id_of_another_form_makes_no_tenant_poorer(accumulator_path: Path) -> None:
    async with bench(accumulator_path) as b:
        b.engine.sessions.share = 1
        with pytest.raises(InvalidRequest):
            b.open(Recorder(), 0, session_id="not an id")
        b.open(Recorder(), 0)
