"""How large the tensors of a graph are, in symbols: sizes that are the same in every run are the same symbol."""

from collections import Counter
from collections.abc import Sequence
from typing import Final

import onnx_ir as ir

from gatestream.export.adopting.slots import is_forward, is_recurrent
from gatestream.export.graph.flow import integer
from gatestream.export.graph.initializers import constant, integers

Size = int | str
"""Of an axis: a number, or a symbol that stands for one number in a run, wherever it is."""

_OPERATORS: Final = frozenset({"Transpose", "Squeeze", "Unsqueeze", "Reshape", "Identity"})


class Sizes:
    """Of the main graph's tensors, as far as they follow from its inputs and from what recurrent operators make.

    Args:
        graph: in normal form; an axis of its inputs that has a name has it in all of them.
    """

    def __init__(self, graph: ir.Graph) -> None:
        self._shapes: dict[ir.Value, tuple[Size, ...]] = {}
        self._holds: dict[ir.Value, tuple[Size, ...]] = {}
        self._scalars: set[ir.Value] = set()  # of those that hold one number, the ones without an axis
        for value in graph.inputs:
            if value.shape is not None:
                dims = [dim if isinstance(dim, int) else dim.value for dim in value.shape]
                # An axis without a name has a symbol of its own.
                self._shapes[value] = tuple(_own(value, k) if dim is None else dim for k, dim in enumerate(dims))
        for node in graph:
            if is_recurrent(node):
                self._recurrent(node)
            elif node.domain == "" and node.op_type in _OPERATORS:
                self._view(node)
            elif node.domain == "":
                self._compute(node)

    def shape(self, value: ir.Value | None) -> tuple[Size, ...] | None:
        """Of a tensor; None where nothing is known."""
        if value is None:
            return None
        array = constant(value)
        return tuple(array.shape) if array is not None else self._shapes.get(value)

    def holds(self, value: ir.Value | None) -> tuple[Size, ...] | None:
        """The numbers in a tensor of whole numbers, of no axis or one; None where not all are known."""
        if value is None:
            return None
        array = constant(value)
        if array is None:
            return self._holds.get(value)
        return integers(value) if array.ndim <= 1 else None

    # ---- What operators make ------------------------------------------------------------------

    def _ranked(self, value: ir.Value, rank: int) -> tuple[Size, ...]:
        """The shape of a tensor of so many axes; where nothing is known, each is a symbol of its own."""
        known = self.shape(value)
        if known is None:
            known = self._shapes[value] = tuple(_own(value, k) for k in range(rank))
        return known

    def _recurrent(self, node: ir.Node) -> None:
        X, R = node.inputs[0], node.inputs[2]
        weights = self.shape(R)
        hidden: Size | None = integer(node, "hidden_size", 0) or (weights[-1] if weights and not node.domain else None)
        if X is None or hidden is None or not is_forward(node) or integer(node, "layout", 0):
            return
        time, batch, _ = self._ranked(X, 3)
        for output, shape in zip(node.outputs, [(time, 1, batch, hidden), *[(1, batch, hidden)] * 2], strict=False):
            self._shapes[output] = shape

    def _view(self, node: ir.Node) -> None:
        value, result = node.inputs[0], node.outputs[0]
        if value is None:
            return
        if node.op_type == "Transpose" and "perm" in node.attributes:
            perm = node.attributes["perm"].as_ints()
            before = self._ranked(value, len(perm))
            self._shapes[result] = tuple(before[k] for k in perm)
            return
        shape, held = self.shape(value), self.holds(value)
        if held is not None:
            self._hand_on(node, value, held)
        if shape is None:
            return
        if node.op_type == "Transpose":
            self._shapes[result] = shape[::-1]
        elif node.op_type == "Identity":
            self._shapes[result] = shape
        elif node.op_type == "Reshape":
            after = self._reshaped(node, shape)
            if after is not None:
                self._shapes[result] = after
        elif (axes := axes_of(node, len(shape))) is not None:
            if node.op_type == "Squeeze":
                self._shapes[result] = tuple(size for k, size in enumerate(shape) if k not in axes)
            else:
                rest = iter(shape)
                rank = len(shape) + len(axes)
                self._shapes[result] = tuple(1 if k in axes else next(rest) for k in range(rank))

    def _reshaped(self, node: ir.Node, shape: tuple[Size, ...]) -> tuple[Size, ...] | None:
        target = self.holds(node.inputs[1])
        if target is None:
            return None
        if not integer(node, "allowzero", 0):
            target = tuple(shape[k] if size == 0 and k < len(shape) else size for k, size in enumerate(target))
        if -1 not in target:
            return target
        # The sizes that are left when those of the target are taken away.
        before = Counter(size for size in shape if size != 1)
        after = Counter(size for size in target if size not in (1, -1))
        left = list((before - after).elements())
        whole = not after - before and len(left) <= 1
        return tuple((left[0] if left else 1) if size == -1 else size for size in target) if whole else None

    # ---- Numbers made of sizes ----------------------------------------------------------------

    def _scalar(self, value: ir.Value | None) -> bool:
        array = constant(value)
        return value in self._scalars if array is None else not array.ndim

    def _hand_on(self, node: ir.Node, value: ir.Value, held: tuple[Size, ...]) -> None:
        """Known numbers, where they get no second axis."""
        scalar, result = self._scalar(value), node.outputs[0]
        if node.op_type == "Squeeze":
            if scalar or len(held) != 1:
                return
            scalar = True
        elif node.op_type in ("Unsqueeze", "Reshape"):
            numbers = self.holds(node.inputs[1])
            # One axis is put in; or the shape has one.
            if numbers is None or len(numbers) != 1 or (node.op_type == "Unsqueeze" and not scalar):
                return
            scalar = False
        self._hold(result, held, scalar)

    def _hold(self, value: ir.Value, held: tuple[Size, ...], scalar: bool) -> None:
        self._holds[value] = held
        if scalar:
            self._scalars.add(value)

    def _compute(self, node: ir.Node) -> None:
        result = node.outputs[0]
        if node.op_type == "Slice" and (whole := self.shape(node.inputs[0])) is not None and takes_all(node, whole):
            self._shapes[result] = whole
        if node.op_type == "Shape":
            shape = self.shape(node.inputs[0])
            if shape is not None:
                end = node.attributes["end"].as_int() if "end" in node.attributes else None
                self._hold(result, shape[integer(node, "start", 0) : end], scalar=False)
            return
        held = [self.holds(value) for value in node.inputs]
        known = [each for each in held if each is not None]
        if not known or len(known) != len(held):
            return
        numbers = _numbers(node, known)
        if numbers is not None:
            which = node.inputs[1:] if node.op_type == "Gather" else node.inputs
            self._hold(result, numbers, all(self._scalar(value) for value in which))


