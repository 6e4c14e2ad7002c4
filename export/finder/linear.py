"""What a gate's activation is applied to, in anybody's graph, however it is packed, sliced and nested.

Products with weights, biases, peepholes, and what is reset.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from itertools import accumulate, pairwise
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from gatestream.export.finder.scopes import Scopes
from gatestream.export.finder.structure import Weight
from gatestream.export.graph.constants import Constant
from gatestream.export.graph.flow import integer, made_by

Numbers = NDArray[Any]


@dataclass(frozen=True, slots=True)
class Span:
    """A stretch of a weight: of all gates' rows those of one, and of what is concatenated those columns of one.

    Attributes:
        array: [hidden, inputs] of a matrix, [hidden] of a vector.
        source: the constant.
        transposed: the constant is [inputs, hidden].
        rows: from and to, of the hidden units; None: all.
        columns: from and to, of the inputs; None: all.
    """

    array: Numbers = field(repr=False)
    source: Constant
    transposed: bool = False
    rows: tuple[int, int] | None = None
    columns: tuple[int, int] | None = None

    def weight(self) -> Weight:
        """As it is said in a report."""
        parts = [f"{a[0]}:{a[1]}" if a else ":" for a in (self.rows, self.columns)]
        if self.array.ndim == 1:
            parts = parts[:1]
        elif self.transposed:
            parts.reverse()
        elif self.columns is None:
            parts = parts[:1]
        shown = f"[{', '.join(parts)}]" if self.rows or self.columns else ""
        return Weight(self.source.name, shown, self.array.astype(np.float32, copy=False), self.source.dtype)

    def taken(self, start: int, stop: int) -> "Span":
        """Some of the hidden units."""
        begin = self.rows[0] if self.rows else 0
        return replace(self, array=self.array[start:stop], rows=(begin + start, begin + stop))


@dataclass(frozen=True, slots=True)
class Product:
    """`weight @ operand`."""

    weight: Span
    operand: ir.Value


@dataclass(frozen=True, slots=True)
class Linear:
    """A sum.

    Attributes:
        products: with weights.
        biases: that are added.
        peepholes: vectors, and what each is multiplied with, unit by unit.
        reset: sums that are multiplied, unit by unit, with a tensor.
    """

    products: tuple[Product, ...] = ()
    biases: tuple[Span, ...] = ()
    peepholes: tuple[tuple[Span, ir.Value], ...] = ()
    reset: tuple[tuple[ir.Value, "Linear"], ...] = ()

    def __add__(self, other: "Linear") -> "Linear":
        """Both."""
        return Linear(
            self.products + other.products,
            self.biases + other.biases,
            self.peepholes + other.peepholes,
            self.reset + other.reset,
        )

    @property
    def width(self) -> int | None:
        """Units; None: nothing tells."""
        spans = [*(each.weight for each in self.products), *self.biases, *(each for each, _ in self.peepholes)]
        sizes = {len(span.array) for span in spans if len(span.array) > 1 or len(spans) == 1}
        return sizes.pop() if len(sizes) == 1 else None

    def taken(self, start: int, stop: int) -> "Linear | None":
        """Some of the units; None: it has a factor that is not packed like it."""
        if self.reset:
            return None
        return Linear(
            tuple(Product(each.weight.taken(start, stop), each.operand) for each in self.products),
            tuple(each.taken(start, stop) for each in self.biases),
            tuple((each.taken(start, stop), operand) for each, operand in self.peepholes),
        )


class Reader:
    """Takes sums apart, each once.

    Args:
        scopes: of the model.
    """

    def __init__(self, scopes: Scopes) -> None:
        self._scopes = scopes
        self._read: dict[ir.Value, Linear | None] = {}

    def read(self, value: ir.Value) -> Linear | None:
        """The sum that a tensor is; None: it is none."""
        value = self._scopes.resolve(value)
        if value not in self._read:
            self._read[value] = None  # of what depends on itself
            self._read[value] = self._sum(value)
        return self._read[value]

    def operands(self, graph: Iterable[ir.Node]) -> set[ir.Value]:
        """All tensors that the nodes of a graph multiply with weights."""
        found = set()
        for node in graph:
            if (product := made_by(node.outputs[0], "Gemm", "MatMul")) and product.inputs[0] is not None:
                found.add(self._scopes.resolve(product.inputs[0]))
        return found

    def _sum(self, value: ir.Value) -> Linear | None:
        if (constant := self._scopes.known(value)) is not None:
            array = constant.array.squeeze()
            return Linear(biases=(Span(array, constant),)) if array.ndim == 1 else self._single(array, constant)
        node = value.producer()
        if node is None:
            whole = self._scopes.whole(value)
            return None if whole is None else self.read(whole)
        if node.domain != "":
            return None
        match node.op_type:
            case "Add" | "Sum":
                return _together([self._operand(node, k) for k in range(len(node.inputs))])
            case "Gemm" | "MatMul":
                return self._product(node)
            case "Mul":
                return self._scaled(node)
            case "Split" | "Slice":
                return self._part(node, value)
            case "Squeeze" | "Unsqueeze":
                # Of packed units the last axis is never one that comes or goes.
                return self._operand(node, 0)
        return None

    @staticmethod
    def _single(array: Numbers, constant: Constant) -> Linear | None:
        return Linear(biases=(Span(array.reshape(1), constant),)) if array.size == 1 else None

    def _operand(self, node: ir.Node, k: int) -> Linear | None:
        operand = node.inputs[k]
        return None if operand is None else self.read(operand)

    def _product(self, node: ir.Node) -> Linear | None:
        operand = node.inputs[0]
        constant = self._scopes.known(node.inputs[1])
        scaled = any(node.attributes[name].as_float() != 1 for name in ("alpha", "beta") if name in node.attributes)
        if operand is None or constant is None or constant.array.ndim < 2 or scaled or integer(node, "transA", 0):
            return None
        if any(size != 1 for size in constant.array.shape[:-2]):
            return None
        matrix = constant.array.reshape(constant.array.shape[-2:])
        transposed = not integer(node, "transB", 0)
        span = Span(matrix.T if transposed else matrix, constant, transposed)
        found = self._divided(span, self._scopes.resolve(operand))
        if len(node.inputs) > 2 and node.inputs[2] is not None:
            return _together([found, self.read(node.inputs[2])])
        return found

    def _divided(self, span: Span, operand: ir.Value) -> Linear:
        """A product, or where its operand is of several tensors put side by side, the product of each."""
        concat = made_by(operand, "Concat")
        parts = [each for each in concat.inputs if each is not None] if concat is not None else []
        sizes = [_last(part) for part in parts]
        total = span.array.shape[1]
        if sizes.count(None) == 1 and concat is not None:
            sizes[sizes.index(None)] = total - sum(size for size in sizes if size is not None)
        if concat is None or integer(concat, "axis", 0) == 0 or None in sizes or sum(s or 0 for s in sizes) != total:
            return Linear(products=(Product(span, operand),))
        ends = [0, *accumulate(size or 0 for size in sizes)]
        return Linear(
            products=tuple(
                Product(replace(span, array=span.array[:, a:b], columns=(a, b)), self._scopes.resolve(part))
                for (a, b), part in zip(pairwise(ends), parts, strict=True)
            )
        )

    def _scaled(self, node: ir.Node) -> Linear | None:
        """A peephole, or a sum that is reset."""
        for vector, other in (node.inputs, reversed(node.inputs)):
            if vector is None or other is None:
                return None
            constant = self._scopes.known(vector)
            if constant is not None and constant.array.squeeze().ndim <= 1:
                span = Span(constant.array.reshape(-1), constant)
                return Linear(peepholes=((span, self._scopes.resolve(other)),))
        for factor, whole in (node.inputs, reversed(node.inputs)):
            if factor is not None and whole is not None and (found := self.read(whole)) is not None and found.products:
                return Linear(reset=((self._scopes.resolve(factor), found),))
        return None

    def _part(self, node: ir.Node, value: ir.Value) -> Linear | None:
        whole = self._operand(node, 0)
        width = whole.width if whole is not None else None
        if whole is None or width is None:
            return None
        bounds = self._split(node, value, width) if node.op_type == "Split" else self._slice(node, width)
        return None if bounds is None else whole.taken(*bounds)

    def _split(self, node: ir.Node, value: ir.Value, width: int) -> tuple[int, int] | None:
        count = len(node.outputs)
        if integer(node, "axis", 0) == 0:
            return None
        given = self._scopes.known(node.inputs[1]) if len(node.inputs) > 1 else None
        sizes = [int(each) for each in given.array] if given is not None else [width // count] * count
        ends = [0, *accumulate(sizes)]
        k = list(node.outputs).index(value)
        return (ends[k], ends[k + 1]) if ends[-1] == width else None

    def _slice(self, node: ir.Node, width: int) -> tuple[int, int] | None:
        given = [self._scopes.known(each) for each in node.inputs[1:]]
        if len(given) < 3 or any(each is None or each.array.size != 1 for each in given):
            return None
        start, stop, axis, *step = (int(each.array.ravel()[0]) for each in given if each is not None)
        if axis == 0 or any(each != 1 for each in step):
            return None
        start, stop, _ = slice(start, stop).indices(width)
        return start, stop


def _together(parts: Sequence[Linear | None]) -> Linear | None:
    found = Linear()
    for part in parts:
        if part is None:
            return None
        found += part
    return found


def _last(value: ir.Value) -> int | None:
    """The size of the last axis, where it is known."""
    size = value.shape[-1] if value.shape is not None and len(value.shape) else None
    return size if isinstance(size, int) else None
