from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Outputs(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    OUTPUTS_EVERY_STEP: _ClassVar[Outputs]
    OUTPUTS_NONE: _ClassVar[Outputs]

class OpenMode(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    OPEN_MODE_EITHER: _ClassVar[OpenMode]
    OPEN_MODE_CREATE: _ClassVar[OpenMode]
    OPEN_MODE_RESUME: _ClassVar[OpenMode]

class OnDisconnect(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    ON_DISCONNECT_END: _ClassVar[OnDisconnect]
    ON_DISCONNECT_PARK: _ClassVar[OnDisconnect]

class CloseReason(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    CLOSE_REASON_UNSPECIFIED: _ClassVar[CloseReason]
    CLOSE_REASON_REQUESTED: _ClassVar[CloseReason]
    CLOSE_REASON_ADMINISTERED: _ClassVar[CloseReason]
    CLOSE_REASON_IDLE: _ClassVar[CloseReason]
    CLOSE_REASON_TAKEN_OVER: _ClassVar[CloseReason]
    CLOSE_REASON_DRAINED: _ClassVar[CloseReason]
    CLOSE_REASON_PARKED: _ClassVar[CloseReason]
    CLOSE_REASON_FENCED: _ClassVar[CloseReason]
    CLOSE_REASON_LOST: _ClassVar[CloseReason]

class Reason(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    REASON_UNSPECIFIED: _ClassVar[Reason]
    REASON_MALFORMED: _ClassVar[Reason]
    REASON_HANDLE_UNKNOWN: _ClassVar[Reason]
    REASON_HANDLE_IN_USE: _ClassVar[Reason]
    REASON_HANDLE_REPEATED: _ClassVar[Reason]
    REASON_CHUNK_EMPTY: _ClassVar[Reason]
    REASON_CHUNK_TOO_LONG: _ClassVar[Reason]
    REASON_NOT_FINITE: _ClassVar[Reason]
    REASON_TOKEN_OUT_OF_RANGE: _ClassVar[Reason]
    REASON_POSITION_MISMATCH: _ClassVar[Reason]
    REASON_MODEL_UNKNOWN: _ClassVar[Reason]
    REASON_NO_GATES: _ClassVar[Reason]
    REASON_SESSION_UNKNOWN: _ClassVar[Reason]
    REASON_SESSION_EXISTS: _ClassVar[Reason]
    REASON_SESSION_ID_INVALID: _ClassVar[Reason]
    REASON_STATE_MISMATCH: _ClassVar[Reason]
    REASON_SESSIONS_EXHAUSTED: _ClassVar[Reason]
    REASON_ROWS_EXHAUSTED: _ClassVar[Reason]
    REASON_STREAMS_EXHAUSTED: _ClassVar[Reason]
    REASON_DRAINING: _ClassVar[Reason]
    REASON_STEP_FAILED: _ClassVar[Reason]
    REASON_PRECEDING_FAILED: _ClassVar[Reason]
    REASON_SESSION_CLOSED: _ClassVar[Reason]
    REASON_SESSION_ELSEWHERE: _ClassVar[Reason]
    REASON_CONSTANT_MISMATCH: _ClassVar[Reason]
    REASON_FORBIDDEN: _ClassVar[Reason]
    REASON_MODEL_NOT_LOADED: _ClassVar[Reason]
    REASON_EPOCH_STALE: _ClassVar[Reason]
    REASON_NOT_REPLAYABLE: _ClassVar[Reason]
    REASON_CHECKPOINT_UNFIT: _ClassVar[Reason]
    REASON_STORE_UNAVAILABLE: _ClassVar[Reason]

class Durability(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    DURABILITY_OFF: _ClassVar[Durability]
    DURABILITY_BEHIND: _ClassVar[Durability]
    DURABILITY_BEFORE_ANSWER: _ClassVar[Durability]

class ModelState(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    MODEL_STATE_UNSPECIFIED: _ClassVar[ModelState]
    MODEL_STATE_LOADING: _ClassVar[ModelState]
    MODEL_STATE_READY: _ClassVar[ModelState]
    MODEL_STATE_DRAINING: _ClassVar[ModelState]
    MODEL_STATE_UNLOADED: _ClassVar[ModelState]
    MODEL_STATE_FAILED: _ClassVar[ModelState]

class WeightFormat(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    WEIGHT_FORMAT_UNSPECIFIED: _ClassVar[WeightFormat]
    WEIGHT_FORMAT_FLOAT32: _ClassVar[WeightFormat]
    WEIGHT_FORMAT_FLOAT16: _ClassVar[WeightFormat]
    WEIGHT_FORMAT_INT8: _ClassVar[WeightFormat]

class Form(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    FORM_UNSPECIFIED: _ClassVar[Form]
    FORM_GATES: _ClassVar[Form]
    FORM_FUSED: _ClassVar[Form]

class CellKind(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    CELL_KIND_UNSPECIFIED: _ClassVar[CellKind]
    CELL_KIND_LSTM: _ClassVar[CellKind]
    CELL_KIND_GRU: _ClassVar[CellKind]
    CELL_KIND_RNN: _ClassVar[CellKind]

class DataType(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    DATA_TYPE_UNSPECIFIED: _ClassVar[DataType]
    DATA_TYPE_FLOAT32: _ClassVar[DataType]
    DATA_TYPE_INT64: _ClassVar[DataType]
    DATA_TYPE_FLOAT16: _ClassVar[DataType]
    DATA_TYPE_FLOAT64: _ClassVar[DataType]
    DATA_TYPE_INT32: _ClassVar[DataType]
    DATA_TYPE_INT16: _ClassVar[DataType]
    DATA_TYPE_INT8: _ClassVar[DataType]
    DATA_TYPE_UINT8: _ClassVar[DataType]
    DATA_TYPE_BOOL: _ClassVar[DataType]

class StateRole(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    STATE_ROLE_UNSPECIFIED: _ClassVar[StateRole]
    STATE_ROLE_HIDDEN: _ClassVar[StateRole]
    STATE_ROLE_CELL: _ClassVar[StateRole]
    STATE_ROLE_CONTEXT: _ClassVar[StateRole]
    STATE_ROLE_CONSTANT: _ClassVar[StateRole]
OUTPUTS_EVERY_STEP: Outputs
OUTPUTS_NONE: Outputs
OPEN_MODE_EITHER: OpenMode
OPEN_MODE_CREATE: OpenMode
OPEN_MODE_RESUME: OpenMode
ON_DISCONNECT_END: OnDisconnect
ON_DISCONNECT_PARK: OnDisconnect
CLOSE_REASON_UNSPECIFIED: CloseReason
CLOSE_REASON_REQUESTED: CloseReason
CLOSE_REASON_ADMINISTERED: CloseReason
CLOSE_REASON_IDLE: CloseReason
CLOSE_REASON_TAKEN_OVER: CloseReason
CLOSE_REASON_DRAINED: CloseReason
CLOSE_REASON_PARKED: CloseReason
CLOSE_REASON_FENCED: CloseReason
CLOSE_REASON_LOST: CloseReason
REASON_UNSPECIFIED: Reason
REASON_MALFORMED: Reason
REASON_HANDLE_UNKNOWN: Reason
REASON_HANDLE_IN_USE: Reason
REASON_HANDLE_REPEATED: Reason
REASON_CHUNK_EMPTY: Reason
REASON_CHUNK_TOO_LONG: Reason
REASON_NOT_FINITE: Reason
REASON_TOKEN_OUT_OF_RANGE: Reason
REASON_POSITION_MISMATCH: Reason
REASON_MODEL_UNKNOWN: Reason
REASON_NO_GATES: Reason
REASON_SESSION_UNKNOWN: Reason
REASON_SESSION_EXISTS: Reason
REASON_SESSION_ID_INVALID: Reason
REASON_STATE_MISMATCH: Reason
REASON_SESSIONS_EXHAUSTED: Reason
REASON_ROWS_EXHAUSTED: Reason
REASON_STREAMS_EXHAUSTED: Reason
REASON_DRAINING: Reason
REASON_STEP_FAILED: Reason
REASON_PRECEDING_FAILED: Reason
REASON_SESSION_CLOSED: Reason
REASON_SESSION_ELSEWHERE: Reason
REASON_CONSTANT_MISMATCH: Reason
REASON_FORBIDDEN: Reason
REASON_MODEL_NOT_LOADED: Reason
REASON_EPOCH_STALE: Reason
REASON_NOT_REPLAYABLE: Reason
REASON_CHECKPOINT_UNFIT: Reason
REASON_STORE_UNAVAILABLE: Reason
DURABILITY_OFF: Durability
DURABILITY_BEHIND: Durability
DURABILITY_BEFORE_ANSWER: Durability
MODEL_STATE_UNSPECIFIED: ModelState
MODEL_STATE_LOADING: ModelState
MODEL_STATE_READY: ModelState
MODEL_STATE_DRAINING: ModelState
MODEL_STATE_UNLOADED: ModelState
MODEL_STATE_FAILED: ModelState
WEIGHT_FORMAT_UNSPECIFIED: WeightFormat
WEIGHT_FORMAT_FLOAT32: WeightFormat
WEIGHT_FORMAT_FLOAT16: WeightFormat
WEIGHT_FORMAT_INT8: WeightFormat
FORM_UNSPECIFIED: Form
FORM_GATES: Form
FORM_FUSED: Form
CELL_KIND_UNSPECIFIED: CellKind
CELL_KIND_LSTM: CellKind
CELL_KIND_GRU: CellKind
CELL_KIND_RNN: CellKind
DATA_TYPE_UNSPECIFIED: DataType
DATA_TYPE_FLOAT32: DataType
DATA_TYPE_INT64: DataType
DATA_TYPE_FLOAT16: DataType
DATA_TYPE_FLOAT64: DataType
DATA_TYPE_INT32: DataType
DATA_TYPE_INT16: DataType
DATA_TYPE_INT8: DataType
DATA_TYPE_UINT8: DataType
DATA_TYPE_BOOL: DataType
STATE_ROLE_UNSPECIFIED: StateRole
STATE_ROLE_HIDDEN: StateRole
STATE_ROLE_CELL: StateRole
STATE_ROLE_CONTEXT: StateRole
STATE_ROLE_CONSTANT: StateRole

class ClientMessage(_message.Message):
    __slots__ = ("open", "steps", "reset", "close", "acknowledge")
    OPEN_FIELD_NUMBER: _ClassVar[int]
    STEPS_FIELD_NUMBER: _ClassVar[int]
    RESET_FIELD_NUMBER: _ClassVar[int]
    CLOSE_FIELD_NUMBER: _ClassVar[int]
    ACKNOWLEDGE_FIELD_NUMBER: _ClassVar[int]
    open: Open
    steps: Steps
    reset: Reset
    close: Close
    acknowledge: Acknowledge
    def __init__(self, open: _Optional[_Union[Open, _Mapping]] = ..., steps: _Optional[_Union[Steps, _Mapping]] = ..., reset: _Optional[_Union[Reset, _Mapping]] = ..., close: _Optional[_Union[Close, _Mapping]] = ..., acknowledge: _Optional[_Union[Acknowledge, _Mapping]] = ...) -> None: ...

class Open(_message.Message):
    __slots__ = ("handle", "session_id", "model", "version", "mode", "outputs", "gates", "constant", "on_disconnect", "epoch", "acknowledged")
    HANDLE_FIELD_NUMBER: _ClassVar[int]
    SESSION_ID_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    MODE_FIELD_NUMBER: _ClassVar[int]
    OUTPUTS_FIELD_NUMBER: _ClassVar[int]
    GATES_FIELD_NUMBER: _ClassVar[int]
    CONSTANT_FIELD_NUMBER: _ClassVar[int]
    ON_DISCONNECT_FIELD_NUMBER: _ClassVar[int]
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    ACKNOWLEDGED_FIELD_NUMBER: _ClassVar[int]
    handle: int
    session_id: str
    model: str
    version: str
    mode: OpenMode
    outputs: Outputs
    gates: bool
    constant: _containers.RepeatedCompositeFieldContainer[Constant]
    on_disconnect: OnDisconnect
    epoch: int
    acknowledged: int
    def __init__(self, handle: _Optional[int] = ..., session_id: _Optional[str] = ..., model: _Optional[str] = ..., version: _Optional[str] = ..., mode: _Optional[_Union[OpenMode, str]] = ..., outputs: _Optional[_Union[Outputs, str]] = ..., gates: _Optional[bool] = ..., constant: _Optional[_Iterable[_Union[Constant, _Mapping]]] = ..., on_disconnect: _Optional[_Union[OnDisconnect, str]] = ..., epoch: _Optional[int] = ..., acknowledged: _Optional[int] = ...) -> None: ...

class Constant(_message.Message):
    __slots__ = ("name", "value")
    NAME_FIELD_NUMBER: _ClassVar[int]
    VALUE_FIELD_NUMBER: _ClassVar[int]
    name: str
    value: bytes
    def __init__(self, name: _Optional[str] = ..., value: _Optional[bytes] = ...) -> None: ...

class Steps(_message.Message):
    __slots__ = ("handle", "length", "first", "input", "acknowledged")
    HANDLE_FIELD_NUMBER: _ClassVar[int]
    LENGTH_FIELD_NUMBER: _ClassVar[int]
    FIRST_FIELD_NUMBER: _ClassVar[int]
    INPUT_FIELD_NUMBER: _ClassVar[int]
    ACKNOWLEDGED_FIELD_NUMBER: _ClassVar[int]
    handle: _containers.RepeatedScalarFieldContainer[int]
    length: _containers.RepeatedScalarFieldContainer[int]
    first: _containers.RepeatedScalarFieldContainer[int]
    input: _containers.RepeatedScalarFieldContainer[bytes]
    acknowledged: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, handle: _Optional[_Iterable[int]] = ..., length: _Optional[_Iterable[int]] = ..., first: _Optional[_Iterable[int]] = ..., input: _Optional[_Iterable[bytes]] = ..., acknowledged: _Optional[_Iterable[int]] = ...) -> None: ...

class Reset(_message.Message):
    __slots__ = ("handle", "sequence")
    HANDLE_FIELD_NUMBER: _ClassVar[int]
    SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    handle: _containers.RepeatedScalarFieldContainer[int]
    sequence: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, handle: _Optional[_Iterable[int]] = ..., sequence: _Optional[_Iterable[int]] = ...) -> None: ...

class Close(_message.Message):
    __slots__ = ("handle", "sequence")
    HANDLE_FIELD_NUMBER: _ClassVar[int]
    SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    handle: _containers.RepeatedScalarFieldContainer[int]
    sequence: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, handle: _Optional[_Iterable[int]] = ..., sequence: _Optional[_Iterable[int]] = ...) -> None: ...

class Acknowledge(_message.Message):
    __slots__ = ("handle", "sequence")
    HANDLE_FIELD_NUMBER: _ClassVar[int]
    SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    handle: _containers.RepeatedScalarFieldContainer[int]
    sequence: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, handle: _Optional[_Iterable[int]] = ..., sequence: _Optional[_Iterable[int]] = ...) -> None: ...

class ServerMessage(_message.Message):
    __slots__ = ("opened", "results", "reset_done", "closed", "error", "going_away", "durable")
    OPENED_FIELD_NUMBER: _ClassVar[int]
    RESULTS_FIELD_NUMBER: _ClassVar[int]
    RESET_DONE_FIELD_NUMBER: _ClassVar[int]
    CLOSED_FIELD_NUMBER: _ClassVar[int]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    GOING_AWAY_FIELD_NUMBER: _ClassVar[int]
    DURABLE_FIELD_NUMBER: _ClassVar[int]
    opened: Opened
    results: Results
    reset_done: ResetDone
    closed: Closed
    error: Error
    going_away: GoingAway
    durable: Durable
    def __init__(self, opened: _Optional[_Union[Opened, _Mapping]] = ..., results: _Optional[_Union[Results, _Mapping]] = ..., reset_done: _Optional[_Union[ResetDone, _Mapping]] = ..., closed: _Optional[_Union[Closed, _Mapping]] = ..., error: _Optional[_Union[Error, _Mapping]] = ..., going_away: _Optional[_Union[GoingAway, _Mapping]] = ..., durable: _Optional[_Union[Durable, _Mapping]] = ...) -> None: ...

class Opened(_message.Message):
    __slots__ = ("handle", "session_id", "model", "version", "position", "idle_timeout_s", "created", "epoch", "sequence", "durable")
    HANDLE_FIELD_NUMBER: _ClassVar[int]
    SESSION_ID_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    POSITION_FIELD_NUMBER: _ClassVar[int]
    IDLE_TIMEOUT_S_FIELD_NUMBER: _ClassVar[int]
    CREATED_FIELD_NUMBER: _ClassVar[int]
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    DURABLE_FIELD_NUMBER: _ClassVar[int]
    handle: int
    session_id: str
    model: str
    version: str
    position: int
    idle_timeout_s: float
    created: bool
    epoch: int
    sequence: int
    durable: int
    def __init__(self, handle: _Optional[int] = ..., session_id: _Optional[str] = ..., model: _Optional[str] = ..., version: _Optional[str] = ..., position: _Optional[int] = ..., idle_timeout_s: _Optional[float] = ..., created: _Optional[bool] = ..., epoch: _Optional[int] = ..., sequence: _Optional[int] = ..., durable: _Optional[int] = ...) -> None: ...

class Durable(_message.Message):
    __slots__ = ("handle", "sequence")
    HANDLE_FIELD_NUMBER: _ClassVar[int]
    SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    handle: _containers.RepeatedScalarFieldContainer[int]
    sequence: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, handle: _Optional[_Iterable[int]] = ..., sequence: _Optional[_Iterable[int]] = ...) -> None: ...

class Results(_message.Message):
    __slots__ = ("handle", "length", "first", "output", "gate")
    HANDLE_FIELD_NUMBER: _ClassVar[int]
    LENGTH_FIELD_NUMBER: _ClassVar[int]
    FIRST_FIELD_NUMBER: _ClassVar[int]
    OUTPUT_FIELD_NUMBER: _ClassVar[int]
    GATE_FIELD_NUMBER: _ClassVar[int]
    handle: _containers.RepeatedScalarFieldContainer[int]
    length: _containers.RepeatedScalarFieldContainer[int]
    first: _containers.RepeatedScalarFieldContainer[int]
    output: _containers.RepeatedScalarFieldContainer[bytes]
    gate: _containers.RepeatedScalarFieldContainer[bytes]
    def __init__(self, handle: _Optional[_Iterable[int]] = ..., length: _Optional[_Iterable[int]] = ..., first: _Optional[_Iterable[int]] = ..., output: _Optional[_Iterable[bytes]] = ..., gate: _Optional[_Iterable[bytes]] = ...) -> None: ...

class ResetDone(_message.Message):
    __slots__ = ("handle", "position")
    HANDLE_FIELD_NUMBER: _ClassVar[int]
    POSITION_FIELD_NUMBER: _ClassVar[int]
    handle: _containers.RepeatedScalarFieldContainer[int]
    position: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, handle: _Optional[_Iterable[int]] = ..., position: _Optional[_Iterable[int]] = ...) -> None: ...

class Closed(_message.Message):
    __slots__ = ("handle", "position", "reason")
    HANDLE_FIELD_NUMBER: _ClassVar[int]
    POSITION_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    handle: _containers.RepeatedScalarFieldContainer[int]
    position: _containers.RepeatedScalarFieldContainer[int]
    reason: CloseReason
    def __init__(self, handle: _Optional[_Iterable[int]] = ..., position: _Optional[_Iterable[int]] = ..., reason: _Optional[_Union[CloseReason, str]] = ...) -> None: ...

class Error(_message.Message):
    __slots__ = ("handle", "position", "first", "length", "reason", "message", "retry_after_ms", "epoch", "sequence")
    HANDLE_FIELD_NUMBER: _ClassVar[int]
    POSITION_FIELD_NUMBER: _ClassVar[int]
    FIRST_FIELD_NUMBER: _ClassVar[int]
    LENGTH_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    RETRY_AFTER_MS_FIELD_NUMBER: _ClassVar[int]
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    handle: _containers.RepeatedScalarFieldContainer[int]
    position: _containers.RepeatedScalarFieldContainer[int]
    first: _containers.RepeatedScalarFieldContainer[int]
    length: _containers.RepeatedScalarFieldContainer[int]
    reason: Reason
    message: str
    retry_after_ms: int
    epoch: int
    sequence: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, handle: _Optional[_Iterable[int]] = ..., position: _Optional[_Iterable[int]] = ..., first: _Optional[_Iterable[int]] = ..., length: _Optional[_Iterable[int]] = ..., reason: _Optional[_Union[Reason, str]] = ..., message: _Optional[str] = ..., retry_after_ms: _Optional[int] = ..., epoch: _Optional[int] = ..., sequence: _Optional[_Iterable[int]] = ...) -> None: ...

class GoingAway(_message.Message):
    __slots__ = ("deadline_ms",)
    DEADLINE_MS_FIELD_NUMBER: _ClassVar[int]
    deadline_ms: int
    def __init__(self, deadline_ms: _Optional[int] = ...) -> None: ...

class DescribeRequest(_message.Message):
    __slots__ = ("model",)
    MODEL_FIELD_NUMBER: _ClassVar[int]
    model: str
    def __init__(self, model: _Optional[str] = ...) -> None: ...

class DescribeResponse(_message.Message):
    __slots__ = ("models", "limits", "server_version")
    MODELS_FIELD_NUMBER: _ClassVar[int]
    LIMITS_FIELD_NUMBER: _ClassVar[int]
    SERVER_VERSION_FIELD_NUMBER: _ClassVar[int]
    models: _containers.RepeatedCompositeFieldContainer[ServedModel]
    limits: Limits
    server_version: str
    def __init__(self, models: _Optional[_Iterable[_Union[ServedModel, _Mapping]]] = ..., limits: _Optional[_Union[Limits, _Mapping]] = ..., server_version: _Optional[str] = ...) -> None: ...

class ServedModel(_message.Message):
    __slots__ = ("spec", "execution_provider", "placements", "sessions", "state")
    SPEC_FIELD_NUMBER: _ClassVar[int]
    EXECUTION_PROVIDER_FIELD_NUMBER: _ClassVar[int]
    PLACEMENTS_FIELD_NUMBER: _ClassVar[int]
    SESSIONS_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    spec: ModelSpec
    execution_provider: str
    placements: _containers.RepeatedCompositeFieldContainer[NodePlacement]
    sessions: int
    state: ModelState
    def __init__(self, spec: _Optional[_Union[ModelSpec, _Mapping]] = ..., execution_provider: _Optional[str] = ..., placements: _Optional[_Iterable[_Union[NodePlacement, _Mapping]]] = ..., sessions: _Optional[int] = ..., state: _Optional[_Union[ModelState, str]] = ...) -> None: ...

class NodePlacement(_message.Message):
    __slots__ = ("execution_provider", "nodes", "operators")
    EXECUTION_PROVIDER_FIELD_NUMBER: _ClassVar[int]
    NODES_FIELD_NUMBER: _ClassVar[int]
    OPERATORS_FIELD_NUMBER: _ClassVar[int]
    execution_provider: str
    nodes: int
    operators: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, execution_provider: _Optional[str] = ..., nodes: _Optional[int] = ..., operators: _Optional[_Iterable[str]] = ...) -> None: ...

class Limits(_message.Message):
    __slots__ = ("sessions", "sessions_per_stream", "streams", "rows", "rows_per_stream", "chunk_length", "message_bytes", "idle_timeout_s", "reply_bytes_per_stream", "reply_bytes", "tenant_sessions", "tenant_streams", "tenant_rows", "tenant_reply_bytes", "sequence_timeout_s", "idle_stream_timeout_s", "park_timeout_s", "durability", "store")
    SESSIONS_FIELD_NUMBER: _ClassVar[int]
    SESSIONS_PER_STREAM_FIELD_NUMBER: _ClassVar[int]
    STREAMS_FIELD_NUMBER: _ClassVar[int]
    ROWS_FIELD_NUMBER: _ClassVar[int]
    ROWS_PER_STREAM_FIELD_NUMBER: _ClassVar[int]
    CHUNK_LENGTH_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_BYTES_FIELD_NUMBER: _ClassVar[int]
    IDLE_TIMEOUT_S_FIELD_NUMBER: _ClassVar[int]
    REPLY_BYTES_PER_STREAM_FIELD_NUMBER: _ClassVar[int]
    REPLY_BYTES_FIELD_NUMBER: _ClassVar[int]
    TENANT_SESSIONS_FIELD_NUMBER: _ClassVar[int]
    TENANT_STREAMS_FIELD_NUMBER: _ClassVar[int]
    TENANT_ROWS_FIELD_NUMBER: _ClassVar[int]
    TENANT_REPLY_BYTES_FIELD_NUMBER: _ClassVar[int]
    SEQUENCE_TIMEOUT_S_FIELD_NUMBER: _ClassVar[int]
    IDLE_STREAM_TIMEOUT_S_FIELD_NUMBER: _ClassVar[int]
    PARK_TIMEOUT_S_FIELD_NUMBER: _ClassVar[int]
    DURABILITY_FIELD_NUMBER: _ClassVar[int]
    STORE_FIELD_NUMBER: _ClassVar[int]
    sessions: int
    sessions_per_stream: int
    streams: int
    rows: int
    rows_per_stream: int
    chunk_length: int
    message_bytes: int
    idle_timeout_s: float
    reply_bytes_per_stream: int
    reply_bytes: int
    tenant_sessions: int
    tenant_streams: int
    tenant_rows: int
    tenant_reply_bytes: int
    sequence_timeout_s: float
    idle_stream_timeout_s: float
    park_timeout_s: float
    durability: Durability
    store: str
    def __init__(self, sessions: _Optional[int] = ..., sessions_per_stream: _Optional[int] = ..., streams: _Optional[int] = ..., rows: _Optional[int] = ..., rows_per_stream: _Optional[int] = ..., chunk_length: _Optional[int] = ..., message_bytes: _Optional[int] = ..., idle_timeout_s: _Optional[float] = ..., reply_bytes_per_stream: _Optional[int] = ..., reply_bytes: _Optional[int] = ..., tenant_sessions: _Optional[int] = ..., tenant_streams: _Optional[int] = ..., tenant_rows: _Optional[int] = ..., tenant_reply_bytes: _Optional[int] = ..., sequence_timeout_s: _Optional[float] = ..., idle_stream_timeout_s: _Optional[float] = ..., park_timeout_s: _Optional[float] = ..., durability: _Optional[_Union[Durability, str]] = ..., store: _Optional[str] = ...) -> None: ...

class ListSessionsRequest(_message.Message):
    __slots__ = ("model", "page_size", "page_token")
    MODEL_FIELD_NUMBER: _ClassVar[int]
    PAGE_SIZE_FIELD_NUMBER: _ClassVar[int]
    PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    model: str
    page_size: int
    page_token: str
    def __init__(self, model: _Optional[str] = ..., page_size: _Optional[int] = ..., page_token: _Optional[str] = ...) -> None: ...

class ListSessionsResponse(_message.Message):
    __slots__ = ("sessions", "next_page_token")
    SESSIONS_FIELD_NUMBER: _ClassVar[int]
    NEXT_PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    sessions: _containers.RepeatedCompositeFieldContainer[SessionInfo]
    next_page_token: str
    def __init__(self, sessions: _Optional[_Iterable[_Union[SessionInfo, _Mapping]]] = ..., next_page_token: _Optional[str] = ...) -> None: ...

class SessionInfo(_message.Message):
    __slots__ = ("session_id", "model", "position", "idle_s", "attached", "version", "parked")
    SESSION_ID_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    POSITION_FIELD_NUMBER: _ClassVar[int]
    IDLE_S_FIELD_NUMBER: _ClassVar[int]
    ATTACHED_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    PARKED_FIELD_NUMBER: _ClassVar[int]
    session_id: str
    model: str
    position: int
    idle_s: float
    attached: bool
    version: str
    parked: bool
    def __init__(self, session_id: _Optional[str] = ..., model: _Optional[str] = ..., position: _Optional[int] = ..., idle_s: _Optional[float] = ..., attached: _Optional[bool] = ..., version: _Optional[str] = ..., parked: _Optional[bool] = ...) -> None: ...

class CloseSessionRequest(_message.Message):
    __slots__ = ("model", "session_id")
    MODEL_FIELD_NUMBER: _ClassVar[int]
    SESSION_ID_FIELD_NUMBER: _ClassVar[int]
    model: str
    session_id: str
    def __init__(self, model: _Optional[str] = ..., session_id: _Optional[str] = ...) -> None: ...

class CloseSessionResponse(_message.Message):
    __slots__ = ("position",)
    POSITION_FIELD_NUMBER: _ClassVar[int]
    position: int
    def __init__(self, position: _Optional[int] = ...) -> None: ...

class GetStateRequest(_message.Message):
    __slots__ = ("model", "session_id")
    MODEL_FIELD_NUMBER: _ClassVar[int]
    SESSION_ID_FIELD_NUMBER: _ClassVar[int]
    model: str
    session_id: str
    def __init__(self, model: _Optional[str] = ..., session_id: _Optional[str] = ...) -> None: ...

class SessionState(_message.Message):
    __slots__ = ("model", "weights_fingerprint", "position", "state")
    MODEL_FIELD_NUMBER: _ClassVar[int]
    WEIGHTS_FINGERPRINT_FIELD_NUMBER: _ClassVar[int]
    POSITION_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    model: str
    weights_fingerprint: str
    position: int
    state: _containers.RepeatedScalarFieldContainer[bytes]
    def __init__(self, model: _Optional[str] = ..., weights_fingerprint: _Optional[str] = ..., position: _Optional[int] = ..., state: _Optional[_Iterable[bytes]] = ...) -> None: ...

class SetStateRequest(_message.Message):
    __slots__ = ("session_id", "state", "sequence", "epoch")
    SESSION_ID_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    session_id: str
    state: SessionState
    sequence: int
    epoch: int
    def __init__(self, session_id: _Optional[str] = ..., state: _Optional[_Union[SessionState, _Mapping]] = ..., sequence: _Optional[int] = ..., epoch: _Optional[int] = ...) -> None: ...

class SetStateResponse(_message.Message):
    __slots__ = ("position",)
    POSITION_FIELD_NUMBER: _ClassVar[int]
    position: int
    def __init__(self, position: _Optional[int] = ...) -> None: ...

class ForkRequest(_message.Message):
    __slots__ = ("model", "session_id", "new_session_id")
    MODEL_FIELD_NUMBER: _ClassVar[int]
    SESSION_ID_FIELD_NUMBER: _ClassVar[int]
    NEW_SESSION_ID_FIELD_NUMBER: _ClassVar[int]
    model: str
    session_id: str
    new_session_id: str
    def __init__(self, model: _Optional[str] = ..., session_id: _Optional[str] = ..., new_session_id: _Optional[str] = ...) -> None: ...

class ForkResponse(_message.Message):
    __slots__ = ("session_id", "position")
    SESSION_ID_FIELD_NUMBER: _ClassVar[int]
    POSITION_FIELD_NUMBER: _ClassVar[int]
    session_id: str
    position: int
    def __init__(self, session_id: _Optional[str] = ..., position: _Optional[int] = ...) -> None: ...

class ModelStatus(_message.Message):
    __slots__ = ("name", "version", "state", "error", "sessions", "weights_fingerprint", "form")
    NAME_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    SESSIONS_FIELD_NUMBER: _ClassVar[int]
    WEIGHTS_FINGERPRINT_FIELD_NUMBER: _ClassVar[int]
    FORM_FIELD_NUMBER: _ClassVar[int]
    name: str
    version: str
    state: ModelState
    error: str
    sessions: int
    weights_fingerprint: str
    form: Form
    def __init__(self, name: _Optional[str] = ..., version: _Optional[str] = ..., state: _Optional[_Union[ModelState, str]] = ..., error: _Optional[str] = ..., sessions: _Optional[int] = ..., weights_fingerprint: _Optional[str] = ..., form: _Optional[_Union[Form, str]] = ...) -> None: ...

class ListModelsRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ListModelsResponse(_message.Message):
    __slots__ = ("models",)
    MODELS_FIELD_NUMBER: _ClassVar[int]
    models: _containers.RepeatedCompositeFieldContainer[ModelStatus]
    def __init__(self, models: _Optional[_Iterable[_Union[ModelStatus, _Mapping]]] = ...) -> None: ...

class LoadModelRequest(_message.Message):
    __slots__ = ("name", "version", "migrate")
    NAME_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    MIGRATE_FIELD_NUMBER: _ClassVar[int]
    name: str
    version: str
    migrate: bool
    def __init__(self, name: _Optional[str] = ..., version: _Optional[str] = ..., migrate: _Optional[bool] = ...) -> None: ...

class LoadModelResponse(_message.Message):
    __slots__ = ("model", "migrated")
    MODEL_FIELD_NUMBER: _ClassVar[int]
    MIGRATED_FIELD_NUMBER: _ClassVar[int]
    model: ModelStatus
    migrated: int
    def __init__(self, model: _Optional[_Union[ModelStatus, _Mapping]] = ..., migrated: _Optional[int] = ...) -> None: ...

class UnloadModelRequest(_message.Message):
    __slots__ = ("name", "version", "deadline_s")
    NAME_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    DEADLINE_S_FIELD_NUMBER: _ClassVar[int]
    name: str
    version: str
    deadline_s: float
    def __init__(self, name: _Optional[str] = ..., version: _Optional[str] = ..., deadline_s: _Optional[float] = ...) -> None: ...

class UnloadModelResponse(_message.Message):
    __slots__ = ("models",)
    MODELS_FIELD_NUMBER: _ClassVar[int]
    models: _containers.RepeatedCompositeFieldContainer[ModelStatus]
    def __init__(self, models: _Optional[_Iterable[_Union[ModelStatus, _Mapping]]] = ...) -> None: ...

class MigrateSessionsRequest(_message.Message):
    __slots__ = ("name", "from_version", "to_version")
    NAME_FIELD_NUMBER: _ClassVar[int]
    FROM_VERSION_FIELD_NUMBER: _ClassVar[int]
    TO_VERSION_FIELD_NUMBER: _ClassVar[int]
    name: str
    from_version: str
    to_version: str
    def __init__(self, name: _Optional[str] = ..., from_version: _Optional[str] = ..., to_version: _Optional[str] = ...) -> None: ...

class MigrateSessionsResponse(_message.Message):
    __slots__ = ("migrated",)
    MIGRATED_FIELD_NUMBER: _ClassVar[int]
    migrated: int
    def __init__(self, migrated: _Optional[int] = ...) -> None: ...

class ModelSpec(_message.Message):
    __slots__ = ("contract", "name", "version", "description", "form", "cell", "layers", "hidden", "inputs", "length_input", "outputs", "states", "gates", "packed_gate_order", "opset", "torch_version", "gatestream_version", "weights_fingerprint", "parity", "task", "weights", "cells", "source", "promises", "stored_fingerprint")
    CONTRACT_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    DESCRIPTION_FIELD_NUMBER: _ClassVar[int]
    FORM_FIELD_NUMBER: _ClassVar[int]
    CELL_FIELD_NUMBER: _ClassVar[int]
    LAYERS_FIELD_NUMBER: _ClassVar[int]
    HIDDEN_FIELD_NUMBER: _ClassVar[int]
    INPUTS_FIELD_NUMBER: _ClassVar[int]
    LENGTH_INPUT_FIELD_NUMBER: _ClassVar[int]
    OUTPUTS_FIELD_NUMBER: _ClassVar[int]
    STATES_FIELD_NUMBER: _ClassVar[int]
    GATES_FIELD_NUMBER: _ClassVar[int]
    PACKED_GATE_ORDER_FIELD_NUMBER: _ClassVar[int]
    OPSET_FIELD_NUMBER: _ClassVar[int]
    TORCH_VERSION_FIELD_NUMBER: _ClassVar[int]
    GATESTREAM_VERSION_FIELD_NUMBER: _ClassVar[int]
    WEIGHTS_FINGERPRINT_FIELD_NUMBER: _ClassVar[int]
    PARITY_FIELD_NUMBER: _ClassVar[int]
    TASK_FIELD_NUMBER: _ClassVar[int]
    WEIGHTS_FIELD_NUMBER: _ClassVar[int]
    CELLS_FIELD_NUMBER: _ClassVar[int]
    SOURCE_FIELD_NUMBER: _ClassVar[int]
    PROMISES_FIELD_NUMBER: _ClassVar[int]
    STORED_FINGERPRINT_FIELD_NUMBER: _ClassVar[int]
    contract: int
    name: str
    version: str
    description: str
    form: Form
    cell: CellKind
    layers: int
    hidden: int
    inputs: _containers.RepeatedCompositeFieldContainer[TensorSpec]
    length_input: str
    outputs: _containers.RepeatedCompositeFieldContainer[TensorSpec]
    states: _containers.RepeatedCompositeFieldContainer[StateSpec]
    gates: _containers.RepeatedCompositeFieldContainer[GateSpec]
    packed_gate_order: str
    opset: int
    torch_version: str
    gatestream_version: str
    weights_fingerprint: str
    parity: _containers.RepeatedCompositeFieldContainer[ParityFigure]
    task: str
    weights: WeightFormat
    cells: _containers.RepeatedCompositeFieldContainer[CellSpec]
    source: Source
    promises: Promises
    stored_fingerprint: str
    def __init__(self, contract: _Optional[int] = ..., name: _Optional[str] = ..., version: _Optional[str] = ..., description: _Optional[str] = ..., form: _Optional[_Union[Form, str]] = ..., cell: _Optional[_Union[CellKind, str]] = ..., layers: _Optional[int] = ..., hidden: _Optional[int] = ..., inputs: _Optional[_Iterable[_Union[TensorSpec, _Mapping]]] = ..., length_input: _Optional[str] = ..., outputs: _Optional[_Iterable[_Union[TensorSpec, _Mapping]]] = ..., states: _Optional[_Iterable[_Union[StateSpec, _Mapping]]] = ..., gates: _Optional[_Iterable[_Union[GateSpec, _Mapping]]] = ..., packed_gate_order: _Optional[str] = ..., opset: _Optional[int] = ..., torch_version: _Optional[str] = ..., gatestream_version: _Optional[str] = ..., weights_fingerprint: _Optional[str] = ..., parity: _Optional[_Iterable[_Union[ParityFigure, _Mapping]]] = ..., task: _Optional[str] = ..., weights: _Optional[_Union[WeightFormat, str]] = ..., cells: _Optional[_Iterable[_Union[CellSpec, _Mapping]]] = ..., source: _Optional[_Union[Source, _Mapping]] = ..., promises: _Optional[_Union[Promises, _Mapping]] = ..., stored_fingerprint: _Optional[str] = ...) -> None: ...

class CellSpec(_message.Message):
    __slots__ = ("name", "kind", "hidden", "states", "linear_before_reset", "activations")
    NAME_FIELD_NUMBER: _ClassVar[int]
    KIND_FIELD_NUMBER: _ClassVar[int]
    HIDDEN_FIELD_NUMBER: _ClassVar[int]
    STATES_FIELD_NUMBER: _ClassVar[int]
    LINEAR_BEFORE_RESET_FIELD_NUMBER: _ClassVar[int]
    ACTIVATIONS_FIELD_NUMBER: _ClassVar[int]
    name: str
    kind: CellKind
    hidden: int
    states: _containers.RepeatedScalarFieldContainer[str]
    linear_before_reset: bool
    activations: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, name: _Optional[str] = ..., kind: _Optional[_Union[CellKind, str]] = ..., hidden: _Optional[int] = ..., states: _Optional[_Iterable[str]] = ..., linear_before_reset: _Optional[bool] = ..., activations: _Optional[_Iterable[str]] = ...) -> None: ...

class TensorSpec(_message.Message):
    __slots__ = ("name", "dtype", "shape", "columns", "vocabulary", "mean", "scale", "window", "context", "limit")
    NAME_FIELD_NUMBER: _ClassVar[int]
    DTYPE_FIELD_NUMBER: _ClassVar[int]
    SHAPE_FIELD_NUMBER: _ClassVar[int]
    COLUMNS_FIELD_NUMBER: _ClassVar[int]
    VOCABULARY_FIELD_NUMBER: _ClassVar[int]
    MEAN_FIELD_NUMBER: _ClassVar[int]
    SCALE_FIELD_NUMBER: _ClassVar[int]
    WINDOW_FIELD_NUMBER: _ClassVar[int]
    CONTEXT_FIELD_NUMBER: _ClassVar[int]
    LIMIT_FIELD_NUMBER: _ClassVar[int]
    name: str
    dtype: DataType
    shape: _containers.RepeatedScalarFieldContainer[int]
    columns: _containers.RepeatedScalarFieldContainer[str]
    vocabulary: _containers.RepeatedScalarFieldContainer[str]
    mean: _containers.RepeatedScalarFieldContainer[float]
    scale: _containers.RepeatedScalarFieldContainer[float]
    window: int
    context: int
    limit: int
    def __init__(self, name: _Optional[str] = ..., dtype: _Optional[_Union[DataType, str]] = ..., shape: _Optional[_Iterable[int]] = ..., columns: _Optional[_Iterable[str]] = ..., vocabulary: _Optional[_Iterable[str]] = ..., mean: _Optional[_Iterable[float]] = ..., scale: _Optional[_Iterable[float]] = ..., window: _Optional[int] = ..., context: _Optional[int] = ..., limit: _Optional[int] = ...) -> None: ...

class StateSpec(_message.Message):
    __slots__ = ("input", "output", "dtype", "shape", "initial", "role", "initial_values", "required", "limit")
    INPUT_FIELD_NUMBER: _ClassVar[int]
    OUTPUT_FIELD_NUMBER: _ClassVar[int]
    DTYPE_FIELD_NUMBER: _ClassVar[int]
    SHAPE_FIELD_NUMBER: _ClassVar[int]
    INITIAL_FIELD_NUMBER: _ClassVar[int]
    ROLE_FIELD_NUMBER: _ClassVar[int]
    INITIAL_VALUES_FIELD_NUMBER: _ClassVar[int]
    REQUIRED_FIELD_NUMBER: _ClassVar[int]
    LIMIT_FIELD_NUMBER: _ClassVar[int]
    input: str
    output: str
    dtype: DataType
    shape: _containers.RepeatedScalarFieldContainer[int]
    initial: float
    role: StateRole
    initial_values: bytes
    required: bool
    limit: int
    def __init__(self, input: _Optional[str] = ..., output: _Optional[str] = ..., dtype: _Optional[_Union[DataType, str]] = ..., shape: _Optional[_Iterable[int]] = ..., initial: _Optional[float] = ..., role: _Optional[_Union[StateRole, str]] = ..., initial_values: _Optional[bytes] = ..., required: _Optional[bool] = ..., limit: _Optional[int] = ...) -> None: ...

class GateSpec(_message.Message):
    __slots__ = ("name", "symbol", "output", "shape", "cell")
    NAME_FIELD_NUMBER: _ClassVar[int]
    SYMBOL_FIELD_NUMBER: _ClassVar[int]
    OUTPUT_FIELD_NUMBER: _ClassVar[int]
    SHAPE_FIELD_NUMBER: _ClassVar[int]
    CELL_FIELD_NUMBER: _ClassVar[int]
    name: str
    symbol: str
    output: str
    shape: _containers.RepeatedScalarFieldContainer[int]
    cell: str
    def __init__(self, name: _Optional[str] = ..., symbol: _Optional[str] = ..., output: _Optional[str] = ..., shape: _Optional[_Iterable[int]] = ..., cell: _Optional[str] = ...) -> None: ...

class Source(_message.Message):
    __slots__ = ("name", "sha256", "producer", "opset", "tensors", "rewritten")
    NAME_FIELD_NUMBER: _ClassVar[int]
    SHA256_FIELD_NUMBER: _ClassVar[int]
    PRODUCER_FIELD_NUMBER: _ClassVar[int]
    OPSET_FIELD_NUMBER: _ClassVar[int]
    TENSORS_FIELD_NUMBER: _ClassVar[int]
    REWRITTEN_FIELD_NUMBER: _ClassVar[int]
    name: str
    sha256: str
    producer: str
    opset: int
    tensors: _containers.RepeatedCompositeFieldContainer[SourceTensor]
    rewritten: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, name: _Optional[str] = ..., sha256: _Optional[str] = ..., producer: _Optional[str] = ..., opset: _Optional[int] = ..., tensors: _Optional[_Iterable[_Union[SourceTensor, _Mapping]]] = ..., rewritten: _Optional[_Iterable[str]] = ...) -> None: ...

class SourceTensor(_message.Message):
    __slots__ = ("name", "role", "shape", "batch_axis", "time_axis", "becomes", "found")
    NAME_FIELD_NUMBER: _ClassVar[int]
    ROLE_FIELD_NUMBER: _ClassVar[int]
    SHAPE_FIELD_NUMBER: _ClassVar[int]
    BATCH_AXIS_FIELD_NUMBER: _ClassVar[int]
    TIME_AXIS_FIELD_NUMBER: _ClassVar[int]
    BECOMES_FIELD_NUMBER: _ClassVar[int]
    FOUND_FIELD_NUMBER: _ClassVar[int]
    name: str
    role: str
    shape: _containers.RepeatedScalarFieldContainer[int]
    batch_axis: int
    time_axis: int
    becomes: str
    found: str
    def __init__(self, name: _Optional[str] = ..., role: _Optional[str] = ..., shape: _Optional[_Iterable[int]] = ..., batch_axis: _Optional[int] = ..., time_axis: _Optional[int] = ..., becomes: _Optional[str] = ..., found: _Optional[str] = ...) -> None: ...

class Promises(_message.Message):
    __slots__ = ("rows_independent", "replay_bit_equal", "unproved_states")
    ROWS_INDEPENDENT_FIELD_NUMBER: _ClassVar[int]
    REPLAY_BIT_EQUAL_FIELD_NUMBER: _ClassVar[int]
    UNPROVED_STATES_FIELD_NUMBER: _ClassVar[int]
    rows_independent: bool
    replay_bit_equal: bool
    unproved_states: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, rows_independent: _Optional[bool] = ..., replay_bit_equal: _Optional[bool] = ..., unproved_states: _Optional[_Iterable[str]] = ...) -> None: ...

class ParityFigure(_message.Message):
    __slots__ = ("reference", "tensor", "max_abs_difference", "steps", "exact")
    REFERENCE_FIELD_NUMBER: _ClassVar[int]
    TENSOR_FIELD_NUMBER: _ClassVar[int]
    MAX_ABS_DIFFERENCE_FIELD_NUMBER: _ClassVar[int]
    STEPS_FIELD_NUMBER: _ClassVar[int]
    EXACT_FIELD_NUMBER: _ClassVar[int]
    reference: str
    tensor: str
    max_abs_difference: float
    steps: int
    exact: bool
    def __init__(self, reference: _Optional[str] = ..., tensor: _Optional[str] = ..., max_abs_difference: _Optional[float] = ..., steps: _Optional[int] = ..., exact: _Optional[bool] = ...) -> None: ...
