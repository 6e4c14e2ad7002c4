"""What a state starts from where the graph itself says it: a constant, or numbers that depend on shapes alone."""

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from gatestream.export.adopting.probing import Probe, zeros
from gatestream.export.adopting.slots import Slot, describe
from gatestream.export.errors import NotStreamableError
from gatestream.export.graph.flow import made_by
from gatestream.export.graph.initializers import constant

_RANDOM: Final = frozenset(
    {"RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike", "Multinomial", "Bernoulli"}
)


@dataclass(frozen=True, slots=True)
class Start:
    """What a state of a new session is.

    Attributes:
        value: where the graph's inputs have one row and one step.
        batch_axis: the axis whose size is that of the inputs; None: no axis is, in this graph.
    """

    value: NDArray[Any]
    batch_axis: int | None


def start(model: ir.Model, slot: Slot) -> Start | None:
    """Compute what a slot starts from.

    Returns:
        None: it grows with more than one size of the inputs, as what is no state but room for outputs does.

    Raises:
        NotStreamableError: it depends on what an input holds, or its rows are not alike.
    """
    initial = slot.initial
    assert initial is not None  # zeros need no computation
    array = constant(initial)
    if array is not None:
        return Start(array, None)
    if (blamed := _computed(initial)) is not None:
        node, value = blamed
        if node is not None and node is value.producer():
            raise NotStreamableError(
                f"{slot} is drawn at random by {describe(node)}: sessions that are sent the same would not be given "
                "the same; export the model with this state as an input and an output"
            )
        by = f"by {describe(node)} " if node is not None else ""
        raise NotStreamableError(
            f"{slot} is computed {by}from the input '{value.name}', so that every run would start anew from its own "
            "steps; export the model with this state as an input and an output"
        )
    probe = Probe(model, [initial])
    [small], [large] = (probe.run(zeros(model, size)).values() for size in (1, 2))
    if small.ndim != large.ndim:
        raise NotStreamableError(f"{slot} has {small.ndim} axes for one row and {large.ndim} for two")
    grown = [axis for axis, (a, b) in enumerate(zip(small.shape, large.shape, strict=True)) if a != b]
    if len(grown) > 1:
        return None
    axis = grown[0] if grown else None
    rows = [large] if axis is None else np.split(large, large.shape[axis], axis)
    one = small if axis is None else small.take([0], axis)
    if not all(np.array_equal(row, one, equal_nan=True) for row in rows):
        raise NotStreamableError(f"{slot} is not the same for every row, or depends on how many steps there are")
    return Start(small, axis)


def depends_on_shapes(value: ir.Value) -> bool:
    """Whether a value is constant but for its shape, whatever the inputs hold."""
    return _computed(value) is None


def _computed(value: ir.Value) -> tuple[ir.Node | None, ir.Value] | None:
    """The input whose numbers a value depends on, with the node that takes them; None: it depends on shapes alone.

    Where what it depends on is random, that, with the node that makes it.
    """
    seen: set[ir.Value] = set()
    waiting: list[tuple[ir.Node | None, ir.Value]] = [(None, value)]
    while waiting:
        taker, current = waiting.pop()
        if current in seen or constant(current) is not None:
            continue
        seen.add(current)
        node = current.producer()
        if node is None:
            return taker, current
        if node.op_type in _RANDOM:
            return node, current
        if made_by(current, "Shape", "Size") or _is_zero(node):
            continue
        waiting += [(node, item) for item in node.inputs if item is not None]
        for attribute in node.attributes.values():
            if attribute.type is ir.AttributeType.GRAPH:
                inner = attribute.as_graph()
                outer = {item for within in inner.all_nodes() for item in within.inputs if item is not None}
                waiting += [(node, item) for item in outer if item.graph is value.graph]
    return None


def _is_zero(node: ir.Node) -> bool:
    """Whether it multiplies by zero, as an exporter writes zeros in the shape of something."""
    factors = [constant(item) for item in node.inputs] if made_by(node.outputs[0], "Mul") else []
    return any(array is not None and array.size > 0 and not array.any() for array in factors)
