"""The Open Inference Protocol: a second door to the same sessions. What it makes of a request, and of an answer.

A sequence is a session: the parameter sequence_id names it, sequence_start puts it into its initial state, and
sequence_end closes it behind the request. It belongs to the server, not to the stream it came on, and ends when it
has been idle for too long. A request without sequence_id is a session for its own length.

Extensions as in the protocol's best-known servers: https://github.com/triton-inference-server/server/tree/main/docs/protocol
"""

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, NamedTuple

import numpy as np

from gatestream.protos.gatestream.v1 import gatestream_pb2 as pb
from gatestream.protos.inference import open_inference_grpc_pb2 as oip
from gatestream.server.config import Limits
from gatestream.server.errors import Draining, InvalidRequest, Refused
from gatestream.server.inputs import Input
from gatestream.server.models import Model, Models
from gatestream.server.outbox import Outbox
from gatestream.server.parsing import parse
from gatestream.server.register import sequence_session
from gatestream.server.runner import DTYPES
from gatestream.server.slots import Ints
from gatestream.server.wire import head
from gatestream.server.work import GATES, OUTPUTS

DATATYPES: Final = {pb.DATA_TYPE_FLOAT32: "FP32", pb.DATA_TYPE_INT64: "INT64"}
_NAMES: Final = {dtype: (DATATYPES[kind], f"{DATATYPES[kind].lower()}_contents") for kind, dtype in DTYPES.items()}
_FIELDS: Final = 4096
_RAW_OUTPUT: Final = oip.ModelInferResponse.DESCRIPTOR.fields_by_name["raw_output_contents"].number
# What a request takes until it is answered, besides its id and the begin of its answer.
_REQUEST_BYTES: Final = 512
# An answer repeats the id of its request.
_ID_BYTES: Final = 1024
_INFER_RESPONSE: Final = oip.ModelStreamInferResponse.DESCRIPTOR.fields_by_name["infer_response"].number
# So many that have ended are no matter.
_FEW_SEQUENCES: Final = 1024


@dataclass(frozen=True, slots=True)
class _Request:
    """What a request asks for, whatever its numbers.

    Attributes:
        steps: that it has.
        wants: OUTPUTS and GATES.
        sequence: its name; empty: none.
        weight: bytes that it is counted for until it is answered, besides those of its steps.
        answer: what stands before each column of the answer.
        columns: which of the engine's columns stand in the answer.
    """

    model: Model
    id: str
    steps: int
    wants: int
    sequence: str
    starts: bool
    ends: bool
    weight: int
    answer: Sequence[bytes]
    columns: Sequence[int]


class _Same(NamedTuple):
    """A request that went on with a sequence, to know others by that begin with the same bytes and are as long.

    They ask for the same: a client's requests differ in little else than their numbers.

    Attributes:
        before: its bytes before its numbers.
        size: of it.
        asked: what it asked for.
        slot: of its session, when so many `ends` of sessions had been.
    """

    before: bytes
    size: int
    asked: _Request
    slot: int
    ends: int


