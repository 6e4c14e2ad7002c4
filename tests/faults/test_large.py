"""Messages of megabytes: what they may hold is taken, and what they may not is answered by one error."""

from collections.abc import Callable
from typing import Any

import grpc
import numpy as np
import pytest

from gatestream.protos.gatestream.v1 import gatestream_pb2 as pb
from gatestream.server.transport.wire import head
from tests.support.process import ServerProcess
from tests.support.wire import PATIENCE, channel, encode

pytestmark = pytest.mark.usefixtures("neighbour")

SIZE = 4 * 2**20
# Megabytes each, made when they are sent.
FAULTS: dict[str, tuple[Callable[[], pb.ClientMessage], str]] = {
    "handles": (lambda: stepping(handle=[0] * SIZE), "steps.handle has over 10000 entries"),
    "lengths": (lambda: stepping(handle=[0], length=[1] * SIZE), "steps.length has over 10000 entries"),
    "first": (lambda: stepping(handle=[0], first=[1] * SIZE), "steps.first has over 10000 entries"),
    "inputs": (lambda: stepping(handle=[0], input=[b""] * (SIZE // 2)), "steps has over 256 fields"),
    "one-input": (lambda: stepping(handle=[0], input=[bytes(SIZE)]), "has 4194304 bytes; expected 8"),
    "reset": (lambda: pb.ClientMessage(reset=pb.Reset(handle=[0] * SIZE)), "is not one Steps message"),
    "close": (lambda: pb.ClientMessage(close=pb.Close(handle=[0] * SIZE)), "is not one Steps message"),
    "open": (lambda: opening(constant=[pb.Constant()] * (SIZE // 2 - 20)), "too many fields"),
    "constant": (lambda: opening(constant=[pb.Constant(name="a", value=bytes(SIZE))]), "'a' was given; model"),
}


def opening(**fields: Any) -> pb.ClientMessage:
    return pb.ClientMessage(open=pb.Open(handle=1, model="accumulator", **fields))


def stepping(**columns: Any) -> pb.ClientMessage:
    return pb.ClientMessage(steps=pb.Steps(**columns))


def talk(server: ServerProcess, *sent: bytes) -> list[pb.ServerMessage]:
    """What is answered to these messages, after the opening of a session of the accumulator, before its close."""
    opening = pb.ClientMessage(open=pb.Open(handle=0, model="accumulator")).SerializeToString()
    with channel(server.address) as opened:
        stream: grpc.StreamStreamMultiCallable[bytes, bytes] = opened.stream_stream("/gatestream.v1.Gatestream/Stream")
        answers = [pb.ServerMessage.FromString(data) for data in stream(iter([opening, *sent]), timeout=PATIENCE)]
    assert answers[0].HasField("opened")
    assert list(answers[-1].closed.handle) == [0]
    return answers[1:-1]


@pytest.mark.parametrize("kind", FAULTS)
def test_what_no_message_may_hold_is_one_error(server: ServerProcess, kind: str) -> None:
    made, says = FAULTS[kind]
    (answer,) = talk(server, made().SerializeToString())
    assert answer.error.reason == pb.REASON_MALFORMED
    assert says in answer.error.message
    assert answer.ByteSize() < 500


def test_numbers_that_are_not_packed(server: ServerProcess) -> None:
    steps = b"\x08\x00" * (SIZE // 2)
    (answer,) = talk(server, head(2, len(steps)) + steps)
    assert "steps has over 256 fields; expected packed columns" in answer.error.message


def large(steps: bytes) -> bytes:
    """A ClientMessage, large by a field that nobody knows."""
    steps += head(100, SIZE) + bytes(SIZE)
    return head(2, len(steps)) + steps


def test_its_fields_may_come_in_any_order(server: ServerProcess) -> None:
    xs = np.arange(20, dtype=np.float32).reshape(-1, 2)
    columns = pb.Steps(input=[encode(xs)]), pb.Steps(handle=[0]), pb.Steps(length=[10]), pb.Steps(first=[0])
    for order in (columns, columns[::-1]):
        answers = talk(server, large(b"".join(column.SerializeToString() for column in order)))
        assert b"".join(answer.results.output[0] for answer in answers) == np.cumsum(xs, axis=0).tobytes()


def test_what_is_wrong_with_an_entry_is_said_of_it(server: ServerProcess) -> None:
    steps = pb.Steps(handle=[0, 2**32 - 1], length=[3, 1], first=[5, 7], input=[encode(np.ones((4, 2)))])
    unknown, mismatch = [answer.error for answer in talk(server, large(steps.SerializeToString()))]
    assert (unknown.reason, list(unknown.handle)) == (pb.REASON_HANDLE_UNKNOWN, [2**32 - 1])
    assert (list(unknown.first), list(unknown.length)) == ([7], [1])
    assert (mismatch.reason, list(mismatch.handle)) == (pb.REASON_POSITION_MISMATCH, [0])
    assert (list(mismatch.position), list(mismatch.first), list(mismatch.length)) == ([0], [5], [3])
