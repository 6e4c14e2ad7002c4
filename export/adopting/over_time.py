"""Operators that look at other steps than their own, or count on seeing all of them, and carry nothing."""

from collections.abc import Iterable
from typing import Final

import onnx_ir as ir

from gatestream.export.adopting.growth import Growth
from gatestream.export.adopting.slots import describe
from gatestream.export.adopting.starts import depends_on_shapes
from gatestream.export.graph.flow import integer
from gatestream.export.graph.initializers import constant, integers

_SLIDING: Final = frozenset(
    {"Conv", "ConvTranspose", "ConvInteger", "QLinearConv", "MaxPool", "AveragePool", "LpPool", "DeformConv"}
)
_GLOBAL: Final = frozenset({"GlobalAveragePool", "GlobalMaxPool", "GlobalLpPool", "InstanceNormalization"})
_ALONG_ONE: Final = {  # the axis, where it is left out
    "Softmax": -1,
    "LogSoftmax": -1,
    "Hardmax": -1,
    "LpNormalization": -1,
    "TopK": -1,
    "ArgMax": 0,
    "ArgMin": 0,
}
_ATTENTION: Final = frozenset({"Attention", "MultiHeadAttention", "GroupQueryAttention", "QAttention"})


def reason(node: ir.Node, grown: Growth, time: set[str], context: bool = False) -> str | None:
    """Why a node cannot be given its steps in parts; None: it can, as far as can be told from it.

    Args:
        node: of the main graph.
        grown: how its tensors' axes go with the sizes of the inputs.
        time: those sizes that are time.
        context: there are samples of the steps before, which a convolution may use up.
    """
    data = node.inputs[0] if node.inputs else None
    if data is None:
        return None
    axes = grown.axes(data, time)
    if node.domain not in ("", "com.microsoft"):
        return None
    kind = node.op_type
    if kind in _ATTENTION and axes:
        return _whole(node, data, grown, "attends to other steps", "a cache of a fixed number of steps")
    if kind in ("MatMul", "MatMulInteger"):
        return _product(node, grown, time)
    if kind == "Concat":
        return _joined(node, grown, time)
    if not axes:
        return None
    if kind in _SLIDING:
        return _slides(node, data, axes, grown, set() if context else time)
    if kind == "Pad":
        return _pads(node, data, axes, grown, time)
    if kind == "CumSum" and integers(node.inputs[1]) is not None:
        found = _common(integers(node.inputs[1]) or (), axes, _rank(data, grown))
        help_ = "the sum up to the last step"
        return _whole(node, data, grown, "adds up all steps before", help_) if found else None
    if kind in _ALONG_ONE:
        found = _common([integer(node, "axis", _ALONG_ONE[kind])], axes, _rank(data, grown))
    elif kind.startswith("Reduce"):
        found = _common(_reduced(node, _rank(data, grown)), axes, _rank(data, grown))
    elif kind in ("LayerNormalization", "RMSNormalization", "SimplifiedLayerNormalization", "SkipLayerNormalization"):
        first = integer(node, "axis", -1) % _rank(data, grown)
        found = [axis for axis in axes if axis >= first]
    elif kind == "GroupNormalization" or kind in _GLOBAL:
        found = [axis for axis in axes if axis >= 2]
    elif kind == "MeanVarianceNormalization":
        given = node.attributes["axes"].as_ints() if "axes" in node.attributes else (0, 2, 3)
        found = _common(given, axes, _rank(data, grown))
    elif kind == "ReverseSequence":
        found = [axis for axis in axes if axis == integer(node, "time_axis", 0)]
    elif kind == "Slice":
        return _sliced(node, data, axes, grown)
    else:
        return None
    return _whole(node, data, grown, "needs all steps of a run", "running statistics") if found else None


def _slides(node: ir.Node, data: ir.Value, axes: list[int], grown: Growth, time: set[str]) -> str | None:
    """A convolution or pooling whose window is longer than a step."""
    rank = _rank(data, grown) - 2
    weights = node.inputs[3] if node.op_type == "QLinearConv" else node.inputs[1] if len(node.inputs) > 1 else None
    if "kernel_shape" in node.attributes:
        kernel = list(node.attributes["kernel_shape"].as_ints())
    elif weights is not None and weights in grown.first:
        kernel = list(grown.first[weights][2:])
    elif (array := constant(weights)) is not None:
        kernel = list(array.shape[2:])
    else:
        return None
    dilations = list(node.attributes["dilations"].as_ints()) if "dilations" in node.attributes else [1] * rank
    pads = list(node.attributes["pads"].as_ints()) if "pads" in node.attributes else [0] * 2 * rank
    same = "auto_pad" in node.attributes and node.attributes["auto_pad"].as_string().startswith("SAME")
    for axis in axes:
        k = axis - 2
        if k < 0 or kernel[k] == 1:
            continue
        reach = dilations[k] * (kernel[k] - 1)
        if same or pads[k] or pads[rank + k]:
            how = "to keep the length" if same else f"with {pads[k]} before and {pads[rank + k]} behind"
            return (
                f"{describe(node)} pads '{data.name}' {shape_of(data, grown)} along axis {axis}, which is time, {how}: "
                f"every run would begin with zeros and not with the steps before it; export the model with the last "
                f"{reach} steps of '{data.name}' as an input and an output, and without this padding"
            )
        if node.op_type != "ConvTranspose" and _falls_short(node, axis, grown, time):
            return (
                f"{describe(node)} reads {reach + 1} steps of '{data.name}' {shape_of(data, grown)} along axis {axis}, "
                "which is time, and gives fewer than it reads: every run would lose its first ones; export the model "
                f"with the last {reach} steps of '{data.name}' as an input and an output, or give --context"
            )
    return None


