"""Everything that the client raises. Catch the branch that you can do something about.

GatestreamError
├── ServerUnreachableError      nobody answers there as a gatestream server: address, server, TLS
├── ConnectionLostError         the stream ended with calls waiting; its sessions are gone
├── ProtocolError               an answer that the protocol does not allow: a bug, here or there
│   ├── HandleUnknownError
│   ├── HandleInUseError
│   └── HandleRepeatedError
├── RefusedError                any other refusal; `code` has the gRPC status where there is one
├── ForbiddenError              the call is an admin's, and the token is none's
├── DeadlineExceededError       (also TimeoutError) no answer in time; see `Session.step`
├── DrainingError               the server is stopping: connect again, or to another
├── InputError                  (also ValueError) what was passed does not fit the model
│   ├── MalformedError
│   ├── ChunkEmptyError
│   ├── ChunkTooLongError
│   ├── NotFiniteError
│   └── TokenOutOfRangeError
├── ExhaustedError              a bound of the server is reached; `retry_after` seconds
│   ├── SessionsExhaustedError
│   ├── RowsExhaustedError
│   └── StreamsExhaustedError
├── ModelError                  the model is not there, or has not what was asked for
│   ├── ModelUnknownError
│   ├── ModelNotLoadedError     it cannot be served, or sessions cannot be moved to it
│   └── NoGatesError
├── SessionError                about one session
│   ├── SessionUnknownError
│   ├── SessionExistsError
│   ├── SessionElsewhereError   another worker of the server has it: only a new connection may reach it
│   ├── SessionIdInvalidError
│   ├── SessionClosedError      `close_reason` says who or what closed it
│   ├── StateMismatchError
│   ├── ConstantMismatchError   the session was opened with other constants, which it keeps
│   ├── PositionMismatchError   somebody else moved the session; its `position` is right again
│   ├── EpochStaleError         it was opened since
│   ├── NotReplayableError      the server can go back to nowhere that this client could go on from
│   └── CheckpointUnfitError    what is stored of it is damaged, or of other weights
├── StoreUnavailableError       the server's store of checkpoints does not answer
└── StepError                   the step was not taken; the state is as it was before it
    ├── StepFailedError         the model failed on it
    └── PrecedingFailedError    a step asked for before it was not taken

A class with a `reason` is the server's `Reason` of that name (docs/protocol.md).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import ClassVar

import grpc
import numpy as np
from numpy.typing import NDArray

from gatestream.client.results import Answer
from gatestream.protos.gatestream.v1 import gatestream_pb2 as pb


class GatestreamError(Exception):
    """The root: whatever goes wrong between this client and its server.

    Attributes:
        members: of a group, which members it concerns, [n] int64; for a session always [0]; empty when it is
            not about sessions.
        failures: by member, its own error, where steps of several were refused or failed.
        answer: of a call some of whose steps were taken all the same, what came back, with the arrays that the call
            would have returned, as far as it went; zero where a step was not taken.
        taken: with an `answer`, how many steps of each member that took part were taken, [n] int64.
    """

    reason: ClassVar[pb.Reason | None] = None

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.members: NDArray[np.int64] = np.empty(0, np.int64)
        self.failures: Mapping[int, GatestreamError] = {}
        self.answer: Answer | None = None
        self.taken: NDArray[np.int64] = np.empty(0, np.int64)


class ServerUnreachableError(GatestreamError):
    """Nobody answers at the address, or nobody who speaks this protocol."""


class ConnectionLostError(GatestreamError):
    """The stream ended while calls were waiting. Steps on their way may have been taken or not."""


class ProtocolError(GatestreamError):
    """The other side did what the protocol does not allow. Please report it."""


class HandleUnknownError(ProtocolError):
    """The server does not know a handle that this client took for open."""

    reason = pb.REASON_HANDLE_UNKNOWN


class HandleInUseError(ProtocolError):
    """The server holds a handle that this client took for free."""

    reason = pb.REASON_HANDLE_IN_USE


class HandleRepeatedError(ProtocolError):
    """One message named a handle twice."""

    reason = pb.REASON_HANDLE_REPEATED


class RefusedError(GatestreamError):
    """Refused for a reason that has no class of its own."""

    reason = pb.REASON_UNSPECIFIED

    def __init__(self, message: str, code: grpc.StatusCode | None = None) -> None:
        super().__init__(message)
        self.code = code


class ForbiddenError(GatestreamError):
    """The call is an admin's, and the token is none's."""

    reason = pb.REASON_FORBIDDEN


class DeadlineExceededError(GatestreamError, TimeoutError):
    """No answer within the timeout. What was on its way may still be taken: `position` will say."""


class DrainingError(GatestreamError):
    """The server is stopping and opens nothing more."""

    reason = pb.REASON_DRAINING


class InputError(GatestreamError, ValueError):
    """What was passed does not fit the model."""


class MalformedError(InputError):
    """The server could not read a message: its columns disagree with each other or with the model."""

    reason = pb.REASON_MALFORMED


class ChunkEmptyError(InputError):
    """A chunk of no steps."""

    reason = pb.REASON_CHUNK_EMPTY


class ChunkTooLongError(InputError):
    """A chunk of more steps than the server takes at once."""

    reason = pb.REASON_CHUNK_TOO_LONG


class NotFiniteError(InputError):
    """NaN or infinity, which would stay in the state for ever."""

    reason = pb.REASON_NOT_FINITE


class TokenOutOfRangeError(InputError):
    """A token id that the model does not have."""

    reason = pb.REASON_TOKEN_OUT_OF_RANGE


class ExhaustedError(GatestreamError):
    """A bound of the server is reached; nothing was done.

    Attributes:
        retry_after: seconds after which the server expects to have room.
    """

    def __init__(self, message: str, retry_after: float = 0.0) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class SessionsExhaustedError(ExhaustedError):
    """No room for another session."""

    reason = pb.REASON_SESSIONS_EXHAUSTED


class RowsExhaustedError(ExhaustedError):
    """Too many steps wait for the model already."""

    reason = pb.REASON_ROWS_EXHAUSTED


class StreamsExhaustedError(ExhaustedError):
    """Too many clients are connected."""

    reason = pb.REASON_STREAMS_EXHAUSTED


class ModelError(GatestreamError):
    """The model is not there, or has not what was asked for."""


class ModelUnknownError(ModelError):
    """The server has no model of that name."""

    reason = pb.REASON_MODEL_UNKNOWN


class ModelNotLoadedError(ModelError):
    """The model cannot be served, or sessions cannot be moved to it."""

    reason = pb.REASON_MODEL_NOT_LOADED


class NoGatesError(ModelError):
    """The model's graph shows no gates, or the session was opened without `gates=True`."""

    reason = pb.REASON_NO_GATES


