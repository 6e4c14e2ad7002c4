"""One `Stream` of the asyncio client: a task that reads, a task that writes, and callers that wait."""

# A timeout here is not asyncio.timeout: it also decides how long refusals are retried, and which error comes.
# ruff: noqa: ASYNC109

import asyncio
import contextlib
import copy
from collections import deque
from collections.abc import AsyncIterator, Callable, Sequence
from functools import partial

import grpc

from gatestream.client.channel import Settings, from_stream
from gatestream.client.columns import Layout
from gatestream.client.conversation import Conversation
from gatestream.client.errors import DeadlineExceededError, GatestreamError, ProtocolError
from gatestream.client.lane import Lane
from gatestream.client.patience import waits
from gatestream.client.work import Chunk, Control, Kind
from gatestream.protos.gatestream.v1 import gatestream_pb2 as pb
from gatestream.protos.gatestream.v1 import gatestream_pb2_grpc as pb_grpc

_SECONDS_TO_PART = 2.0


class Link:
    """Belongs to the loop that made it."""

    def __init__(self, stub: "pb_grpc.GatestreamAsyncStub", settings: Settings, limits: pb.Limits) -> None:
        self._address = settings.address
        self._conversation = Conversation(limits, retry=settings.retry)
        self._outbox: deque[pb.ClientMessage] = deque()
        self._filled = asyncio.Event()
        self._call = stub.Stream(metadata=settings.metadata)
        self._reader = asyncio.create_task(self._read(), name=f"gatestream reader {settings.address}")
        self._writer = asyncio.create_task(self._write(), name=f"gatestream writer {settings.address}")

    @property
    def usable(self) -> bool:
        """Whether new sessions can be opened here."""
        return self._conversation.usable

    @property
    def lost(self) -> bool:
        """Whether the stream is gone."""
        return self._conversation.lost

    async def open(self, layout: Layout, opens: Sequence[pb.Open], timeout: float) -> Lane:
        """Open sessions that step together.

        Raises:
            GatestreamError: none is open then.
        """
        lane, work = self._conversation.open(layout, opens)
        await self.ask(lane, work, timeout)
        return lane

    async def ask(self, lane: Lane, work: Chunk | Control, timeout: float) -> None:
        """Have the work done.

        Raises:
            GatestreamError: it was not.
        """
        loop = asyncio.get_running_loop()
        waiter: asyncio.Future[None] = loop.create_future()

        def wake() -> None:
            if not waiter.done():
                waiter.set_result(None)

        work.wake = wake
        try:
            for seconds in waits(self._conversation, lane, work, timeout, loop.time):
                self._flush()
                # Where waking came first, this waits for nothing.
                alarm = None if seconds == float("inf") else loop.call_later(seconds, wake)
                try:
                    await waiter
                finally:
                    if alarm is not None:
                        alarm.cancel()
                waiter = loop.create_future()
        except BaseException:
            # Cancelled: nobody waits for the answer any more.
            self._conversation.withdraw(lane, work, DeadlineExceededError("the caller waits no longer"))
            raise
        finally:
            self._flush()
        if work.error is not None:
            raise work.error

    def close_later(self, lane: Lane) -> None:
        """Have the sessions closed, without waiting for it."""
        self._conversation.add(lane, Control(kind=Kind.CLOSE, members=lane.members))
        self._flush()

    @contextlib.asynccontextmanager
    async def pause(self, lane: Lane, timeout: float) -> AsyncIterator[None]:
        """Hold the lane still, once all that was asked of it before is answered."""
        await self.ask(lane, Control(kind=Kind.PAUSE, members=lane.members), timeout)
        try:
            yield
        finally:
            self._conversation.resume(lane)
            self._flush()

    async def close(self) -> None:
        """End the stream. The server closes its sessions when it has answered what is on its way."""
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
        messages = self._conversation.take()
        self._outbox.extend(messages)
        if messages or self._conversation.over:
            self._filled.set()

    async def _write(self) -> None:
        # The reader sees the stream's end too, and says why.
        with contextlib.suppress(grpc.aio.AioRpcError, asyncio.InvalidStateError):
            while not self._conversation.over:
                await self._filled.wait()
                self._filled.clear()
                while self._outbox:
                    await self._call.write(self._outbox.popleft())
            await self._call.done_writing()

    async def _read(self) -> None:
        reason: Callable[[], GatestreamError] = from_stream(None, self._address)
        try:
            async for message in self._call:
                self._conversation.receive(message)
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
            self._conversation.end(reason)
            self._writer.cancel()
