"""The client's half of one `Stream`: its sessions' handles, and what each message of the server means.

No asyncio, no gRPC, no clock: `sync` and `aio` move the messages and wait.
"""

import itertools
from collections.abc import Callable, Iterator, Sequence

import numpy as np
from google.protobuf.message import DecodeError

from gatestream.client.columns import Layout
from gatestream.client.errors import (
    DrainingError,
    GatestreamError,
    HandleUnknownError,
    ProtocolError,
    SessionClosedError,
    SessionsExhaustedError,
    from_reason,
)
from gatestream.client.protocol.batcher import Batcher, Bounds
from gatestream.client.protocol.queue import SessionQueue
from gatestream.client.protocol.requests import Chunk, Control, Ints, Kind
from gatestream.protos.gatestream.v1 import gatestream_pb2 as pb

# What a Steps message needs besides its entries.
_MESSAGE_BYTES = 64
_NONE: Ints = np.empty(0, np.int64)
_CLOSE_REASONS = {
    pb.CLOSE_REASON_REQUESTED: "as was asked",
    pb.CLOSE_REASON_ADMINISTERED: "by a CloseSession call",
    pb.CLOSE_REASON_IDLE: "since it was idle for longer than the server allows",
    pb.CLOSE_REASON_TAKEN_OVER: "since another stream opened it",
    pb.CLOSE_REASON_DRAINED: "since the server is stopping",
}


