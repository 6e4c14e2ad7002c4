"""A stream as bytes, both ways, against a real server: what is sent comes in order, and its end is no failure."""

import threading
from collections.abc import Callable, Iterator

import grpc
import pytest

from gatestream.client.sync.wire import Direct, Plain, Wire, begin
from gatestream.protos.gatestream.v1 import gatestream_pb2 as pb
from tests.support.process import ServerProcess
from tests.support.wire import PATIENCE


@pytest.fixture
def channel(server: ServerProcess) -> Iterator[grpc.Channel]:
    with grpc.insecure_channel(server.address) as channel:
        yield channel


@pytest.fixture(params=[True, False], ids=["direct", "plain"])
def wire(channel: grpc.Channel, request: pytest.FixtureRequest) -> Wire:
    return begin(channel, (), direct=request.param)


def send(wire: Wire, message: bytes) -> None:
    wire.send(message)
    wire.flush()


def opening(handle: int = 0) -> bytes:
    return pb.ClientMessage(open=pb.Open(handle=handle, model="accumulator")).SerializeToString()


def stepping(first: int) -> bytes:
    row = bytes(8)
    return pb.ClientMessage(steps=pb.Steps(handle=[0], first=[first], input=[row])).SerializeToString()


class Heard:
    """What a stream has said, and how it has ended."""

    def __init__(self, wire: Wire, also: Callable[[bytes], None] = lambda _: None) -> None:
        self.messages: list[pb.ServerMessage] = []
        self.error: BaseException | None = None
        self._wire = wire
        self._also = also
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        try:
            self._wire.run(self._receive)
        except BaseException as error:
            self.error = error

    def _receive(self, data: bytes) -> None:
        self.messages.append(pb.ServerMessage.FromString(data))
        self._also(data)

    def end(self) -> None:
        self._thread.join(PATIENCE)
        assert not self._thread.is_alive()


def test_what_is_sent_arrives_in_order_and_the_end_behind_it(wire: Wire) -> None:
    heard = Heard(wire)
    send(wire, opening())
    for first in range(500):
        send(wire, stepping(first))
    wire.finish()
    heard.end()
    assert heard.error is None
    assert heard.messages[0].WhichOneof("kind") == "opened"
    results = [message.results for message in heard.messages if message.WhichOneof("kind") == "results"]
    positions = [first + k for each in results for first in each.first for k in range((each.length or [1])[0])]
    assert positions == list(range(500))


def test_answers_are_sent_from_where_they_are_heard(wire: Wire) -> None:
    steps = iter(range(100))

    def go_on(_: bytes) -> None:
        first = next(steps, None)
        if first is None:
            wire.finish()
        else:
            send(wire, stepping(first))

    heard = Heard(wire, go_on)
    send(wire, opening())
    heard.end()
    assert heard.error is None
    assert [message.WhichOneof("kind") for message in heard.messages] == ["opened"] + ["results"] * 100 + ["closed"]


def test_a_stream_that_is_cancelled(wire: Wire) -> None:
    opened = threading.Event()
    heard = Heard(wire, lambda _: opened.set())
    send(wire, opening())
    assert opened.wait(PATIENCE)
    wire.cancel()
    heard.end()
    assert isinstance(heard.error, grpc.RpcError)
    assert heard.error.code() is grpc.StatusCode.CANCELLED
    # To nobody any more.
    send(wire, stepping(0))
    wire.finish()


def test_a_stream_that_ended_before_anybody_listens(wire: Wire) -> None:
    wire.cancel()
    heard = Heard(wire)
    heard.end()
    assert isinstance(heard.error, grpc.RpcError)
    assert not heard.messages
    wire.finish()


def test_what_the_receiver_raises(wire: Wire) -> None:
    def fail(_: bytes) -> None:
        raise LookupError("of the test's own")

    heard = Heard(wire, fail)
    send(wire, opening(0))
    send(wire, opening(1))
    heard.end()
    assert isinstance(heard.error, LookupError)
    assert len(heard.messages) == 1
    wire.cancel()
    wire.finish()


def test_another_stream_on_the_channel_goes_on(channel: grpc.Channel, wire: Wire) -> None:
    other = begin(channel, (), direct=True)
    others = Heard(other)
    heard = Heard(wire)
    send(wire, opening())
    wire.finish()
    heard.end()
    send(other, opening())
    send(other, stepping(0))
    other.finish()
    others.end()
    assert others.error is None
    assert [message.WhichOneof("kind") for message in others.messages] == ["opened", "results", "closed"]


def test_only_with_a_version_that_it_was_tried_with(channel: grpc.Channel, monkeypatch: pytest.MonkeyPatch) -> None:
    for version, kind in (("1.85.9", Direct), ("1.86.0", Plain), ("1.8.5", Plain)):
        monkeypatch.setattr(grpc, "__version__", version)
        wire = begin(channel, (), direct=None)
        assert type(wire) is kind
        wire.cancel()
        wire.finish()
