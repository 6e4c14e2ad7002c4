"""The client's half of one `Stream`: its sessions' handles, and what each message of the server means.

No asyncio, no gRPC, no clock: `sync` and `aio` move the messages and wait.
"""

from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
from google.protobuf.message import DecodeError

from gatestream.client.columns import Layout
from gatestream.client.errors import (
    ConnectionLostError,
    DrainingError,
    EpochStaleError,
    GatestreamError,
    HandleUnknownError,
    ProtocolError,
    SessionClosedError,
    SessionElsewhereError,
    SessionsExhaustedError,
    from_reason,
)
from gatestream.client.protocol.batcher import Batcher, Bounds
from gatestream.client.protocol.handles import Handles, ints
from gatestream.client.protocol.keeping import acknowledgement, keeping, present, why_closed
from gatestream.client.protocol.log import Budget, Log
from gatestream.client.protocol.queue import SessionQueue
from gatestream.client.protocol.requests import Chunk, Control, Ints, Kind
from gatestream.client.protocol.resuming import RETURNING, learn
from gatestream.client.protocol.returning import Returning
from gatestream.protos.gatestream.v1 import gatestream_pb2 as pb

# What a Steps message needs besides its entries.
_MESSAGE_BYTES = 64
_NONE: Ints = np.empty(0, np.int64)


