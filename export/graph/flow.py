"""Reading a graph by what flows where. Nothing here looks at a tensor's name."""

import onnx_ir as ir

from gatestream.export.errors import StructureError
from gatestream.export.graph.initializers import integers


def label(value: ir.Value | None) -> str:
    """How an error calls a tensor: its name, and what makes it."""
    if value is None:
        return "nothing"
    node = value.producer()
    return f"'{value.name}'" if node is None else f"'{value.name}' ({node.op_type})"


def name_of(value: ir.Value) -> str:
    """Of a tensor in a model that was read from a file, where each has one."""
    assert value.name is not None
    return value.name


def made_by(value: ir.Value | None, *operators: str) -> ir.Node | None:
    """The node that makes `value`, where it is one of the standard `operators`."""
    node = value.producer() if value is not None else None
    return node if node is not None and node.domain == "" and node.op_type in operators else None


def operands(node: ir.Node) -> tuple[ir.Value, ...]:
    """A node's inputs, without the optional ones left out."""
    return tuple(value for value in node.inputs if value is not None)


def integer(node: ir.Node, attribute: str, default: int) -> int:
    """An integer attribute."""
    return node.attributes[attribute].as_int() if attribute in node.attributes else default


def unstacked(value: ir.Value, axis: int) -> tuple[ir.Value, ...]:
    """The tensors that were stacked along a new `axis` to make `value`.

    Raises:
        StructureError: `value` is no such stack.
    """
    parts = operands(node) if (node := made_by(value, "Concat")) else (value,)
    if node is not None and integer(node, "axis", 0) != axis:
        raise StructureError(f"{label(value)} joins along axis {integer(node, 'axis', 0)}, expected {axis}")
    return tuple(_unsqueezed(part, axis) for part in parts)


def _unsqueezed(value: ir.Value, axis: int) -> ir.Value:
    node = made_by(value, "Unsqueeze")
    if node is None or integers(node.inputs[1]) != (axis,):
        raise StructureError(f"{label(value)} is not one layer's part, unsqueezed at axis {axis}, of a stack")
    return operands(node)[0]


def selected(value: ir.Value, axis: int) -> tuple[ir.Value, int]:
    """The tensor and the index along `axis` that `value` was taken from.

    Raises:
        StructureError: it was not.
    """
    node = made_by(value, "Gather")
    index = integers(node.inputs[1]) if node is not None else None
    if node is None or index is None or len(index) != 1 or integer(node, "axis", 0) != axis:
        raise StructureError(f"{label(value)} is not one layer, taken by a constant index, of a state")
    return operands(node)[0], index[0]


def sources(value: ir.Value, stop: ir.Node) -> list[ir.Value]:
    """What `value` is computed from: graph inputs, weights, and outputs of `stop`, in no special order.

    Indices and axes are left out.
    """
    found: list[ir.Value] = []
    seen: set[ir.Value] = set()
    waiting = [value]
    while waiting:
        current = waiting.pop()
        if current in seen:
            continue
        seen.add(current)
        node = current.producer()
        if node is None or node is stop:
            found += [current] if integers(current) is None else []
        else:
            waiting.extend(operands(node))
    return found
