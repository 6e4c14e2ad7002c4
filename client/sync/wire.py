"""One gRPC stream of the blocking client, as bytes: by gRPC's public API, or past two of its threads.

By the public API a message goes through three threads on its way: one of gRPC's takes it from an iterator and sends it,
one of gRPC's hears that an answer has come, and one of ours waits in `next` for it. The direct way starts gRPC's
operations itself: messages leave on the thread that has them, and answers are taken on the thread that hears of them.
It relies on what is inside grpcio, under private names, and is therefore gone only with a version that it was tried
with, unless it is asked for.
"""

import gc
import queue
import threading
from collections import deque
from collections.abc import Callable
from typing import Any, Final, Protocol

import grpc
from grpc import _channel
from grpc._cython import cygrpc  # type: ignore[attr-defined]

from gatestream.client.channel import stream_method

_TRIED: Final = "1.85."

Receive = Callable[[bytes], None]


class Wire(Protocol):
    """A stream that has begun."""

    def send(self, message: bytes) -> None:
        """Send it behind what was sent before, at the latest when `flush` is called. By one thread at a time."""

    def flush(self) -> None:
        """Have what is to be sent leave. By any thread: it may take as long as a system call."""

    def finish(self) -> None:
        """End the client's half, behind what was sent."""

    def cancel(self) -> None:
        """End the stream."""

    def run(self, receive: Receive) -> None:
        """Pass on each message that comes, in order, until the stream ends. Called once.

        Raises:
            grpc.RpcError: it ended in another way than in order.
            Exception: what `receive` has raised; it is not called again.
        """


def begin(channel: grpc.Channel, metadata: tuple[tuple[str, str], ...], *, direct: bool | None) -> Wire:
    """Begin a `Stream`.

    Args:
        channel: on which.
        metadata: of the call.
        direct: go past gRPC's threads, or not; None: where grpcio is of a version with which that was tried.
    """
    if direct is None:
        direct = grpc.__version__.startswith(_TRIED)
    return Direct(channel, metadata) if direct else Plain(channel, metadata)


class Plain:
    """A stream by gRPC's public API."""

    def __init__(self, channel: grpc.Channel, metadata: tuple[tuple[str, str], ...]) -> None:
        # gRPC's own thread takes from it; None ends the client's half.
        self._outbox: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        stream: Any = channel.stream_stream(stream_method())
        self._call = stream(iter(self._outbox.get, None), metadata=metadata)
        self.send = self._outbox.put

    def flush(self) -> None:
        """See `Wire`."""

    def finish(self) -> None:
        """See `Wire`."""
        self._outbox.put(None)

    def cancel(self) -> None:
        """See `Wire`."""
        self._call.cancel()

    def run(self, receive: Receive) -> None:
        """See `Wire`."""
        for message in self._call:
            receive(message)


class Direct:
    """A stream whose operations are started here, as grpc._channel starts them.

    gRPC's thread that takes messages from an iterator is there all the same: it waits for the end of the client's half.
    """

    def __init__(self, channel: grpc.Channel, metadata: tuple[tuple[str, str], ...]) -> None:
        self._finished: queue.SimpleQueue[None] = queue.SimpleQueue()
        stream: Any = channel.stream_stream(stream_method())
        self._rpc = stream(iter(self._finished.get, None), metadata=metadata)
        self._call, self._state = self._rpc._call, self._rpc._state
        _let_nothing_in(self._state.condition)
        for of_channel in gc.get_referents(self._call):
            for each in gc.get_referents(of_channel):
                if isinstance(each, threading.Condition):
                    _let_nothing_in(each)
        # What gRPC itself has to be told of each operation that is done.
        self._account = _channel._event_handler(self._state, None)
        self._lock = threading.Lock()
        # Messages behind the one that is being sent: gRPC takes one at a time.
        self._outbox: deque[bytes] = deque()
        self.send = self._outbox.append
        self._sending = False
        self._finishing = False
        self._over = threading.Event()
        self._failure: Exception | None = None

    def flush(self) -> None:
        """See `Wire`."""
        with self._lock:
            if self._sending:
                return
            self._sending = True
        self._send_next()

    def finish(self) -> None:
        """See `Wire`."""
        self._finishing = True
        self.flush()

    def cancel(self) -> None:
        """See `Wire`."""
        self._rpc.cancel()

    def run(self, receive: Receive) -> None:
        """See `Wire`."""
        self._receive = receive
        self._listen()
        self._over.wait()
        if self._failure is not None:
            raise self._failure
        if self._rpc.code() is not grpc.StatusCode.OK:
            raise self._rpc

    def _operate(self, kind: Any, operation: Any, handle: Callable[[Any], bool]) -> bool:
        """Start an operation; False: the stream is over."""
        state = self._state
        with state.condition:
            if state.code is not None:
                return False
            state.due.add(kind)
            if self._call.operate((operation,), handle):
                return True
            state.due.remove(kind)
            return False

    def _send_next(self) -> None:
        """Start to send the next message, by whoever has set `_sending`; the lock is free meanwhile."""
        with self._lock:
            message = self._outbox.popleft() if self._outbox else None
            if message is None:
                self._sending = False
                if self._finishing:
                    self._finished.put(None)
                return
        operation = cygrpc.SendMessageOperation(message, 0)
        if not self._operate(cygrpc.OperationType.send_message, operation, self._sent):
            # Nobody sends on it any more.
            self._finished.put(None)

    def _listen(self) -> None:
        operation = cygrpc.ReceiveMessageOperation(0)
        if not self._operate(cygrpc.OperationType.receive_message, operation, self._received):
            self._over.set()

    # ---- On the thread of the channel: what they return tells it whether all is done -------------------

    def _received(self, event: Any) -> bool:
        done: bool = self._account(event)
        message, self._state.response = self._state.response, None
        if message is None:
            self._over.set()
            return done
        try:
            self._receive(message)
        except Exception as error:
            self._failure = error
            self._over.set()
        else:
            self._listen()
        return done

    def _sent(self, event: Any) -> bool:
        done: bool = self._account(event)
        self._send_next()
        return done


def _let_nothing_in(condition: threading.Condition) -> None:
    """Have Ctrl-C not come between a condition of gRPC's and its lock.

    To enter and to leave one are functions of Python's, at whose first line KeyboardInterrupt may be raised: the lock
    would then be held for ever, and the thread of the channel with it. Those of the lock itself are none.
    """
    lock = condition._lock  # type: ignore[attr-defined]
    if type(condition) is threading.Condition:
        own = {"__enter__": lock.__enter__, "__exit__": lock.__exit__}
        condition.__class__ = type("Condition", (threading.Condition,), own)
