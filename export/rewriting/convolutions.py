"""Convolutions of few positions as one matrix product for all rows of a run.

onnxruntime multiplies a convolution out row by row. Along a window of one step there are few positions, so each of
these products is narrow, and a run of 64 rows costs nearly as much as 64 runs. Written as one product, [rows *
positions, taps] by [taps, outputs], it is several times as fast for many rows, and no slower for one.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from math import gcd
from typing import Final

import numpy as np
import onnx_ir as ir
import onnx_ir.passes.common as common
from numpy.typing import NDArray

from gatestream.export.graph.edit import replace
from gatestream.export.graph.flow import integer, name_of
from gatestream.export.graph.folding import fold
from gatestream.export.graph.initializers import constant, store
from gatestream.export.graph.names import Names

_MOST_POSITIONS: Final = 8
"""From 16 on a row's own product is as fast: that many numbers fill a register."""

_FEWEST_TAPS: Final = 16
"""Of fewer, what is moved to make the product costs more than it saves."""


@dataclass(frozen=True, slots=True)
class _Geometry:
    """Where a convolution reads.

    Attributes:
        channels: of what it takes.
        length: of that, along which it goes.
        kernel: taps of each channel at one position.
        stride: from one position to the next.
        dilation: from one tap to the next.
        begin: zeros before the first sample.
        positions: how many there are.
    """

    channels: int
    length: int
    kernel: int
    stride: int
    dilation: int
    begin: int
    positions: int

    @property
    def reach(self) -> int:
        """Samples from the first that is read to the last, the zeros among them."""
        return (self.positions - 1) * self.stride + (self.kernel - 1) * self.dilation + 1

    @property
    def piece(self) -> int:
        """Samples that are always read together, one behind the other."""
        if self.dilation > 1:
            return 1
        return gcd(self.stride, self.kernel) if self.positions > 1 else self.kernel

    @property
    def pieces(self) -> NDArray[np.int64]:
        """Which pieces each position reads: [positions, kernel / piece]."""
        first = np.arange(self.positions)[:, None] * (self.stride // self.piece)
        return first + np.arange(self.kernel // self.piece) * self.dilation


def multiply_out(model: ir.Model) -> list[str]:
    """Write convolutions along an axis of one size, with few positions on it, as products.

    Args:
        model: its main graph is changed, in which tensors between two others are left without a shape. The shapes of
            its inputs are true of every run: an axis of sessions or of steps is a symbol.

    Returns:
        What was done, in a line; nothing where there was none.
    """
    graph = model.graph
    if not any(node.op_type == "Conv" for node in graph):
        return []
    noted = [value.shape for value in graph.outputs]
    # Pads depend on constants alone; sizes follow from pads, and on sizes there may be an `If`.
    for _ in range(2):
        fold(model)
        _forget_shapes(graph)
        common.ShapeInferencePass(check_type=False, strict_mode=False)(model)
    convolutions = [node for node in graph if node.domain == "" and node.op_type == "Conv"]
    found = {node: geometry for node in convolutions if (geometry := _geometry(node)) is not None}
    _forget_shapes(graph)
    for value, shape in zip(graph.outputs, noted, strict=True):
        value.shape = shape
    rewriting = _Rewriting(model)
    for node, geometry in found.items():
        rewriting.replace(node, geometry)
    return [f"convolutions of few positions as one product for all rows: {len(found)}"] if found else []


def _forget_shapes(graph: ir.Graph) -> None:
    """Of what nodes make: what a file says of them may hold for its example alone."""
    for node in graph:
        for value in node.outputs:
            value.shape = None


def _geometry(node: ir.Node) -> _Geometry | None:
    """Of a convolution that can be a product and is better off as one; None for any other."""
    value, kernel = node.inputs[0], constant(node.inputs[1])
    auto_pad = node.attributes["auto_pad"].as_string() if "auto_pad" in node.attributes else "NOTSET"
    if value is None or value.shape is None or kernel is None or kernel.ndim != 3 or kernel.dtype != np.float32:
        return None
    if integer(node, "group", 1) != 1 or auto_pad not in ("NOTSET", "VALID"):
        return None
    _, channels, length = value.shape
    if not isinstance(channels, int) or not isinstance(length, int):
        return None
    [stride], [dilation], [begin, end] = (_ints(node, name, default) for name, default in _DEFAULTS.items())
    taps = kernel.shape[2]
    positions = (length + begin + end - (taps - 1) * dilation - 1) // stride + 1
    if not 1 <= positions <= _MOST_POSITIONS or channels * taps < _FEWEST_TAPS:
        return None
    return _Geometry(channels, length, taps, stride, dilation, begin, positions)


_DEFAULTS: Final[Mapping[str, tuple[int, ...]]] = {"strides": (1,), "dilations": (1,), "pads": (0, 0)}


def _ints(node: ir.Node, name: str, default: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(node.attributes[name].as_ints()) if name in node.attributes else default


class _Rewriting:
    def __init__(self, model: ir.Model) -> None:
        self._graph = model.graph
        self._names = Names(model)

    def replace(self, node: ir.Node, geometry: _Geometry) -> None:
        """Put the product in the place of a convolution, [rows, channels, length] to [rows, outputs, positions]."""
        self._node, self._called = node, node.name or "Conv"
        value, weight = node.inputs[:2]
        kernel = constant(weight)
        assert value is not None
        assert weight is not None
        assert kernel is not None
        outputs, channels, taps = kernel.shape
        value = self._op("Transpose", [value], perm=[0, 2, 1])
        end = geometry.reach - geometry.length - geometry.begin
        if geometry.begin or end:  # a negative end is cut off: nothing reads it
            value = self._op("Pad", [value, self._numbers("pads", [0, geometry.begin, 0, 0, end, 0])])
        if geometry.positions > 1 or geometry.dilation > 1:
            pieces = [-1, geometry.reach // geometry.piece, geometry.piece * channels]
            value = self._op("Reshape", [value, self._numbers("pieces", pieces)])
            value = self._op("Gather", [value, self._numbers("positions", geometry.pieces)], axis=1)
        value = self._op("Reshape", [value, self._numbers("rows", [-1, taps * channels])])
        weights = np.ascontiguousarray(kernel.transpose(2, 1, 0)).reshape(taps * channels, outputs)
        bias = [each for each in node.inputs[2:] if each is not None]
        stored = store(self._graph, self._names.fresh(f"{name_of(weight)}.product"), weights)
        value = self._op("Gemm", [value, stored, *bias])
        value = self._op("Reshape", [value, self._numbers("shape", [-1, geometry.positions, outputs])])
        replace(node.outputs[0], self._op("Transpose", [value], perm=[0, 2, 1]))
        self._graph.remove(node, safe=True)

    def _op(self, operator: str, inputs: list[ir.Value], **attributes: int | list[int]) -> ir.Value:
        node = ir.node(operator, inputs, attributes, name=self._names.fresh(f"{self._called}.{operator}"))
        result = node.outputs[0]
        result.name, result.type = self._names.fresh(f"{self._called}.{operator.lower()}"), self._node.outputs[0].type
        self._graph.insert_before(self._node, node)
        return result

    def _numbers(self, what: str, numbers: list[int] | NDArray[np.int64]) -> ir.Value:
        return store(self._graph, self._names.fresh(f"{self._called}.{what}"), np.array(numbers, np.int64))
