"""One `Stream` of the asyncio client, and its successors: a task that reads, and callers that wait."""

# A timeout here is not asyncio.timeout: it also decides how long refusals are retried, and which error comes.
# ruff: noqa: ASYNC109

import asyncio
import contextlib
import copy
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from functools import partial
from typing import Any, TypeVar

import grpc

from gatestream.client.addresses import delays, passes
from gatestream.client.aio.network import Connection, Network
from gatestream.client.aio.sender import Sender
from gatestream.client.channel import from_stream, log, stream_method
from gatestream.client.columns import Layout
from gatestream.client.errors import (
    ConnectionLostError,
    DeadlineExceededError,
    DrainingError,
    GatestreamError,
    ProtocolError,
)
from gatestream.client.patience import left_of, waits
from gatestream.client.paused import aim, asks_again, may_be_done
from gatestream.client.protocol.log import Budget
from gatestream.client.protocol.queue import SessionQueue
from gatestream.client.protocol.requests import Chunk, Control, Kind, Work
from gatestream.client.protocol.stream import Multiplexer
from gatestream.client.unary import Call
from gatestream.protos.gatestream.v1 import gatestream_pb2 as pb

R = TypeVar("R")
_SECONDS_TO_PART = 2.0


class Link:
    """Belongs to the loop that made it."""

    def __init__(self, network: Network, budget: Budget | None) -> None:
        self._loop = asyncio.get_running_loop()
        self._network = network
        self._multiplexer = Multiplexer(network.current.limits, retry=network.settings.retry, budget=budget)
        # Who waits, and until when; one alarm for all, for the first of them or earlier.
        self._waiting: dict[Work, float] = {}
        self._alarm: asyncio.TimerHandle | None = None
        self._closing = asyncio.Event()
        self._connect(network.use(network.current))
        self._reader = asyncio.create_task(self._run(), name=f"gatestream reader {self._connection.address}")

    def _connect(self, connection: Connection) -> None:
        """Begin a stream."""
        self._connection = connection
        stream: Any = connection.channel.stream_stream(stream_method())
        self._call = stream(metadata=self._network.settings.metadata)
        self._sender = Sender(self._call)

    @property
    def connection(self) -> Connection:
        """That the stream is on."""
        return self._connection

    @property
    def usable(self) -> bool:
        """Whether new sessions can be opened here."""
        return self._multiplexer.usable

    @property
    def going_away(self) -> bool:
        """Whether the server has said that it will stop."""
        return self._multiplexer.going_away

    @property
    def lost(self) -> bool:
        """Whether the stream is gone, and none will follow."""
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
        clock = self._loop.time
        until = deadline = clock() + timeout
        try:
            self._multiplexer.add(session_queue, work)
            self._send()
            turns = None
            while not work.done:
                self._waiting[work] = until
                if self._alarm is None or until < self._alarm.when():
                    self._set_alarm(until)
                await waiter
                if not work.done:
                    turns = turns or waits(self._multiplexer, session_queue, work, timeout, deadline, clock)
                    waiter = self._loop.create_future()
                    until = next(turns, until)
                    self._flush()
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

    async def call(self, session_queue: SessionQueue, call: Call[R], timeout: float) -> R:
        """Ask about a session that is paused, of the server that has it, and of the next where that one is lost.

        Raises:
            GatestreamError: it was refused, or there was no answer.
        """
        deadline = self._loop.time() + timeout
        for seconds in left_of(self._multiplexer, session_queue, deadline, timeout, self._loop.time):
            if seconds > 0:
                await asyncio.sleep(seconds)
                continue
            connection = self._network.use(self._connection)
            try:
                if not aim(call.request, session_queue):
                    continue
                return await connection.ask(call, max(deadline - self._loop.time(), 0.001))
            except GatestreamError as error:
                if may_be_done(session_queue, call, error):
                    self.settle(session_queue)
                if not asks_again(session_queue, call, error):
                    return call.refused(error)
                call = call.once_more()
            finally:
                await self._network.release(connection)
        raise AssertionError("it ends by an answer or an error")

    def settle(self, session_queue: SessionQueue) -> None:
        """Have the server say where a session stands of which that is not known: it is opened once more."""
        if self._multiplexer.settle(session_queue):
            self._flush()
        else:
            # By the next stream.
            self._call.cancel()

    async def close(self) -> None:
        """Close the sessions, once what is on its way is answered, and end the stream."""
        self._closing.set()
        self._multiplexer.finish()
        self._flush()
        await asyncio.wait([self._reader], timeout=_SECONDS_TO_PART)
        self._call.cancel()
        await asyncio.wait([self._reader])
        self._set_alarm(float("inf"))

    def _send(self) -> None:
        if messages := self._multiplexer.take():
            self._sender.send(messages)

    def _flush(self) -> None:
        self._send()
        if self._multiplexer.usual:
            return
        if self._multiplexer.over:
            self._sender.finish()
        retry_in = self._multiplexer.retry_in
        if retry_in is not None:
            self._loop.call_later(retry_in, self._retry)

    def _retry(self) -> None:
        self._multiplexer.retry()
        self._flush()

    # ---- The task that reads -----------------------------------------------------------------------

    async def _run(self) -> None:
        attempts, again = delays(), False
        begun = len(self._network.settings.addresses) > 1
        try:
            while True:
                reason, spoke = await self._read(again=again)
                begun = begun or spoke
                if self._multiplexer.parted(self._loop.time()) is None:
                    # It was of use; else the next attempt waits for longer.
                    attempts = delays()
                elsewhere = self._multiplexer.going_away or isinstance(reason(), DrainingError)
                goes_on = not self._closing.is_set() and passes(reason(), begun=begun)
                only = "" if elsewhere else self._multiplexer.home(self._connection.address)
                if not self._multiplexer.parts(reason, self._loop.time(), goes_on=goes_on):
                    return
                connection = await self._reconnect(attempts, elsewhere=elsewhere, only=only)
                if connection is None:
                    self._multiplexer.end(self._reason or reason)
                    return
                await self._network.release(self._connection)
                self._connect(connection)
                self._multiplexer.reattach(connection.limits)
                self._flush()
                again = True
        finally:
            self._multiplexer.end(partial(ConnectionLostError, "this client is closed"))
            await self._network.release(self._connection)

    async def _read(self, *, again: bool) -> tuple[Callable[[], GatestreamError], bool]:
        """Hear what the server says until the stream ends; why it did, and whether anything was said.

        Args:
            again: there was a stream before it.
        """
        spoke = False
        address = self._connection.address
        try:
            async for message in self._call:
                self._multiplexer.receive(message)
                self._flush()
                spoke = True
                if again and not self._multiplexer.going_away:
                    again = False
                    log.info("the connection was lost; connected again, to %s", address)
        except grpc.aio.AioRpcError as error:
            return from_stream(error, address), spoke
        except asyncio.CancelledError:
            # So `async for` ends when the call is cancelled by this client; or the program ends, and this with it.
            task = asyncio.current_task()
            if task is not None and task.cancelling():
                raise
            return partial(from_stream(None, address)), spoke
        except GatestreamError as error:
            self._call.cancel()
            return partial(copy.copy, error), spoke
        except Exception as error:
            self._call.cancel()
            self._multiplexer.end(partial(ProtocolError, f"this client failed: {error!r}"))
            raise
        return from_stream(None, address), spoke

    async def _reconnect(self, attempts: Iterator[float], *, elsewhere: bool, only: str) -> Connection | None:
        """Another connection; None: nobody wants one any more, or there will be none."""
        self._reason: Callable[[], GatestreamError] | None = None
        for delay in attempts:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._closing.wait(), delay)
                return None
            try:
                return self._network.use(await self._network.renew(self._connection, elsewhere=elsewhere, only=only))
            except GatestreamError as error:
                if not passes(error, begun=True) and not isinstance(error, DeadlineExceededError):
                    self._reason = partial(copy.copy, error)
                    return None
        return None
