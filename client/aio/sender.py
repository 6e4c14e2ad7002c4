"""Messages of the asyncio client on their way into its stream."""

import asyncio
from collections import deque
from collections.abc import Coroutine, Iterable
from typing import Any, Protocol

import grpc


class Writable(Protocol):
    """A call of grpc.aio, as far as it is written to."""

    def write(self, message: bytes) -> Coroutine[Any, Any, None]:
        """Send a message behind those before."""

    def done_writing(self) -> Coroutine[Any, Any, None]:
        """End the client's half."""


class Sender:
    """Sends the messages of one stream, one after another.

    A write is begun by whoever has the message: a task that writes would begin it a turn of the loop later, which takes
    longer than to make the message. It is no part of the caller's own task, with which it would be cancelled, and the
    stream with it.

    Args:
        call: that nobody else writes to.
    """

    def __init__(self, call: Writable) -> None:
        self._call = call
        self._messages: deque[bytes] = deque()
        self._writing: Coroutine[Any, Any, None] | None = None
        self._ends = False

    def send(self, messages: Iterable[bytes]) -> None:
        """Send messages behind those that were sent before."""
        self._messages += messages
        if self._writing is None:
            self._go_on()

    def finish(self) -> None:
        """End the client's half, behind what was sent."""
        self._ends = True
        if self._writing is None:
            self._go_on()

    def _go_on(self, _done: object = None) -> None:
        """Write until gRPC is to be waited for."""
        try:
            while (writing := self._writing or self._next()) is not None:
                self._writing = writing
                try:
                    awaited = writing.send(None)
                except StopIteration:
                    self._writing = None
                    continue
                # What a task does with a future that its coroutine has come to.
                awaited._asyncio_future_blocking = False
                awaited.add_done_callback(self._go_on)
                return
        except (grpc.aio.AioRpcError, asyncio.InvalidStateError, asyncio.CancelledError):
            # Who reads sees the stream's end too, and says why. Nothing more is sent.
            self._messages.clear()

    def _next(self) -> Coroutine[Any, Any, None] | None:
        if self._messages:
            return self._call.write(self._messages.popleft())
        if self._ends:
            self._ends = False
            return self._call.done_writing()
        return None
