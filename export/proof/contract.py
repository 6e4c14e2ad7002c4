"""The form of an artifact: what every file must have, whatever its weights are."""

from collections.abc import Sequence

import onnx
import onnx_ir as ir

from gatestream.export.artifact import OUTSIDE_CELLS, Artifact, stored_fingerprint
from gatestream.export.errors import ContractError
from gatestream.export.formats import precision_of
from gatestream.export.graph.flow import operands
from gatestream.export.graph.initializers import constant, is_widening
from gatestream.protos.dtypes import DTYPES
from gatestream.protos.gatestream.v1 import gatestream_pb2 as pb
from gatestream.protos.spec import CONTRACT_ANY

OPSETS = (20, 21)
"""onnxruntime has CUDA kernels of LSTM up to opset 21; the export writes 20."""

_DTYPES = {known: ir.DataType.from_numpy(dtype) for known, dtype in DTYPES.items()}
_DOMAINS = ("", "com.microsoft")
"""Whose operators an artifact of contract 2 may have: ONNX's own, and those that onnxruntime adds."""

_Type = tuple[ir.DataType, tuple[str | int, ...]]


def check_model(artifact: Artifact) -> str:
    """ONNX's own checker, with full shape inference.

    Raises:
        ContractError: what the checker says.
    """
    try:
        onnx.checker.check_model(artifact.path, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        reason = " ".join(str(error).split())
        raise ContractError(f"onnx.checker: {reason}") from error
    return "onnx.checker with full shape inference"


def check_contract(artifact: Artifact) -> str:
    """Inputs and outputs are those of the spec; nothing is outside ONNX; every weight is plain.

    Raises:
        ContractError: the first thing that is not so.
    """
    model, spec = artifact.model, artifact.spec
    if (len(spec.inputs), len(spec.outputs), len(spec.states)) != (1, 1, 2):
        raise ContractError(
            f"the spec has {len(spec.inputs)} inputs, {len(spec.outputs)} outputs and {len(spec.states)} states, "
            "expected one, one and two"
        )
    _check_opset(model, spec)
    _check_tensors("inputs", model.graph.inputs, _inputs(spec))
    _check_tensors("outputs", model.graph.outputs, _outputs(spec))
    for tensor in spec.inputs:
        if tensor.dtype == pb.DATA_TYPE_INT64 and not tensor.vocabulary:
            raise ContractError(f"input '{tensor.name}' takes token ids, but the spec gives it no vocabulary")
    for node in model.graph.all_nodes():
        if node.domain != "":
            raise ContractError(f"operator {node.domain}.{node.op_type} is not one of ONNX's own")
        computes = "body" not in node.attributes and not is_widening(node)
        if computes and all(constant(value) is not None for value in operands(node)):
            raise ContractError(
                f"{node.op_type} '{node.name}' computes '{node.outputs[0].name}' from "
                f"{', '.join(repr(value.name) for value in operands(node)) or 'nothing'} at every run; "
                "store the result as an initializer"
            )
    _check_ends(model, spec)
    return f"opset {spec.opset}, {len(model.graph.inputs)} inputs, {len(model.graph.outputs)} outputs"


def check_any_contract(artifact: Artifact) -> str:
    """The form of an artifact of contract 2.

    Raises:
        ContractError: the first thing that is not so.
    """
    model, spec = artifact.model, artifact.spec
    if spec.contract != CONTRACT_ANY:
        raise ContractError(f"contract {spec.contract}, expected {CONTRACT_ANY}")
    if not spec.inputs or not spec.outputs:
        raise ContractError(f"the spec has {len(spec.inputs)} inputs and {len(spec.outputs)} outputs, expected some")
    _check_opset(model, spec)
    for side, values, expected in (
        ("inputs", model.graph.inputs, _inputs(spec)),
        ("outputs", model.graph.outputs, _outputs(spec)),
    ):
        by_name = {value.name or "": value for value in values}
        if by_name.keys() != expected.keys() or len(by_name) != len(values):
            raise ContractError(f"{side} {sorted(by_name)}, expected {sorted(expected)}")
        _check_tensors(side, [by_name[name] for name in expected], expected)
    for node in model.graph.all_nodes():
        if node.domain not in _DOMAINS:
            raise ContractError(f"operator {node.domain}.{node.op_type} is not one of ONNX's own or onnxruntime's")
    found = stored_fingerprint(model)
    if found != spec.stored_fingerprint:
        raise ContractError(
            f"its initializers hash to {found[:16]}, its spec says {spec.stored_fingerprint[:16] or 'nothing'}"
        )
    return f"opset {spec.opset}, {len(model.graph.inputs)} inputs, {len(model.graph.outputs)} outputs"


def _check_ends(model: ir.Model, spec: pb.ModelSpec) -> None:
    """The matrices of encoder and head are stored as the spec says; those of the cells are found by data flow."""
    expected = "float16" if precision_of(spec) == "float16" else "float32"
    for name, value in model.graph.initializers.items():
        array = constant(value)
        if array is not None and array.ndim == 2 and name.startswith(OUTSIDE_CELLS) and array.dtype != expected:
            raise ContractError(
                f"'{name}' is {array.dtype}, expected {expected}: the spec says weights {precision_of(spec)}"
            )


def _check_opset(model: ir.Model, spec: pb.ModelSpec) -> None:
    opset = model.opset_imports.get("")
    if opset not in OPSETS:
        raise ContractError(f"opset {opset}, expected {' or '.join(map(str, OPSETS))}")
    if opset != spec.opset:
        raise ContractError(f"opset {opset}, but the spec says {spec.opset}")


def _inputs(spec: pb.ModelSpec) -> dict[str, _Type]:
    expected: dict[str, _Type] = {}
    for tensor in spec.inputs:
        expected[tensor.name] = (_DTYPES[tensor.dtype], ("batch", "time", *tensor.shape))
    if spec.length_input:
        expected[spec.length_input] = (ir.DataType.INT32, ("batch",))
    for state in spec.states:
        expected[state.input] = (_DTYPES[state.dtype], ("batch", *state.shape))
    return expected


def _outputs(spec: pb.ModelSpec) -> dict[str, _Type]:
    expected: dict[str, _Type] = {}
    for tensor in spec.outputs:
        expected[tensor.name] = (_DTYPES[tensor.dtype], ("batch", "time", *tensor.shape))
    for state in spec.states:
        expected[state.output] = (_DTYPES[state.dtype], ("batch", *state.shape))
    for gate in spec.gates:
        shape = tuple(gate.shape) or (spec.layers, spec.hidden)
        expected[gate.output] = (ir.DataType.FLOAT, ("batch", "time", *shape))
    return expected


def _check_tensors(side: str, values: Sequence[ir.Value], expected: dict[str, _Type]) -> None:
    names = [value.name for value in values]
    if names != list(expected):
        raise ContractError(f"{side} {names}, expected {list(expected)}")
    for value in values:
        dtype, shape = expected[value.name or ""]
        found = tuple(dim if isinstance(dim, int) else dim.value for dim in value.shape or ())
        # A dynamic dimension may have any name; a fixed one is what the spec says.
        fits = len(found) == len(shape) and all(
            a == b or (isinstance(a, str) and b in ("batch", "time")) for a, b in zip(found, shape, strict=True)
        )
        if value.dtype != dtype or not fits:
            raise ContractError(
                f"{side[:-1]} '{value.name}' is {value.dtype} {list(found)}, expected {dtype} {list(shape)}"
            )