def _falls_short(node: ir.Node, axis: int, grown: Growth, time: set[str]) -> bool:
    """Whether it gives fewer entries than its input's growth accounts for; a cache in front makes up for them."""
    output = node.outputs[0]
    return axis in grown.axes(output, time) and grown.surplus(output, axis, time) < 0


def _pads(node: ir.Node, data: ir.Value, axes: list[int], grown: Growth, time: set[str]) -> str | None:
    """A Pad along time; how much is seen by the lengths, as exporters compute it."""
    output = node.outputs[0]
    for axis in axes:
        if axis not in grown.axes(output, time):
            continue
        added = grown.surplus(output, axis, time) - grown.surplus(data, axis, time)
        if added > 0:
            return (
                f"{describe(node)} pads '{data.name}' {shape_of(data, grown)} along axis {axis}, which is time, by "
                f"{added}: every run would begin or end with these and not with the steps around it; export the model "
                f"with the last {added} steps of '{data.name}' as an input and an output, and without this padding"
            )
    return None


def _joined(node: ir.Node, grown: Growth, time: set[str]) -> str | None:
    """Padding by hand: constants, or zeros in the shape of something, put before or behind the steps."""
    longest = next((value for value in node.inputs if value is not None and grown.axes(value, time)), None)
    if longest is None:
        return None
    axis = integer(node, "axis", 0) % _rank(longest, grown)
    if axis not in grown.axes(longest, time):
        return None
    for value in node.inputs:
        if value is not None and axis not in grown.axes(value, time) and depends_on_shapes(value):
            return (
                f"{describe(node)} puts '{value.name}', which is constant, beside '{longest.name}' "
                f"{shape_of(longest, grown)} along axis {axis}, which is time: every run would have it, and not the "
                f"steps before; export the model with the last steps of '{longest.name}' as an input and an output in "
                "its place"
            )
    return None


def _product(node: ir.Node, grown: Growth, time: set[str]) -> str | None:
    """Steps times steps, or a sum over steps: attention."""
    a, b = node.inputs[:2]
    if a is None or b is None or not grown.axes(node.outputs[0] if a not in grown.first else a, time):
        return None
    if b in grown.first and grown.axes(b, time):
        rank = _rank(a, grown)
        summed = rank - 1 in grown.axes(a, time)
        output = node.outputs[0]
        both = [axis for axis in grown.axes(output, time) if axis >= _rank(output, grown) - 2]
        if summed or len(both) == 2:
            return _whole(node, a, grown, "takes every step with every other", "a cache of a fixed number of steps")
    return None


def _sliced(node: ir.Node, data: ir.Value, axes: list[int], grown: Growth) -> str | None:
    if len(node.inputs) < 5 or node.inputs[4] is None:
        return None
    steps, which = integers(node.inputs[4]), integers(node.inputs[3])
    if steps is None or which is None:
        return None
    rank = _rank(data, grown)
    if any(step < 0 and axis % rank in axes for step, axis in zip(steps, which, strict=False)):
        return _whole(node, data, grown, "turns the steps round", "a model that reads forward")
    return None


def _reduced(node: ir.Node, rank: int) -> Iterable[int]:
    """The axes of a reduction; empty: they are computed, or it does nothing without any."""
    if "axes" in node.attributes:
        return node.attributes["axes"].as_ints()
    given = node.inputs[1] if len(node.inputs) > 1 else None
    if given is not None and (found := integers(given)):
        return found
    return () if given is not None or integer(node, "noop_with_empty_axes", 0) else range(rank)


def _common(given: Iterable[int], axes: list[int], rank: int) -> list[int]:
    return [axis % rank for axis in given if axis % rank in axes]


def _whole(node: ir.Node, data: ir.Value, grown: Growth, what: str, instead: str) -> str:
    return (
        f"{describe(node)} {what}: '{data.name}' {shape_of(data, grown)} in part gives other numbers than the whole; "
        f"export the model with {instead} as an input and an output"
    )


def _rank(value: ir.Value, grown: Growth) -> int:
    if value in grown.first:
        return len(grown.first[value])
    array = constant(value)
    return array.ndim if array is not None else 0


def shape_of(value: ir.Value, grown: Growth) -> str:
    """With the names of the sizes that an axis grows with, where it does."""
    shape = grown.first[value]
    return "[" + ", ".join("*".join(sorted(grown.of(value, k))) or str(n) for k, n in enumerate(shape)) + "]"
