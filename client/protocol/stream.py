"""The client's half of a `Stream` and of its successors: what is asked of sessions, and where these are.

No asyncio, no gRPC, no clock: `sync` and `aio` move the messages and wait.
"""

from collections.abc import Callable, Sequence
from functools import partial

import numpy as np

from gatestream.client.columns import Layout
from gatestream.client.errors import (
    DrainingError,
    GatestreamError,
    SessionClosedError,
    SessionsExhaustedError,
)
from gatestream.client.protocol.attached import Attached
from gatestream.client.protocol.keeping import acknowledgement, keeping, present
from gatestream.client.protocol.log import Budget, Log
from gatestream.client.protocol.queue import SessionQueue
from gatestream.client.protocol.requests import Chunk, Control, Kind
from gatestream.protos.gatestream.v1 import gatestream_pb2 as pb


class Multiplexer:
    """Takes what callers ask, gives the messages to send, and has sessions go on from one stream to the next."""

    def __init__(self, limits: pb.Limits, *, retry: bool, budget: Budget | None = None) -> None:
        """Start with no session.

        Args:
            limits: the server's.
            retry: keep what is refused for lack of room, for the caller to send again.
            budget: of the logs, from which sessions are resumed on another stream; None: they end with this one.
        """
        self._retry = retry
        self._budget = budget
        self._lost: Callable[[], GatestreamError] | None = None
        # Queues that no stream holds, until there is one.
        self._apart: dict[SessionQueue, None] = {}
        self._streamless = False
        # Since when there is no stream, or none on which a session could be opened.
        self._parted: tuple[Callable[[], GatestreamError], float] | None = None
        self._ending = False
        self._begin(limits)

    def _begin(self, limits: pb.Limits) -> None:
        """On a stream on which nothing was said yet."""
        self._limits = limits
        self._attached = Attached(limits, retry=self._retry)
        self._batcher = self._attached.batcher

    @property
    def usable(self) -> bool:
        """Whether new sessions can be opened here."""
        return self._lost is None and not self._attached.going_away

    @property
    def going_away(self) -> bool:
        """Whether the server has said that it will stop."""
        return self._attached.going_away

    @property
    def lost(self) -> bool:
        """Whether the stream is gone, and will have no successor."""
        return self._lost is not None

    @property
    def usual(self) -> bool:
        """Whether the stream goes on and nothing is to be retried: it is not `over`, and `retry_in` is None."""
        attached = self._attached
        return not (attached.going_away or self._ending or attached.returning.lanes)

    @property
    def over(self) -> bool:
        """Whether nothing is left to do on this stream, and it is to end: the server is stopping, or the client is."""
        return (self._attached.going_away or self._ending) and not self._attached.queues

    @property
    def retry_in(self) -> float | None:
        """Seconds after which to call `retry`, once for each number."""
        return self._attached.returning.retry_in()

    def open(self, layout: Layout, opens: Sequence[pb.Open]) -> tuple[SessionQueue, Control]:
        """A queue for sessions that step together, one for each of `opens`, and the work that opens them.

        Raises:
            SessionsExhaustedError: more sessions than the server allows on a stream.
            DrainingError: the server has said that it will stop.
        """
        if self._attached.going_away:
            raise DrainingError("the server is stopping, and opens no sessions; connect again, or to another")
        free = self._attached.handles.free - sum(len(each.members) for each in self._apart)
        if len(opens) > free:
            raise SessionsExhaustedError(
                f"{len(opens)} sessions more than this connection has were asked for; the server allows "
                f"{self._limits.sessions_per_stream} on one, and {free} are free: connect once more"
            )
        rows = self._attached.bounds.room(layout)
        if len(opens) > rows:
            raise SessionsExhaustedError(
                f"a group of {len(opens)} sessions: the server takes steps of {rows} at once; make groups of that"
            )
        kept = self._budget is not None and self._limits.durability != pb.DURABILITY_OFF
        if not self._streamless:
            session_queue = SessionQueue(layout, self._attached.handles.take(len(opens)), self._limits.chunk_length)
        else:
            session_queue = SessionQueue(layout, np.zeros(len(opens), np.int64), self._limits.chunk_length)
        if self._budget is not None and kept:
            session_queue.log = Log(self._budget, [keeping(each) for each in opens])
        if not self._streamless:
            self._attached.attach(session_queue, opens)
        else:
            self._apart[session_queue] = None
            session_queue.away = set(session_queue.members.tolist())
        return session_queue, Control(kind=Kind.OPEN, members=session_queue.members, opens=list(opens))

    def add(self, session_queue: SessionQueue, work: Chunk | Control) -> None:
        """Put work behind what the queue was asked for before."""
        if self._lost is None:
            self._batcher.add(session_queue, work)
        elif isinstance(work, Control) and work.kind is Kind.CLOSE:
            work.finish()
        else:
            gone = work.members[np.isin(work.members, list(session_queue.closed))]
            work.finish(session_queue.why_closed(gone) if len(gone) else self._lost())

    def again(self, session_queue: SessionQueue) -> None:
        """Send what was refused for lack of room once more."""
        self._batcher.again(session_queue)

    def withdraw(self, session_queue: SessionQueue, work: Chunk | Control, error: GatestreamError) -> None:
        """The caller waits no longer: give it `error`."""
        self._batcher.withdraw(session_queue, work, error)
        self._attached.release_unopened(session_queue)

    def resume(self, session_queue: SessionQueue) -> None:
        """End the pause that the queue is in."""
        self._batcher.resume(session_queue)

    def take(self) -> list[bytes]:
        """The messages that may leave now, in order."""
        messages = self._batcher.take()
        budget = self._budget
        if budget is not None and budget.used >= budget.limit:
            messages += acknowledgement(self._attached.queues)
        return messages

    def receive(self, data: bytes) -> None:
        """Take what the server says.

        Args:
            data: a `ServerMessage`.

        Raises:
            ProtocolError: the protocol does not allow it; the stream is of no more use.
            DrainingError, ConnectionLostError: what is here goes on with another server, or another of its workers; nor
                is it then.
        """
        attached = self._attached
        attached.receive(data)
        if attached.going_away and self._moves_on():
            raise DrainingError("the server is stopping")

    # ---- From one stream to the next -----------------------------------------------------------

    def settle(self, session_queue: SessionQueue) -> bool:
        """Have the server say where a session stands of which that is not known: open it once more, on this stream.

        Returns:
            Whether it will say so; else the stream is to be given up for another.
        """
        log = session_queue.log
        if log is None or not log.unsettled or session_queue.away or session_queue not in self._attached.queues:
            # It is known, or about to be.
            return True
        return self._attached.open_once_more(session_queue, present(session_queue))

    def suspend(self, reason: Callable[[], GatestreamError], now: float) -> bool:
        """The stream is gone, and another may take its place: sessions that are kept wait for it, others end.

        Args:
            reason: makes the error, one for each caller.
            now: seconds, of the clock that `parted` is asked by.

        Returns:
            Whether there are any that wait.
        """
        self._batcher.lost([each for each in self._attached.queues if each.log is None], reason)
        for session_queue in self._attached.queues:
            if session_queue.log is not None:
                self._batcher.away(session_queue, present(session_queue))
                self._apart[session_queue] = None
        self._streamless = True
        self._parted = reason, now if self._parted is None or self._attached.useful else self._parted[1]
        self._begin(self._limits)
        return bool(self._apart)

    def parts(self, reason: Callable[[], GatestreamError], now: float, *, goes_on: bool) -> bool:
        """As `suspend`, where it may go on; else, and where nothing waits for another stream, as `end`."""
        if goes_on and self._lost is None and self.suspend(reason, now):
            return True
        self.end(reason)
        return False

    def home(self, address: str) -> str:
        """The only address where this stream's sessions can be: its own, where a server forgets with its process.

        Args:
            address: of the server.

        Returns:
            The address; empty: any that the client has.
        """
        opened = any(each.log is not None and each.log.opened for each in [*self._attached.queues, *self._apart])
        return address if opened and self._limits.store == "memory" else ""

    def parted(self, now: float) -> tuple[GatestreamError, float] | None:
        """Why there is no stream that opens sessions, and for how many seconds there has been none; None: there is."""
        return None if self._parted is None or self._attached.useful else (self._parted[0](), now - self._parted[1])

    def reattach(self, limits: pb.Limits) -> None:
        """There is another stream: open on it what waits for one.

        Args:
            limits: of the server that it leads to.
        """
        self._begin(limits)
        self._streamless = False
        apart, self._apart = self._apart, {}
        for session_queue in apart:
            log = session_queue.log
            assert log is not None
            opening = session_queue.waiting[0] if session_queue.waiting else None
            unsent = session_queue.in_flight is None and not log.opened
            if unsent and not (isinstance(opening, Control) and opening.kind is Kind.OPEN):
                # Its caller gave up before it had been asked for.
                continue
            if len(session_queue.members) > self._attached.handles.free:
                allowed = f"the server allows {limits.sessions_per_stream} sessions on a connection, and this had more"
                self._batcher.drop(session_queue, partial(SessionsExhaustedError, allowed))
                session_queue.closed = dict.fromkeys(session_queue.members.tolist(), SessionClosedError(allowed))
                session_queue.away.clear()
                log.gone(session_queue.members)
                continue
            session_queue.move_to(self._attached.handles.take(len(session_queue.members)), limits.chunk_length)
            if unsent:
                session_queue.away.clear()
                self._attached.attach(session_queue, log.opens)
                self._batcher.back(session_queue)
            else:
                self._attached.take_back(session_queue)
        self._attached.go_on()

    def retry(self) -> None:
        """Ask once more what was refused for a while to sessions on their way back."""
        self._attached.returning.retry()

    def finish(self) -> None:
        """Close what is open, as soon as what was asked for is answered; then it is `over`."""
        self._ending = True
        for session_queue in list(self._attached.queues):
            if len(session_queue.closed) < len(session_queue.members):
                self._batcher.add(session_queue, Control(kind=Kind.CLOSE, members=session_queue.members))

    def end(self, reason: Callable[[], GatestreamError]) -> None:
        """The stream is gone for good: whoever waits gets an error, and whoever asks for more.

        Args:
            reason: makes the error, one for each caller.
        """
        if self._lost is None:
            self._lost = reason
            queues = [*self._attached.queues, *self._apart]
            self._batcher.lost(queues, reason)
            for session_queue in queues:
                if session_queue.log is not None:
                    session_queue.log.gone(session_queue.members)
            self._attached.queues.clear()
            self._apart.clear()

    def _moves_on(self) -> bool:
        """Whether to leave a server that is stopping at once, with whatever is on its way, for another to go on with.

        Waiting for the last of its answers would have the sessions that it has let go of wait too.
        """
        kept = [each for each in self._attached.queues if each.log is not None]
        if not kept or self._ending:
            return False
        # What a server remembers by itself ends with it, and goes on there until then.
        return self._limits.store != "memory" or (
            not self._attached.returning.lanes and all(each.away for each in kept)
        )