class InferenceStream:
    """One ModelStreamInfer call, or one ModelInfer. The engine's `Owner`.

    Args:
        models: what is served.
        limits: of the server.
        tenant: whose call it is.

    Attributes:
        failure: of the latest request that failed.
    """

    def __init__(self, models: Models, limits: Limits, tenant: str):
        self.rows = 0
        self.account = models.accounts.of(tenant)
        self.outbox = Outbox(self.account)
        self.failure: Refused | None = None
        self._models = models
        self._limits = limits
        self._tenant = tenant
        self._waiting: dict[int, _Request] = {}
        # Columns of the requests that are answered in part.
        self._parts: dict[int, list[tuple[int, list[bytes]]]] = {}
        self._numbers = itertools.count()
        # Nothing more comes, or the server will stop.
        self._half_closed = self._leaving = False
        # By model, the sequences that requests were of; some have ended since.
        self._sequences: set[tuple[int, str]] = set()
        self._most_noted = _FEW_SEQUENCES
        # The latest request that went on with a sequence.
        self._same: _Same | None = None

    # ---- From the client ----------------------------------------------------------------------

    def receive(self, message: bytes) -> None:
        """As `Conversation`: take a request; what cannot be done is answered by its error."""
        if self._same is not None:
            before, size, asked, slot, ends = self._same
            if len(message) == size and message.startswith(before) and not self._models.stopped:
                sessions = asked.model.engine.sessions
                if sessions.ends == ends:
                    self._submit(asked, slot, (message[len(before) :],))
                    return
                found = sessions.get(self._tenant, asked.sequence)
                if found is not None:
                    self._same = _Same(before, size, asked, found, sessions.ends)
                    self._submit(asked, found, (message[len(before) :],))
                    return
        request = parse(oip.ModelInferRequest, message, fields=_FIELDS)
        asked_or_none = self.infer(request)
        if asked_or_none is not None:
            begin = _recognisable(message, request, asked_or_none)
            # Those like it share what it weighs. Nobody has looked for its session yet.
            light = replace(asked_or_none, weight=0)
            self._same = None if begin is None else _Same(begin, len(message), light, slot=-1, ends=-1)

    def infer(self, request: oip.ModelInferRequest) -> _Request | None:
        """Take a request; what cannot be done is answered by its error, and None."""
        try:
            return self._infer(request)
        except Refused as error:
            self._fail(request.id[:_ID_BYTES], error)
            return None

    def half_close(self) -> None:
        """No more will come."""
        self._half_closed = True
        self._end_when_done()

    def disconnect(self) -> None:
        """The peer has gone. Its sequences stay: another call may go on with them."""
        self.outbox.discard()

    def going_away(self, seconds: float) -> None:
        """The protocol has no word for it; health and ServerReady say so. End with the last sequence."""
        self._leaving = True
        self._end_when_done()

    def _infer(self, request: oip.ModelInferRequest) -> _Request:
        if self._models.stopped:
            raise Draining("the server stops now and takes no more requests")
        if len(request.id.encode()) > _ID_BYTES:
            raise InvalidRequest(f"id has {len(request.id.encode())} bytes; expected at most {_ID_BYTES}")
        model = self._models.find(request.model_name, request.model_version)
        columns, steps = self._columns(model, request)
        wanted = [item.name for item in request.outputs] or [item.name for item in model.spec.outputs]
        wants = _wants(model.spec, wanted)
        name, start, end = _sequence(request)
        answer, places = _answer(model, request.id, steps, wants, wanted)
        asked = _Request(
            model,
            request.id,
            steps,
            wants,
            sequence_session(name) if name else "",
            start,
            end,
            _REQUEST_BYTES + len(request.id) + sum(map(len, answer)),
            answer,
            places,
        )
        slot = model.register.sequence(self._tenant, name, start=start, draining=self._models.draining)
        if name:
            self._note(model, asked.sequence)
        accepted = self._submit(asked, slot, columns)
        # A sequence whose last request was refused for lack of room is to have that request again.
        if not name or (end and accepted):
            model.register.close(None, slot)
        return asked

    def _submit(self, asked: _Request, slot: int, columns: Sequence[bytes]) -> bool:
        number = next(self._numbers)
        self._waiting[number] = asked
        if asked.weight:
            self.account.hold(asked.weight)
        return asked.model.engine.submit_one(self, number, slot, asked.steps, -1, columns, asked.wants)

    def _columns(self, model: Model, request: oip.ModelInferRequest) -> tuple[list[bytes], int]:
        """The bytes of each of the model's inputs, and the steps that they hold."""
        given = {item.name: k for k, item in enumerate(request.inputs)}
        named = [item.name for item in model.engine.inputs]
        if given.keys() != set(named) or len(given) != len(request.inputs):
            raise InvalidRequest(f"inputs are {[item.name for item in request.inputs]}; expected {named}, each once")
        raw = request.raw_input_contents
        if raw and len(raw) != len(request.inputs):
            raise InvalidRequest(f"raw_input_contents has {len(raw)} elements for {len(request.inputs)} inputs")
        columns, lengths = [], set()
        for item in model.engine.inputs:
            tensor = request.inputs[given[item.name]]
            steps = _steps(item, tensor)
            if raw:
                column = raw[given[item.name]]
            else:
                column = np.array(getattr(tensor.contents, _NAMES[item.dtype][1]), item.dtype).tobytes()
            if len(column) != steps * item.row_bytes:
                raise InvalidRequest(
                    f"input {item.name!r} has {len(column)} bytes; its shape says {steps * item.row_bytes}"
                )
            columns.append(column)
            lengths.add(steps)
        if len(lengths) != 1:
            raise InvalidRequest(f"the inputs have {sorted(lengths)} steps; expected as many in each")
        steps = lengths.pop()
        if steps > self._limits.chunk_length:
            raise InvalidRequest(
                f"the request has {steps} steps; expected at most {self._limits.chunk_length}",
                pb.REASON_CHUNK_TOO_LONG,
            )
        return columns, steps

    # ---- From the engine ----------------------------------------------------------------------

    def result(self, handle: int, first: int, length: int, outputs: Sequence[bytes], gates: Sequence[bytes]) -> None:
        """As `Owner`: a request is answered when all of its steps are."""
        asked = self._waiting[handle]
        columns = [*outputs, *gates]
        if length < asked.steps:
            parts = self._parts.setdefault(handle, [])
            parts.append((length, columns))
            self.account.hold(_size(columns))
            if sum(steps for steps, _ in parts) < asked.steps:
                return
            self._forget_parts(handle)
            columns = [b"".join(column) for column in zip(*(part for _, part in parts), strict=True)]
        del self._waiting[handle]
        if asked.weight:
            self.account.hold(-asked.weight)
        if len(columns) == 1:
            answer = asked.answer[0] + columns[0]
        else:
            pieces = zip(asked.answer, [columns[k] for k in asked.columns], strict=True)
            answer = b"".join(itertools.chain.from_iterable(pieces))
        self.outbox.put(answer, asked.steps)
        if self._half_closed or self._leaving:
            self._end_when_done()

    def refused(self, error: Refused, handles: Ints, positions: Ints, first: Ints, lengths: Ints) -> None:
        """As `Owner`."""
        for handle in handles.tolist():
            # What was computed of it was counted until now, with the answer that will not be.
            self.rows -= self._forget_parts(handle)
            asked = self._waiting.pop(handle)
            self.account.hold(-asked.weight)
            self._fail(asked.id, error)
        self._end_when_done()

    def results(self, *_: Any) -> None:
        """As `Owner`: never called, since every request has one entry."""
        raise AssertionError("a request has one entry. This is a bug.")

    def opened(self, *_: Any) -> None:
        """As `Owner`: sequences are nobody's."""
        raise AssertionError("a sequence has no owner. This is a bug.")

    lost = reset_done = closed = opened

    def _forget_parts(self, handle: int) -> int:
        """Count a request's parts no more; how many steps they were."""
        parts = self._parts.pop(handle, [])
        self.account.hold(-sum(_size(columns) for _, columns in parts))
        return sum(steps for steps, _ in parts)

    def _fail(self, request_id: str, error: Refused) -> None:
        self.failure = error
        response = oip.ModelInferResponse(id=request_id)
        answer = oip.ModelStreamInferResponse(error_message=str(error), infer_response=response)
        self.outbox.put(answer.SerializeToString())

    def _end_when_done(self) -> None:
        if not self._waiting and (self._half_closed or (self._leaving and not self._live_sequences())):
            self.outbox.end()

    def _note(self, model: Model, session_id: str) -> None:
        self._sequences.add((model.number, session_id))
        if len(self._sequences) > self._most_noted:
            self._sequences = self._live_sequences()
            self._most_noted = 2 * len(self._sequences) + _FEW_SEQUENCES

    def _live_sequences(self) -> set[tuple[int, str]]:
        return {
            (number, session_id)
            for number, session_id in self._sequences
            if self._models[number].engine.sessions.get(self._tenant, session_id) is not None
        }


