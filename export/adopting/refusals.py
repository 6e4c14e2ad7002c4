"""What cannot be streamed, whatever is carried: found before anything is made of a file, and named."""

from collections.abc import Collection

import onnx_ir as ir

from gatestream.export.adopting.dataflow import holds
from gatestream.export.adopting.frozen import reshaped, unrolled
from gatestream.export.adopting.growth import Growth, growth
from gatestream.export.adopting.over_time import reason
from gatestream.export.adopting.slots import Slot, describe, is_forward, is_recurrent, slots
from gatestream.export.errors import AmbiguousError, NotStreamableError
from gatestream.export.graph.flow import integer


def check(model: ir.Model, context: Collection[str] = ()) -> None:
    """Refuse a graph whose steps cannot give what the whole gives.

    Layers that read backwards are seen in the graph. For the rest it is run on several sizes of its inputs, which
    tells the axes that are time: those that the steps of recurrent layers, or else the outputs, grow with, and states
    do not. What cannot be told so, since it runs on one size only, is not refused here: proof is what decides, and
    `explaining.explain` tells what it was that failed.

    Args:
        model: as it was read, constants folded; an input whose step was said to be a window of so many samples has
            that size in its shape.
        context: inputs that are given samples of the steps before; a convolution may then give fewer than it reads.

    Raises:
        NotStreamableError: a layer reads backwards or computes in float64, a convolution or pooling pads time inside
            the graph, something adds up or normalises over time, or how many steps there are is frozen inside.
        AmbiguousError: a layer stands in a branch that an input decides on.
    """
    for node in model.graph.all_nodes():
        _check_direction(node)
        _check_precision(node)
    for node in model.graph:
        if node.domain == "" and node.op_type == "If":
            _check_branches(node)
    carried = slots(model)
    ends = [output for output in model.graph.outputs if not holds(output, carried)]
    grown = growth(model)
    _refuse(reshaped(model, grown, ends))
    if grown is None:
        return
    gone_through = [end for node in model.graph for end in _gone_through(node)]
    _refuse(unrolled(model, grown, ends, gone_through))
    time = _time(grown, carried, ends, gone_through)
    for node in model.graph if time else ():
        _refuse(reason(node, grown, time, bool(context)))


def check_types(model: ir.Model) -> None:
    """Refuse a graph that takes or gives anything but tensors of numbers.

    Raises:
        AmbiguousError: an input or an output is a sequence, optional, sparse, or of texts.
    """
    for what, values in (("input", model.graph.inputs), ("output", model.graph.outputs)):
        for value in values:
            if not isinstance(value.type, ir.TensorType | None):
                kind = type(value.type).__name__.removesuffix("Type").lower()
                kind = {"sequence": "a sequence", "optional": "optional", "sparsetensor": "a sparse tensor"}[kind]
            elif value.dtype == ir.DataType.STRING:
                kind = "a tensor of texts"
            else:
                continue
            raise AmbiguousError(
                f"{what} '{value.name}' is {kind}, and no flag makes it a tensor of numbers, which is all that a model "
                "can be served with; export the model with tensors"
            )


def _refuse(why: str | None) -> None:
    if why is not None:
        raise NotStreamableError(why)


def _check_precision(node: ir.Node) -> None:
    weights = node.inputs[1] if is_recurrent(node) else None
    if weights is not None and weights.dtype == ir.DataType.DOUBLE:
        raise NotStreamableError(
            f"{node.op_type} '{node.name}' computes in float64, which onnxruntime does not: export the model in float32"
        )


def _check_direction(node: ir.Node) -> None:
    if is_recurrent(node) and not is_forward(node):
        direction = node.attributes["direction"].as_string()
        raise NotStreamableError(
            f"{describe(node)} is {direction}: it reads '{_name(node.inputs[0])}' from its last step on, which has not "
            "come yet; no state helps, train it with one direction, forward"
        )
    directions = node.attributes.get("scan_input_directions") if node.domain == "" else None
    if directions is not None and any(directions.as_ints()):
        raise NotStreamableError(
            f"{describe(node)} reads an input from its last step on, which has not come yet; no state helps, train it "
            "with one direction, forward"
        )


def _check_branches(node: ir.Node) -> None:
    inside = [
        inner
        for attribute in node.attributes.values()
        if attribute.type is ir.AttributeType.GRAPH
        for inner in attribute.as_graph().all_nodes()
    ]
    recurrent = [inner for inner in inside if is_recurrent(inner)]
    if recurrent:
        inputs = sorted(_inputs_of(node.inputs[0]))
        flags = " or ".join(f"--constant {name}=VALUE" for name in inputs) or "exporting one branch alone"
        raise AmbiguousError(
            f"{describe(recurrent[0])} stands in a branch of {describe(node)}, which depends on "
            f"{', '.join(map(repr, inputs)) or 'no input'}; settle it with {flags}"
        )


def _inputs_of(value: ir.Value | None) -> set[str]:
    found: set[str] = set()
    seen: set[ir.Value] = set()
    waiting = [value]
    while waiting:
        current = waiting.pop()
        if current is None or current in seen:
            continue
        seen.add(current)
        node = current.producer()
        if node is not None:
            waiting += node.inputs
        elif current.is_graph_input():
            found.add(_name(current))
    return found


def _time(
    grown: Growth, carried: list[Slot], ends: list[ir.Value], gone_through: list[tuple[ir.Value, int]]
) -> set[str]:
    """The free sizes that are numbers of steps.

    A size that no output grows with is that of a window of samples.
    """
    rows: set[str] = set()
    steps: set[str] = set()
    for value, axis in gone_through:
        steps |= grown.of(value, axis)
        if any(is_recurrent(use.node) and use.idx == 0 for use in value.uses()):
            rows |= grown.of(value, 1)
    for slot in carried:
        rows |= _sizes(slot.initial, grown) | _sizes(slot.final, grown)
    outputs = {size for output in ends for size in _sizes(output, grown)}
    return ((steps or outputs) - rows) & outputs


def _sizes(value: ir.Value | None, grown: Growth) -> set[str]:
    """All that a tensor grows with."""
    if value is None or value not in grown.first:
        return set()
    return {size for axis in range(len(grown.first[value])) for size in grown.of(value, axis)}


def _gone_through(node: ir.Node) -> list[tuple[ir.Value, int]]:
    """The tensors that a node goes through step by step, each with the axis along which it does."""
    if is_recurrent(node):
        return [(node.inputs[0], 0)] if node.inputs[0] is not None else []
    if node.domain == "" and node.op_type == "Scan":
        count = integer(node, "num_scan_inputs", 0)
        axes = node.attributes["scan_input_axes"].as_ints() if "scan_input_axes" in node.attributes else [0] * count
        return [(value, axis) for value, axis in zip(node.inputs[-count:], axes, strict=True) if value is not None]
    if node.domain == "" and node.op_type == "Loop":
        return [(value, 0) for value in node.outputs[len(node.inputs) - 2 :]]
    return []


def _name(value: ir.Value | None) -> str:
    return value.name or "" if value is not None else ""
