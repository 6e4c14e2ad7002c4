"""What the server refuses, and why.

ServerError
├── Refused            what one caller asked for cannot be had; carries the wire's Reason
│   ├── InvalidRequest         INVALID_ARGUMENT      mend the request
│   │   └── Malformed          INVALID_ARGUMENT      the bytes are no message: a stream ends
│   ├── NotFound               NOT_FOUND             no such model, session or handle
│   ├── AlreadyExists          ALREADY_EXISTS        the name is taken
│   ├── Elsewhere              FAILED_PRECONDITION   another worker of this server has the session
│   ├── OutOfStep              FAILED_PRECONDITION   the session does not stand where the request assumes
│   ├── Exhausted              RESOURCE_EXHAUSTED    a bound is reached: try again after `retry_after`
│   ├── Draining               UNAVAILABLE           this server stops: go to another
│   ├── Forbidden              PERMISSION_DENIED     an admin's token is wanted
│   ├── NotLoaded              FAILED_PRECONDITION   a model could not be loaded, or sessions not be moved to it
│   ├── EpochStale             FAILED_PRECONDITION   the session was opened since: open it with a higher epoch
│   ├── NotReplayable          FAILED_PRECONDITION   no checkpoint is left from which the client could go on
│   ├── CheckpointUnfit        FAILED_PRECONDITION   what is stored of the session is damaged, or means something else
│   ├── StoreUnavailable       UNAVAILABLE           the store of checkpoints does not answer: try again
│   └── StepFailed             INTERNAL              the model failed on the tick
├── Idle               UNAVAILABLE           nothing happened on the stream for too long
├── Unauthenticated    UNAUTHENTICATED       no token, or one that is not known
├── Failed             INTERNAL              this server failed at a stream or a call, which ends
├── NotOffered         UNIMPLEMENTED         what the call is for is not done by this server
│   └── ModelsFixed            UNAVAILABLE           which models are served is settled at its start
├── ArtifactError      the file cannot be served
├── ProviderError      the execution provider that was asked for cannot be had
└── ConfigError        a setting is outside its range
"""

from enum import Enum, StrEnum, auto
from typing import ClassVar, Final

# Of a refusal's text; much of it may be what the client has sent.
_LONGEST: Final = 1000


class Code(Enum):
    """How a call ends that is not answered, whatever carries it; named as gRPC's statuses are."""

    INVALID_ARGUMENT = auto()
    NOT_FOUND = auto()
    ALREADY_EXISTS = auto()
    FAILED_PRECONDITION = auto()
    RESOURCE_EXHAUSTED = auto()
    UNAVAILABLE = auto()
    UNAUTHENTICATED = auto()
    PERMISSION_DENIED = auto()
    UNIMPLEMENTED = auto()
    INTERNAL = auto()


class Reason(StrEnum):
    """Why something is refused, by the names that it has on the wire."""

    UNSPECIFIED = "REASON_UNSPECIFIED"
    MALFORMED = "REASON_MALFORMED"
    HANDLE_UNKNOWN = "REASON_HANDLE_UNKNOWN"
    HANDLE_IN_USE = "REASON_HANDLE_IN_USE"
    HANDLE_REPEATED = "REASON_HANDLE_REPEATED"
    CHUNK_EMPTY = "REASON_CHUNK_EMPTY"
    CHUNK_TOO_LONG = "REASON_CHUNK_TOO_LONG"
    NOT_FINITE = "REASON_NOT_FINITE"
    TOKEN_OUT_OF_RANGE = "REASON_TOKEN_OUT_OF_RANGE"
    POSITION_MISMATCH = "REASON_POSITION_MISMATCH"
    MODEL_UNKNOWN = "REASON_MODEL_UNKNOWN"
    NO_GATES = "REASON_NO_GATES"
    SESSION_UNKNOWN = "REASON_SESSION_UNKNOWN"
    SESSION_EXISTS = "REASON_SESSION_EXISTS"
    SESSION_ID_INVALID = "REASON_SESSION_ID_INVALID"
    STATE_MISMATCH = "REASON_STATE_MISMATCH"
    SESSIONS_EXHAUSTED = "REASON_SESSIONS_EXHAUSTED"
    ROWS_EXHAUSTED = "REASON_ROWS_EXHAUSTED"
    STREAMS_EXHAUSTED = "REASON_STREAMS_EXHAUSTED"
    DRAINING = "REASON_DRAINING"
    STEP_FAILED = "REASON_STEP_FAILED"
    PRECEDING_FAILED = "REASON_PRECEDING_FAILED"
    SESSION_CLOSED = "REASON_SESSION_CLOSED"
    SESSION_ELSEWHERE = "REASON_SESSION_ELSEWHERE"
    CONSTANT_MISMATCH = "REASON_CONSTANT_MISMATCH"
    FORBIDDEN = "REASON_FORBIDDEN"
    MODEL_NOT_LOADED = "REASON_MODEL_NOT_LOADED"
    EPOCH_STALE = "REASON_EPOCH_STALE"
    NOT_REPLAYABLE = "REASON_NOT_REPLAYABLE"
    CHECKPOINT_UNFIT = "REASON_CHECKPOINT_UNFIT"
    STORE_UNAVAILABLE = "REASON_STORE_UNAVAILABLE"


def cut(text: str, most: int = 140) -> str:
    """The text, or its beginning when it is longer than that."""
    return text if len(text) <= most else f"{text[:most]}…"


