"""What a request of the Open Inference Protocol asks for: its bytes read, its bounds and parameters checked.

Extensions as in the protocol's best-known servers: https://github.com/triton-inference-server/server/tree/main/docs/protocol
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

from google.protobuf.message import DecodeError

from gatestream.protos.inference import open_inference_grpc_pb2 as oip
from gatestream.protos.layout import ModelLayout
from gatestream.server.config import Limits
from gatestream.server.core.batches import GATES, OUTPUTS
from gatestream.server.core.catalog import Catalog, Model
from gatestream.server.errors import InvalidRequest
from gatestream.server.sequence_ids import MOST_BYTES, sequence_session
from gatestream.server.transport.oip_inputs import SHOWN, check_done, constant_columns, given_tensors, input_columns
from gatestream.server.transport.wire import field

_EMPTY: Final = oip.ModelInferRequest()
_RAW: Final = oip.ModelInferRequest.DESCRIPTOR.fields_by_name["raw_input_contents"].number

# Of a request without its raw_input_contents. What protobuf makes of more would hold up everyone.
_HEAD_BYTES: Final = 2**16
# Of a request, without those of its inputs, outputs and parameters.
_FIELDS: Final = 256
# An answer repeats the id of its request.
_ID_BYTES: Final = 1024

_SEQUENCE_KINDS: Final = ("int64_param", "uint64_param", "string_param")
_KINDS: Final[Mapping[str, Sequence[str]]] = {
    "sequence_id": _SEQUENCE_KINDS,
    "sequence_start": ("bool_param",),
    "sequence_end": ("bool_param",),
    "gatestream_first": ("int64_param",),
    "priority": ("int64_param", "uint64_param"),
    "timeout": ("int64_param", "uint64_param"),
    "triton_enable_empty_final_response": ("bool_param",),
}
"""The parameters of a request that have a meaning, and which of InferParameter's fields may hold them."""
_RESERVED: Final = ("triton_", "gatestream_")


class Message(NamedTuple):
    """A request as it came.

    Attributes:
        head: all but the raw contents; empty where there is too much of it.
        raw: the raw contents.
        prefix: what stands before the raw contents, where they are one element, not empty, and the message's end.
            Every message of the same length that begins so differs in the numbers alone.
        excess: what there is too much of; empty: nothing.
    """

    head: oip.ModelInferRequest
    raw: Sequence[bytes]
    prefix: bytes | None
    excess: str

    @classmethod
    def read(cls, data: bytes) -> "Message":
        """Take a request apart, in a time that grows with nothing but copying its raw contents.

        Raises:
            InvalidRequest: it is none.
        """
        # Where the raw contents lie: their fields begin, their bytes begin, both end.
        spans: list[tuple[int, int, int]] = []
        at = fields = 0
        size = len(data)
        while at < len(data):
            number, start, end = field(data, at)
            if not number:
                # A field of a later version of the protocol, or none at all: protobuf knows.
                break
            if end > len(data):
                raise _no_message(data)
            fields += 1
            if fields > _FIELDS:
                return cls(_EMPTY, (), None, f"more than {_FIELDS} inputs, outputs, parameters and raw_input_contents")
            if number == _RAW:
                spans.append((at, start, end))
                size -= end - at
            at = end
        if size > _HEAD_BYTES:
            return cls(
                *(_EMPTY, (), None),
                f"{size} bytes beside its raw_input_contents, of which {_HEAD_BYTES} are taken: send numbers in "
                "raw_input_contents, not in the contents of the inputs",
            )
        raw = [data[start:end] for _, start, end in spans]
        heads, behind = [], 0
        for at, _, end in spans:
            heads.append(data[behind:at])
            behind = end
        heads.append(data[behind:])
        try:
            head = oip.ModelInferRequest.FromString(b"".join(heads))
        except DecodeError as error:
            raise _no_message(data) from error
        # What stands behind a field that was not known may be more of them.
        raw += head.raw_input_contents
        recognisable = len(raw) == 1 and bool(raw[0]) and behind == len(data)
        return cls(head, raw, data[: len(data) - len(raw[0])] if recognisable else None, "")


def _no_message(data: bytes) -> InvalidRequest:
    return InvalidRequest(f"what came is not a ModelInferRequest: its {len(data)} bytes cannot be parsed")


@dataclass(frozen=True, slots=True)
class Asked:
    """What a request asks for, whatever its numbers.

    Attributes:
        steps: that it has.
        reply_mask: OUTPUTS and GATES.
        outputs: names of what is to come back, in this order.
        session: that its sequence is; empty: none.
        starts: the sequence begins with it.
        ends: the sequence ends behind it.
        first: the position that its first step is meant for; -1: whatever position it is.
        constants: of the sequence, names and bytes.
    """

    model: Model
    id: str
    steps: int
    reply_mask: int
    outputs: Sequence[str]
    session: str
    starts: bool
    ends: bool
    first: int = -1
    constants: Sequence[tuple[str, bytes]] = ()


