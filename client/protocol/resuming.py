"""One session on its way back: opened again, by the next epoch, and sent what its server has not.

Its handle stands for a queue of its own meanwhile, the lane, in which the opening and then what is sent again go by the
same rules as all other work: one message at a time, within the server's bounds. What the lane is answered reaches no
caller. The session's own queue waits until all its members are back.
"""

from collections import deque
from collections.abc import Callable

import numpy as np

from gatestream.client.columns import Array
from gatestream.client.errors import (
    EpochStaleError,
    GatestreamError,
    NotReplayableError,
    Retried,
    SessionClosedError,
    SessionError,
    SessionExistsError,
    SessionUnknownError,
)
from gatestream.client.protocol.keeping import proposed_by
from gatestream.client.protocol.log import Entry, Piece
from gatestream.client.protocol.queue import SessionQueue
from gatestream.client.protocol.requests import Chunk, Control, Kind
from gatestream.protos.gatestream.v1 import gatestream_pb2 as pb

RETURNING = (pb.CLOSE_REASON_PARKED, pb.CLOSE_REASON_FENCED)
"""Why a server closes a session that can be opened again."""


class Resumption:
    """Of one member of a queue.

    Attributes:
        session_queue: that it belongs to.
        member: of that queue.
        lane: the queue in which it comes back.
    """

    def __init__(
        self, session_queue: SessionQueue, member: int, chunk_length: int, wake: Callable[["Resumption"], None]
    ) -> None:
        """Ask for the opening.

        Args:
            session_queue: with a log, and the new handle.
            member: of it.
            chunk_length: of the server.
            wake: called when there is news.
        """
        assert session_queue.log is not None
        self.session_queue = session_queue
        self.member = member
        self.lane = SessionQueue(
            session_queue.layout, session_queue.handles[member : member + 1], chunk_length, patient=True
        )
        self._log = session_queue.log
        self._was_open = member in self._log.opened
        self._wake = lambda: wake(self)
        self._request = self._log.reopening(member)
        self._request.handle = int(self.lane.handles[0])
        self._request.ClearField("acknowledged")
        self._unsettled = member in self._log.unsettled
        if self._was_open:
            # As if the state had been set, where the answer is not known: no other sequence is one higher.
            self._request.acknowledged = self._lacking + self._unsettled
        self._opening = Control(kind=Kind.OPEN, members=self.lane.members, opens=[self._request])
        # By which it is asked whose the session is that is there.
        self._doubt: pb.Open | None = None
        # What has been asked of the lane, and not yet been done.
        self._works: deque[Chunk | Control] = deque()
        self._gap: SessionError | None = None
        self._ask(self._opening)

    @property
    def _lacking(self) -> int:
        """The sequence of the first answer that is lacking."""
        offsets = self.session_queue.offsets
        return int(self.session_queue.positions[self.member]) + (0 if offsets is None else int(offsets[self.member]))

    # ---- What the server says ------------------------------------------------------------------

    def opened(self, opened: pb.Opened) -> None:
        """It stands there: send again what came after."""
        settled = self._was_open and not (self._unsettled and opened.sequence == self._lacking + 1)
        self.lane.stands(0, opened.sequence, opened.position)
        learn(self.session_queue, self.member, opened, stands=not settled)
        self._log.unsettled.discard(self.member)
        if not settled:
            return
        until = self._lacking
        pieces = self._log.since(self.member, opened.sequence, until, self._taken())
        steps = sum(len(piece[0]) for piece in pieces or [] if piece is not None)
        position = int(self.session_queue.positions[self.member])
        if pieces is None or opened.position + steps != position:
            self._gap = NotReplayableError(
                f"session '{opened.session_id}' stands at sequence {opened.sequence}, position {opened.position}; this "
                f"client has answers up to {until}, position {position}, and not all that it sent from there on"
            )
            return
        for work in self._replay(pieces):
            self._ask(work)

    def otherwise(self, failure: GatestreamError) -> bool:
        """Have the opening be asked by another request; False: this failure stays."""
        if isinstance(failure, SessionExistsError) and self._request.mode == pb.OPEN_MODE_CREATE:
            # Made by an attempt of ours, perhaps. No session has an epoch below 1: an Open with that changes nothing,
            # and is told which it has.
            self._doubt = pb.Open()
            self._doubt.CopyFrom(self._request)
            self._doubt.mode, self._doubt.epoch = pb.OPEN_MODE_RESUME, 1
            self._opening.opens = [self._doubt]
            return True
        if isinstance(failure, SessionUnknownError) and self._doubt is not None:
            # It has ended since.
            self._be_sure()
            self.raise_epoch()
            return True
        if not isinstance(failure, EpochStaleError) or self._was_open:
            return False
        if self._doubt is not None:
            if not proposed_by(failure.epoch, self._request.epoch):
                return False
            self._be_sure()
            self._request.mode, self._request.acknowledged = pb.OPEN_MODE_RESUME, 0
        self.raise_epoch(failure.epoch)
        return True

    def _be_sure(self) -> None:
        self._opening.opens, self._doubt = [self._request], None

    def raise_epoch(self, stale: int = 0) -> None:
        """Propose a higher epoch, which is above one that is stale."""
        self._request.epoch = max(self._request.epoch, stale) + 1

    # ---- How it goes -----------------------------------------------------------------------------

    @property
    def refusal(self) -> Retried | None:
        """Why it has to be asked again later."""
        return self._works[0].refusal if self._works else None

    @property
    def opening(self) -> bool:
        """Whether what is asked is the opening."""
        return bool(self._works) and isinstance(self._works[0], Control) and self._works[0].kind is Kind.OPEN

    @property
    def refusals(self) -> int:
        """How often that was said."""
        return self._works[0].refusals if self._works else 0

    def news(self) -> GatestreamError | None:
        """Why it cannot be resumed, if so; `done` says whether it has been."""
        while self._works and self._works[0].done:
            work = self._works.popleft()
            if work.error is not None:
                return self._why(work.error)
        return self._gap

    @property
    def done(self) -> bool:
        """Whether it stands where its caller left it."""
        return not self._works and self._gap is None

    # ---- Parts -------------------------------------------------------------------------------------

    def _ask(self, work: Chunk | Control) -> None:
        work.wake = self._wake
        self._works.append(work)
        self.lane.waiting.append(work)

    def _replay(self, pieces: list[Piece]) -> list[Chunk | Control]:
        """Resets, and the steps between them, each as one chunk."""
        works: list[Chunk | Control] = []
        steps: list[list[Array]] = []

        def flush() -> None:
            if steps:
                columns = [np.concatenate(each)[None] for each in zip(*steps, strict=True)]
                works.append(Chunk(members=self.lane.members, columns=columns, length=columns[0].shape[1]))
                steps.clear()

        for piece in pieces:
            if piece is None:
                flush()
                works.append(Control(kind=Kind.RESET, members=self.lane.members))
            else:
                steps.append(piece)
        flush()
        return works

    def _taken(self) -> Entry | None:
        """Of the steps that are on their way, those that were answered."""
        in_flight, offsets = self.session_queue.in_flight, self.session_queue.offsets
        if in_flight is None or in_flight.control is not None or offsets is None:
            return None
        return Entry(offsets, in_flight.members, in_flight.base, in_flight.taken, tuple(in_flight.columns), 0)

    def _why(self, error: GatestreamError) -> GatestreamError:
        name = self._request.session_id
        if isinstance(error, EpochStaleError) and self._doubt is not None:
            return SessionExistsError(f"session '{name}' is there, and was made by another client")
        if isinstance(error, EpochStaleError):
            return SessionClosedError(
                f"session '{name}' was closed since another client opened it (epoch {error.epoch})",
                pb.CLOSE_REASON_TAKEN_OVER,
            )
        return error


def learn(session_queue: SessionQueue, member: int, opened: pb.Opened, *, stands: bool) -> None:
    """What `Opened` says of a member.

    Args:
        session_queue: whose member it is.
        member: of it.
        opened: what the server said.
        stands: what it says of the position is news.
    """
    session_queue.ids[member] = opened.session_id
    session_queue.versions.add(opened.version)
    log = session_queue.log
    if stands:
        if log is None:
            session_queue.positions[member] = opened.position
        else:
            session_queue.stands(member, opened.sequence, opened.position)
    if log is not None:
        log.opened.add(member)
        log.opens[member].epoch = max(log.opens[member].epoch, opened.epoch)
        covered = opened.sequence if stands else opened.durable
        log.is_durable(np.array([member]), np.array([covered]))
