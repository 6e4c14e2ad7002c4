"""A ModelSpec inside an ONNX file: proto3 JSON in `metadata_props`, under one key."""

import math
from collections.abc import Iterator, Mapping

from google.protobuf import json_format

from gatestream.protos.dtypes import DTYPES
from gatestream.protos.gatestream.v1 import gatestream_pb2 as pb

KEY = "gatestream.spec"
CONTRACT = 1
"""That of gatestream's own network."""

CONTRACT_ANY = 2
"""That of any other model."""

MOST_NUMBERS = 2**20
"""In one input, output or state of one step of one session."""

_LONGEST_NAME = 200
_OWN_DTYPES = (pb.DATA_TYPE_FLOAT32, pb.DATA_TYPE_INT64)


class SpecError(ValueError):
    """The file does not say what it is, or says it in a way that this version cannot read."""


def to_json(spec: pb.ModelSpec) -> str:
    """The text to store under `KEY`."""
    return json_format.MessageToJson(spec, indent=None)


def from_metadata(metadata: Mapping[str, str], source: str) -> pb.ModelSpec:
    """Read the spec from a file's metadata.

    Args:
        metadata: the file's `metadata_props` as a mapping.
        source: what to call the file in an error.

    Raises:
        SpecError: no spec, not a spec, or of a contract that this version does not know.
    """
    if KEY not in metadata:
        raise SpecError(
            f"{source}: no '{KEY}' in its metadata, so it is not a gatestream artifact; "
            "make one with `gatestream export`"
        )
    try:
        # Fields of a later minor version are no obstacle; what changes the meaning raises the contract.
        spec = json_format.Parse(metadata[KEY], pb.ModelSpec(), ignore_unknown_fields=True)
    except (json_format.ParseError, ValueError, RecursionError) as error:
        raise SpecError(f"{source}: its '{KEY}' is not a ModelSpec: {str(error)[:200]}") from error
    if spec.contract not in (CONTRACT, CONTRACT_ANY):
        raise SpecError(
            f"{source}: contract {spec.contract}, this version of gatestream reads {CONTRACT} and {CONTRACT_ANY}; "
            "export the model again, or serve it with the version that wrote it "
            f"({spec.gatestream_version or 'unknown'})"
        )
    if wrong := next(_wrongs(spec), None):
        raise SpecError(f"{source}: its spec says {wrong}")
    return spec


def _wrongs(spec: pb.ModelSpec) -> Iterator[str]:
    """What no artifact of this contract says: what a reader makes room for must be of a size that there is."""
    if not spec.name or len(spec.name) > _LONGEST_NAME or not spec.name.isprintable():
        yield f"name {spec.name[:_LONGEST_NAME]!r}; expected 1 to {_LONGEST_NAME} characters that can be shown"
    for what, value, known in (
        ("form", spec.form, pb.Form),
        ("cell", spec.cell, pb.CellKind),
        ("weights", spec.weights, pb.WeightFormat),
    ):
        if value not in known.values():
            yield f"{what} {value}, which this version does not know"
    known = DTYPES if spec.contract == CONTRACT_ANY else _OWN_DTYPES
    for tensor in (*spec.inputs, *spec.outputs, *spec.states):
        name = tensor.input if isinstance(tensor, pb.StateSpec) else tensor.name
        if tensor.dtype not in known:
            names = ", ".join(pb.DataType.Name(each).removeprefix("DATA_TYPE_").lower() for each in known)
            yield f"that {name[:100]!r} is of type {tensor.dtype}; expected one of {names}"
        size = math.prod(tensor.shape)
        if not 0 < size <= MOST_NUMBERS:
            yield f"that {name[:100]!r} has {size:,} numbers a step; expected 1 to {MOST_NUMBERS:,}"
        if isinstance(tensor, pb.TensorSpec) and (
            len(tensor.mean) not in (0, size) or len(tensor.scale) != len(tensor.mean)
        ):
            yield f"that {name[:100]!r} has {size} numbers, {len(tensor.mean)} means and {len(tensor.scale)} scales"
    yield from _wrong_states(spec)
    names = [gate.name for gate in spec.gates]
    for gate in spec.gates:
        if spec.contract == CONTRACT_ANY and not 0 < math.prod(gate.shape) <= MOST_NUMBERS:
            yield f"that gate {gate.name[:100]!r} has {math.prod(gate.shape):,} numbers; expected 1 to {MOST_NUMBERS:,}"
        if names.count(gate.name) > 1 and spec.contract == CONTRACT_ANY:
            yield f"two gates {gate.name[:100]!r}"


def _wrong_states(spec: pb.ModelSpec) -> Iterator[str]:
    for state in spec.states:
        name = state.input[:100]
        if state.role not in pb.StateRole.values():
            yield f"role {state.role} of state {name!r}, which this version does not know"
        if state.initial_values:
            size = DTYPES[state.dtype].itemsize * math.prod(state.shape)
            if len(state.initial_values) != size or state.initial:
                yield (
                    f"that state {name!r} starts from {len(state.initial_values):,} bytes and {state.initial:g}; "
                    f"expected {size:,} bytes, or one number"
                )
        if state.limit and DTYPES[state.dtype].kind not in "iu":
            yield f"that state {name!r} is below {state.limit}, but its type is not one of whole numbers"
        if state.required and state.role != pb.STATE_ROLE_CONSTANT:
            yield f"that state {name!r} must be given, but is no constant"