def read(message: Message, models: Catalog, limits: Limits, tenant: str) -> tuple[Asked, list[bytes]]:
    """What a request asks for, and the bytes of each of the model's inputs.

    Args:
        message: the request.
        models: what is served.
        limits: of the server.
        tenant: whose request it is.

    Raises:
        InvalidRequest: it contradicts the protocol, the model or itself.
        NotFound: there is no such model.
    """
    head = message.head
    if message.excess:
        raise InvalidRequest(f"the request has {message.excess}")
    if (size := len(head.id.encode())) > _ID_BYTES:
        raise InvalidRequest(f"id has {size} bytes; expected at most {_ID_BYTES}")
    values = _parameters(head.parameters)
    session, starts, ends = _sequence(values)
    first = _first(values, session)
    # A sequence stays on the version that it began on; where it begins again, that is the newest. But where it may
    # stand elsewhere than it is meant to, nothing changes before that is known.
    model = models.find_with("" if starts and first < 0 else session, tenant, head.model_name, head.model_version)
    outputs = _outputs(model.layout, head.outputs)
    given = given_tensors(model.layout, head.inputs, message.raw)
    columns, steps = input_columns(model.layout, given, limits)
    constants = constant_columns(model.layout, given)
    reply_mask = _reply_mask(model.layout, outputs)
    return Asked(model, head.id, steps, reply_mask, outputs, session, starts, ends, first, constants), columns


def request_id(message: Message) -> str:
    """What an error's answer repeats of the request's id."""
    return message.head.id[:_ID_BYTES]


# ---- Parameters -------------------------------------------------------------------------------


def _parameters(given: Mapping[str, oip.InferParameter]) -> dict[str, Any]:
    """The values of the known parameters. Others are a model's own, and these models have none: nothing changes."""
    values = {}
    for name in given:
        kinds = _KINDS.get(name)
        if kinds is None:
            for prefix in _RESERVED:
                if name.startswith(prefix):
                    allowed = [known for known in _KINDS if known.startswith(prefix)]
                    raise InvalidRequest(f"parameter {name[:SHOWN]!r} is not known; of {prefix}* there is: {allowed}")
            continue
        kind = given[name].WhichOneof("parameter_choice")
        if kind not in kinds:
            raise InvalidRequest(f"parameter {name} is {_shown(given[name], kind)}; expected {' or '.join(kinds)}")
        values[name] = getattr(given[name], kind)
    return values


def _sequence(values: Mapping[str, Any]) -> tuple[str, bool, bool]:
    """The session of the sequence (empty: none), and whether it starts and ends here."""
    sequence_id = values.get("sequence_id", 0)
    starts, ends = values.get("sequence_start", False), values.get("sequence_end", False)
    if sequence_id in (0, ""):
        if starts or ends:
            name = "sequence_start" if starts else "sequence_end"
            raise InvalidRequest(f"parameter {name} is true without a sequence_id; 0 and the empty string name none")
        return "", False, False
    if isinstance(sequence_id, str) and (size := len(sequence_id.encode())) > MOST_BYTES:
        raise InvalidRequest(
            f"parameter sequence_id is {sequence_id[:40]!r}... of {size} bytes; expected at most {MOST_BYTES}"
        )
    return sequence_session(sequence_id), starts, ends


def _first(values: Mapping[str, Any], session: str) -> int:
    """The position that a request is meant for; -1: whatever position it is."""
    if "gatestream_first" not in values:
        return -1
    first: int = values["gatestream_first"]
    if first < 0:
        raise InvalidRequest(f"parameter gatestream_first is {first}; expected 0 or more")
    if not session:
        raise InvalidRequest(f"parameter gatestream_first is {first} without a sequence_id: there is nothing to repeat")
    return first


def _shown(parameter: oip.InferParameter, kind: str | None) -> str:
    return "empty" if kind is None else f"{getattr(parameter, kind)!r:.40} ({kind})"


# ---- Outputs ----------------------------------------------------------------------------------


def _outputs(layout: ModelLayout, asked: Sequence[oip.ModelInferRequest.InferRequestedOutputTensor]) -> list[str]:
    """The names of what is to come back."""
    if not asked:
        return [item.name for item in layout.outputs]
    known = [item.name for item in (*layout.outputs, *layout.gates)]
    if len(asked) > len(known):
        raise InvalidRequest(f"outputs has {len(asked)} entries; expected each of {known} once at most")
    names: list[str] = []
    for item in asked:
        if item.name not in known:
            raise InvalidRequest(f"outputs names {item.name[:SHOWN]!r}; this model has {known}")
        if item.name in names:
            raise InvalidRequest(f"outputs names {item.name!r} twice; expected each of {known} once at most")
        check_done("output", item.name, item.parameters)
        names.append(item.name)
    return names


def _reply_mask(layout: ModelLayout, names: Sequence[str]) -> int:
    gates = {item.name for item in layout.gates}
    return OUTPUTS * any(name not in gates for name in names) + GATES * any(name in gates for name in names)
