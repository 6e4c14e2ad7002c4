"""Calls about a session while it is paused, and what is known of it when the answer to one is lost."""

from typing import Any

import numpy as np
from google.protobuf.message import Message

from gatestream.client.addresses import passes
from gatestream.client.errors import (
    ConnectionLostError,
    DeadlineExceededError,
    EpochStaleError,
    GatestreamError,
    PositionMismatchError,
    RefusedError,
    ServerUnreachableError,
    SessionClosedError,
    SessionElsewhereError,
    StoreUnavailableError,
)
from gatestream.client.protocol.queue import SessionQueue
from gatestream.client.unary import Call
from gatestream.protos.gatestream.v1 import gatestream_pb2 as pb

# After these nobody here knows whether what was asked for has been done.
_UNHEARD = (ConnectionLostError, DeadlineExceededError, RefusedError, ServerUnreachableError, StoreUnavailableError)

_MOST_MOVES = 8


def aim(request: Message, session_queue: SessionQueue) -> bool:
    """Say of a state that is about to be set where the session stands: a call that arrives late changes nothing then.

    Until the answer is known, nobody can say where it stands.

    Returns:
        Whether the session is on a stream; else nothing may be asked of it now.
    """
    if session_queue.away or session_queue.closed:
        return False
    log, offsets = session_queue.log, session_queue.offsets
    if isinstance(request, pb.SetStateRequest) and log is not None and offsets is not None:
        log.aimed = request.sequence = int(session_queue.positions[0]) + int(offsets[0])
        request.epoch = log.opens[0].epoch
        log.unsettled.add(0)
    return True


def asks_again(session_queue: SessionQueue, call: Call[Any], error: GatestreamError) -> bool:
    """Whether a call about a session that outlives its stream is made once more, when a stream has the session."""
    if session_queue.log is None:
        return False
    if isinstance(error, PositionMismatchError):
        # Moved by an attempt before, whose answer was lost.
        return call.lost > 0
    if isinstance(error, SessionElsewhereError):
        # It may be on its way; where calls and streams lead to different servers, it will not come.
        return call.lost < _MOST_MOVES
    return isinstance(error, EpochStaleError | SessionClosedError) or passes(error, begun=True)


def may_be_done(session_queue: SessionQueue, call: Call[Any], error: GatestreamError) -> bool:
    """Whether an attempt before the one that was refused may have done what was asked for."""
    final = not asks_again(session_queue, call, error)
    return call.lost > 0 and (final or isinstance(error, PositionMismatchError))


def was_set(session_queue: SessionQueue, position: int) -> None:
    """A session's state was set, and it stands at this position."""
    log, offsets = session_queue.log, session_queue.offsets
    if log is None or offsets is None:
        session_queue.positions[0] = position
        return
    # A stream may have said so since it was asked for.
    sequence = log.aimed + 1
    session_queue.stands(0, sequence, position)
    log.is_durable(session_queue.members, np.array([sequence]))
    log.unsettled.clear()


def refused(session_queue: SessionQueue, error: BaseException) -> bool:
    """Whether the server said that a state was not set; else it was or was not, as where its caller has left.

    Of a session that is away its next Opened says it: an attempt before may have set it.
    """
    return not session_queue.away and isinstance(error, GatestreamError) and not isinstance(error, _UNHEARD)


def was_not_set(session_queue: SessionQueue) -> None:
    """The server refused to: the session stands where it stood."""
    if session_queue.log is not None:
        session_queue.log.unsettled.clear()
