"""One `Stream` of the asyncio client: a task that reads, a task that writes, and callers that wait."""

# A timeout here is not asyncio.timeout: it also decides how long refusals are retried, and which error comes.
# ruff: noqa: ASYNC109

import asyncio
import contextlib
import copy
from collections import deque
from collections.abc import AsyncIterator, Callable, Sequence
from functools import partial
from typing import Any

import grpc

from gatestream.client.channel import Settings, from_stream, stream_method
from gatestream.client.columns import Layout
from gatestream.client.errors import DeadlineExceededError, GatestreamError, ProtocolError
from gatestream.client.patience import waits
from gatestream.client.protocol.queue import SessionQueue
from gatestream.client.protocol.requests import Chunk, Control, Kind, Work
from gatestream.client.protocol.stream import Multiplexer
from gatestream.protos.gatestream.v1 import gatestream_pb2 as pb

_SECONDS_TO_PART = 2.0


class Link:
    """Belongs to the loop that made it."""

    def __init__(self, channel: grpc.aio.Channel, settings: Settings, limits: pb.Limits) -> None:
        self._loop = asyncio.get_running_loop()
        self._address = settings.address
        self._multiplexer = Multiplexer(limits, retry=settings.retry)
        self._send_queue: deque[bytes] = deque()
        self._filled = asyncio.Event()
        # Who waits, and until when; one alarm for all, for the first of them or earlier.
        self._waiting: dict[Work, float] = {}
        self._alarm: asyncio.TimerHandle | None = None
        stream: Any = channel.stream_stream(stream_method())
        self._call = stream(metadata=settings.metadata)
        self._reader = asyncio.create_task(self._read(), name=f"gatestream reader {settings.address}")
        self._writer = asyncio.create_task(self._write(), name=f"gatestream writer {settings.address}")

    @property
    def usable(self) -> bool:
        """Whether new sessions can be opened here."""
        return self._multiplexer.usable

    @property
    def lost(self) -> bool:
        """Whether the stream is gone."""
        return self._multiplexer.lost

    async def open(self, layout: Layout, opens: Sequence[pb.Open], timeout: float) -> SessionQueue:
        """Open sessions that step together.

        Raises:
            GatestreamError: none is open then.
        """
        session_queue, work = self._multiplexer.open(layout, opens)
        await self.ask(session_queue, work, timeout)
        return session_queue

    async def ask(self, session_queue: SessionQueue, work: Chunk | Control, timeout: float) -> None:
        """Have the work done.

        Raises:
            GatestreamError: it was not.
        """
        waiter: asyncio.Future[None] = self._loop.create_future()

        def wake() -> None:
            if not waiter.done():
                waiter.set_result(None)

        work.wake = wake
        try:
            for until in waits(self._multiplexer, session_queue, work, timeout, self._loop.time):
                if waiter.done():
                    waiter = self._loop.create_future()
                self._flush()
                if not work.done:
                    self._waiting[work] = until
                    if self._alarm is None or until < self._alarm.when():
                        self._set_alarm(until)
                    await waiter
        except BaseException:
            # Cancelled: nobody waits for the answer any more.
            self._multiplexer.withdraw(session_queue, work, DeadlineExceededError("the caller waits no longer"))
            self._flush()
            raise
        finally:
            self._waiting.pop(work, None)
        if work.error is not None:
            self._flush()
            raise work.error

    def _set_alarm(self, until: float) -> None:
        if self._alarm is not None:
            self._alarm.cancel()
        self._alarm = None if until == float("inf") else self._loop.call_at(until, self._ring)

    def _ring(self) -> None:
        """Wake whoever has waited for long enough."""
        now = self._loop.time()
        self._alarm = None
        for work, until in self._waiting.items():
            if until <= now:
                work.wake()
        self._set_alarm(min((until for until in self._waiting.values() if until > now), default=float("inf")))

    def close_later(self, session_queue: SessionQueue) -> None:
        """Have the sessions closed, without waiting for it."""
        self._multiplexer.add(session_queue, Control(kind=Kind.CLOSE, members=session_queue.members))
        self._flush()

    @contextlib.asynccontextmanager
    async def pause(self, session_queue: SessionQueue, timeout: float) -> AsyncIterator[None]:
        """Hold the queue still, once all that was asked of it before is answered."""
        await self.ask(session_queue, Control(kind=Kind.PAUSE, members=session_queue.members), timeout)
        try:
            yield
        finally:
            self._multiplexer.resume(session_queue)
            self._flush()

    async def close(self) -> None:
        """End the stream. The server closes its sessions when it has answered what is on its way."""
        self._set_alarm(float("inf"))
        self._writer.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._writer
        with contextlib.suppress(grpc.aio.AioRpcError, asyncio.InvalidStateError):
            # Not where the stream has ended already.
            await self._call.done_writing()
        await asyncio.wait([self._reader], timeout=_SECONDS_TO_PART)
        self._call.cancel()
        await asyncio.wait([self._reader])

    def _flush(self) -> None:
        messages = self._multiplexer.take()
        self._send_queue.extend(messages)
        if messages or self._multiplexer.over:
            self._filled.set()

    async def _write(self) -> None:
        # The reader sees the stream's end too, and says why.
        with contextlib.suppress(grpc.aio.AioRpcError, asyncio.InvalidStateError):
            while not self._multiplexer.over:
                await self._filled.wait()
                self._filled.clear()
                while self._send_queue:
                    await self._call.write(self._send_queue.popleft())
            await self._call.done_writing()

    async def _read(self) -> None:
        reason: Callable[[], GatestreamError] = from_stream(None, self._address)
        try:
            async for message in self._call:
                self._multiplexer.receive(message)
                self._flush()
        except grpc.aio.AioRpcError as error:
            reason = from_stream(error, self._address)
        except asyncio.CancelledError:
            # So `async for` ends when `close` cancels the call.
            return
        except GatestreamError as error:
            reason = partial(copy.copy, error)
            self._call.cancel()
        except Exception as error:
            reason = partial(ProtocolError, f"this client failed: {error!r}")
            self._call.cancel()
            raise
        finally:
            self._multiplexer.end(reason)
            self._writer.cancel()
