"""The Open Inference Protocol as bytes: what a request asks, and what is answered."""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final, NamedTuple

from gatestream.protos.inference import open_inference_grpc_pb2 as oip
from gatestream.protos.layout import Column
from gatestream.server.config import Limits
from gatestream.server.core.batches import GATES, OUTPUTS
from gatestream.server.core.catalog import Catalog
from gatestream.server.core.send_queue import Pieces
from gatestream.server.errors import OutOfStep, Refused
from gatestream.server.transport.messages import forget_frames
from gatestream.server.transport.oip_inputs import DATATYPES
from gatestream.server.transport.oip_request import Asked, Message, read, request_id
from gatestream.server.transport.wire import head

# What a request takes until it is answered, besides its id and the beginning of its answer.
_REQUEST_BYTES: Final = 512
_RAW_OUTPUT: Final = oip.ModelInferResponse.DESCRIPTOR.fields_by_name["raw_output_contents"].number
_INFER_RESPONSE: Final = oip.ModelStreamInferResponse.DESCRIPTOR.fields_by_name["infer_response"].number
# On a stream, where a request of another server may have several answers. Here every answer is the only one.
_FINAL: Final = "triton_final_response"
# Where the sequence stands behind an answer, or behind an error that says so; and why a request was refused.
_POSITION: Final = "gatestream_position"
_REASON: Final = "gatestream_reason"


@dataclass(frozen=True, slots=True)
class Request:
    """A request, and all of its answer, but the numbers of both. The same object where a template recognises it again.

    Attributes:
        asked: by the request.
        prefixes: what stands in the answer before each of its columns.
        columns: which of the engine's columns these are.
        weight: bytes that it is counted for until it is answered, besides those of its steps.
    """

    asked: Asked
    prefixes: Sequence[bytes]
    columns: Sequence[int]
    weight: int

    def answer(self, columns: Sequence[bytes]) -> bytes:
        """The answer with the engine's columns, outputs before gates, each of all steps."""
        if len(columns) == 1:
            return self.prefixes[0] + columns[0]
        each = zip(self.prefixes, [columns[k] for k in self.columns], strict=True)
        return b"".join(itertools.chain.from_iterable(each))

    def answer_of(self, parts: Sequence[Sequence[bytes]]) -> Pieces:
        """The same, where the columns came in parts, each of some of the steps, in order."""
        pieces: list[bytes] = []
        for prefix, k in zip(self.prefixes, self.columns, strict=True):
            pieces.append(prefix)
            pieces += [part[k] for part in parts]
        return Pieces(pieces)


@dataclass(slots=True)
class Invalid:
    """A request that cannot be done, and is answered by its error.

    Attributes:
        id: of the request.
        error: why.
    """

    id: str
    error: Refused

    def __post_init__(self) -> None:
        forget_frames(self.error)


class _Template(NamedTuple):
    """Template of a request: recognises later ones that differ from it in their numbers alone.

    Attributes:
        prefix: bytes before the numbers, which are the message's end.
        size: bytes of a message.
        request: that all these messages are.
    """

    prefix: bytes
    size: int
    request: Request


class InferenceCodec:
    """One call's messages: bytes to requests, answers to bytes.

    Args:
        models: what is served.
        limits: of the server.
        tenant: whose messages they are.
        streamed: answers are ModelStreamInferResponse, else ModelInferResponse.
    """

    def __init__(self, models: Catalog, limits: Limits, tenant: str, *, streamed: bool):
        self._models = models
        self._limits = limits
        self._tenant = tenant
        self._streamed = streamed
        # Of the latest request that went on with a sequence.
        self._template: _Template | None = None

    def decode(self, message: bytes) -> tuple[Request, Sequence[bytes]] | Invalid:
        """What a ModelInferRequest asks, and the bytes of each of the model's inputs.

        Raises:
            InvalidRequest: it is none.
        """
        if self._template is not None:
            prefix, size, request = self._template
            # A sequence that has ended, or was moved to another version, is to be looked for anew.
            if len(message) == size and message.startswith(prefix) and self._is_there(request.asked):
                return request, (message[len(prefix) :],)
        parsed = Message.read(message)
        try:
            asked, columns = read(parsed, self._models, self._limits, self._tenant)
        except Refused as error:
            return Invalid(request_id(parsed), error)
        request = _request(asked, streamed=self._streamed)
        # No other that was meant for the same position is answered so.
        goes_on = asked.session and not asked.starts and not asked.ends and asked.first < 0
        if goes_on and parsed.prefix is not None and not self._models.straight:
            # Requests that share it share what it weighs.
            self._template = _Template(parsed.prefix, len(message), replace(request, weight=0))
        return request, columns

    def _is_there(self, asked: Asked) -> bool:
        return asked.model.engine.sessions.tenants.get(self._tenant, asked.session) is not None

    @staticmethod
    def error(request_id: str, error: Refused) -> bytes:
        """A ModelStreamInferResponse that says why a request was refused."""
        response = oip.ModelInferResponse(id=request_id)
        response.parameters[_FINAL].bool_param = True
        response.parameters[_REASON].string_param = error.reason.value
        if isinstance(error, OutOfStep) and error.position >= 0:
            response.parameters[_POSITION].int64_param = error.position
        return oip.ModelStreamInferResponse(error_message=str(error), infer_response=response).SerializeToString()


def _request(asked: Asked, *, streamed: bool) -> Request:
    """A request and the bytes of its answer."""
    spec, layout = asked.model.spec, asked.model.layout
    shown: list[Column] = list(layout.outputs) if asked.reply_mask & OUTPUTS else []
    if asked.reply_mask & GATES:
        shown += layout.gates
    places = {item.name: k for k, item in enumerate(shown)}
    columns = [places[name] for name in asked.outputs]
    response = oip.ModelInferResponse(model_name=spec.name, model_version=spec.version, id=asked.id)
    sizes = []
    for k in columns:
        item = shown[k]
        response.outputs.add(name=item.name, datatype=DATATYPES[item.dtype], shape=[1, asked.steps, *item.shape])
        sizes.append(asked.steps * item.row_bytes)
    if streamed:
        response.parameters[_FINAL].bool_param = True
    if asked.first >= 0:
        response.parameters[_POSITION].int64_param = asked.first + asked.steps
    prefixes = [head(_RAW_OUTPUT, size) for size in sizes]
    prefix = response.SerializeToString()
    if streamed:
        prefix = head(_INFER_RESPONSE, len(prefix) + sum(map(len, prefixes)) + sum(sizes)) + prefix
    prefixes[0] = prefix + prefixes[0]
    constants = sum(len(data) for _, data in asked.constants)
    return Request(asked, prefixes, columns, _REQUEST_BYTES + len(asked.id) + sum(map(len, prefixes)) + constants)
