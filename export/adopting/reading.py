"""Somebody's ONNX file, brought to the opset of the contract, with nothing in it that onnxruntime does not have."""

import hashlib
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np
import onnx
import onnx.inliner
import onnx.version_converter
import onnx_ir as ir
import onnx_ir.passes.common as common
from numpy.typing import NDArray
from onnx import numpy_helper
from onnxscript.optimizer import optimize_ir

from gatestream.export.adopting import layout_one
from gatestream.export.adopting.external import take_in, tensors
from gatestream.export.errors import SourceError
from gatestream.files.reading import read as read_bytes
from gatestream.protos.bounds import LARGEST_FILE, MOST_NODES, BoundsError, check_bounds

OPSET: Final = 20
"""Of the contract: later ones have fewer kernels on CUDA."""

OLDEST_OPSET: Final = 7

_DOMAINS: Final = frozenset({"", "ai.onnx.ml", "com.microsoft"})
"""Whose operators onnxruntime has."""


def read(path: Path | str, digest: "hashlib._Hash | None" = None) -> ir.Model:
    """Read a file, whoever made it.

    Its functions are inlined, its weights taken in from beside it, its constants are initializers, every node and
    tensor has a name, and recurrent operators of layout 1 are of layout 0. An initializer that is an input too, which a
    caller may leave out, is a constant.

    Args:
        path: of the file; weights beside it are read from its folder and from nowhere else.
        digest: takes the bytes of the file, and those beside it that were read.

    Returns:
        The model at opset `OPSET`.

    Raises:
        SourceError: it cannot be read, is not valid, has too many nodes, needs operators that are not there, or
            cannot be converted.
    """
    path = Path(path)
    return put_in_order(_parsed(path, str(path), digest), path, digest)


def put_in_order(model: onnx.ModelProto, path: Path, digest: "hashlib._Hash | None" = None) -> ir.Model:
    """As `read`, of a file that was parsed.

    Args:
        model: what is in the file; it is changed.
        path: of the file.
        digest: as of `read`, which has taken in the file itself.

    Raises:
        SourceError: as of `read`.
    """
    source = str(path)
    if not model.graph.node:
        raise SourceError(f"{source}: not an ONNX file, or one without a graph")
    take_in(model, path.parent, source, digest)
    try:
        check_bounds(model, source)
    except BoundsError as error:
        raise SourceError(str(error)) from error
    _check_tensors(model, source)
    _standard_domain(model)
    _check_operators(model, source)
    if model.functions:
        model = _inlined(model, source)
    _check_valid(model, source)
    _check_names(model, source)
    model = _converted(model, source)
    try:
        graph = ir.from_proto(model)
    except Exception as error:  # onnx_ir raises whatever the bytes lead it to
        raise SourceError(f"{source}: not a valid graph: {_one_line(error)}") from error
    _tidy(graph)
    layout_one.rewrite(graph)
    return graph


def fold(model: ir.Model, constants: Mapping[str, NDArray[Any]]) -> None:
    """Make constants of inputs, and compute all that depends on nothing else: an `If` on a sample rate is gone.

    Args:
        model: changed.
        constants: a value for each input that is not to be one.

    Raises:
        SourceError: an input is not there, or its value is not of its type and shape.
    """
    inputs = {value.name: value for value in model.graph.inputs}
    for name, given in constants.items():
        if name not in inputs:
            raise SourceError(f"no input is called {name!r}, which was to be constant; there are {_names(inputs)}")
        value = inputs[name]
        array = _fitted(value, np.asarray(given))
        model.graph.inputs.remove(value)
        value.const_value = ir.Tensor(array, name=name)
        value.shape = ir.Shape(array.shape)
        model.graph.register_initializer(value)
    optimize_ir(model, num_iterations=3)
    _tidy(model)


def _parsed(path: Path, source: str, digest: "hashlib._Hash | None") -> onnx.ModelProto:
    try:
        data = read_bytes(path, LARGEST_FILE)
        if digest is not None:
            digest.update(data)
        return onnx.load_model_from_string(data)
    except OSError as error:
        raise SourceError(f"{source}: cannot be read: {error.strerror}") from error
    except Exception as error:  # protobuf's own classes have no common base but this
        raise SourceError(f"{source}: not an ONNX file: {_one_line(error)}") from error


def _check_tensors(model: onnx.ModelProto, source: str) -> None:
    for tensor in tensors(model):
        try:
            numpy_helper.to_array(tensor)
        except (ValueError, TypeError, KeyError, OverflowError) as error:
            raise SourceError(
                f"{source}: tensor {tensor.name[:100]!r} is not as large as it says: {_one_line(error)}"
            ) from error


def _standard_domain(model: onnx.ModelProto) -> None:
    """The standard operators' domain has two names; from here on it has one."""
    for opsets in (model.opset_import, *(function.opset_import for function in model.functions)):
        for opset in opsets:
            opset.domain = _domain(opset.domain)
    for node in _nodes(model):
        node.domain = _domain(node.domain)


def _domain(name: str) -> str:
    return "" if name == "ai.onnx" else name


def _check_operators(model: onnx.ModelProto, source: str) -> None:
    functions = {(function.domain, function.name) for function in model.functions}
    for node in _nodes(model):
        if node.domain not in _DOMAINS and (node.domain, node.op_type) not in functions:
            raise SourceError(
                f"{source}: node {_called(node)} is the operator {node.op_type} of {node.domain!r}, which onnxruntime "
                "does not have; export the model with standard operators"
            )


