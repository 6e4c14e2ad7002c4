"""A stream on which nothing happens ends, with a status that says so; one that is used or holds a session does not."""

import asyncio
import queue
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import grpc
import numpy as np
import pytest

from gatestream.client import aio, connect
from gatestream.protos.gatestream.v1 import gatestream_pb2 as pb
from gatestream.protos.inference import open_inference_grpc_pb2 as oip
from gatestream.protos.inference import open_inference_grpc_pb2_grpc as oip_grpc
from tests.support.artifacts import accumulator
from tests.support.process import ServerProcess, serving
from tests.support.wire import PATIENCE, SMALL_WINDOW, Stream, channel, until

SECONDS = 1.0
FEATURES = 1000


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    model: Path = accumulator(tmp_path_factory.mktemp("wide") / "accumulator.onnx", features=FEATURES)
    with serving(model, idle_stream_timeout=SECONDS, streams=3) as running:
        yield running


def ended(stream: Stream) -> None:
    code, details = stream.status()
    assert code == grpc.StatusCode.UNAVAILABLE
    assert details == f"the stream held no session and had no message for {SECONDS:g} s; open another"


def test_one_on_which_nothing_ever_happens(server: ServerProcess) -> None:
    with Stream(server.address) as one, Stream(server.address) as two, Stream(server.address) as three:
        for stream in (one, two, three):
            ended(stream)
    with Stream(server.address) as stream:
        stream.opened(0)


def test_one_whose_sessions_have_ended(server: ServerProcess) -> None:
    with Stream(server.address) as stream:
        stream.opened(0)
        stream.close(0)
        stream.expect("closed")
        ended(stream)


def test_one_that_holds_a_session_or_is_used_stays(server: ServerProcess) -> None:
    with Stream(server.address) as holds, Stream(server.address) as used:
        holds.opened(0)
        end = time.monotonic() + 1.5 * SECONDS
        while time.monotonic() < end:
            used.steps({7: np.zeros((1, FEATURES))})
            assert used.refused().reason == pb.REASON_HANDLE_UNKNOWN
            time.sleep(SECONDS / 20)
        assert holds.stepped(0, np.ones((1, FEATURES)))[0, 0] == 1


def request() -> oip.ModelInferRequest:
    asked = oip.ModelInferRequest(model_name="accumulator")
    asked.inputs.add(name="x", datatype="FP32", shape=[1, 1000, FEATURES])
    asked.raw_input_contents.append(bytes(4 * 1000 * FEATURES))
    return asked


def test_one_of_the_second_door(server: ServerProcess) -> None:
    requests: queue.SimpleQueue[oip.ModelInferRequest | None] = queue.SimpleQueue()
    with channel(server.address) as opened:
        answers = oip_grpc.GRPCInferenceServiceStub(opened).ModelStreamInfer(iter(requests.get, None), timeout=PATIENCE)
        requests.put(request())
        assert not next(answers).error_message
        with pytest.raises(grpc.RpcError, match="had no message for"):
            next(answers)
        assert answers.code() == grpc.StatusCode.UNAVAILABLE
        requests.put(None)


def test_one_that_does_not_read_its_answers(server: ServerProcess) -> None:
    """It would never see a status, and does not keep others out for ever."""
    requests: queue.SimpleQueue[oip.ModelInferRequest | None] = queue.SimpleQueue()
    with grpc.insecure_channel(server.address, [("grpc.use_local_subchannel_pool", 1), *SMALL_WINDOW]) as opened:
        answers = oip_grpc.GRPCInferenceServiceStub(opened).ModelStreamInfer(iter(requests.get, None), timeout=PATIENCE)
        for _ in range(3):
            requests.put(request())
        until(lambda: not can_open(server, 3), "it took the place of a stream")
        until(lambda: can_open(server, 3), "it had ended")
        requests.put(None)
        answers.cancel()


def can_open(server: ServerProcess, streams: int) -> bool:
    with ExitStack() as stack:
        opened = [stack.enter_context(Stream(server.address)) for _ in range(streams)]
        for stream in opened:
            stream.open(0)
        return all(admitted(stream) for stream in opened)


def admitted(stream: Stream) -> bool:
    try:
        return stream.read().HasField("opened")
    except grpc.RpcError:
        return False


def test_the_python_clients_open_another(server: ServerProcess) -> None:
    with connect(server.address) as client:
        for seconds in (1.5 * SECONDS, 0):
            with client.session() as session:
                assert session.step(np.ones(FEATURES, np.float32))[0] == 1
            time.sleep(seconds)


async def test_and_so_with_asyncio(server: ServerProcess) -> None:
    async with aio.connect(server.address) as client:
        for seconds in (1.5 * SECONDS, 0):
            async with client.session() as session:
                assert (await session.step(np.ones(FEATURES, np.float32)))[0] == 1
            await asyncio.sleep(seconds)


def test_never(tmp_path: Path) -> None:
    with (
        serving(accumulator(tmp_path / "accumulator.onnx"), idle_stream_timeout=0) as server,
        Stream(server.address) as stream,
    ):
        time.sleep(1.5 * SECONDS)
        stream.opened(0)
