"""What exporters leave to be computed in every run, taken away.

Torch's exporter makes the weights of an operator from slices, and drops the axis of directions by a Transpose and a
Reshape whose shape is computed from sizes. What is left here is exact for every number of sessions and steps: a tensor
is replaced only where its numbers, in their order, follow from symbols.
"""

from dataclasses import dataclass
from typing import Final

import numpy as np
import onnx_ir as ir
import onnx_ir.passes.common as common

from gatestream.export.adopting.sizes import Sizes, axes_of, takes_all
from gatestream.export.graph.edit import replace
from gatestream.export.graph.initializers import constant, store
from gatestream.export.graph.names import Names

_VIEWS: Final = frozenset({"Transpose", "Squeeze", "Unsqueeze", "Reshape", "Slice"})

_ONE: Final = -1
"""Stands for an axis of size 1 among the numbers of axes."""


@dataclass(frozen=True, slots=True)
class _View:
    """A tensor that holds the numbers of another, its axes in another order and with other axes of size 1.

    Attributes:
        root: the other.
        axes: what each axis is in the root; `_ONE`: of size 1.
        cost: how many nodes make it of the root.
    """

    root: ir.Value
    axes: tuple[int, ...]
    cost: int


def shorten_views(model: ir.Model) -> None:
    """Make what only moves axes, and adds or drops axes of size 1, from as few nodes as can be.

    A chain of such nodes becomes a Squeeze or an Unsqueeze, a Transpose, both, or nothing. A Reshape counts where its
    shape, in symbols, is that of its input but for axes of size 1, and a Slice where it takes all; any other is left.

    Args:
        model: in normal form; its main graph is changed.
    """
    graph, sizes, names = model.graph, Sizes(model.graph), Names(model)
    views: dict[ir.Value, _View] = {}
    for node in graph:
        if node.domain == "" and node.op_type in _VIEWS and (view := _view(node, sizes, views)) is not None:
            views[node.outputs[0]] = view
    made: dict[tuple[ir.Value, str, tuple[int, ...]], ir.Value] = {}
    for value, view in views.items():
        inner = all(use.node.outputs[0] in views for use in value.uses()) and not value.is_graph_output()
        shape = sizes.shape(view.root)
        if inner or shape is None:
            continue
        steps = _shortest(_axes(shape), view.axes)
        if len(steps) < view.cost:
            result = view.root
            for operator, numbers in steps:
                result = _made(graph, names, made, result, operator, numbers)
            replace(value, result)
    common.RemoveUnusedNodesPass()(model)


def _axes(shape: tuple[int | str, ...]) -> tuple[int, ...]:
    """Of a root: its axes as a view has them."""
    return tuple(_ONE if size == 1 else k for k, size in enumerate(shape))


def _view(node: ir.Node, sizes: Sizes, views: dict[ir.Value, _View]) -> _View | None:
    """What a node makes; None where that is not known."""
    value = node.inputs[0]
    shape, result = sizes.shape(value), sizes.shape(node.outputs[0])
    if value is None or constant(value) is not None or shape is None or result is None:
        return None
    before = views.get(value) or _View(value, _axes(shape), 0)
    cost = before.cost + 1
    if node.op_type == "Transpose":
        perm = node.attributes["perm"].as_ints() if "perm" in node.attributes else range(len(shape))[::-1]
        return _View(before.root, tuple(before.axes[k] for k in perm), cost)
    if node.op_type == "Reshape":
        if [size for size in shape if size != 1] != [size for size in result if size != 1]:
            return None
        rest = iter([axis for axis in before.axes if axis != _ONE])
        # What its shape is computed from goes with it.
        cost += 0 if constant(node.inputs[1]) is not None else 2
        return _View(before.root, tuple(_ONE if size == 1 else next(rest) for size in result), cost)
    if node.op_type == "Slice":
        return _View(before.root, before.axes, cost) if takes_all(node, shape) else None
    axes = axes_of(node, len(shape))
    assert axes is not None  # or the result's shape would not be known
    if node.op_type == "Squeeze":
        if any(shape[k] != 1 for k in axes):
            return None  # it fails where the size is another
        return _View(before.root, tuple(axis for k, axis in enumerate(before.axes) if k not in axes), cost)
    kept = iter(before.axes)
    return _View(before.root, tuple(_ONE if k in axes else next(kept) for k in range(len(result))), cost)


def _shortest(root: tuple[int, ...], axes: tuple[int, ...]) -> list[tuple[str, tuple[int, ...]]]:
    """Operators that make `axes` of `root`, with the axes of each; none where they are the same."""
    steps: list[tuple[str, tuple[int, ...]]] = []
    now = list(root)
    if len(root) > len(axes):
        steps.append(("Squeeze", _surplus(root, axes)))
        now = [axis for k, axis in enumerate(root) if k not in steps[0][1]]
    elif len(root) < len(axes):
        steps.append(("Unsqueeze", _surplus(axes, root)))
        rest = iter(root)
        now = [_ONE if k in steps[0][1] else next(rest) for k in range(len(axes))]
    if now != list(axes):
        ones = iter([k for k, axis in enumerate(now) if axis == _ONE])
        steps.append(("Transpose", tuple(next(ones) if axis == _ONE else now.index(axis) for axis in axes)))
    return steps


def _surplus(more: tuple[int, ...], fewer: tuple[int, ...]) -> tuple[int, ...]:
    """The axes of size 1 that `more` has beyond `fewer`: those where both differ, as far as that tells."""
    count = len(more) - len(fewer)
    found: list[int] = []
    k = 0
    for number, axis in enumerate(more):
        if k < len(fewer) and axis == fewer[k]:
            k += 1
        elif axis == _ONE and len(found) < count:
            found.append(number)
        else:
            break
    if len(found) == count:
        return tuple(found)
    return tuple([number for number, axis in enumerate(more) if axis == _ONE][:count])


def _made(
    graph: ir.Graph,
    names: Names,
    made: dict[tuple[ir.Value, str, tuple[int, ...]], ir.Value],
    value: ir.Value,
    operator: str,
    numbers: tuple[int, ...],
) -> ir.Value:
    """The result of an operator, of a node just behind what makes its input; the same node for the same thing."""
    key = value, operator, numbers
    if key in made:
        return made[key]
    if operator == "Transpose":
        node = ir.node(operator, [value], {"perm": list(numbers)})
    else:
        name = names.fresh(f"axes_{'_'.join(map(str, numbers))}")
        node = ir.node(operator, [value, store(graph, name, np.array(numbers, np.int64))])
    node.name = names.fresh(f"{operator}_{value.name}")
    result = node.outputs[0]
    result.name, result.type = names.fresh(f"{value.name}.{operator.lower()}"), value.type
    producer = value.producer()
    if producer is not None:
        graph.insert_after(producer, node)
    else:
        graph.insert_before(graph[0], node)
    made[key] = result
    return result