def _inlined(model: onnx.ModelProto, source: str) -> onnx.ModelProto:
    expanded = _expanded(model, source)
    if expanded > MOST_NODES:
        raise SourceError(f"{source}: its functions make {expanded:,} nodes, over {MOST_NODES:,}")
    try:
        return onnx.inliner.inline_local_functions(model, convert_version=True)
    except Exception as error:  # of C++, with no common base but this
        raise SourceError(f"{source}: its functions cannot be inlined: {_one_line(error)}") from error


def _expanded(model: onnx.ModelProto, source: str) -> int:
    """How many nodes there are when every call of a function is replaced by what it calls."""
    functions = {(function.domain, function.name): function for function in model.functions}
    counts: dict[tuple[str, str], int | None] = {}

    def count(graph: onnx.GraphProto | onnx.FunctionProto) -> int:
        return sum(called(node) for node in _nodes_in(graph))

    def called(node: onnx.NodeProto) -> int:
        key = node.domain, node.op_type
        if key not in functions:
            return 1
        if key not in counts:
            counts[key] = None
            counts[key] = count(functions[key])
        known = counts[key]
        if known is None:
            raise SourceError(f"{source}: function {node.op_type!r} calls itself")
        return known

    try:
        return count(model.graph)
    except RecursionError:
        raise SourceError(f"{source}: its functions call each other too deep") from None


def _check_valid(model: onnx.ModelProto, source: str) -> None:
    try:
        onnx.checker.check_model(model)
    except Exception as error:  # ValidationError, and what C++ says of a field that is not there
        raise SourceError(f"{source}: not a valid graph: {_one_line(error)}") from error


def _check_names(model: onnx.ModelProto, source: str) -> None:
    """The checker lets outputs of one name pass."""
    for what, values in (("inputs", model.graph.input), ("outputs", model.graph.output)):
        names = Counter(value.name for value in values)
        if twice := [name for name, count in names.items() if count > 1]:
            raise SourceError(
                f"{source}: {names[twice[0]]} {what} are called {twice[0]!r}; each needs a name of its own"
            )


def _converted(model: onnx.ModelProto, source: str) -> onnx.ModelProto:
    opset = next((item.version for item in model.opset_import if item.domain == ""), None)
    if opset is None or opset < OLDEST_OPSET:
        found = "no opset of standard operators" if opset is None else f"opset {opset}"
        raise SourceError(f"{source}: {found}; expected {OLDEST_OPSET} at least: export the model again")
    if opset == OPSET:
        return model
    if opset > (newest := onnx.defs.onnx_opset_version()):
        raise SourceError(
            f"{source}: opset {opset}, which this onnx ({onnx.__version__}) does not know; expected {newest} at most: "
            f"export the model with opset {OPSET}"
        )
    try:
        return onnx.version_converter.convert_version(model, OPSET)
    except Exception as error:  # of C++, with no common base but this
        raise SourceError(
            f"{source}: opset {opset} cannot be converted to {OPSET}: {_one_line(error)}; "
            f"export the model with opset {OPSET}"
        ) from error


def _tidy(model: ir.Model) -> None:
    for step in (
        common.RemoveInitializersFromInputsPass(),
        common.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0),
        common.LiftSubgraphInitializersToMainGraphPass(),
        common.RemoveUnusedNodesPass(),
        common.NameFixPass(),
    ):
        step(model)


def _fitted(value: ir.Value, given: NDArray[Any]) -> NDArray[Any]:
    """A value as the input takes it."""
    dtype = value.dtype.numpy() if value.dtype is not None else given.dtype
    array = given.astype(dtype)
    if not np.array_equal(array, given):
        raise SourceError(f"input {value.name!r} is {dtype}, which cannot hold {given.ravel()[:4].tolist()}")
    shape = value.shape
    if shape is None:
        return array
    if array.size == 1:
        array = array.reshape([1] * len(shape))
    sizes = [size if isinstance(size, int) else None for size in shape]
    if len(sizes) != array.ndim or any(a not in (None, b) for a, b in zip(sizes, array.shape, strict=True)):
        wanted = ["*" if size is None else size for size in sizes]
        raise SourceError(f"input {value.name!r} is {wanted}, the constant for it is {list(array.shape)}")
    return array


def _nodes(model: onnx.ModelProto) -> Iterator[onnx.NodeProto]:
    yield from _nodes_in(model.graph)
    for function in model.functions:
        yield from _nodes_in(function)


def _nodes_in(graph: onnx.GraphProto | onnx.FunctionProto) -> Iterator[onnx.NodeProto]:
    waiting: list[onnx.GraphProto | onnx.FunctionProto] = [graph]
    while waiting:
        for node in waiting.pop().node:
            yield node
            for attribute in node.attribute:
                waiting += [attribute.g] if attribute.HasField("g") else []
                waiting += attribute.graphs


def _called(node: onnx.NodeProto) -> str:
    return repr(node.name or ", ".join(node.output))


def _names(values: Mapping[str | None, ir.Value]) -> str:
    return ", ".join(repr(name) for name in values) or "none"


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())[:300] or type(error).__name__