class ServerError(Exception):
    """Base of all errors that this server raises on purpose."""


class Refused(ServerError):
    """One request, or one entry of it, is refused; the state that it was about is as it was.

    Attributes:
        code: how a call ends that is refused so.
        reason: the wire's Reason.
        retry_after: seconds after which to try again; 0 where waiting does not help.
    """

    code: ClassVar[Code]
    default_reason: ClassVar[Reason] = Reason.UNSPECIFIED

    def __init__(self, message: str, reason: Reason | None = None, retry_after: float = 0.0):
        super().__init__(cut(message, _LONGEST))
        self.reason: Reason = self.default_reason if reason is None else reason
        self.retry_after = retry_after


class InvalidRequest(Refused):
    """The request contradicts the protocol, the model or itself."""

    code = Code.INVALID_ARGUMENT
    default_reason = Reason.MALFORMED


class Malformed(InvalidRequest):
    """What came is no message of the protocol."""


class NotFound(Refused):
    """What the request names is not here."""

    code = Code.NOT_FOUND
    default_reason = Reason.SESSION_UNKNOWN


class AlreadyExists(Refused):
    """What the request wants to make is here already."""

    code = Code.ALREADY_EXISTS
    default_reason = Reason.SESSION_EXISTS


class Elsewhere(Refused):
    """Another worker of this server has the session, and a connection leads to one worker only."""

    code = Code.FAILED_PRECONDITION
    default_reason = Reason.SESSION_ELSEWHERE


class OutOfStep(Refused):
    """The session is not in the state that the request assumes.

    Attributes:
        position: where it takes its next step; -1: not said here.
    """

    code = Code.FAILED_PRECONDITION
    default_reason = Reason.POSITION_MISMATCH

    def __init__(self, message: str, reason: Reason | None = None, retry_after: float = 0.0, *, position: int = -1):
        super().__init__(message, reason, retry_after)
        self.position = position


def session_closed() -> OutOfStep:
    """That steps are not taken since their session has ended."""
    return OutOfStep("the session was closed before this step's turn came", Reason.SESSION_CLOSED)


class Exhausted(Refused):
    """A bound is reached. Nothing was taken."""

    code = Code.RESOURCE_EXHAUSTED
    default_reason = Reason.ROWS_EXHAUSTED


class Draining(Refused):
    """The server has been told to stop."""

    code = Code.UNAVAILABLE
    default_reason = Reason.DRAINING


class Forbidden(Refused):
    """The caller is known, and may not do this."""

    code = Code.PERMISSION_DENIED
    default_reason = Reason.FORBIDDEN


class NotLoaded(Refused):
    """A model could not be loaded, or is not what it would have to be; what was served before is served on."""

    code = Code.FAILED_PRECONDITION
    default_reason = Reason.MODEL_NOT_LOADED


class EpochStale(Refused):
    """The session has an epoch that is as high, or higher.

    Attributes:
        epoch: that it has.
    """

    code = Code.FAILED_PRECONDITION
    default_reason = Reason.EPOCH_STALE

    def __init__(self, message: str, reason: Reason | None = None, retry_after: float = 0.0, *, epoch: int = 0):
        super().__init__(message, reason, retry_after)
        self.epoch = epoch


class NotReplayable(Refused):
    """No checkpoint is left at or before what the client can send again."""

    code = Code.FAILED_PRECONDITION
    default_reason = Reason.NOT_REPLAYABLE


class CheckpointUnfit(Refused):
    """What is stored of a session is damaged, or has another meaning than this model's states.

    Attributes:
        fingerprint: of the weights that it belongs to; empty: it is damaged.
    """

    code = Code.FAILED_PRECONDITION
    default_reason = Reason.CHECKPOINT_UNFIT

    def __init__(self, message: str, reason: Reason | None = None, retry_after: float = 0.0, *, fingerprint: str = ""):
        super().__init__(message, reason, retry_after)
        self.fingerprint = fingerprint


class StoreUnavailable(Refused):
    """The store of checkpoints does not answer, or takes nothing more."""

    code = Code.UNAVAILABLE
    default_reason = Reason.STORE_UNAVAILABLE


class StepFailed(Refused):
    """The model failed on a tick; no state of its members was changed."""

    code = Code.INTERNAL
    default_reason = Reason.STEP_FAILED


class Idle(ServerError):
    """Nothing happened on a stream for too long."""

    code = Code.UNAVAILABLE


class Unauthenticated(ServerError):
    """The call carries no token, or one that is not known."""

    code = Code.UNAUTHENTICATED


class Failed(ServerError):
    """The server failed at a whole stream or call: a fault of its own, or too little memory."""

    code = Code.INTERNAL


class NotOffered(ServerError):
    """What the call is for is not done by this server, whoever asks."""

    code = Code.UNIMPLEMENTED


class ModelsFixed(NotOffered):
    """Which models are served is settled at the server's start. The status is that of other servers in this mode."""

    code = Code.UNAVAILABLE


class ArtifactError(ServerError):
    """The file cannot be served; the message says what is wrong with it."""


class ProviderError(ServerError):
    """The execution provider cannot be had; the message says why and how to get it."""


class ConfigError(ServerError):
    """A setting is outside its range; the message names it, what came and what is allowed."""


def first_of(error: BaseException) -> BaseException:
    """The first of the errors that tasks ended with, where there is a group of them."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error
