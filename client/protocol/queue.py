"""What one session, or one group of sessions, was asked for, in order, and the part of it that is on its way.

A session queue is the unit of order: at most one message of it is on its way, and what comes behind waits. Its members
step together; a session is a queue of one member. No asyncio, no gRPC, no clock: arrays go in and come out.
"""

import copy
from collections import deque

import numpy as np

from gatestream.client.columns import Array, Layout
from gatestream.client.errors import GatestreamError, PrecedingFailedError, SessionClosedError, SessionError
from gatestream.client.protocol.codec import varints
from gatestream.client.protocol.in_flight import InFlight
from gatestream.client.protocol.log import Log
from gatestream.client.protocol.requests import Chunk, Control, Ints, Kind


class SessionQueue:
    """Sessions that step together, and what was asked of them, in order.

    Attributes:
        handles: of the members, [n].
        members: 0 to n - 1.
        positions: of each member's next step, as far as the answers tell, [n].
        ids: the members' session ids; empty until they are opened.
        versions: of the model, that the members were opened on.
        closed: why a member is closed, by member.
        unopened: members that the server refused to open, until their handles are given back.
        waiting: what has not left, or not wholly.
        in_flight: what is on its way, or was refused and waits for its caller to try again.
        offsets: sequence less position of each member's next step, [n]: a reset and a state that is set change it, and
            no step does. Replaced when it changes, never written to. None: the sequences are not known.
        log: what is kept of it, to be sent again; None: it ends with its stream.
        away: members that no stream holds, until they are resumed; while there are any, nothing leaves.
        patient: what is refused for lack of room waits here, whatever the client's callers want.
    """

    def __init__(self, layout: Layout, handles: Ints, chunk_length: int, *, patient: bool = False) -> None:
        self.layout = layout
        self.move_to(handles, chunk_length)
        self.members: Ints = np.arange(len(handles))
        self.positions: Ints = np.zeros(len(handles), np.int64)
        self.ids = [""] * len(handles)
        self.versions: set[str] = set()
        self.closed: dict[int, SessionError] = {}
        self.unopened: Ints = np.empty(0, np.int64)
        self.waiting: deque[Chunk | Control] = deque()
        self.in_flight: InFlight | None = None
        self.offsets: Ints | None = None
        self.log: Log | None = None
        self.away: set[int] = set()
        self.patient = patient

    def move_to(self, handles: Ints, chunk_length: int) -> None:
        """Have other handles, and leave in messages of at most so many steps."""
        self.handles = handles
        self._handle_bytes = varints(handles)
        self._chunk_length = chunk_length

    def stands(self, member: int, sequence: int, position: int) -> None:
        """A server said where a member stands."""
        offsets = np.zeros(len(self.members), np.int64) if self.offsets is None else self.offsets.copy()
        offsets[member] = sequence - position
        self.offsets = offsets
        self.positions = self.positions.copy()
        self.positions[member] = position

    def sequences(self, members: Ints) -> Ints | None:
        """Those of the next step of each; None: they are not known."""
        if self.offsets is None or (self.log is not None and not self.log.unsettled.isdisjoint(members.tolist())):
            return None
        return self.positions[members] + self.offsets[members]

    def was_moved(self, members: Ints, positions: Ints, sequences: Ints) -> None:
        """The server said where members stand; where that is somewhere else, somebody else has set their states.

        Args:
            members: which.
            positions: of their next steps.
            sequences: that go with these; empty: the server did not say.
        """
        if self.log is not None and self.offsets is not None:
            known = bool(len(sequences))
            elsewhere = self.positions[members] != positions
            if known:
                elsewhere |= self.offsets[members] != sequences - positions
            moved = members[elsewhere]
            if known and len(moved):
                self.offsets = self.offsets.copy()
                self.offsets[moved] = (sequences - positions)[elsewhere]
                # What was sent before leads there no more.
                self.log.is_durable(moved, sequences[elsewhere])
                self.log.unsettled -= set(moved.tolist())
            else:
                self.log.unsettled |= set(moved.tolist())
        self.positions[members] = positions

    def was_reset(self, members: Ints, positions: Ints) -> None:
        """Members are in their initial state again."""
        self.positions[members] = positions
        if self.offsets is not None:
            if self.log is not None:
                self.log.was_reset(members, positions, self.offsets)
            self.offsets = self.offsets.copy()
            self.offsets[members] += 1

    @property
    def full(self) -> bool:
        """Whether its next steps have to wait until there is room for them in the log."""
        if self.log is None:
            return False
        budget = self.log.budget
        return budget.used >= budget.limit

    def handle_bytes(self, members: Ints) -> bytes:
        """The members' handles, as the wire has them."""
        return self._handle_bytes if len(members) == len(self.members) else varints(self.handles[members])

    def head(self) -> Chunk | Control | None:
        """What comes next; what can no longer be done, since a member is closed, is answered on the way."""
        while self.closed and self.waiting:
            work = self.waiting[0]
            gone = np.isin(work.members, list(self.closed))
            if not gone.any():
                break
            if isinstance(work, Control) and work.kind is Kind.CLOSE:
                work.members = work.members[~gone]
                if len(work.members):
                    break
                self.waiting.popleft()
                work.finish()
            else:
                self.waiting.popleft()
                self._fail(work, self.why_closed(work.members[gone]), work.members[gone])
        return self.waiting[0] if self.waiting else None

    def why_closed(self, members: Ints) -> SessionError:
        """The error for a caller who asks for something of closed members."""
        return copy.copy(self.closed[int(members[0])])

    def start_control(self) -> InFlight:
        """Put the control at the head of the queue on its way."""
        work = self.waiting.popleft()
        self.in_flight = InFlight([work], [1], work.members, self.positions[work.members], [])
        return self.in_flight

    def start_steps(self, rows: int) -> InFlight | None:
        """Put steps at the head of the queue on their way, at most `rows` rows in all.

        Consecutive chunks of the same members leave together; of a long one, as much as one message holds.
        None when there is room for less than one step of each member.
        """
        chunk = self.waiting[0]
        assert isinstance(chunk, Chunk)
        members = chunk.members
        room = min(self._chunk_length, rows // len(members))
        if room <= 0:
            return None
        if chunk.lengths is not None:
            return self._start_ragged(chunk, chunk.lengths, room)
        base = self.positions.copy() if len(members) == len(self.members) else self.positions[members]
        if chunk.length == 1 and len(self.waiting) == 1:
            # One step alone, as most are.
            self.waiting.clear()
            chunk.first, chunk.sent = base, 1
            return self._leave(InFlight((chunk,), (1,), members, base, chunk.columns), own=False)
        chunks: list[Chunk] = []
        ends: list[int] = []
        pieces: list[list[Array]] = []
        at = 0
        while at < room and self.waiting:
            chunk = self.waiting[0]
            if isinstance(chunk, Control) or chunk.lengths is not None or not _same(chunk.members, members):
                break
            begin, end = chunk.sent, min(chunk.length, chunk.sent + room - at)
            if begin == 0:
                chunk.first = base + at if at else base
            whole = end - begin == chunk.length
            pieces.append(chunk.columns if whole else [column[:, begin:end] for column in chunk.columns])
            chunks.append(chunk)
            at += end - begin
            ends.append(at)
            chunk.sent = end
            if end == chunk.length:
                self.waiting.popleft()
        columns = (
            pieces[0] if len(pieces) == 1 else [np.concatenate(each, axis=1) for each in zip(*pieces, strict=True)]
        )
        return self._leave(InFlight(chunks, ends, members, base, columns), own=len(pieces) > 1)

    def _leave(self, in_flight: InFlight, *, own: bool) -> InFlight:
        if self.log is not None:
            in_flight.columns, in_flight.logged = self.log.leaving(in_flight.columns, own=own)
        self.in_flight = in_flight
        return in_flight

    def _start_ragged(self, chunk: Chunk, lengths: Ints, room: int) -> InFlight:
        """Members with fewer steps than the piece begins at take no part in it."""
        begin, end = chunk.sent, min(chunk.length, chunk.sent + room)
        if begin == 0:
            chunk.first = self.positions[chunk.members]
        part = np.flatnonzero(lengths > begin)
        members = chunk.members[part]
        columns = [column[part, begin:end] for column in chunk.columns]
        chunk.sent = end
        if end == chunk.length:
            self.waiting.popleft()
        counts = np.minimum(lengths[part], end) - begin
        # Chosen by index, the columns are copies.
        return self._leave(
            InFlight([chunk], [end - begin], members, self.positions[members], columns, counts), own=True
        )

    def settle(self) -> None:
        """Give the callers their answers, once nothing that is on its way waits for the server."""
        in_flight = self.in_flight
        if in_flight is None or in_flight.waiting or in_flight.due:
            return
        if in_flight.refusal is not None and in_flight.again.any():
            caller = next((work for work in in_flight.works if not work.done), None)
            if caller is not None:
                caller.refuse(in_flight.refusal)
                return
            in_flight.fail(np.flatnonzero(in_flight.again), in_flight.refusal)
        self.in_flight = None
        if self.log is not None and in_flight.logged:
            assert self.offsets is not None
            self.log.answered(in_flight, self.offsets)
        if in_flight.failures:
            self._settle_failed(in_flight)
        elif len(in_flight.works) == 1:
            self._finish(in_flight, in_flight.works[0], 0, in_flight.length)
        else:
            begin = 0
            for work, end in zip(in_flight.works, in_flight.ends, strict=True):
                self._finish(in_flight, work, begin, end)
                begin = end
        work = in_flight.works[0]
        if work.error is not None and isinstance(work, Control) and work.kind is Kind.OPEN:
            self._disown(in_flight)

    def _settle_failed(self, in_flight: InFlight) -> None:
        failure = next(iter(in_flight.failures.values()))
        for work, begin, end in zip(in_flight.works, [0, *in_flight.ends[:-1]], in_flight.ends, strict=True):
            short = in_flight.taken < np.minimum(in_flight.lengths, end)
            if not short.any():
                self._finish(in_flight, work, begin, end)
                continue
            if isinstance(work, Chunk):
                self._note_taken(in_flight, work, begin, end)
            if (in_flight.taken[short] < begin).any():
                self._fail(work, _preceding_failed(), in_flight.members[short])
            else:
                failure.failures = in_flight.failures
                self._fail(work, failure, in_flight.members[short])

    def withdraw(self, work: Chunk | Control, error: GatestreamError) -> None:
        """The caller waits no longer: what has not left stays here; what has left is still accounted for.

        It may have been answered just now, and its caller not know yet.
        """
        kind = work.kind if isinstance(work, Control) else None
        if kind is Kind.OPEN and work.done and work.error is None:
            self.waiting.append(Control(kind=Kind.CLOSE, members=work.members))
        if self.in_flight is not None and self.in_flight.paused and work in self.in_flight.works:
            self.in_flight = None
        work.finish(error)
        if work in self.waiting and kind is not Kind.CLOSE:
            at = self.waiting.index(work)
            del self.waiting[at]
            if isinstance(work, Chunk):
                self._fail_from(at)
        if work.refusal is not None and self.in_flight is not None:
            self.in_flight.fail(np.flatnonzero(self.in_flight.again), work.refusal)
            self.settle()

    def _disown(self, in_flight: InFlight) -> None:
        """Nobody has these sessions: their caller waits no longer, or was refused others of its group."""
        self.unopened = in_flight.members[in_flight.taken == 0]
        self.closed |= dict.fromkeys(self.unopened.tolist(), SessionClosedError("it was not opened"))
        opened = in_flight.members[in_flight.taken > 0]
        if len(opened):
            self.waiting.append(Control(kind=Kind.CLOSE, members=opened))

    def _finish(self, in_flight: InFlight, work: Chunk | Control, begin: int, end: int) -> None:
        if isinstance(work, Chunk):
            self._add_part(in_flight, work, begin, end)
            if work.sent < work.length:
                return
        work.finish()

    def _add_part(self, in_flight: InFlight, work: Chunk, begin: int, end: int) -> None:
        if in_flight.results is None:
            return
        part = (
            in_flight.results if end - begin == in_flight.length else [each[:, begin:end] for each in in_flight.results]
        )
        if len(in_flight.members) < len(work.members):
            rows = np.searchsorted(work.members, in_flight.members)
            among = [np.zeros((len(work.members), *each.shape[1:]), each.dtype) for each in part]
            for every, some in zip(among, part, strict=True):
                every[rows] = some
            part = among
        work.parts.append(part)

    def _note_taken(self, in_flight: InFlight, work: Chunk, begin: int, end: int) -> None:
        """Of work that failed, keep what was taken."""
        before = work.sent - (end - begin)
        work.taken = np.full(len(work.members), before) if work.lengths is None else np.minimum(work.lengths, before)
        work.taken[np.searchsorted(work.members, in_flight.members)] += np.clip(in_flight.taken - begin, 0, end - begin)
        self._add_part(in_flight, work, begin, end)

    def _fail(self, work: Chunk | Control, error: GatestreamError, members: Ints) -> None:
        error.members = members
        work.finish(error)
        if isinstance(work, Chunk):
            if self.waiting and self.waiting[0] is work:
                self.waiting.popleft()
            self._fail_from(0)

    def _fail_from(self, at: int) -> None:
        """Steps asked for behind one that was not taken would be taken out of order."""
        while at < len(self.waiting) and isinstance(chunk := self.waiting[at], Chunk):
            del self.waiting[at]
            error = _preceding_failed()
            error.members = chunk.members
            chunk.finish(error)


def _preceding_failed() -> PrecedingFailedError:
    return PrecedingFailedError("not taken: a step asked for before it was not taken")


def _same(some: Ints, others: Ints) -> bool:
    return some is others or np.array_equal(some, others)
