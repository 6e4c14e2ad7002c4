"""Clients that break off in the middle, or send what is no message: their own streams end, nobody else's."""

import socket
from collections.abc import Iterator

import grpc
import numpy as np
import pytest

from gatestream.protos.gatestream.v1 import gatestream_pb2 as pb
from tests.support.http2 import PREFACE, RawCall, grpc_frame, grpc_message
from tests.support.process import ServerProcess
from tests.support.wire import PATIENCE, channel, steps, stub, until

pytestmark = pytest.mark.usefixtures("neighbour")

ONE_STEP = grpc_message(steps({0: [[1, 2]]}))


def is_there(server: ServerProcess, session_id: str) -> bool:
    with stub(server.address) as calls:
        listed = calls.ListSessions(pb.ListSessionsRequest(page_size=1000), timeout=PATIENCE)
    return session_id in {item.session_id for item in listed.sessions}


@pytest.fixture
def call(server: ServerProcess) -> Iterator[RawCall]:
    """A call that holds the session "raw", which is gone when the call has broken off."""
    with RawCall(server.port) as call:
        opening = pb.Open(handle=0, session_id="raw", model="accumulator")
        call.data(grpc_message(pb.ClientMessage(open=opening)))
        call.read_until(b"raw")
        call.data(ONE_STEP)
        call.read_until(np.array([1, 2], "<f4").tobytes())
        yield call
        until(lambda: not is_there(server, "raw"), "the session had ended")


def test_half_a_message_and_then_the_end(call: RawCall) -> None:
    call.data(ONE_STEP[: len(ONE_STEP) // 2], end=True)
    # As a half-close: the session is closed behind its only step.
    closed = pb.ServerMessage(closed=pb.Closed(handle=[0], position=[1], reason=pb.CLOSE_REASON_REQUESTED))
    got = call.read_until(b"grpc-status")
    assert closed.SerializeToString() in got


def test_half_a_message_and_then_a_cancel(call: RawCall) -> None:
    call.data(ONE_STEP[: len(ONE_STEP) // 2])
    call.reset()


def test_half_a_message_and_then_no_connection(call: RawCall) -> None:
    call.data(ONE_STEP[: len(ONE_STEP) // 2])
    call.socket.close()


def test_half_a_frame_and_then_no_connection(call: RawCall) -> None:
    call.half_a_frame(ONE_STEP)
    call.socket.close()


def test_half_a_message_and_then_the_rest(call: RawCall) -> None:
    half = len(ONE_STEP) // 2
    call.data(ONE_STEP[:half])
    call.data(ONE_STEP[half:], end=True)
    assert np.array([2, 4], "<f4").tobytes() in call.read_until(b"grpc-status")


@pytest.mark.parametrize("garbage", [b"\xff" * 20, b"\x12\xff", b"\x0a\x02\x08"])
def test_a_message_that_is_no_protobuf(call: RawCall, garbage: bytes) -> None:
    call.data(grpc_frame(garbage))
    got = call.read_until(b"REASON_MALFORMED")
    assert b"grpc-status\x013" in got
    assert b"what came is not a ClientMessage" in got


def test_a_message_of_fields_that_this_version_does_not_know(call: RawCall) -> None:
    call.data(grpc_frame(b"\xfa\x07\x03abc"), end=True)
    assert b"the message is empty" in call.read_until(b"grpc-status")


def test_a_message_that_says_it_is_compressed_and_is_not(call: RawCall) -> None:
    call.data(b"\1" + ONE_STEP[1:])
    assert b"grpc-status\x0213" in call.read_until(b"Compression bit set")


def test_a_message_that_says_it_is_huge(call: RawCall) -> None:
    # Refused by its first five bytes.
    call.data(b"\0\x7f\xff\xff\xff")
    assert b"grpc-status\x018" in call.read_until(b"larger than max (2147483647 vs. 4718592)")


@pytest.mark.parametrize("junk", [b"GET / HTTP/1.1\r\n\r\n", b"\xff" * 100, PREFACE + b"\xff" * 50])
def test_a_connection_that_does_not_speak_http2(server: ServerProcess, junk: bytes) -> None:
    with socket.create_connection(("127.0.0.1", server.port), PATIENCE) as connection:
        connection.sendall(junk)
        while connection.recv(65536):
            pass


def test_a_method_that_is_not_there(server: ServerProcess) -> None:
    with channel(server.address) as opened:
        call: grpc.UnaryUnaryMultiCallable[bytes, bytes] = opened.unary_unary("/gatestream.v1.Gatestream/GetAll")
        with pytest.raises(grpc.RpcError) as caught:
            call(b"", timeout=PATIENCE)
    assert caught.value.code() == grpc.StatusCode.UNIMPLEMENTED
