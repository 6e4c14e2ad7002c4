"""What a file is given before anything is looked for in it: states and outputs that its caller has had to keep."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from gatestream.export.adopting.reference import context_state
from gatestream.export.adopting.signature import Dim, dims_of, written
from gatestream.export.adopting.states import Pair
from gatestream.export.errors import AmbiguousError
from gatestream.export.graph.edit import keep
from gatestream.export.graph.initializers import constant, integers, store
from gatestream.export.graph.names import Names
from gatestream.protos.gatestream.v1 import gatestream_pb2 as pb

_MOVES = frozenset({"Cast", "Unsqueeze", "Squeeze", "Reshape", "Transpose", "Identity", "Flatten", "Slice", "Concat"})
_COMPARES = frozenset({"Equal", "Less", "LessOrEqual", "Greater", "GreaterOrEqual"})
_MOST_COMPARED = 4


def constant_of_session(model: ir.Model, value: ir.Value) -> Pair:
    """An input that a session sets once: a state whose successor is itself."""
    names = Names(model)
    return Pair(value, keep(model, value, names.fresh(f"{value.name}_next")), "--constant", pb.STATE_ROLE_CONSTANT)


def window(value: ir.Value, samples: int) -> int:
    """Fix the one axis of an input that the file leaves open beside the sessions', and say which it is.

    Raises:
        AmbiguousError: no axis, or several, may be it.
    """
    dims = list(dims_of(value))
    axes = [k for k, dim in enumerate(dims) if not isinstance(dim, int)] or [
        k for k, dim in enumerate(dims) if dim == samples
    ]
    axes = axes if len(axes) < 2 else [k for k in axes if k != 0]  # the sessions' axis, where the last is not alone
    if len(axes) != 1:
        raise AmbiguousError(
            f"--window {value.name}:{samples}: {len(axes) or 'none'} of the axes of '{value.name}' "
            f"{written(tuple(dims))} may be the window's; export it with one axis open beside the sessions'"
        )
    [axis] = axes
    _set_dim(value, axis, samples)
    return axis


def context(model: ir.Model, value: ir.Value, samples: int) -> tuple[Pair, int]:
    """Have the graph itself put the last samples of an input's last window before the next.

    Args:
        model: changed: the input is shorter by so many samples, which are a state.
        value: the input; its last axis is that of samples.
        samples: how many.

    Returns:
        The state, and the axis.

    Raises:
        AmbiguousError: the window is not longer than the context.
    """
    dims = dims_of(value)
    axis = len(dims) - 1
    whole = dims[axis] if dims else None
    if isinstance(whole, int) and whole <= samples:
        raise AmbiguousError(
            f"--context {value.name}:{samples}: '{value.name}' {written(dims)} has no more samples than that"
        )
    names = Names(model)
    rest: list[Dim] = [*dims[:axis], samples]
    before = ir.Value(name=names.fresh(context_state(value.name or "")), type=value.type, shape=ir.Shape(rest))
    start, stop = store_ints(model, names, -samples), store_ints(model, names, 2**62)
    along = store_ints(model, names, axis)
    joined = ir.node("Concat", [before, value], {"axis": axis}, name=names.fresh(f"{value.name}.with_context"))
    value.replace_all_uses_with(joined.outputs[0])
    joined.replace_input_with(1, value)
    last = ir.node("Slice", [joined.outputs[0], start, stop, along], name=names.fresh(f"{value.name}.last"))
    for made, name in ((joined, f"{value.name}.in_context"), (last, f"{before.name}_next")):
        made.outputs[0].name, made.outputs[0].type = names.fresh(name), value.type
    first = next(iter(model.graph), None)
    assert first is not None  # a graph without nodes is refused when it is read
    model.graph.insert_before(first, [joined, last])
    if isinstance(whole, int):
        _set_dim(value, axis, whole - samples)
    last.outputs[0].shape = ir.Shape(rest)
    model.graph.inputs.append(before)
    model.graph.outputs.append(last.outputs[0])
    return Pair(before, last.outputs[0], "--context", pb.STATE_ROLE_CONTEXT), axis


def shown(model: ir.Model, pair: Pair) -> ir.Value:
    """What becomes of a state, as an output of every step too."""
    names = Names(model)
    node = ir.node("Identity", [pair.output], name=names.fresh(f"show_{pair.output.name}"))
    output = node.outputs[0]
    output.name, output.type = names.fresh(f"{pair.output.name}_shown"), pair.output.type
    model.graph.append(node)
    model.graph.outputs.append(output)
    return output


def embedding_limit(value: ir.Value) -> int:
    """Below what the ids of an input have to be: the size of the embedding that they index; 0: they index none."""
    limits = []
    for node, place in _readers(value):
        if node.op_type == "Gather" and place == 1 and (data := node.inputs[0]) is not None:
            attribute = node.attributes.get("axis")
            axis = attribute.as_int() if attribute is not None else 0
            size = data.shape[axis] if data.shape is not None and data.is_initializer() else None
            limits += [size] if isinstance(size, int) else []
    return min(limits, default=0)


def compared_with(value: ir.Value) -> list[int]:
    """The whole numbers that an input is compared with, each with the next: where what it says may change."""
    found: dict[int, None] = {}
    for node, place in _readers(value):
        numbers = constant(node.inputs[1 - place]) if node.op_type in _COMPARES else None
        for number in () if numbers is None else numbers.ravel()[:_MOST_COMPARED].tolist():
            if abs(number) < np.iinfo(np.int32).max:
                found |= dict.fromkeys((int(number), int(number) + 1))
    return list(found)


def _readers(value: ir.Value) -> Iterator[tuple[ir.Node, int]]:
    """ONNX's own nodes that read the numbers of a value, wherever they are moved, and at which of their inputs."""
    seen = {value}
    waiting = [value]
    while waiting:
        for node, place in waiting.pop().uses():
            if node.domain != "":
                continue
            yield node, place
            if node.op_type in _MOVES and (place == 0 or node.op_type == "Concat"):
                waiting += [output for output in node.outputs if output not in seen]
                seen.update(node.outputs)


def is_multiplied_away(value: ir.Value) -> bool:
    """Whether an input of whole numbers goes nowhere but into products with zero."""
    uses = value.uses()
    if not uses or value.is_graph_output() or value.dtype is None or not value.dtype.is_integer():
        return False
    for node, place in uses:
        other = node.inputs[1 - place] if node.domain == "" and node.op_type == "Mul" else None
        factor = constant(other)
        if factor is None or factor.any():
            return False
    return True


def zeros(value: ir.Value) -> NDArray[Any]:
    """Of an input's type and shape, with 1 for a size that the file leaves open."""
    assert value.dtype is not None  # of a graph's input
    return np.zeros([dim if isinstance(dim, int) else 1 for dim in dims_of(value)], value.dtype.numpy())


def store_ints(model: ir.Model, names: Names, *numbers: int) -> ir.Value:
    """An initializer of whole numbers."""
    name = names.fresh("normal_form." + "_".join(map(str, numbers)))
    value = store(model.graph, name, np.array(numbers, np.int64))
    assert integers(value) == numbers
    return value


def _set_dim(value: ir.Value, axis: int, size: int) -> None:
    dims = list(dims_of(value))
    dims[axis] = size
    value.shape = ir.Shape(dims)