def _size(columns: Sequence[bytes]) -> int:
    return sum(map(len, columns))


def _wants(spec: pb.ModelSpec, wanted: Sequence[str]) -> int:
    gates = {item.output for item in spec.gates}
    outputs = {item.name for item in spec.outputs}
    for name in wanted:
        if name not in gates and name not in outputs:
            raise InvalidRequest(f"outputs names {name[:140]!r}; this model has {sorted(outputs | gates)}")
    return OUTPUTS * any(name in outputs for name in wanted) + GATES * any(name in gates for name in wanted)


def _sequence(request: oip.ModelInferRequest) -> tuple[str, bool, bool]:
    """The sequence's name (empty: none), and whether it starts and ends here."""
    parameters = request.parameters
    if "sequence_id" not in parameters:
        return "", False, False
    value = parameters["sequence_id"]
    kind = value.WhichOneof("parameter_choice")
    if kind not in ("int64_param", "uint64_param", "string_param"):
        raise InvalidRequest(f"parameter sequence_id is a {kind}; expected an int64_param or a string_param")
    name = str(getattr(value, kind))
    # 0 and the empty string stand for no sequence.
    sequence = "" if name in ("", "0") else name
    return sequence, parameters["sequence_start"].bool_param, parameters["sequence_end"].bool_param


