"""The event loop that the server runs on."""

import asyncio
import functools
import socket
from collections.abc import Callable
from typing import Any, Final

from gatestream.server.process.busy_poll import BusySelector

GRPC_QUEUE: Final = "PollerCompletionQueue"
"""The class of gRPC's whose method reads its wake-ups."""

_MOST: Final = 4096
# A message's coming and the going of an answer.
_FEW: Final = 2


class Loop(asyncio.SelectorEventLoop):
    """asyncio's loop, with fewer turns of it for each message.

    grpc.aio tells the loop of its events by a socket, a byte for each, and its reader takes one byte and then all
    events that there are (`PollerCompletionQueue._handle_events` in
    https://github.com/grpc/grpc/blob/master/src/python/grpcio/grpc/_cython/_cygrpc/aio/completion_queue.pyx.pxi). What
    bytes are left cost a turn of the loop each, in which nothing happens; under load that is most turns. Here the other
    bytes are taken before the reader is called.

    Args:
        selector: what it waits by; it does not hold the interpreter while a thread of an executor or a store works.
        all_wake_ups: take all bytes of gRPC's at once, and not one at a time.
    """

    def __init__(self, selector: BusySelector, *, all_wake_ups: bool = True):
        super().__init__(selector)
        self._waiting = selector
        self._all_wake_ups = all_wake_ups
        self._elsewhere = 0

    def add_reader(self, fd: Any, callback: Callable[..., Any], *args: Any) -> None:  # type: ignore[override]
        """As asyncio's, whose types no subclass can repeat."""
        handler = callback.func if isinstance(callback, functools.partial) else callback
        of = type(getattr(handler, "__self__", None))
        if self._all_wake_ups and isinstance(fd, socket.socket) and of.__name__ == GRPC_QUEUE:
            callback = functools.partial(self._for_all_bytes, fd, callback)
        super().add_reader(fd, callback, *args)

    def run_in_executor(self, executor: Any, func: Callable[..., Any], *args: Any) -> asyncio.Future[Any]:  # type: ignore[override]
        """As asyncio's."""
        future = super().run_in_executor(executor, func, *args)
        self.elsewhere(1)
        future.add_done_callback(lambda _: self.elsewhere(-1))
        return future

    def elsewhere(self, more: int) -> None:
        """So many more threads, or fewer, do what this one waits for: it is to leave them the interpreter."""
        self._elsewhere += more
        self._waiting.at_once = self._elsewhere > 0

    def _for_all_bytes(self, bell: socket.socket, callback: Callable[..., Any], *args: Any) -> None:
        events = len(bell.recv(_MOST, socket.MSG_PEEK))
        # Where many streams are at work, throughput counts, and gRPC's thread and the clients can use the CPU.
        self._waiting.at_once = self._elsewhere > 0 or events > _FEW
        if events > 1:
            # An event is there before its byte is.
            bell.recv(events - 1)
        callback(*args)
