"""What one tenant may have: at its bound it is refused and told why, another is served, and what ends is given back."""

import queue
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import psutil
import pytest

from gatestream.protos.gatestream.v1 import gatestream_pb2 as pb
from gatestream.protos.gatestream.v1 import gatestream_pb2_grpc as pb_grpc
from gatestream.protos.inference import open_inference_grpc_pb2 as oip
from gatestream.protos.inference import open_inference_grpc_pb2_grpc as oip_grpc
from tests.support.lstm import Lstm
from tests.support.process import ServerProcess, serving
from tests.support.wire import PATIENCE, SMALL_WINDOW, Stream, bearer, call_refused, channel, steps, until

A, B = "token-of-tenant-a-0123456789", "token-of-tenant-b-0123456789"
SEQUENCE_SECONDS = 1.0
LIMITS = {
    "sessions": 8,
    "streams": 6,
    "rows": 1200,
    "rows_per_stream": 400,
    "chunk_length": 400,
    "tick_steps": 1,
    "sequence_timeout": SEQUENCE_SECONDS,
}


@pytest.fixture(scope="module")
def tokens(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("tokens") / "tokens.toml"
    path.write_text(f'"{A}" = "a"\n"{B}" = "b"\n')
    path.chmod(0o600)
    return path


@pytest.fixture(scope="module")
def server_of_two(accumulator_path: Path, tokens: Path) -> Iterator[ServerProcess]:
    with serving(accumulator_path, tokens=tokens, **LIMITS) as running:
        yield running


@pytest.fixture
def server(server_of_two: ServerProcess) -> Iterator[ServerProcess]:
    """With two tenants, each of which may have half; after each test each can have all of its half again."""
    yield server_of_two
    until(lambda: not sessions(server_of_two, A) and not sessions(server_of_two, B), "no session was left")
    for token in (A, B):
        with ExitStack() as stack:
            until(partial(can_open, server_of_two, token, 3), "all of its streams were free")
            streams = [stack.enter_context(Stream(server_of_two.address, token=token)) for _ in range(2)]
            for stream in streams:
                stream.opened(0)
                stream.opened(1)
            streams[0].steps({0: ones(200), 1: ones(200)})
            streams[1].steps({0: ones(100), 1: ones(100)})
            streams[0].results({0: 200, 1: 200}, 2)
            streams[1].results({0: 100, 1: 100}, 2)


def ones(count: int) -> object:
    return np.ones((count, 2))


def sessions(server: ServerProcess, token: str) -> list[pb.SessionInfo]:
    with channel(server.address) as opened:
        listed = pb_grpc.GatestreamStub(opened).ListSessions(
            pb.ListSessionsRequest(), metadata=bearer(token), timeout=PATIENCE
        )
    return list(listed.sessions)


def can_open(server: ServerProcess, token: str, streams: int) -> bool:
    with ExitStack() as stack:
        opened = [stack.enter_context(Stream(server.address, token=token)) for _ in range(streams)]
        for stream in opened:
            stream.steps({0: ones(1)})
        return all(answers(stream) for stream in opened)


def answers(stream: Stream) -> bool:
    try:
        return stream.read().HasField("error")
    except grpc.RpcError:
        return False


@contextmanager
def second_door(server: ServerProcess) -> Iterator[oip_grpc.GRPCInferenceServiceStub]:
    with channel(server.address) as opened:
        yield oip_grpc.GRPCInferenceServiceStub(opened)


def request(sequence: str = "", *, start: bool = False) -> oip.ModelInferRequest:
    asked = oip.ModelInferRequest(model_name="accumulator")
    asked.inputs.add(name="x", datatype="FP32", shape=[1, 2])
    asked.raw_input_contents.append(np.ones(2, np.float32).tobytes())
    if sequence:
        asked.parameters["sequence_id"].string_param = sequence
        asked.parameters["sequence_start"].bool_param = start
    return asked


def is_served(server: ServerProcess, token: str) -> None:
    """A session, a stream and steps, through both doors."""
    with Stream(server.address, token=token) as stream, second_door(server) as door:
        stream.opened(0)
        assert stream.stepped(0, [[1, 2]]).tolist() == [[1, 2]]
        answer = door.ModelInfer(request(), metadata=bearer(token), timeout=PATIENCE)
        assert np.frombuffer(answer.raw_output_contents[0], np.float32).tolist() == [1, 1]


def test_describe_tells_what_the_tenant_may_have(server: ServerProcess) -> None:
    with channel(server.address) as opened:
        calls = pb_grpc.GatestreamStub(opened)
        limits = calls.Describe(pb.DescribeRequest(), metadata=bearer(A), timeout=PATIENCE).limits
    assert (limits.tenant_sessions, limits.tenant_streams, limits.tenant_rows) == (4, 3, 600)
    assert limits.tenant_reply_bytes == limits.reply_bytes // 2
    assert limits.sequence_timeout_s == SEQUENCE_SECONDS


def test_sessions(server: ServerProcess) -> None:
    with Stream(server.address, token=A) as stream:
        for handle in range(4):
            stream.opened(handle, f"s{handle}")
        stream.open(4)
        error = stream.refused()
        assert (error.reason, list(error.handle)) == (pb.REASON_SESSIONS_EXHAUSTED, [4])
        assert error.message.startswith("all 4 of this tenant's sessions are taken")
        assert error.retry_after_ms > 0
        with call_refused(grpc.StatusCode.RESOURCE_EXHAUSTED, pb.REASON_SESSIONS_EXHAUSTED, "this tenant's"):
            stream.calls.Fork(pb.ForkRequest(session_id="s0"), metadata=bearer(A), timeout=PATIENCE)
        with second_door(server) as door, pytest.raises(grpc.RpcError, match="this tenant's"):
            door.ModelInfer(request("one", start=True), metadata=bearer(A), timeout=PATIENCE)
        is_served(server, B)
        assert stream.stepped(0, [[1, 2]]).tolist() == [[1, 2]]
        stream.close(0)
        stream.expect("closed")
        assert stream.opened(4).created


def test_sequences_whose_client_has_left(server: ServerProcess) -> None:
    with second_door(server) as door:
        for k in range(4):
            door.ModelInfer(request(f"q{k}", start=True), metadata=bearer(A), timeout=PATIENCE)
        with pytest.raises(grpc.RpcError, match="this tenant's sessions are taken"):
            door.ModelInfer(request("more", start=True), metadata=bearer(A), timeout=PATIENCE)
        is_served(server, B)
        # The one that is used goes on, the others end when their time is over.
        until(lambda: still_there(server, door, "q0") == ["sequence:s:q0"], "the others had ended")
        with pytest.raises(grpc.RpcError, match=r"q1.*is not here; .* after its last answer it ends") as caught:
            door.ModelInfer(request("q1"), metadata=bearer(A), timeout=PATIENCE)
        assert caught.value.code() == grpc.StatusCode.NOT_FOUND
        door.ModelInfer(request("q1", start=True), metadata=bearer(A), timeout=PATIENCE)


def still_there(server: ServerProcess, door: oip_grpc.GRPCInferenceServiceStub, used: str) -> list[str]:
    door.ModelInfer(request(used), metadata=bearer(A), timeout=PATIENCE)
    return [session.session_id for session in sessions(server, A)]


def test_a_session_that_a_stream_holds_has_the_longer_time(server: ServerProcess) -> None:
    with Stream(server.address, token=A) as stream, second_door(server) as door:
        door.ModelInfer(request("kept", start=True), metadata=bearer(A), timeout=PATIENCE)
        assert not stream.opened(0, "sequence:s:kept", mode=pb.OPEN_MODE_RESUME).created
        door.ModelInfer(request("left", start=True), metadata=bearer(A), timeout=PATIENCE)
        until(lambda: [s.session_id for s in sessions(server, A)] == ["sequence:s:kept"], "the other one had ended")
        assert stream.stepped(0, [[1, 1]]).tolist() == [[2, 2]]


def test_streams(server: ServerProcess) -> None:
    with ExitStack() as stack:
        streams = [stack.enter_context(Stream(server.address, token=A)) for _ in range(3)]
        for stream in streams:
            stream.opened(0)
        with Stream(server.address, token=A) as fourth:
            code, details = fourth.status()
            assert code == grpc.StatusCode.RESOURCE_EXHAUSTED
            assert details.startswith("all 3 of this tenant's streams are taken")
            trailing = dict(fourth.call.trailing_metadata())
            assert trailing["gatestream-reason"] == "REASON_STREAMS_EXHAUSTED"
            assert int(trailing["gatestream-retry-after-ms"]) > 0
        with second_door(server) as door, pytest.raises(grpc.RpcError, match="this tenant's streams"):
            next(door.ModelStreamInfer(iter([request()]), metadata=bearer(A), timeout=PATIENCE))
        is_served(server, B)
        assert streams[0].stepped(0, [[1, 2]]).tolist() == [[1, 2]]
        streams[2].disconnect()
        until(lambda: can_open(server, A, 1), "a stream was free")


def test_rows(server: ServerProcess) -> None:
    with ExitStack() as stack:
        mine = [stack.enter_context(Stream(server.address, token=A)) for _ in range(2)]
        other = stack.enter_context(Stream(server.address, token=B))
        for stream in (*mine, other):
            stream.opened(0)
            stream.opened(1)
        with server.paused():
            for stream in mine:
                stream.steps({0: ones(200), 1: ones(200)})
                stream.flush()
            other.steps({0: ones(2), 1: ones(398)})
            other.flush()
        firsts = [stream.read() for stream in mine]
        (refused,) = [k for k, message in enumerate(firsts) if message.HasField("error")]
        error = firsts[refused].error
        assert (error.reason, list(error.handle)) == (pb.REASON_ROWS_EXHAUSTED, [0, 1])
        assert "400 rows more than the" in error.message
        assert "pending would be over this tenant's 600; wait" in error.message
        assert error.retry_after_ms > 0
        # The other tenant's were let in beside them.
        other.results({0: 2, 1: 398}, 2)
        # Those of a stream that goes away are free at once.
        mine[1 - refused].disconnect()
        until(lambda: taken(mine[refused]), "there was room")


def taken(stream: Stream) -> bool:
    stream.steps({0: ones(200), 1: ones(200)}, first=[0, 0])
    message = stream.read()
    if message.HasField("error"):
        assert message.error.reason == pb.REASON_ROWS_EXHAUSTED
        return False
    counts = {0: 0, 1: 0}
    while True:
        for handle, length in zip(message.results.handle, message.results.length or (1, 1), strict=False):
            counts[handle] += length
        if counts == {0: 200, 1: 200}:
            return True
        message = stream.read()


REPLY_BYTES = 48 * 2**20
# What gRPC itself buffers, either way, of so many streams, and what an allocator keeps: 64 MiB.
SLACK = 110 * 2**20
LENGTH = 200
HIDDEN = 256


@pytest.fixture(scope="module")
def wide(tmp_path_factory: pytest.TempPathFactory, tokens: Path) -> Iterator[ServerProcess]:
    """A row has an answer of 5 KB: half of the bytes are 4,500 rows."""
    path = Lstm.random(hidden=HIDDEN).save(tmp_path_factory.mktemp("wide") / "lstm.onnx")
    limits = {"reply_bytes": REPLY_BYTES, "reply_bytes_per_stream": 4 * 2**20, "sequence_timeout": 0}
    with serving(path, tokens=tokens, **limits) as running:
        with Stream(running.address, token=B) as stream:
            stream.opened(0, gates=True)
            stream.send(steps({0: np.zeros((500, 3))}))
            stream.results({0: 500}, HIDDEN)
        yield running


def unread_results(server: ServerProcess, stack: ExitStack) -> Callable[[], str]:
    stream = stack.enter_context(Stream(server.address, token=A, options=SMALL_WINDOW))
    stream.opened(0, gates=True)
    for _ in range(40):
        stream.send(steps({0: np.zeros((LENGTH, 3))}))

    def refusal() -> str:
        while not (message := stream.read()).HasField("error"):
            pass
        return message.error.message

    return refusal


def unread_answers(server: ServerProcess, stack: ExitStack) -> Callable[[], str]:
    asked = oip.ModelInferRequest(model_name="lstm")
    asked.inputs.add(name="x", datatype="FP32", shape=[1, LENGTH, 3])
    asked.raw_input_contents.append(bytes(4 * LENGTH * 3))
    for name in ("y", "i", "f", "g", "o"):
        asked.outputs.add(name=name)
    requests: queue.SimpleQueue[oip.ModelInferRequest | None] = queue.SimpleQueue()
    options = [("grpc.use_local_subchannel_pool", 1), *SMALL_WINDOW]
    opened = stack.enter_context(grpc.insecure_channel(server.address, options))
    call = oip_grpc.GRPCInferenceServiceStub(opened).ModelStreamInfer(
        iter(requests.get, None), metadata=bearer(A), timeout=PATIENCE
    )
    stack.callback(requests.put, None)
    for _ in range(40):
        requests.put(asked)
    return lambda: next(answer.error_message for answer in call if answer.error_message)


def memory(server: ServerProcess) -> int:
    rss: int = psutil.Process(server.popen.pid).memory_info().rss
    return rss


@pytest.mark.parametrize("unread", [unread_results, unread_answers])
def test_bytes_that_one_tenant_leaves_unread(
    wide: ServerProcess, unread: Callable[[ServerProcess, ExitStack], Callable[[], str]]
) -> None:
    before = memory(wide)
    with ExitStack() as stack:
        other = stack.enter_context(Stream(wide.address, token=B))
        other.opened(0, gates=True)
        # Each may hold 4 MiB: together far more than the tenant.
        readers = [unread(wide, stack) for _ in range(20)]
        for position in range(100):
            other.send(steps({0: np.zeros((1, 3))}, first=[position]))
            other.results({0: 1}, HIDDEN)
            assert memory(wide) - before < REPLY_BYTES // 2 + SLACK, position
        refusals = [refusal() for refusal in readers]
        assert any("bytes" in text and "over this tenant's" in text for text in refusals), refusals
    # All of it is given back: of the account at once, and to the machine.
    with Stream(wide.address, token=A) as stream:
        stream.opened(0, gates=True)
        until(lambda: not answered(stream).HasField("error"), "there was room")
    until(lambda: memory(wide) - before < SLACK, "the memory was given back")


def answered(stream: Stream) -> pb.ServerMessage:
    stream.send(steps({0: np.zeros((800, 3))}))
    left = 800
    while left and not (message := stream.read()).HasField("error"):
        left -= sum(message.results.length) or 1
    return message


def test_unary_calls(accumulator_path: Path, tokens: Path) -> None:
    """One tenant has its half, and another one is served meanwhile."""
    body = request()
    body.inputs[0].shape[:] = [1, 300, 2]
    body.raw_input_contents[0] = np.ones((300, 2), np.float32).tobytes()
    with serving(accumulator_path, tokens=tokens, tick_steps=1, unary_calls=4) as running, second_door(running) as door:
        calls = [door.ModelInfer.future(body, metadata=bearer(A), timeout=PATIENCE) for _ in range(30)]
        is_served(running, B)
        errors: list[Any] = [error for call in calls if (error := call.exception()) is not None]
        assert 0 < len(errors) < 30
        for error in errors:
            assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
            assert "2 unary calls of this tenant wait for their answers already" in error.details()
        is_served(running, A)