class Multiplexer:
    """Gives each session a handle, and each answer to the work that waits for it."""

    def __init__(self, limits: pb.Limits, *, retry: bool) -> None:
        """Start with no session.

        Args:
            limits: the server's.
            retry: keep what is refused for lack of room, for the caller to send again.
        """
        self._limits = limits
        self._bounds = Bounds(
            rows=limits.rows_per_stream,
            reply_bytes=limits.reply_bytes_per_stream,
            request_bytes=limits.message_bytes - _MESSAGE_BYTES,
        )
        self._batcher = Batcher(self._bounds, retry=retry)
        self._free: list[int] = []
        self._next_handle = 0
        # By handle: the queue's number, or -1, and the member's.
        self._queue_of: Ints = np.full(limits.sessions_per_stream, -1)
        self._member_of: Ints = np.zeros(limits.sessions_per_stream, np.int64)
        self._queues: dict[int, SessionQueue] = {}
        self._next_queue = 0
        # Handles whose session the server closed while a message of ours was on its way to it: that message will
        # be refused, and until then the handle cannot be used again.
        self._crossed: set[int] = set()
        self._lost: Callable[[], GatestreamError] | None = None
        self._going_away = False

    @property
    def usable(self) -> bool:
        """Whether new sessions can be opened here."""
        return self._lost is None and not self._going_away

    @property
    def lost(self) -> bool:
        """Whether the stream is gone."""
        return self._lost is not None

    @property
    def over(self) -> bool:
        """Whether the server is stopping and nothing is left to do here: time to end the stream."""
        return self._going_away and not self._queues

    def open(self, layout: Layout, opens: Sequence[pb.Open]) -> tuple[SessionQueue, Control]:
        """A queue for sessions that step together, one for each of `opens`, and the work that opens them.

        Raises:
            SessionsExhaustedError: more sessions than the server allows on a stream.
            DrainingError: the server has said that it will stop.
        """
        if self._going_away:
            raise DrainingError("the server is stopping, and opens no sessions; connect again, or to another")
        free = len(self._free) + self._limits.sessions_per_stream - self._next_handle
        if len(opens) > free:
            raise SessionsExhaustedError(
                f"{len(opens)} sessions more than this connection has were asked for; the server allows "
                f"{self._limits.sessions_per_stream} on one, and {free} are free: connect once more"
            )
        handles = [self._free.pop() if self._free else self._new_handle() for _ in opens]
        session_queue = SessionQueue(layout, np.array(handles, np.int64), self._limits.chunk_length)
        rows = self._bounds.room(layout)
        if len(handles) > rows:
            self._free += handles
            raise SessionsExhaustedError(
                f"a group of {len(handles)} sessions: the server takes steps of {rows} at once; make groups of that"
            )
        self._queues[self._next_queue] = session_queue
        self._queue_of[session_queue.handles] = self._next_queue
        self._member_of[session_queue.handles] = session_queue.members
        self._next_queue += 1
        for handle, each in zip(handles, opens, strict=True):
            each.handle = handle
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
        self._release_unopened(session_queue)

    def resume(self, session_queue: SessionQueue) -> None:
        """End the pause that the queue is in."""
        self._batcher.resume(session_queue)

    def take(self) -> list[bytes]:
        """The messages that may leave now, in order."""
        return self._batcher.take()

    def receive(self, data: bytes) -> None:
        """Take what the server says.

        Args:
            data: a `ServerMessage`.

        Raises:
            ProtocolError: the protocol does not allow it; the stream is of no more use.
        """
        if self._batcher.taken_whole(data):
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
            for session_queue, members, part in self._runs(done.handle):
                session_queue.positions[members] = _ints(done.position)[part]
                self._batcher.acknowledged(session_queue, members, Kind.RESET)
        elif kind == "closed":
            self._closed(message.closed)
        elif kind == "going_away":
            self._going_away = True
        # Of a kind that a later server may know and this client does not: nothing that was asked for.

    def end(self, reason: Callable[[], GatestreamError]) -> None:
        """The stream is gone: whoever waits gets an error, and whoever asks for more.

        Args:
            reason: makes the error, one for each caller.
        """
        if self._lost is None:
            self._lost = reason
            self._batcher.lost(self._queues.values(), reason)
            self._queues.clear()

    def _results(self, results: pb.Results) -> None:
        firsts = _ints(results.first)
        lengths = _ints(results.length) if results.length else np.ones(len(results.handle), np.int64)
        if not len(results.handle) == len(firsts) == len(lengths):
            raise ProtocolError(
                f"results of {len(results.handle)} sessions came with {len(firsts)} positions "
                f"and {len(lengths)} lengths"
            )
        ends = np.cumsum(lengths)
        columns = layout = None
        for session_queue, members, part in self._runs(results.handle):
            if columns is None:
                layout = session_queue.layout
                columns = layout.decode(results.output, results.gate, int(ends[-1]))
            elif session_queue.layout is not layout:
                raise ProtocolError("results of sessions with unlike columns came in one message")
            rows = slice(ends[part.start] - lengths[part.start], ends[part.stop - 1])
            self._batcher.taken(session_queue, members, lengths[part], firsts[part], [each[rows] for each in columns])

    def _opened(self, opened: pb.Opened) -> None:
        for session_queue, members, _ in self._runs([opened.handle]):
            session_queue.ids[int(members[0])] = opened.session_id
            session_queue.positions[members] = opened.position
            session_queue.versions.add(opened.version)
            self._batcher.acknowledged(session_queue, members, Kind.OPEN)

    def _error(self, error: pb.Error) -> None:
        if not error.handle:
            raise from_reason(error.reason, error.message, error.retry_after_ms / 1000)
        handles = _ints(error.handle)
        positions = _ints(error.position)
        if self._crossed:
            crossed = np.isin(handles, list(self._crossed))
            self._crossed.difference_update(handles[crossed].tolist())
            self._free += handles[crossed].tolist()
            positions = positions[~crossed] if len(positions) else positions
            handles = handles[~crossed]
        for session_queue, members, part in self._runs(handles):
            if len(positions):
                session_queue.positions[members] = positions[part]
            failure = from_reason(error.reason, error.message, error.retry_after_ms / 1000)
            if isinstance(failure, HandleUnknownError):
                # It was opened, so it was closed or taken over since, and Closed is on its way.
                failure = SessionClosedError(f"the session is closed, or another stream opened it: {failure}")
            self._batcher.refused(session_queue, members, failure)
            self._release_unopened(session_queue)

    def _closed(self, closed: pb.Closed) -> None:
        for session_queue, members, part in self._runs(closed.handle):
            session_queue.positions[members] = _ints(closed.position)[part]
            why = _CLOSE_REASONS.get(closed.reason, "without a reason")
            name = session_queue.ids[int(members[0])]
            more = f" and {len(members) - 1} more" if len(members) > 1 else ""
            error = SessionClosedError(f"session '{name}'{more} was closed {why}", closed.reason)
            crossing = self._batcher.closed(
                session_queue, members, error, requested=closed.reason == pb.CLOSE_REASON_REQUESTED
            )
            self._crossed.update(session_queue.handles[crossing].tolist())
            self._release(session_queue, members, crossing)

    def _release_unopened(self, session_queue: SessionQueue) -> None:
        members, session_queue.unopened = session_queue.unopened, _NONE
        if len(members):
            self._release(session_queue, members, _NONE)

    def _release(self, session_queue: SessionQueue, members: Ints, crossing: Ints) -> None:
        """The members are gone; their handles are free again, save for the crossing ones."""
        number = int(self._queue_of[session_queue.handles[members[0]]])
        self._queue_of[session_queue.handles[members]] = -1
        self._free += session_queue.handles[np.setdiff1d(members, crossing)].tolist()
        if not (self._queue_of[session_queue.handles] == number).any():
            del self._queues[number]

    def _new_handle(self) -> int:
        self._next_handle += 1
        return self._next_handle - 1

    def _runs(self, handles: Sequence[int] | Ints) -> Iterator[tuple[SessionQueue, Ints, slice]]:
        """Neighbouring entries of one queue: the queue, its members, where they stand in the message."""
        array = _ints(handles)
        if len(array) == 1 and array[0] < len(self._queue_of) and self._queue_of[array[0]] >= 0:
            # One session a message, the quick way.
            yield self._queues[int(self._queue_of[array[0]])], self._member_of[array], slice(0, 1)
            return
        if not len(array):
            return
        numbers = self._queue_of[array] if array.max() < len(self._queue_of) else np.array([-1])
        if numbers.min() < 0:
            raise ProtocolError(f"an answer came for handles {array.tolist()[:8]}, not all of which are open")
        members = self._member_of[array]
        cuts = [0, *(np.flatnonzero(numbers[1:] != numbers[:-1]) + 1).tolist(), len(array)]
        for begin, end in itertools.pairwise(cuts):
            yield self._queues[int(numbers[begin])], members[begin:end], slice(begin, end)


def _ints(values: Sequence[int] | Ints) -> Ints:
    # Both are right; which is quick differs by a factor of ten, either way.
    return np.fromiter(values, np.int64, len(values)) if len(values) < 8 else np.array(values, np.int64)