class SessionError(GatestreamError):
    """About one session."""


class SessionUnknownError(SessionError):
    """There is no session of that id."""

    reason = pb.REASON_SESSION_UNKNOWN


class SessionExistsError(SessionError):
    """The id is taken."""

    reason = pb.REASON_SESSION_EXISTS


class SessionElsewhereError(SessionError):
    """The session lives in another worker of the server; a new connection may lead there."""

    reason = pb.REASON_SESSION_ELSEWHERE


class SessionIdInvalidError(SessionError):
    """The id is empty, too long, or has characters that are not allowed."""

    reason = pb.REASON_SESSION_ID_INVALID


class SessionClosedError(SessionError):
    """The session is closed.

    Attributes:
        close_reason: who or what closed it; CLOSE_REASON_UNSPECIFIED where the server did not say.
    """

    reason = pb.REASON_SESSION_CLOSED

    def __init__(self, message: str, close_reason: pb.CloseReason = pb.CLOSE_REASON_UNSPECIFIED) -> None:
        super().__init__(message)
        self.close_reason = close_reason


class StateMismatchError(SessionError):
    """The state does not fit the model, or was made by other weights."""

    reason = pb.REASON_STATE_MISMATCH


class ConstantMismatchError(SessionError):
    """The session was opened with other constants than those that came, and keeps its own."""

    reason = pb.REASON_CONSTANT_MISMATCH


class PositionMismatchError(SessionError):
    """The session does not stand where this client left it; nothing was stepped."""

    reason = pb.REASON_POSITION_MISMATCH


class EpochStaleError(SessionError):
    """The session was opened since, by another client or another attempt of this one.

    Attributes:
        epoch: that it has; 0 where the server did not say.
    """

    reason = pb.REASON_EPOCH_STALE

    def __init__(self, message: str, epoch: int = 0) -> None:
        super().__init__(message)
        self.epoch = epoch


class NotReplayableError(SessionError):
    """The server has no checkpoint left from which this client could go on: the session cannot be resumed as it was."""

    reason = pb.REASON_NOT_REPLAYABLE


class CheckpointUnfitError(SessionError):
    """What the server has stored of the session is damaged, or was made by other weights."""

    reason = pb.REASON_CHECKPOINT_UNFIT


class StoreUnavailableError(GatestreamError):
    """The server's store of checkpoints does not answer; what needs it was not done.

    Attributes:
        retry_after: seconds after which to try again.
    """

    reason = pb.REASON_STORE_UNAVAILABLE

    def __init__(self, message: str, retry_after: float = 0.0) -> None:
        super().__init__(message)
        self.retry_after = retry_after


Retried = ExhaustedError | StoreUnavailableError
"""Refusals that pass by themselves: asked again, later, within a call's timeout."""


class StepError(GatestreamError):
    """The step was not taken; the state is as it was before it."""


class StepFailedError(StepError):
    """The model failed on the step."""

    reason = pb.REASON_STEP_FAILED


class PrecedingFailedError(StepError):
    """A step asked for before this one was not taken, so this one could not be."""

    reason = pb.REASON_PRECEDING_FAILED


def _tree(root: type[GatestreamError]) -> Iterator[type[GatestreamError]]:
    yield root
    for child in root.__subclasses__():
        yield from _tree(child)


BY_REASON: dict[pb.Reason, type[GatestreamError]] = {
    kind.reason: kind for kind in _tree(GatestreamError) if kind.reason is not None
}


def from_reason(reason: pb.Reason, message: str, retry_after: float = 0.0, epoch: int = 0) -> GatestreamError:
    """The error for what a server refused; a reason newer than this client is a `RefusedError`.

    Args:
        reason: the server's.
        message: the server's.
        retry_after: seconds, for what is to be tried again.
        epoch: that the session has, for one that is stale.
    """
    kind = BY_REASON.get(reason, RefusedError)
    if issubclass(kind, Retried):
        return kind(message, retry_after)
    if issubclass(kind, EpochStaleError):
        return kind(message, epoch)
    return kind(message if kind is not RefusedError else f"{message} (reason {reason})")
