"""What is put together along an axis and taken apart again: one of its parts, and no more."""

import onnx_ir as ir
import onnx_ir.passes.common as common

from gatestream.export.graph.edit import replace
from gatestream.export.graph.flow import made_by
from gatestream.export.graph.initializers import integers


def pick(model: ir.Model) -> None:
    """Have what takes one place of parts that were put side by side read that part, and compute nothing twice.

    Each part is as long as 1 along the axis, as `Unsqueeze` makes it. What was computed for other parts alone goes.

    Args:
        model: changed; nothing in a graph inside its graph is.
    """
    for node in list(model.graph):
        part = _picked(node)
        if part is not None:
            replace(node.outputs[0], part)
    common.RemoveUnusedNodesPass()(model)
    common.CommonSubexpressionEliminationPass()(model)
    common.RemoveUnusedNodesPass()(model)


def _picked(node: ir.Node) -> ir.Value | None:
    """The part that a node takes; None: it takes none."""
    match node.op_type:
        case "Gather" if node.inputs[1] is not None and node.inputs[1].shape == ():
            part = _part(node.inputs[0], node.attributes.get_int("axis", 0), integers(node.inputs[1]))
            return part.inputs[0] if part is not None else None
        case "Slice":
            starts, ends, axes, *steps = map(integers, node.inputs[1:])
            if starts is None or axes is None or ends != (starts[0] + 1,) or steps not in ([], [(1,)]):
                return None
            part = _part(node.inputs[0], axes[0], starts)
            return part.outputs[0] if part is not None else None
        case "Squeeze":
            wide = made_by(node.inputs[0], "Unsqueeze")
            same = wide is not None and integers(wide.inputs[1]) == integers(node.inputs[1])
            return wide.inputs[0] if wide is not None and same else None
    return None


def _part(whole: ir.Value | None, axis: int, at: tuple[int, ...] | None) -> ir.Node | None:
    """The `Unsqueeze` that makes the part which stands at a place along an axis."""
    concat = made_by(whole, "Concat")
    parts = [whole] if concat is None else list(concat.inputs)
    if not at or not 0 <= at[0] < len(parts) or (concat is not None and concat.attributes.get_int("axis") != axis):
        return None
    made = [made_by(part, "Unsqueeze") for part in parts]
    return made[at[0]] if all(each is not None and integers(each.inputs[1]) == (axis,) for each in made) else None
