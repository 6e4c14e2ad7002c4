"""The sessions that one stream holds, and what each message of its server means to them."""

from collections.abc import Sequence

import numpy as np
from google.protobuf.message import DecodeError

from gatestream.client.errors import (
    ConnectionLostError,
    DrainingError,
    EpochStaleError,
    GatestreamError,
    HandleUnknownError,
    ProtocolError,
    SessionClosedError,
    SessionElsewhereError,
    from_reason,
)
from gatestream.client.protocol.batcher import Batcher
from gatestream.client.protocol.handles import Handles, ints
from gatestream.client.protocol.keeping import why_closed
from gatestream.client.protocol.packing import Bounds
from gatestream.client.protocol.queue import SessionQueue
from gatestream.client.protocol.requests import Ints, Kind
from gatestream.client.protocol.resuming import RETURNING, learn
from gatestream.client.protocol.returning import Returning, no_handles
from gatestream.protos.gatestream.v1 import gatestream_pb2 as pb

# What a Steps message needs besides its entries.
_MESSAGE_BYTES = 64
_NONE: Ints = np.empty(0, np.int64)


class Attached:
    """Gives each session a handle, and each answer to the work that waits for it.

    Attributes:
        bounds: what may be on its way.
        batcher: of what is asked.
        handles: of the stream.
        queues: those that the stream holds, or is to hold again.
        returning: those of their members that are on their way back.
        going_away: the server will stop, and opens nothing more.
        useful: it has opened a session.
    """

    def __init__(self, limits: pb.Limits, *, retry: bool) -> None:
        """Begin with none.

        Args:
            limits: the server's.
            retry: keep what is refused for lack of room, for the caller to send again.
        """
        self.bounds = Bounds(
            rows=limits.rows_per_stream,
            reply_bytes=limits.reply_bytes_per_stream,
            request_bytes=limits.message_bytes - _MESSAGE_BYTES,
        )
        self.batcher = Batcher(self.bounds, retry=retry)
        self.handles = Handles(limits.sessions_per_stream)
        self.queues: dict[SessionQueue, None] = {}
        self.returning = Returning(self.handles, self.batcher, limits.chunk_length)
        self.going_away = False
        self.useful = False
        self._chunk_length = limits.chunk_length

    def attach(self, session_queue: SessionQueue, opens: Sequence[pb.Open]) -> None:
        """Have sessions that are about to be opened, by handles of this stream."""
        self.queues[session_queue] = None
        self.handles.assign(session_queue.handles, session_queue, session_queue.members)
        for handle, each in zip(session_queue.handles.tolist(), opens, strict=True):
            each.handle = handle

    def take_back(self, session_queue: SessionQueue) -> None:
        """Have sessions that were opened on an earlier stream, by handles of this one: open them again."""
        self.queues[session_queue] = None
        self.returning.begin(session_queue, sorted(session_queue.away))
        self.handles.give_back(session_queue.handles[sorted(session_queue.closed)])

    def receive(self, data: bytes) -> None:
        """Take what the server says.

        Args:
            data: a `ServerMessage`.

        Raises:
            ProtocolError: the protocol does not allow it; the stream is of no more use.
            ConnectionLostError: another worker of the server has the sessions; nor is it then.
        """
        if self.batcher.taken_whole(data):
            if self.returning.lanes:
                self.go_on()
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
            for session_queue, members, part in self.handles.runs(done.handle):
                session_queue.was_reset(members, ints(done.position)[part])
                self.batcher.acknowledged(session_queue, members, Kind.RESET)
        elif kind == "closed":
            self._closed(message.closed)
        elif kind == "durable":
            self._durable(message.durable)
        elif kind == "going_away":
            self.going_away = True
        # Of a kind that a later server may know and this client does not: nothing that was asked for.
        if self.returning.lanes:
            self.go_on()

    def go_on(self) -> None:
        """See to sessions that are on their way back."""
        for session_queue in self.returning.go_on():
            self.release_unopened(session_queue)
            self._forget_if_closed(session_queue)
        if self.returning.refused:
            # The server opens nothing more, before it has said so by itself.
            self.going_away = True

    # ---- What each message means ----------------------------------------------------------------------

    def _durable(self, durable: pb.Durable) -> None:
        handles, sequences = ints(durable.handle), ints(durable.sequence)
        # It may cross the end of a session.
        known = self.handles.known(handles)
        for session_queue, members, part in self.handles.runs(handles[known]):
            owner, owned = self.returning.owner(session_queue, members)
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
        for session_queue, members, part in self.handles.runs(results.handle):
            if columns is None:
                layout = session_queue.layout
                columns = layout.decode(results.output, results.gate, int(ends[-1]))
            elif session_queue.layout is not layout:
                raise ProtocolError("results of sessions with unlike columns came in one message")
            rows = slice(ends[part.start] - lengths[part.start], ends[part.stop - 1])
            self.batcher.taken(session_queue, members, lengths[part], firsts[part], [each[rows] for each in columns])

    def _opened(self, opened: pb.Opened) -> None:
        for session_queue, members, _ in self.handles.runs([opened.handle]):
            self.useful = True
            if not self.returning.opened(session_queue, opened):
                learn(session_queue, int(members[0]), opened, stands=True)
            self.batcher.acknowledged(session_queue, members, Kind.OPEN)

    def _error(self, error: pb.Error) -> None:
        if not error.handle:
            raise from_reason(error.reason, error.message, error.retry_after_ms / 1000)
        every = ints(error.handle)
        there = self.handles.refused(every)
        positions, sequences = ints(error.position), ints(error.sequence)
        if len(positions):
            positions = positions[there]
        if len(sequences):
            sequences = sequences[there]
        for session_queue, members, part in self.handles.runs(every[there]):
            failure = from_reason(error.reason, error.message, error.retry_after_ms / 1000, error.epoch)
            if self._let_go_of(session_queue, failure):
                self.batcher.away(session_queue, members)
                continue
            if len(positions):
                session_queue.was_moved(members, positions[part], sequences[part])
            if self._open_otherwise(session_queue, members, failure):
                continue
            if isinstance(failure, DrainingError):
                self.going_away = True
            if isinstance(failure, SessionElsewhereError) and not self.useful and self.returning.lanes:
                # All of them were on one stream, so in one worker.
                raise ConnectionLostError("the connection leads to another worker than the one that has the sessions")
            if isinstance(failure, HandleUnknownError):
                failure = SessionClosedError(f"the session is closed, or another stream opened it: {failure}")
            self.batcher.refused(session_queue, members, failure)
            self.release_unopened(session_queue)

    def _let_go_of(self, session_queue: SessionQueue, failure: GatestreamError) -> bool:
        """Whether sessions that can be opened again are gone, and `Closed`, which says why, is on its way.

        Until it comes nothing is known of them: a position that a refusal names may be ahead of what is ever answered.
        """
        if session_queue.log is None and self.returning.of(session_queue) is None:
            return False
        in_flight = session_queue.in_flight
        opening = in_flight is not None and in_flight.opening
        return isinstance(failure, HandleUnknownError | SessionClosedError) and not opening

    def _open_otherwise(self, session_queue: SessionQueue, members: Ints, failure: GatestreamError) -> bool:
        """Open by another request what was refused for what an earlier one may have done; False: there is none."""
        resumption = self.returning.of(session_queue)
        if resumption is not None:
            again = resumption.otherwise(failure)
        elif again := isinstance(failure, EpochStaleError) and session_queue.log is not None:
            for member in members.tolist():
                request = session_queue.log.opens[member]
                request.epoch = max(request.epoch, failure.epoch) + 1
        if again:
            self.batcher.once_more(session_queue, members)
        return again

    def _closed(self, closed: pb.Closed) -> None:
        every = ints(closed.handle)
        there = self.handles.closed(every)
        positions = ints(closed.position)
        positions = positions[there] if len(positions) else positions
        for session_queue, members, part in self.handles.runs(every[there]):
            if closed.reason in RETURNING and session_queue.log is not None:
                self._let_go(session_queue, members)
                continue
            session_queue.positions[members] = positions[part]
            error = why_closed(session_queue.ids[int(members[0])], len(members), closed.reason)
            requested = closed.reason == pb.CLOSE_REASON_REQUESTED
            crossing = self.batcher.closed(session_queue, members, error, requested=requested)
            self._release(session_queue, members, crossing)

    def _let_go(self, session_queue: SessionQueue, members: Ints) -> None:
        """The server let go of sessions that can be opened again: here at once, or by the next stream."""
        crossing = self.batcher.away(session_queue, members)
        self.handles.release(session_queue, members, crossing)
        if not self._open_here(session_queue, members):
            # Those that are crossed are not free before the server has answered.
            raise no_handles()

    def open_once_more(self, session_queue: SessionQueue, members: Ints) -> bool:
        """Open sessions that the stream has, by other handles; False: it has none left.

        The server closes those that they had: the session is theirs no more.
        """
        self.batcher.away(session_queue, members)
        self.handles.leave(session_queue, members)
        return self._open_here(session_queue, members)

    def _open_here(self, session_queue: SessionQueue, members: Ints) -> bool:
        """Open sessions that have no handle here, unless the next stream is to do that; False: this one is full."""
        return self.going_away or self.returning.by_other_handles(session_queue, members)

    def release_unopened(self, session_queue: SessionQueue) -> None:
        """Have the handles of members that the server refused to open be free again."""
        members, session_queue.unopened = session_queue.unopened, _NONE
        if len(members):
            self._release(session_queue, members, _NONE)

    def _release(self, session_queue: SessionQueue, members: Ints, crossing: Ints) -> None:
        """The members are gone; their handles are free again, save for the crossing ones."""
        self.handles.release(session_queue, members, crossing)
        if session_queue.log is not None:
            session_queue.log.gone(members)
        self._forget_if_closed(session_queue)

    def _forget_if_closed(self, session_queue: SessionQueue) -> None:
        if len(session_queue.closed) == len(session_queue.members):
            self.queues.pop(session_queue, None)
            self.handles.forget(session_queue)
            if session_queue.log is not None:
                session_queue.log.trim()
