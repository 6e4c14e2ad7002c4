"""One `Stream` of the blocking client, and its successors: a thread that sees to the stream, and callers that wait."""

import contextlib
import copy
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import TypeVar

import grpc

from gatestream.client.addresses import delays, passes
from gatestream.client.channel import from_stream, log
from gatestream.client.columns import Layout
from gatestream.client.errors import (
    DeadlineExceededError,
    DrainingError,
    GatestreamError,
    ProtocolError,
)
from gatestream.client.patience import left_of, waits
from gatestream.client.paused import aim, asks_again, may_be_done
from gatestream.client.protocol.log import Budget
from gatestream.client.protocol.queue import SessionQueue
from gatestream.client.protocol.requests import Chunk, Control, Kind
from gatestream.client.protocol.stream import Multiplexer
from gatestream.client.sync.bells import Bell, Bells
from gatestream.client.sync.network import Connection, Network
from gatestream.client.sync.wire import begin
from gatestream.client.unary import Call
from gatestream.protos.gatestream.v1 import gatestream_pb2 as pb

R = TypeVar("R")
_SECONDS_TO_PART = 2.0


class Link:
    """Safe to use from many threads."""

    def __init__(self, network: Network, budget: Budget | None) -> None:
        self._network = network
        self._connection = network.use(network.current)
        self._multiplexer = Multiplexer(self._connection.limits, retry=network.settings.retry, budget=budget)
        self._lock = threading.Lock()
        self._closing = threading.Event()
        self._bells = Bells()
        self._connect(self._connection)
        self._reader = threading.Thread(target=self._run, name=f"gatestream {self._connection.address}", daemon=True)

    def _connect(self, connection: Connection) -> None:
        """Begin a stream."""
        self._connection = connection
        settings = self._network.settings
        self._wire = begin(connection.channel, settings.metadata, direct=settings.direct)

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

    def open(self, layout: Layout, opens: Sequence[pb.Open], timeout: float) -> SessionQueue:
        """Open sessions that step together.

        Raises:
            GatestreamError: none is open then.
        """
        session_queue, work = self._locked(partial(self._multiplexer.open, layout, opens))
        self.ask(session_queue, work, timeout)
        return session_queue

    def ask(self, session_queue: SessionQueue, work: Chunk | Control, timeout: float) -> None:
        """Have the work done.

        Raises:
            GatestreamError: it was not.
        """
        bell = Bell()
        work.wake = partial(self._bells.add, bell)
        clock = time.monotonic
        deadline = clock() + timeout
        try:
            self._locked(partial(self._add, session_queue, work))
            if not self._bells.wait(bell, timeout) or not work.done or work.refusals:
                # That it is done is seen under the lock here, so that nothing rings the bell any more.
                turns = partial(next, waits(self._multiplexer, session_queue, work, timeout, deadline, clock), None)
                while (until := self._locked(turns)) is not None:
                    self._bells.wait(bell, until - clock())
        except BaseException:
            # Ctrl-C: nobody waits for the answer any more.
            self._leave(session_queue, work)
            raise
        finally:
            self._bells.leave(bell)
        if work.error is not None:
            raise work.error

    def _add(self, session_queue: SessionQueue, work: Chunk | Control) -> None:
        self._multiplexer.add(session_queue, work)
        if self._reader.ident is None:
            # Not before: a stream that fails is followed by another where somebody waits for it.
            self._reader.start()

    def close_later(self, session_queue: SessionQueue) -> None:
        """Have the sessions closed, without waiting for it."""
        self._locked(
            partial(self._multiplexer.add, session_queue, Control(kind=Kind.CLOSE, members=session_queue.members))
        )

    @contextlib.contextmanager
    def pause(self, session_queue: SessionQueue, timeout: float) -> Iterator[None]:
        """Hold the queue still, once all that was asked of it before is answered."""
        self.ask(session_queue, Control(kind=Kind.PAUSE, members=session_queue.members), timeout)
        try:
            yield
        finally:
            self._locked(partial(self._multiplexer.resume, session_queue))

    def call(self, session_queue: SessionQueue, call: Call[R], timeout: float) -> R:
        """Ask about a session that is paused, of the server that has it, and of the next where that one is lost.

        Raises:
            GatestreamError: it was refused, or there was no answer.
        """
        deadline = time.monotonic() + timeout
        for seconds in left_of(self._multiplexer, session_queue, deadline, timeout, time.monotonic):
            if seconds > 0:
                time.sleep(seconds)
                continue
            connection = self._network.use(self._connection)
            try:
                if not self._locked(partial(aim, call.request, session_queue)):
                    continue
                return connection.ask(call, max(deadline - time.monotonic(), 0.001))
            except GatestreamError as error:
                if may_be_done(session_queue, call, error):
                    self.settle(session_queue)
                if not asks_again(session_queue, call, error):
                    return call.refused(error)
                call = call.once_more()
            finally:
                self._network.release(connection)
        raise AssertionError("it ends by an answer or an error")

    def note(self, act: Callable[[], None]) -> None:
        """Have something noted of a queue, while nobody else looks at it."""
        self._locked(act)

    def settle(self, session_queue: SessionQueue) -> None:
        """Have the server say where a session stands of which that is not known: it is opened once more."""
        opens = False
        try:
            opens = self._locked(partial(self._multiplexer.settle, session_queue))
        finally:
            if not opens:
                # By the next stream.
                self._wire.cancel()

    def close(self) -> None:
        """Close the sessions, once what is on its way is answered, and end the stream."""
        self._closing.set()
        self._locked(self._multiplexer.finish)
        if self._reader.ident is None:
            self._wire.cancel()
            self._network.release(self._connection)
            return
        self._reader.join(_SECONDS_TO_PART)
        self._wire.cancel()
        self._reader.join()

    def _leave(self, session_queue: SessionQueue, work: Chunk | Control) -> None:
        error = DeadlineExceededError("the caller waits no longer")
        self._locked(partial(self._multiplexer.withdraw, session_queue, work, error))
        # Ctrl-C may have come before what others wait for too had left.
        self._wire.flush()

    def _locked(self, act: Callable[[], R]) -> R:
        """Do something with the multiplexer, send what may leave then, and wake whoever has an answer."""
        with self._lock:
            result = act()
            wire = self._wire
            messages = self._multiplexer.take()
            for message in messages:
                wire.send(message)
            over, retry_in = False, None
            if not self._multiplexer.usual:
                over, retry_in = self._multiplexer.over, self._multiplexer.retry_in
        # The lock is free again: others may ask meanwhile.
        if messages:
            wire.flush()
        if over:
            wire.finish()
        self._bells.ring()
        if retry_in is not None:
            timer = threading.Timer(retry_in, partial(self._locked, self._multiplexer.retry))
            timer.daemon = True
            timer.start()
        return result

    # ---- The thread that reads ---------------------------------------------------------------------

    def _run(self) -> None:
        attempts, again = delays(), False
        begun = len(self._network.settings.addresses) > 1
        while True:
            reason, spoke = self._read(again=again)
            begun = begun or spoke
            self._wire.finish()
            if self._multiplexer.parted(time.monotonic()) is None:
                # It was of use; else the next attempt waits for longer.
                attempts = delays()
            elsewhere = self._multiplexer.going_away or isinstance(reason(), DrainingError)
            goes_on = not self._closing.is_set() and passes(reason(), begun=begun)
            only = "" if elsewhere else self._multiplexer.home(self._connection.address)
            if not self._locked(partial(self._multiplexer.parts, reason, time.monotonic(), goes_on=goes_on)):
                break
            connection = self._reconnect(attempts, elsewhere=elsewhere, only=only)
            if connection is None:
                self._locked(partial(self._multiplexer.end, self._reason or reason))
                break
            self._locked(partial(self._reattach, connection))
            again = True
        self._network.release(self._connection)

    def _read(self, *, again: bool) -> tuple[Callable[[], GatestreamError], bool]:
        """Hear what the server says until the stream ends; why it did, and whether anything was said.

        Args:
            again: there was a stream before it.
        """
        spoke = False
        address = self._connection.address

        def receive(message: bytes) -> None:
            nonlocal spoke, again
            self._locked(partial(self._multiplexer.receive, message))
            spoke = True
            if again and not self._multiplexer.going_away:
                again = False
                log.info("the connection was lost; connected again, to %s", address)

        try:
            self._wire.run(receive)
        except grpc.RpcError as error:
            return from_stream(error, address), spoke
        except GatestreamError as error:
            self._wire.cancel()
            return partial(copy.copy, error), spoke
        except Exception as error:
            self._wire.cancel()
            self._locked(partial(self._multiplexer.end, partial(ProtocolError, f"this client failed: {error!r}")))
            raise
        return from_stream(None, address), spoke

    def _reconnect(self, attempts: Iterator[float], *, elsewhere: bool, only: str) -> Connection | None:
        """Another connection; None: nobody wants one any more, or there will be none."""
        self._reason: Callable[[], GatestreamError] | None = None
        for delay in attempts:
            if self._closing.wait(delay):
                return None
            try:
                return self._network.use(self._network.renew(self._connection, elsewhere=elsewhere, only=only))
            except GatestreamError as error:
                if not passes(error, begun=True) and not isinstance(error, DeadlineExceededError):
                    self._reason = partial(copy.copy, error)
                    return None
        return None

    def _reattach(self, connection: Connection) -> None:
        self._network.release(self._connection)
        self._connect(connection)
        self._multiplexer.reattach(connection.limits)
