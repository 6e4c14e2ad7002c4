"""The raw wire, as a client in any language would speak it: protocol messages out and in, nothing hidden."""

import queue
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Self

import grpc
import numpy as np
import numpy.typing as npt
import pytest

from gatestream.protos.gatestream.v1 import gatestream_pb2 as pb
from gatestream.protos.gatestream.v1 import gatestream_pb2_grpc as pb_grpc

PATIENCE = 60.0
"""Seconds after which a test gives up waiting: a bound on a hang, not an expectation."""

SMALL_WINDOW = (("grpc.http2.bdp_probe", 0), ("grpc.http2.lookahead_bytes", 65_536))
"""Options of a client that takes no more than this unasked, whatever the connection could carry."""

Rows = npt.NDArray[Any]


@contextmanager
def channel(address: str) -> Iterator[grpc.Channel]:
    """A connection of its own: gRPC shares one among the channels of a process where it can."""
    with grpc.insecure_channel(address, [("grpc.use_local_subchannel_pool", 1)]) as opened:
        yield opened


@contextmanager
def stub(address: str) -> Iterator[pb_grpc.GatestreamStub]:
    """The unary calls."""
    with channel(address) as opened:
        yield pb_grpc.GatestreamStub(opened)


def encode(rows: Any, dtype: str = "<f4") -> bytes:
    """An input column."""
    return np.ascontiguousarray(rows, dtype).tobytes()


def bearer(token: str | None) -> tuple[tuple[str, str], ...]:
    """The metadata of a call that shows a token."""
    return () if token is None else (("authorization", f"Bearer {token}"),)


class Stream:
    """One stream on a connection of its own. It reads only when it is asked to."""

    def __init__(
        self, address: str, seconds: float = PATIENCE, options: Sequence[tuple[str, int]] = (), token: str | None = None
    ):
        self.channel = grpc.insecure_channel(address, [("grpc.use_local_subchannel_pool", 1), *options])
        """The connection, for other services on it."""
        self._outgoing: queue.SimpleQueue[pb.ClientMessage | None] = queue.SimpleQueue()
        self._sent = 0
        self.taken = 0
        """Messages that have been handed to the connection so far."""
        self.calls = pb_grpc.GatestreamStub(self.channel)
        """Unary calls on the same connection."""
        self.call = self.calls.Stream(self._messages(), timeout=seconds, metadata=bearer(token))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exc: object) -> None:
        self.disconnect()

    def _messages(self) -> Iterator[pb.ClientMessage]:
        while True:
            message = self._outgoing.get()
            if message is None:
                return
            yield message
            # gRPC asks for the next message when it has sent this one.
            self.taken += 1

    # ---- Out ----------------------------------------------------------------------------------

    def send(self, *messages: pb.ClientMessage) -> None:
        """Send without waiting."""
        for message in messages:
            self._sent += 1
            self._outgoing.put(message)

    def flush(self) -> None:
        """Return when all that was sent has been handed to the connection."""
        until(lambda: self.taken == self._sent, "all messages were sent")

    def open(self, handle: int, session_id: str = "", **fields: Any) -> None:
        self.send(pb.ClientMessage(open=pb.Open(handle=handle, session_id=session_id, **fields)))

    def steps(self, chunks: dict[int, Any], first: Sequence[int] = ()) -> None:
        """One message: a chunk [steps, features] of float32 for each handle."""
        self.send(steps(chunks, first))

    def reset(self, *handles: int) -> None:
        self.send(pb.ClientMessage(reset=pb.Reset(handle=handles)))

    def close(self, *handles: int) -> None:
        self.send(pb.ClientMessage(close=pb.Close(handle=handles)))

    def half_close(self) -> None:
        """Say that nothing more comes."""
        self._outgoing.put(None)

    def disconnect(self) -> None:
        """Vanish, whatever is in flight."""
        self.half_close()
        self.call.cancel()
        self.channel.close()

    # ---- In -----------------------------------------------------------------------------------

    def read(self) -> pb.ServerMessage:
        """The next message; `grpc.RpcError` when the stream ends with an error, StopIteration when without."""
        return next(self.call)

    def expect(self, kind: str) -> Any:
        """The next message, which must be of this kind."""
        message = self.read()
        assert message.WhichOneof("kind") == kind, message
        return getattr(message, kind)

    def status(self) -> tuple[grpc.StatusCode, str]:
        """Read to the end of the stream: how it ended."""
        try:
            for _ in self.call:
                pass
        except grpc.RpcError:
            pass
        return self.call.code(), self.call.details()

    def opened(self, handle: int, session_id: str = "", **fields: Any) -> pb.Opened:
        """Open a session and wait until it is."""
        self.open(handle, session_id, **fields)
        opened: pb.Opened = self.expect("opened")
        assert opened.handle == handle
        return opened

    def stepped(self, handle: int, chunk: Any) -> Rows:
        """Take steps and wait for all of them; the output [steps, features]."""
        chunk = np.atleast_2d(np.asarray(chunk, np.float32))
        self.steps({handle: chunk})
        return self.results({handle: len(chunk)}, chunk.shape[1])[handle]

    def results(self, steps: dict[int, int], *shape: int) -> dict[int, Rows]:
        """Read so many steps of each handle, each exactly once; the output of each, [steps, *shape]."""
        got = {handle: np.empty((0, *shape), np.float32) for handle in steps}
        begun: dict[int, int] = {}
        while any(len(got[handle]) < count for handle, count in steps.items()):
            for handle, first, rows in parts(self.expect("results"), *shape):
                assert first == begun.setdefault(handle, first) + len(got[handle])
                got[handle] = np.concatenate((got[handle], rows))
                assert len(got[handle]) <= steps[handle]
        return got

    def refused(self) -> pb.Error:
        """The next message, which must be an error."""
        error: pb.Error = self.expect("error")
        return error


def steps(chunks: dict[int, Any], first: Sequence[int] = ()) -> pb.ClientMessage:
    """A Steps message for a model with one float32 input: a chunk [steps, features] for each handle."""
    arrays = [np.atleast_2d(np.asarray(chunk, np.float32)) for chunk in chunks.values()]
    return pb.ClientMessage(
        steps=pb.Steps(
            handle=list(chunks),
            length=[len(chunk) for chunk in arrays],
            first=first,
            input=[encode(np.concatenate(arrays))],
        )
    )


def parts(results: pb.Results, *shape: int, column: bytes | None = None) -> list[tuple[int, int, Rows]]:
    """What a Results message says: for each entry its handle, position of its first step and rows [steps, *shape]."""
    lengths = list(results.length) or [1] * len(results.handle)
    rows = np.frombuffer(results.output[0] if column is None else column, "<f4").reshape(-1, *shape)
    assert len(lengths) == len(results.first) == len(results.handle)
    assert sum(lengths) == len(rows)
    ends = np.cumsum(lengths)
    return list(zip(results.handle, results.first, np.split(rows, ends[:-1]), strict=True))


@contextmanager
def call_refused(code: grpc.StatusCode, reason: pb.Reason, *says: str) -> Iterator[None]:
    """A unary call in this block ends so, with a message that says this."""
    with pytest.raises(grpc.RpcError) as caught:
        yield
    error: Any = caught.value
    assert error.code() == code
    assert dict(error.trailing_metadata()).get("gatestream-reason") == pb.Reason.Name(reason)
    for part in says:
        assert part in error.details()


def until(condition: Callable[[], bool], what: str) -> None:
    """Wait until something is so."""
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, f"waited in vain until {what}"
        time.sleep(0.01)
