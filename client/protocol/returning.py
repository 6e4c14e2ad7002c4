"""All sessions of a stream that are on their way back, and what becomes of each."""

import random
from collections.abc import Iterable

import numpy as np

from gatestream.client.errors import (
    ConnectionLostError,
    DrainingError,
    GatestreamError,
    NotReplayableError,
    Retried,
    SessionClosedError,
    SessionError,
    SessionUnknownError,
    StepError,
)
from gatestream.client.protocol.batcher import Batcher
from gatestream.client.protocol.handles import Handles
from gatestream.client.protocol.queue import SessionQueue
from gatestream.client.protocol.requests import Ints
from gatestream.client.protocol.resuming import RETURNING, Resumption
from gatestream.protos.gatestream.v1 import gatestream_pb2 as pb

_NONE: Ints = np.empty(0, np.int64)


def no_handles() -> ConnectionLostError:
    """Why a stream is given up on which sessions can not be opened again."""
    return ConnectionLostError("there are no handles left on this stream: the next one has all its sessions")


class Returning:
    """Belongs to one stream.

    Attributes:
        lanes: what comes back, by the queue that it comes back in.
        refused: the server opens nothing more, since it is stopping.
    """

    def __init__(self, handles: Handles, batcher: Batcher, chunk_length: int) -> None:
        self._handles = handles
        self._batcher = batcher
        self._chunk_length = chunk_length
        self.lanes: dict[SessionQueue, Resumption] = {}
        # Those of which there is news, and those that are to be asked again later.
        self._news: list[Resumption] = []
        self._later: list[Resumption] = []
        self._retry_in: list[float] = []
        self.refused = False

    def begin(self, session_queue: SessionQueue, members: Iterable[int]) -> None:
        """Have members opened again, by the handles that they have now."""
        for member in members:
            resumption = Resumption(session_queue, member, self._chunk_length, self._hear)
            lane = resumption.lane
            self.lanes[lane] = resumption
            self._handles.assign(lane.handles, lane, lane.members)
            self._batcher.mark(lane)

    def by_other_handles(self, session_queue: SessionQueue, members: Ints) -> bool:
        """Have members opened again that have no handles on this stream any more; False: too few are left."""
        if self._handles.free < len(members):
            return False
        handles = session_queue.handles.copy()
        handles[members] = self._handles.take(len(members))
        session_queue.move_to(handles, self._chunk_length)
        self.begin(session_queue, members.tolist())
        return True

    def of(self, lane: SessionQueue) -> Resumption | None:
        """What comes back in this lane; None: it is a queue of its own."""
        return self.lanes.get(lane)

    def owner(self, session_queue: SessionQueue, members: Ints) -> tuple[SessionQueue, Ints]:
        """Whose session it is that has the handle of these members."""
        resumption = self.lanes.get(session_queue)
        if resumption is None:
            return session_queue, members
        return resumption.session_queue, np.array([resumption.member])

    def opened(self, lane: SessionQueue, opened: pb.Opened) -> bool:
        """Take `Opened`; False: it is not about one of these."""
        resumption = self.lanes.get(lane)
        if resumption is None:
            return False
        resumption.opened(opened)
        return True

    def retry_in(self) -> float | None:
        """Seconds after which to call `retry`; each number is given once."""
        return self._retry_in.pop() if self._retry_in else None

    def retry(self) -> None:
        """Ask again what was refused for a while."""
        later, self._later = self._later, []
        for resumption in later:
            if resumption.lane in self.lanes:
                if resumption.opening:
                    resumption.raise_epoch()
                self._batcher.again(resumption.lane)

    def go_on(self) -> list[SessionQueue]:
        """See to those of which there is news; the queues that had some."""
        news, self._news = self._news, []
        touched = []
        for resumption in news:
            if resumption.lane not in self.lanes:
                continue
            error = resumption.news()
            if error is not None:
                self._failed(resumption, error)
            elif resumption.done:
                self._back(resumption)
            elif resumption.refusal is not None and resumption not in self._later:
                self._wait(resumption, resumption.refusal)
            touched.append(resumption.session_queue)
        return touched

    def _hear(self, resumption: Resumption) -> None:
        self._news.append(resumption)

    def _wait(self, resumption: Resumption, refusal: Retried) -> None:
        if not self._later:
            # A server leaves a slot for some times of what it says to whom it said that.
            seconds = max(refusal.retry_after, 0.02) * min(2.0 ** (resumption.refusals - 1), 4.0)
            self._retry_in.append(seconds * random.uniform(1.0, 1.5))
        self._later.append(resumption)

    def _back(self, resumption: Resumption) -> None:
        """It stands where its caller left it."""
        session_queue, member, lane = resumption.session_queue, resumption.member, resumption.lane
        del self.lanes[lane]
        self._handles.assign(lane.handles, session_queue, np.array([member]))
        self._handles.forget(lane)
        in_flight = session_queue.in_flight
        if in_flight is not None and in_flight.opening:
            in_flight.acknowledge(np.flatnonzero(in_flight.members == member))
        self._settle(resumption)

    def _failed(self, resumption: Resumption, error: GatestreamError) -> None:
        session_queue, member, lane = resumption.session_queue, resumption.member, resumption.lane
        del self.lanes[lane]
        self._handles.release(lane, lane.members, _NONE)
        self._handles.forget(lane)
        if isinstance(error, DrainingError):
            self.refused = True
            return
        if isinstance(error, SessionClosedError) and error.close_reason in RETURNING:
            if not self.by_other_handles(session_queue, np.array([member])):
                raise no_handles()
            return
        error = _typed(error, session_queue.ids[member])
        session_queue.closed[member] = error
        assert session_queue.log is not None
        session_queue.log.gone(np.array([member]))
        in_flight = session_queue.in_flight
        if in_flight is not None and not in_flight.paused:
            rows = np.flatnonzero((in_flight.members == member) & in_flight.again)
            if in_flight.closing and isinstance(error, SessionUnknownError | SessionClosedError):
                in_flight.acknowledge(rows)
            else:
                in_flight.fail(rows, error)
        self._settle(resumption)

    def _settle(self, resumption: Resumption) -> None:
        session_queue = resumption.session_queue
        session_queue.away.discard(resumption.member)
        if not session_queue.away:
            self._batcher.back(session_queue)


def _typed(error: GatestreamError, name: str) -> SessionError:
    """Why a session could not be resumed, for all who ask for it."""
    if isinstance(error, SessionUnknownError):
        return SessionUnknownError(
            f"session '{name}' is gone: the server knows of none ({error}); what it remembered ended with the process, "
            "or it was idle for too long, or deleted"
        )
    if isinstance(error, SessionError) and not isinstance(error, StepError):
        return error
    return NotReplayableError(f"session '{name}' could not be resumed: {error}")
