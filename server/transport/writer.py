"""The messages of one stream on their way into gRPC."""

import asyncio
from collections.abc import Coroutine
from typing import Any, Final, Protocol

from gatestream.server.core.send_queue import Item, Pieces, SendQueue
from gatestream.server.telemetry import StreamStats

_LARGE: Final = 2**16


class Writable(Protocol):
    """A call of grpc.aio, as far as it is written to."""

    def write(self, message: bytes) -> Coroutine[Any, Any, None]:
        """Send a message behind those before."""


class Sends(Protocol):
    """Who has messages to send.

    Attributes:
        rows: accepted and not yet on their way back.
        send_queue: what waits to be sent.
    """

    rows: int
    send_queue: SendQueue


class Writer:
    """Sends what a stream has to say, one message after another.

    Args:
        sender: whose messages.
        call: that nobody else writes to.
        stats: of the streams.
        prompt: a write is begun where the message is made, if that is not large. A task begins it in the loop's next
            turn, which costs more than many a step of a model.
    """

    def __init__(self, sender: Sends, call: Writable, stats: StreamStats, *, prompt: bool):
        self._sender = sender
        self._queue = sender.send_queue
        self._call = call
        self._stats = stats
        self._prompt = prompt
        self._over: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._writing: Coroutine[Any, Any, None]

    async def write_all(self) -> None:
        """Write until the send queue has ended.

        Raises:
            Exception: a write did.
        """
        self._queue.give(self._begin)
        await self._over

    def _begin(self, item: Item | None) -> None:
        if item is None:
            self._end(None)
            return
        message, rows = item
        # Before it goes out: who waits for an answer and then sends may send as much as before.
        self._sender.rows -= rows
        self._stats.sent += 1
        if not self._prompt or len(message) > _LARGE:
            # What is large takes its time, and whoever has made it has just taken his.
            asyncio.get_running_loop().create_task(self._write(message)).add_done_callback(self._written)
            return
        try:
            self._writing = self._call.write(bytes(message))
        except Exception as error:
            # As where there is too little memory for it.
            self._end(error)
        else:
            self._go_on()

    async def _write(self, message: bytes | Pieces) -> None:
        await self._call.write(bytes(message))

    def _go_on(self, _done: object = None) -> None:
        """Do what a task does: run the write until it waits for gRPC."""
        try:
            awaited = self._writing.send(None)
            # As a task does with a future that its coroutine has come to.
            awaited._asyncio_future_blocking = False
            awaited.add_done_callback(self._go_on)
        except StopIteration:
            self._queue.give(self._begin)
        except (Exception, asyncio.CancelledError) as error:
            self._end(error)

    def _written(self, task: asyncio.Task[None]) -> None:
        if task.cancelled():
            self._end(asyncio.CancelledError())
        elif (error := task.exception()) is not None:
            self._end(error)
        else:
            self._queue.give(self._begin)

    def _end(self, error: BaseException | None) -> None:
        if self._over.done():
            return
        if error is None:
            self._over.set_result(None)
        else:
            self._over.set_exception(error)
