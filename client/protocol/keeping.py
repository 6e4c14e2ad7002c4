"""What sessions that outlive their stream are asked for besides steps, and what is said of them."""

from collections.abc import Iterable
from secrets import randbits, token_hex

import numpy as np

from gatestream.client.errors import (
    SessionClosedError,
)
from gatestream.client.protocol.queue import SessionQueue
from gatestream.client.protocol.requests import Ints
from gatestream.protos.gatestream.v1 import gatestream_pb2 as pb

_CLOSE_REASONS = {
    pb.CLOSE_REASON_REQUESTED: "as was asked",
    pb.CLOSE_REASON_ADMINISTERED: "by a CloseSession call",
    pb.CLOSE_REASON_IDLE: "since it was idle for longer than the server allows",
    pb.CLOSE_REASON_TAKEN_OVER: "since another stream opened it",
    pb.CLOSE_REASON_DRAINED: "since the server is stopping",
    pb.CLOSE_REASON_PARKED: "and can be opened again, from the server's store",
    pb.CLOSE_REASON_FENCED: "since another server has claimed it",
    pb.CLOSE_REASON_LOST: "since what the server has stored of it cannot be read",
}


def why_closed(name: str, sessions: int, reason: pb.CloseReason) -> SessionClosedError:
    """What callers hear of sessions that the server has closed, the first of them by its name."""
    more = f" and {sessions - 1} more" if sessions > 1 else ""
    why = _CLOSE_REASONS.get(reason, "without a reason")
    return SessionClosedError(f"session '{name}'{more} was closed {why}", reason)


def keeping(request: pb.Open) -> pb.Open:
    """The same request, for a session that outlives its stream: it has an epoch, and an id to ask for it by."""
    request.on_disconnect = pb.ON_DISCONNECT_PARK
    request.epoch = 1
    if request.mode == pb.OPEN_MODE_CREATE and request.session_id:
        # By which it is known for this client's own, should the answer be lost.
        request.epoch = first_epoch()
    elif not request.session_id and request.mode != pb.OPEN_MODE_RESUME:
        request.session_id = token_hex(16)
        # Nobody else knows it: if it is there, it was made by this request, whose answer was lost.
        request.mode = pb.OPEN_MODE_EITHER
    return request


_ATTEMPTS_BITS = 20


def first_epoch() -> int:
    """An epoch that no other client begins with; below 2^53, which is how far stores count."""
    return randbits(30) << _ATTEMPTS_BITS | 1


def proposed_by(epoch: int, latest: int) -> bool:
    """Whether an epoch is one that was proposed on the way from a `first_epoch` to the latest."""
    return epoch <= latest and epoch >> _ATTEMPTS_BITS == latest >> _ATTEMPTS_BITS


def present(session_queue: SessionQueue) -> Ints:
    """The members that are not closed."""
    return np.setdiff1d(session_queue.members, list(session_queue.closed))


def acknowledgement(session_queues: Iterable[SessionQueue]) -> list[bytes]:
    """The logs are full: say what was answered, also of sessions that have nothing to send."""
    told = pb.Acknowledge()
    for session_queue in session_queues:
        if session_queue.log is None or session_queue.away or session_queue.in_flight is not None:
            continue
        members = present(session_queue)
        sequences = session_queue.sequences(members)
        if sequences is not None and session_queue.log.untold(sequences):
            told.handle.extend(session_queue.handles[members].tolist())
            told.sequence.extend(sequences.tolist())
    return [pb.ClientMessage(acknowledge=told).SerializeToString()] if told.handle else []
