"""What a call may send, whichever method it is of: one clear status for what is no request, in memory that is flat."""

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest

from gatestream.protos.gatestream.v1 import gatestream_pb2 as pb
from gatestream.protos.inference import open_inference_grpc_pb2 as oip
from tests.support.http2 import RawCall, gzip_frame
from tests.support.methods import METHODS, REFLECTION, UNARY, called
from tests.support.process import ServerProcess, serving
from tests.support.wire import PATIENCE, Stream, channel, encode, stub

MIB = 2**20
# 4 KB.
BOMB = gzip_frame(bytes(4 * MIB))
TOKEN = "token-of-acme-0123456789"
DESCRIBE, INFER = "/gatestream.v1.Gatestream/Describe", "/inference.GRPCInferenceService/ModelInfer"
SMALL = [name for name in UNARY if not name.endswith(("/SetState", "/ModelInfer"))]
ANYONE = {
    "/grpc.health.v1.Health/Check",
    "/grpc.health.v1.Health/Watch",
    "/inference.GRPCInferenceService/ServerLive",
    "/inference.GRPCInferenceService/ServerReady",
}


class Memory:
    """The peak of a server's memory since this was made."""

    def __init__(self, server: ServerProcess):
        self._process = Path(f"/proc/{server.popen.pid}")
        (self._process / "clear_refs").write_text("5")
        self._before = self._peak()

    def _peak(self) -> int:
        (line,) = (line for line in (self._process / "status").read_text().splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) * 1024

    @property
    def grown(self) -> int:
        return self._peak() - self._before