class Multiplexer:
    """Gives each session a handle, and each answer to the work that waits for it."""

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
        self._bounds = Bounds(
            rows=limits.rows_per_stream,
            reply_bytes=limits.reply_bytes_per_stream,
            request_bytes=limits.message_bytes - _MESSAGE_BYTES,
        )
        self._batcher = Batcher(self._bounds, retry=self._retry)
        self._handles = Handles(limits.sessions_per_stream)
        self._attached: dict[SessionQueue, None] = {}
        self._returning = Returning(self._handles, self._batcher, limits.chunk_length)
        self._going_away = False

    @property
    def usable(self) -> bool:
        """Whether new sessions can be opened here."""
        return self._lost is None and not self._going_away

    @property
    def going_away(self) -> bool:
        """Whether the server has said that it will stop."""
        return self._going_away

    @property
    def lost(self) -> bool:
        """Whether the stream is gone, and will have no successor."""
        return self._lost is not None

    @property
    def over(self) -> bool:
        """Whether nothing is left to do on this stream, and it is to end: the server is stopping, or the client is."""
        return (self._going_away or self._ending) and not self._attached

    @property
    def retry_in(self) -> float | None:
        """Seconds after which to call `retry`, once for each number."""
        return self._returning.retry_in()

    def open(self, layout: Layout, opens: Sequence[pb.Open]) -> tuple[SessionQueue, Control]:
        """A queue for sessions that step together, one for each of `opens`, and the work that opens them.

        Raises:
            SessionsExhaustedError: more sessions than the server allows on a stream.
            DrainingError: the server has said that it will stop.
        """
        if self._going_away:
            raise DrainingError("the server is stopping, and opens no sessions; connect again, or to another")
        apart = sum(len(each.members) for each in self._apart) if self._streamless else 0
        free = self._handles.free - apart
        if len(opens) > free:
            raise SessionsExhaustedError(
                f"{len(opens)} sessions more than this connection has were asked for; the server allows "
                f"{self._limits.sessions_per_stream} on one, and {free} are free: connect once more"
            )
        rows = self._bounds.room(layout)
        if len(opens) > rows:
            raise SessionsExhaustedError(
                f"a group of {len(opens)} sessions: the server takes steps of {rows} at once; make groups of that"
            )
        kept = self._budget is not None and self._limits.durability != pb.DURABILITY_OFF
        if not self._streamless:
            session_queue = SessionQueue(layout, self._handles.take(len(opens)), self._limits.chunk_length)
        else:
            session_queue = SessionQueue(layout, np.zeros(len(opens), np.int64), self._limits.chunk_length)
        if self._budget is not None and kept:
            session_queue.log = Log(self._budget, [keeping(each) for each in opens])
        if not self._streamless:
            self._attach(session_queue, opens)
        else:
            self._apart[session_queue] = None
            session_queue.away = set(session_queue.members.tolist())
        return session_queue, Control(kind=Kind.OPEN, members=session_queue.members, opens=list(opens))

    def _attach(self, session_queue: SessionQueue, opens: Sequence[pb.Open]) -> None:
        """Its handles are this stream's."""
        self._attached[session_queue] = None
        self._handles.assign(session_queue.handles, session_queue, session_queue.members)
        for handle, each in zip(session_queue.handles.tolist(), opens, strict=True):
            each.handle = handle

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
        self._release_unopened(session_queue)

    def resume(self, session_queue: SessionQueue) -> None:
        """End the pause that the queue is in."""
        self._batcher.resume(session_queue)

    def take(self) -> list[bytes]:
        """The messages that may leave now, in order."""
        messages = self._batcher.take()
        if self._budget is not None and self._budget.full:
            messages += acknowledgement(self._attached)
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
        if self._batcher.taken_whole(data):
            if self._returning:
                self._go_on()
            return
        try:
            message = pb.ServerMessage.FromString(data)
        except DecodeError as error:
            raise ProtocolError(f"{len(data)} bytes came that are no message: {error}") from None
        kind = message.WhichOneof("kind")
        if kind == "results":
            self._results(message.results)
        elif kind == "opened":
            self._opened(message.opened)
        elif kind == "error":
            self._error(message.error)
        elif kind == "reset_done":
            done = message.reset_done
            for session_queue, members, part in self._handles.runs(done.handle):
                session_queue.was_reset(members, ints(done.position)[part])
                self._batcher.acknowledged(session_queue, members, Kind.RESET)
        elif kind == "closed":
            self._closed(message.closed)
        elif kind == "durable":
            self._durable(message.durable)
        elif kind == "going_away":
            self._going_away = True
        # Of a kind that a later server may know and this client does not: nothing that was asked for.
        if self._returning:
            self._go_on()
        if self._going_away and self._moves_on():
            raise DrainingError("the server is stopping")

    # ---- From one stream to the next -----------------------------------------------------------

    def suspend(self, reason: Callable[[], GatestreamError], now: float) -> bool:
        """The stream is gone, and another may take its place: sessions that are kept wait for it, others end.

        Args:
            reason: makes the error, one for each caller.
            now: seconds, of the clock that `parted` is asked by.

        Returns:
            Whether there are any that wait.
        """
        self._batcher.lost([each for each in self._attached if each.log is None], reason)
        for session_queue in self._attached:
            if session_queue.log is not None:
                self._batcher.away(session_queue, present(session_queue))
                self._apart[session_queue] = None
        self._streamless = True
        self._parted = reason, now if self._parted is None else self._parted[1]
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
        opened = any(each.log is not None and each.log.opened for each in [*self._attached, *self._apart])
        return address if opened and self._limits.store == "memory" else ""

    def parted(self, now: float) -> tuple[GatestreamError, float] | None:
        """Why there is no stream that opens sessions, and for how many seconds there has been none; None: there is."""
        return None if self._parted is None else (self._parted[0](), now - self._parted[1])

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
            if len(session_queue.members) > self._handles.free:
                allowed = f"the server allows {limits.sessions_per_stream} sessions on a connection, and this had more"
                self._batcher.lost([session_queue], partial(SessionsExhaustedError, allowed))
                log.gone(session_queue.members)
                continue
            session_queue.move_to(self._handles.take(len(session_queue.members)), limits.chunk_length)
            if unsent:
                session_queue.away.clear()
                self._attach(session_queue, log.opens)
                self._batcher.back(session_queue)
            else:
                self._attached[session_queue] = None
                self._returning.begin(session_queue, sorted(session_queue.away))
                self._handles.give_back(session_queue.handles[sorted(session_queue.closed)])
        self._go_on()

    def retry(self) -> None:
        """Ask once more what was refused for a while to sessions on their way back."""
        self._returning.retry()

    def finish(self) -> None:
        """Close what is open, as soon as what was asked for is answered; then it is `over`."""
        self._ending = True
        for session_queue in list(self._attached):
            if len(session_queue.closed) < len(session_queue.members):
                self._batcher.add(session_queue, Control(kind=Kind.CLOSE, members=session_queue.members))

    def end(self, reason: Callable[[], GatestreamError]) -> None:
        """The stream is gone for good: whoever waits gets an error, and whoever asks for more.

        Args:
            reason: makes the error, one for each caller.
        """
        if self._lost is None:
            self._lost = reason
            queues = [*self._attached, *self._apart]
            self._batcher.lost(queues, reason)
            for session_queue in queues:
                if session_queue.log is not None:
                    session_queue.log.gone(session_queue.members)
            self._attached.clear()
            self._apart.clear()

    def _go_on(self) -> None:
        """See to sessions that are on their way back."""
        for session_queue in self._returning.go_on():
            self._release_unopened(session_queue)
            self._forget_if_closed(session_queue)
        if self._returning.refused:
            # The server opens nothing more, before it has said so by itself.
            self._going_away = True

    def _moves_on(self) -> bool:
        """Whether to leave a server that is stopping at once, with whatever is on its way, for another to go on with.

        Waiting for the last of its answers would have the sessions that it has let go of wait too.
        """
        kept = [each for each in self._attached if each.log is not None]
        if not kept or self._ending:
            return False
        # What a server remembers by itself ends with it, and goes on there until then.
        return self._limits.store != "memory" or (not self._returning and all(each.away for each in kept))

    # ---- What the server says ---------------------------------------------------------------------

    def _durable(self, durable: pb.Durable) -> None:
        handles, sequences = ints(durable.handle), ints(durable.sequence)
        # It may cross the end of a session.
        known = self._handles.known(handles)
        for session_queue, members, part in self._handles.runs(handles[known]):
            owner, owned = self._returning.owner(session_queue, members)
            if owner.log is not None:
                owner.log.is_durable(owned, sequences[known][part])

    def _results(self, results: pb.Results) -> None:
        firsts = ints(results.first)
        lengths = ints(results.length) if results.length else np.ones(len(results.handle), np.int64)
        if not len(results.handle) == len(firsts) == len(lengths):
            raise ProtocolError(
                f"results of {len(results.handle)} sessions came with {len(firsts)} positions "
                f"and {len(lengths)} lengths"
            )
        ends = np.cumsum(lengths)
        columns = layout = None
        for session_queue, members, part in self._handles.runs(results.handle):
            if columns is None:
                layout = session_queue.layout
                columns = layout.decode(results.output, results.gate, int(ends[-1]))
            elif session_queue.layout is not layout:
                raise ProtocolError("results of sessions with unlike columns came in one message")
            rows = slice(ends[part.start] - lengths[part.start], ends[part.stop - 1])
            self._batcher.taken(session_queue, members, lengths[part], firsts[part], [each[rows] for each in columns])

    def _opened(self, opened: pb.Opened) -> None:
        for session_queue, members, _ in self._handles.runs([opened.handle]):
            self._parted = None
            if not self._returning.opened(session_queue, opened):
                learn(session_queue, int(members[0]), opened, stands=True)
            self._batcher.acknowledged(session_queue, members, Kind.OPEN)

    def _error(self, error: pb.Error) -> None:
        if not error.handle:
            raise from_reason(error.reason, error.message, error.retry_after_ms / 1000)
        every = ints(error.handle)
        there = self._handles.refused(every)
        positions, sequences = ints(error.position), ints(error.sequence)
        if len(positions):
            positions = positions[there]
        if len(sequences):
            sequences = sequences[there]
        for session_queue, members, part in self._handles.runs(every[there]):
            if len(positions):
                session_queue.was_moved(members, positions[part], sequences[part])
            failure = from_reason(error.reason, error.message, error.retry_after_ms / 1000, error.epoch)
            if self._open_otherwise(session_queue, members, failure):
                continue
            if isinstance(failure, DrainingError):
                self._going_away = True
            if isinstance(failure, SessionElsewhereError) and self._parted is not None and self._returning:
                # All of them were on one stream, so in one worker.
                raise ConnectionLostError("the connection leads to another worker than the one that has the sessions")
            if isinstance(failure, HandleUnknownError):
                # It was opened, so it was closed, handed over or taken over since, and Closed is on its way.
                if session_queue.log is not None or self._returning.of(session_queue) is not None:
                    # Which of these, that will say.
                    self._batcher.away(session_queue, members)
                    continue
                failure = SessionClosedError(f"the session is closed, or another stream opened it: {failure}")
            self._batcher.refused(session_queue, members, failure)
            self._release_unopened(session_queue)

    def _open_otherwise(self, session_queue: SessionQueue, members: Ints, failure: GatestreamError) -> bool:
        """Open by another request what was refused for what an earlier one may have done; False: there is none."""
        resumption = self._returning.of(session_queue)
        if resumption is not None:
            again = resumption.otherwise(failure)
        elif again := isinstance(failure, EpochStaleError) and session_queue.log is not None:
            for member in members.tolist():
                request = session_queue.log.opens[member]
                request.epoch = max(request.epoch, failure.epoch) + 1
        if again:
            self._batcher.once_more(session_queue, members)
        return again

    def _closed(self, closed: pb.Closed) -> None:
        for session_queue, members, part in self._handles.runs(closed.handle):
            if closed.reason in RETURNING and session_queue.log is not None:
                self._let_go(session_queue, members)
                continue
            session_queue.positions[members] = ints(closed.position)[part]
            error = why_closed(session_queue.ids[int(members[0])], len(members), closed.reason)
            requested = closed.reason == pb.CLOSE_REASON_REQUESTED
            crossing = self._batcher.closed(session_queue, members, error, requested=requested)
            self._release(session_queue, members, crossing)

    def _let_go(self, session_queue: SessionQueue, members: Ints) -> None:
        """The server let go of sessions that can be opened again: here at once, or by the next stream."""
        crossing = self._batcher.away(session_queue, members)
        self._handles.release(session_queue, members, crossing)
        if self._going_away:
            # By the next stream.
            return
        handles = session_queue.handles.copy()
        handles[members] = self._handles.take(len(members))
        session_queue.move_to(handles, self._limits.chunk_length)
        self._returning.begin(session_queue, members.tolist())

    def _release_unopened(self, session_queue: SessionQueue) -> None:
        members, session_queue.unopened = session_queue.unopened, _NONE
        if len(members):
            self._release(session_queue, members, _NONE)

    def _release(self, session_queue: SessionQueue, members: Ints, crossing: Ints) -> None:
        """The members are gone; their handles are free again, save for the crossing ones."""
        self._handles.release(session_queue, members, crossing)
        if session_queue.log is not None:
            session_queue.log.gone(members)
        self._forget_if_closed(session_queue)

    def _forget_if_closed(self, session_queue: SessionQueue) -> None:
        if len(session_queue.closed) == len(session_queue.members):
            self._attached.pop(session_queue, None)
            self._handles.forget(session_queue)
            if session_queue.log is not None:
                session_queue.log.trim()