def _steps(item: Input, tensor: oip.ModelInferRequest.InferInputTensor) -> int:
    """How many steps a tensor says that it has."""
    datatype, tail = _NAMES[item.dtype][0], list(item.shape)
    if tensor.datatype != datatype:
        raise InvalidRequest(f"input {item.name!r} is {tensor.datatype[:20]!r}; expected {datatype!r}")
    shape = list(tensor.shape)
    ahead = shape[: len(shape) - len(tail)]
    if shape[len(ahead) :] != tail or ahead[:1] != [1] or len(ahead) > 2 or (len(ahead) == 2 and ahead[1] < 1):
        raise InvalidRequest(
            f"input {item.name!r} has the shape {shape[:8]}; expected [1, time, {', '.join(map(str, tail))}] "
            "or, for one step, the same without time"
        )
    return ahead[1] if len(ahead) == 2 else 1


def _answer(
    model: Model, request_id: str, steps: int, wants: int, wanted: Sequence[str]
) -> tuple[list[bytes], list[int]]:
    """What stands before each column of a ModelStreamInferResponse, and which of the engine's columns they are."""
    spec = model.spec
    shown = [(item.name, item.dtype, list(item.shape)) for item in spec.outputs] if wants & OUTPUTS else []
    if wants & GATES:
        shown += [(item.output, pb.DATA_TYPE_FLOAT32, [spec.layers, spec.hidden]) for item in spec.gates]
    places = {name: k for k, (name, _, _) in enumerate(shown)}
    columns = [places[name] for name in wanted]
    response = oip.ModelInferResponse(model_name=spec.name, model_version=spec.version, id=request_id)
    sizes = []
    for k in columns:
        name, dtype, shape = shown[k]
        response.outputs.add(name=name, datatype=DATATYPES[dtype], shape=[1, steps, *shape])
        sizes.append(steps * math.prod(shape) * DTYPES[dtype].itemsize)
    before = [head(_RAW_OUTPUT, size) for size in sizes]
    begin = response.SerializeToString()
    whole = len(begin) + sum(map(len, before)) + sum(sizes)
    before[0] = head(_INFER_RESPONSE, whole) + begin + before[0]
    return before, columns


def _recognisable(message: bytes, request: oip.ModelInferRequest, asked: _Request) -> bytes | None:
    """What to know a request by that asks for the same as this one: where its numbers are its end, all before them."""
    raw = request.raw_input_contents
    if len(raw) != 1 or not raw[0] or not asked.sequence or asked.starts or asked.ends:
        return None
    before = message[: -len(raw[0])]
    # Other numbers in their place are read as numbers, and change nothing else.
    other = bytes(byte ^ 0xFF for byte in raw[0])
    read = oip.ModelInferRequest.FromString(before + other)
    if list(read.raw_input_contents) != [other]:
        return None
    return before


def metadata(spec: pb.ModelSpec) -> oip.ModelMetadataResponse:
    """What the protocol says of a model. -1 is any size; a batch is one sequence."""

    def tensor(name: str, dtype: pb.DataType, shape: Sequence[int]) -> oip.ModelMetadataResponse.TensorMetadata:
        return oip.ModelMetadataResponse.TensorMetadata(name=name, datatype=DATATYPES[dtype], shape=[1, -1, *shape])

    gates = [tensor(gate.output, pb.DATA_TYPE_FLOAT32, (spec.layers, spec.hidden)) for gate in spec.gates]
    return oip.ModelMetadataResponse(
        name=spec.name,
        versions=[spec.version],
        platform="onnxruntime_onnx",
        inputs=[tensor(item.name, item.dtype, item.shape) for item in spec.inputs],
        outputs=[tensor(item.name, item.dtype, item.shape) for item in spec.outputs] + gates,
    )
