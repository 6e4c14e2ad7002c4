"""Constants of anybody's graph: initializers, Constant nodes, and what only rearranges them."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from gatestream.export.graph.flow import integer


@dataclass(frozen=True, slots=True)
class Constant:
    """A constant.

    Attributes:
        name: of the initializer, or of the tensor that a Constant node makes, that it comes from.
        array: what it is where it is used.
        dtype: as it is stored.
    """

    name: str
    array: NDArray[Any] = field(repr=False)
    dtype: str


Resolve = Callable[[ir.Value], ir.Value]


def known(value: ir.Value | None, resolve: Resolve = lambda value: value) -> Constant | None:
    """What a tensor holds, if that is known without running the graph; None for everything else.

    Where an initializer or a Constant node is transposed, reshaped or cast on the way, so is the array.

    Args:
        value: the tensor.
        resolve: what a tensor stands for, where it is handed into a body.
    """
    if value is None:
        return None
    value = resolve(value)
    if value.is_initializer() and not value.is_graph_input() and value.const_value is not None:
        array = value.const_value.numpy()
        return Constant(value.name or "", array, array.dtype.name)
    node = value.producer()
    if node is None or node.domain != "":
        return None
    if node.op_type == "Constant":
        tensor = ir.convenience.get_const_tensor(value)
        return None if tensor is None else Constant(value.name or "", tensor.numpy(), tensor.numpy().dtype.name)
    rearrange = _REARRANGED.get(node.op_type)
    if rearrange is None:
        return None
    operand, *rest = (known(operand, resolve) for operand in node.inputs)
    if operand is None or any(each is None for each in rest):
        return None
    rearranged = rearrange(operand.array, node, [each.array for each in rest if each is not None])
    if rearranged is None:
        return None
    row = (
        f"[{int(rest[0].array)}]" if node.op_type == "Gather" and rest[0] is not None and not rest[0].array.ndim else ""
    )
    return Constant(operand.name + row, rearranged, operand.dtype)


_Rearranged = NDArray[Any] | None


def _transposed(array: NDArray[Any], node: ir.Node, _: list[NDArray[Any]]) -> _Rearranged:
    return array.transpose(node.attributes["perm"].as_ints() if "perm" in node.attributes else None)


def _cast(array: NDArray[Any], node: ir.Node, _: list[NDArray[Any]]) -> _Rearranged:
    return array.astype(ir.DataType(integer(node, "to", 0)).numpy())


def _unsqueezed(array: NDArray[Any], _: ir.Node, rest: list[NDArray[Any]]) -> _Rearranged:
    return np.expand_dims(array, tuple(int(axis) for axis in rest[0])) if rest else None


def _squeezed(array: NDArray[Any], _: ir.Node, rest: list[NDArray[Any]]) -> _Rearranged:
    return array.squeeze(tuple(int(axis) for axis in rest[0]) if rest else None)


def _reshaped(array: NDArray[Any], node: ir.Node, rest: list[NDArray[Any]]) -> _Rearranged:
    if not rest or (0 in rest[0] and not integer(node, "allowzero", 0)):
        return None
    return array.reshape([int(size) for size in rest[0]])


def _gathered(array: NDArray[Any], node: ir.Node, rest: list[NDArray[Any]]) -> _Rearranged:
    return np.take(array, rest[0], axis=integer(node, "axis", 0)) if rest else None


_REARRANGED: Mapping[str, Callable[[NDArray[Any], ir.Node, list[NDArray[Any]]], _Rearranged]] = {
    "Identity": lambda array, _, __: array,
    "Transpose": _transposed,
    "Cast": _cast,
    "Gather": _gathered,
    "Unsqueeze": _unsqueezed,
    "Squeeze": _squeezed,
    "Reshape": _reshaped,
}
