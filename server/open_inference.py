"""The Open Inference Protocol: a second door to the same sessions. What it makes of a request, and of an answer.

A sequence is a session: the parameter sequence_id names it, sequence_start puts it into its initial state, and
sequence_end closes it behind the request. It belongs to the server, not to the stream it came on, and ends when it
has been idle for too long. A request without sequence_id is a session for its own length.

Extensions as in the protocol's best-known servers: https://github.com/triton-inference-server/server/tree/main/docs/protocol
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np

from gatestream.protos.gatestream.v1 import gatestream_pb2 as pb
from gatestream.protos.inference import open_inference_grpc_pb2 as oip
from gatestream.server.config import Limits
from gatestream.server.errors import Draining, InvalidRequest, Refused
from gatestream.server.models import Model, Models
from gatestream.server.outbox import Outbox
from gatestream.server.runner import DTYPES
from gatestream.server.slots import Ints
from gatestream.server.work import GATES, OUTPUTS

DATATYPES: Final = {pb.DATA_TYPE_FLOAT32: "FP32", pb.DATA_TYPE_INT64: "INT64"}
_CONTENTS: Final = {pb.DATA_TYPE_FLOAT32: "fp32_contents", pb.DATA_TYPE_INT64: "int64_contents"}


@dataclass(slots=True)
class _Waiting:
    """A request on its way through the engine."""

    model: Model
    request_id: str
    steps: int
    wanted: Sequence[str]
    left: int
    parts: list[Sequence[bytes]] = field(default_factory=list)


class InferenceStream:
    """One ModelStreamInfer call, or one ModelInfer. The engine's `Owner`.

    Args:
        models: what is served.
        limits: of the server.
        tenant: whose call it is.

    Attributes:
        failure: of the latest request that failed.
    """

    message = "ModelInferRequest"

    def __init__(self, models: Models, limits: Limits, tenant: str):
        self.rows = 0
        self.outbox: Outbox[oip.ModelStreamInferResponse] = Outbox()
        self.failure: Refused | None = None
        self._models = models
        self._limits = limits
        self._tenant = tenant
        self._waiting: dict[int, _Waiting] = {}
        self._numbers = itertools.count()
        self._half_closed = False

    # ---- From the client ----------------------------------------------------------------------

    def receive(self, message: oip.ModelInferRequest) -> None:
        """Take a request; what cannot be done is answered by its error."""
        try:
            self._infer(message)
        except Refused as error:
            self._fail(message.id, error)

    def half_close(self) -> None:
        """No more will come."""
        self._half_closed = True
        self._end_when_done()

    def disconnect(self) -> None:
        """The peer has gone. Its sequences stay: another call may go on with them."""
        self.outbox.end()

    def going_away(self, seconds: float) -> None:
        """The protocol has no word for it; health and ServerReady say so."""

    def _infer(self, request: oip.ModelInferRequest) -> None:
        if self._models.stopped:
            raise Draining("the server stops now and takes no more requests")
        model = self._models.find(request.model_name, request.model_version)
        columns, steps = self._columns(model, request)
        wanted = [item.name for item in request.outputs] or [item.name for item in model.spec.outputs]
        wants = _wants(model.spec, wanted)
        sequence, start, end = _sequence(request)
        slot = model.register.sequence(self._tenant, sequence, start=start, draining=self._models.draining)
        number = next(self._numbers)
        self._waiting[number] = _Waiting(model, request.id, steps, wanted, steps)
        model.engine.submit_one(self, number, slot, steps, -1, columns, wants)
        # A sequence whose last request was refused for lack of room is to have that request again.
        if not sequence or (end and number in self._waiting):
            model.register.close(None, slot)

    def _columns(self, model: Model, request: oip.ModelInferRequest) -> tuple[list[bytes], int]:
        """The bytes of each of the model's inputs, and the steps that they hold."""
        given = {item.name: k for k, item in enumerate(request.inputs)}
        named = [item.name for item in model.spec.inputs]
        if given.keys() != set(named) or len(given) != len(request.inputs):
            raise InvalidRequest(f"inputs are {[item.name for item in request.inputs]}; expected {named}, each once")
        raw = request.raw_input_contents
        if raw and len(raw) != len(request.inputs):
            raise InvalidRequest(f"raw_input_contents has {len(raw)} elements for {len(request.inputs)} inputs")
        columns, lengths = [], set()
        for item, size in zip(model.spec.inputs, model.engine.input_bytes, strict=True):
            tensor = request.inputs[given[item.name]]
            if tensor.datatype != DATATYPES[item.dtype]:
                raise InvalidRequest(
                    f"input {item.name!r} is {tensor.datatype[:20]!r}; expected {DATATYPES[item.dtype]!r}"
                )
            shape, tail = list(tensor.shape), list(item.shape)
            ahead = shape[: len(shape) - len(tail)]
            if shape[len(ahead) :] != tail or ahead[:1] != [1] or len(ahead) > 2 or (len(ahead) == 2 and ahead[1] < 1):
                raise InvalidRequest(
                    f"input {item.name!r} has the shape {shape[:8]}; expected [1, time, {', '.join(map(str, tail))}] "
                    "or, for one step, the same without time"
                )
            steps = ahead[1] if len(ahead) == 2 else 1
            if raw:
                column = raw[given[item.name]]
            else:
                column = np.array(getattr(tensor.contents, _CONTENTS[item.dtype]), DTYPES[item.dtype]).tobytes()
            if len(column) != steps * size:
                raise InvalidRequest(f"input {item.name!r} has {len(column)} bytes; its shape says {steps * size}")
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

    def result(self, handle: int, first: int, length: int, outputs: list[bytes], gates: list[bytes]) -> None:
        """As `Owner`: a request is answered when all of its steps are."""
        waiting = self._waiting[handle]
        waiting.parts.append(outputs + gates)
        waiting.left -= length
        if waiting.left:
            self.rows -= length
            return
        del self._waiting[handle]
        # The rows of the earlier parts are off already: they wait in no outbox.
        self.outbox.put(_response(waiting), length)
        self._end_when_done()

    def refused(self, error: Refused, handles: Ints, positions: Ints, first: Ints, lengths: Ints) -> None:
        """As `Owner`."""
        for handle in handles.tolist():
            self._fail(self._waiting.pop(handle).request_id, error)
        self._end_when_done()

    def results(self, *_: Any) -> None:
        """As `Owner`: never called, since every request has one entry."""
        raise AssertionError("a request has one entry. This is a bug.")

    def opened(self, *_: Any) -> None:
        """As `Owner`: sequences are nobody's."""
        raise AssertionError("a sequence has no owner. This is a bug.")

    lost = reset_done = closed = opened

    def _fail(self, request_id: str, error: Refused) -> None:
        self.failure = error
        response = oip.ModelInferResponse(id=request_id)
        self.outbox.put(oip.ModelStreamInferResponse(error_message=str(error), infer_response=response))

    def _end_when_done(self) -> None:
        if self._half_closed and not self._waiting:
            self.outbox.end()


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


def _response(waiting: _Waiting) -> oip.ModelStreamInferResponse:
    spec = waiting.model.spec
    response = oip.ModelInferResponse(model_name=spec.name, model_version=spec.version, id=waiting.request_id)
    columns = [b"".join(parts) for parts in zip(*waiting.parts, strict=True)]
    shown: dict[str, tuple[str, Sequence[int], bytes]] = {}
    answers = iter(columns)
    outputs = {item.name for item in spec.outputs}
    if any(name in outputs for name in waiting.wanted):
        shown |= {item.name: (DATATYPES[item.dtype], item.shape, next(answers)) for item in spec.outputs}
    if len(columns) > len(shown):
        shown |= {item.output: ("FP32", (spec.layers, spec.hidden), next(answers)) for item in spec.gates}
    for name in waiting.wanted:
        datatype, shape, column = shown[name]
        response.outputs.add(name=name, datatype=datatype, shape=[1, waiting.steps, *shape])
        response.raw_output_contents.append(column)
    return oip.ModelStreamInferResponse(infer_response=response)


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