def _numbers(node: ir.Node, held: Sequence[tuple[Size, ...]]) -> tuple[Size, ...] | None:
    first = held[0]
    if node.op_type == "Concat":
        return tuple(size for each in held for size in each)
    if node.op_type == "Cast":
        return first if integer(node, "to", 0) in (ir.DataType.INT64, ir.DataType.INT32) else None
    if node.op_type == "Gather" and all(isinstance(k, int) and -len(first) <= k < len(first) for k in held[1]):
        return tuple(first[k] for k in held[1] if isinstance(k, int))
    if node.op_type == "Slice":
        bounds = [each[0] for each in held[1:] if len(each) == 1 and isinstance(each[0], int)]
        if len(bounds) == len(held) - 1:
            step = int(bounds[3]) if len(bounds) == 4 else 1
            return first[int(bounds[0]) : int(bounds[1]) : step] if step > 0 else None
    if node.op_type == "Mul" and all(len(each) == 1 for each in held):
        return _product(held[0][0], held[1][0])
    return None


def _product(a: Size, b: Size) -> tuple[Size, ...] | None:
    if isinstance(a, int) and isinstance(b, int):
        return (a * b,)
    return (b,) if a == 1 else (a,) if b == 1 else None


def axes_of(node: ir.Node, rank: int) -> set[int] | None:
    """Which axes a Squeeze takes away, or an Unsqueeze puts in; None where it does not say so with a constant."""
    given = integers(node.inputs[1]) if len(node.inputs) > 1 else None
    if given is None:
        return None
    whole = rank + (len(given) if node.op_type == "Unsqueeze" else 0)
    return {axis % whole for axis in given}


def takes_all(node: ir.Node, shape: Sequence[Size]) -> bool:
    """Whether a Slice gives what it takes: every axis that it names has a known size, and all of it is taken."""
    given = [integers(value) for value in node.inputs[1:]]
    if any(each is None for each in given):
        return False
    starts, ends, axes, steps = [*given, None, None][:4]
    for k, (start, end) in enumerate(zip(starts or (), ends or (), strict=True)):
        size = shape[axes[k] if axes is not None else k]
        step = steps[k] if steps is not None else 1
        if not isinstance(size, int) or range(size)[start:end:step] != range(size):
            return False
    return True


def _own(value: ir.Value, axis: int) -> str:
    return f"{value.name}[{axis}]"