@pytest.fixture(scope="module")
def guarded(accumulator_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """A server with tokens."""
    tokens = tmp_path_factory.mktemp("secrets") / "tokens.toml"
    tokens.write_text(f'"{TOKEN}" = "acme"\n')
    tokens.chmod(0o600)
    with serving(accumulator_path, tokens=tokens) as running:
        yield running


# ---- What is no request -----------------------------------------------------------------------


@pytest.mark.usefixtures("neighbour")
@pytest.mark.parametrize("garbage", [b"\xff\xff", b"\x0a\x05ab", b"\x0b" * 200])
def test_bytes_that_are_no_message(server: ServerProcess, garbage: bytes) -> None:
    with channel(server.address) as opened:
        for name, method in METHODS.items():
            code, details, _ = called(opened, name, garbage)
            assert code is grpc.StatusCode.INVALID_ARGUMENT, (name, code, details)
            if name not in ("/gatestream.v1.Gatestream/Stream", "/inference.GRPCInferenceService/ModelStreamInfer"):
                kind = method.input_type.name
                assert details == f"what came is not a {kind}: its {len(garbage)} bytes cannot be parsed"


@pytest.mark.usefixtures("neighbour")
def test_a_message_larger_than_its_method_can_need(server: ServerProcess) -> None:
    with channel(server.address) as opened:
        for name in [*SMALL, REFLECTION, "/grpc.health.v1.Health/Watch"]:
            # A field that no version knows, so that all of it is one.
            code, details, _ = called(opened, name, b"\xfa\x07\x89\x27" + bytes(5001))
            kind = METHODS[name].input_type.name
            assert code is grpc.StatusCode.INVALID_ARGUMENT, name
            assert details == f"the {kind} has 5005 bytes; expected at most 4096"


def test_a_state_may_be_as_large_as_the_models_are(server: ServerProcess) -> None:
    with stub(server.address) as calls, Stream(server.address) as stream:
        stream.opened(0, "mine", model="accumulator")
        state = calls.GetState(pb.GetStateRequest(model="accumulator", session_id="mine"), timeout=PATIENCE)
        state.state[0] = encode([5, 6])
        calls.SetState(pb.SetStateRequest(session_id="mine", state=state), timeout=PATIENCE)
        np.testing.assert_array_equal(stream.stepped(0, [[1, 1]]), [[6, 7]])
        state.state[0] = bytes(5000)
        with pytest.raises(grpc.RpcError, match=r"SetStateRequest has 5\d+ bytes; expected at most 41\d\d"):
            calls.SetState(pb.SetStateRequest(session_id="mine", state=state), timeout=PATIENCE)


def test_fields_are_counted_before_they_are_listed(server: ServerProcess) -> None:
    memory = Memory(server)
    with channel(server.address) as opened:
        # 200,000 empty inputs.
        code, details, _ = called(opened, INFER, b"\x2a\x00" * 200_000)
    assert code is grpc.StatusCode.INVALID_ARGUMENT
    assert "more than 256 inputs" in details
    assert memory.grown < 16 * MIB


def test_what_an_error_quotes_is_cut(server: ServerProcess) -> None:
    request = oip.ModelInferRequest(model_name="accumulator")
    request.inputs.add(name="x" * 3_000_000)
    with channel(server.address) as opened:
        code, details, _ = called(opened, INFER, request.SerializeToString())
        assert code is grpc.StatusCode.INVALID_ARGUMENT
        assert len(details) <= 1001
        method = "/inference.GRPCInferenceService/ModelStreamInfer"
        _, _, answers = called(opened, method, request.SerializeToString())
        assert 0 < len(oip.ModelStreamInferResponse.FromString(answers[0]).error_message) <= 1001


# ---- Compressed -------------------------------------------------------------------------------


def test_a_compressed_request_is_served(server: ServerProcess) -> None:
    with channel(server.address) as opened:
        plain = called(opened, DESCRIBE, pb.DescribeRequest(model="counter").SerializeToString())
        packed = called(
            opened, DESCRIBE, pb.DescribeRequest(model="counter").SerializeToString(), grpc.Compression.Gzip
        )
    assert packed == plain
    assert plain[0] is grpc.StatusCode.OK


def test_the_bound_on_messages_is_on_what_they_unpack_to(server: ServerProcess) -> None:
    bomb = gzip_frame(bytes(60 * MIB))
    memory = Memory(server)
    for name in (DESCRIBE, INFER, "/gatestream.v1.Gatestream/Stream"):
        with RawCall(server.port, name, grpc_encoding="gzip") as call:
            call.data_in_frames(bomb)
            assert b"grpc-status\x018" in call.read_until(b"Decompressed message larger than max"), name
    assert memory.grown < 64 * MIB


def test_without_a_token_nothing_is_unpacked(guarded: ServerProcess) -> None:
    memory = Memory(guarded)
    calls = [RawCall(guarded.port, name, grpc_encoding="gzip") for name in (DESCRIBE, INFER) for _ in range(20)]
    for call in calls:
        with call:
            call.data(BOMB, end=True)
            assert b"grpc-status\x0216" in call.read_until(b"Bearer TOKEN")
    assert memory.grown < 16 * MIB


def test_few_messages_are_unpacked_at_once(server: ServerProcess) -> None:
    memory = Memory(server)
    with ExitStack() as held:
        with server.paused():
            calls = [held.enter_context(RawCall(server.port, DESCRIBE, grpc_encoding="gzip")) for _ in range(80)]
            for call in calls:
                call.data(BOMB, end=True)
        for call in calls:
            assert b"grpc-status\x013" in call.read_until(b"bytes; expected at most 4096")
    assert memory.grown < 200 * MIB


# ---- Calls that keep others waiting -----------------------------------------------------------


def test_calls_that_send_no_message_keep_nobody_waiting(server: ServerProcess) -> None:
    with ExitStack() as held, stub(server.address) as other:
        for _ in range(24):
            held.enter_context(RawCall(server.port, DESCRIBE))
        for _ in range(10):
            other.Describe(pb.DescribeRequest(), timeout=PATIENCE)


def test_a_burst_of_ten_thousand_calls(server: ServerProcess) -> None:
    ready = oip.ServerReadyResponse(ready=True).SerializeToString()
    with channel(server.address) as opened:
        method: Any = opened.unary_unary("/inference.GRPCInferenceService/ServerReady")
        calls = [method.future(b"", timeout=PATIENCE) for _ in range(10_000)]
        assert all(call.result() == ready for call in calls)


def test_calls_over_the_bound_are_refused(accumulator_path: Path) -> None:
    request = oip.ModelInferRequest(model_name="accumulator", raw_input_contents=[bytes(8 * 300)])
    request.inputs.add(name="x", datatype="FP32", shape=[1, 300, 2])
    with serving(accumulator_path, tick_steps=1, unary_calls=2) as small, channel(small.address) as opened:
        method: Any = opened.unary_unary(INFER)
        calls = [method.future(request.SerializeToString(), timeout=PATIENCE) for _ in range(30)]
        for call in calls:
            call.exception()
        # It has room again.
        assert called(opened, DESCRIBE, b"")[0] is grpc.StatusCode.OK
    codes = [call.code() for call in calls]
    assert set(codes) == {grpc.StatusCode.OK, grpc.StatusCode.RESOURCE_EXHAUSTED}
    for call in calls:
        if call.code() is not grpc.StatusCode.OK:
            assert "2 unary calls wait for their answers already" in call.details()
            assert int(dict(call.trailing_metadata())["gatestream-retry-after-ms"]) > 0


# ---- Without a token --------------------------------------------------------------------------


def test_every_method_without_a_token(guarded: ServerProcess) -> None:
    """Who has none learns whether the server lives, and nothing else."""
    with channel(guarded.address) as opened:
        for name in METHODS:
            code, details, answers = called(opened, name, b"")
            if name in ANYONE:
                assert code in (grpc.StatusCode.OK, grpc.StatusCode.CANCELLED), (name, details)
                assert answers, name
            else:
                assert (code, answers) == (grpc.StatusCode.UNAUTHENTICATED, []), name
                assert "authorization: Bearer TOKEN" in details
        code, _, answers = called(opened, DESCRIBE, b"", token=TOKEN)
        assert (code, len(answers)) == (grpc.StatusCode.OK, 1)
