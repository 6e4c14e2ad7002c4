"""LSTM and GRU cells that stand in a graph as equations, whatever their tensors are called.

Looked for is `c' = f * c + i * g` with the `h' = o * tanh(c')` that reads it, and `h' = (1 - z) * n + z * h`, in any
form that is the same polynomial, where each gate is a nonlinearity of a sum of products with the cell's input and its
own hidden state.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from gatestream.export.finder.activations import Activations
from gatestream.export.finder.algebra import Algebra
from gatestream.export.finder.cells import FoundCell, Gate
from gatestream.export.finder.linear import Linear, Product, Reader, Span
from gatestream.export.finder.operators import Activation
from gatestream.export.finder.scopes import Scope, Scopes, same, strip
from gatestream.export.finder.structure import Weight
from gatestream.export.graph.flow import made_by

_ONE_OF_MANY = ("Identity", "Squeeze", "Unsqueeze", "Gather", "Reshape", "Transpose", "Slice", "Split")
"""How one layer's state is taken from what all have."""


@dataclass(frozen=True, slots=True)
class _Sum:
    """A gate: its activations, its nonlinearity, and what that is applied to."""

    value: ir.Value
    function: Activation
    linear: Linear
    clip: float | None


class Equations:
    """Finds cells, graph by graph, the outer ones first.

    Args:
        scopes: of the model.
        states: tensors of which is known that they are carried from step to step.
    """

    def __init__(self, scopes: Scopes, states: Collection[ir.Value]) -> None:
        self._scopes, self._states = scopes, states
        self._reader, self._activations = Reader(scopes), Activations(scopes)
        self._found: list[FoundCell] = []
        self._atoms: set[ir.Value] = set()
        self._algebra = Algebra(scopes, lambda value: value in self._atoms or self._sum(value) is not None)
        self._sums: dict[ir.Value, _Sum | None] = {}

    def find(self, scope: Scope) -> list[FoundCell]:
        """The cells of a graph, in the order in which data reaches them."""
        self._atoms |= self._reader.operands(scope.graph)
        before = len(self._found)
        for node in scope.graph:
            if made_by(node.outputs[0], "Add", "Sub", "Sum", "Mul"):
                cell = self._cell(scope, node.outputs[0])
                if cell is not None:
                    self._found.append(cell)
                    self._atoms |= {value for value in (cell.h_next, cell.c_next) if value is not None}
        return self._found[before:]

    def _cell(self, scope: Scope, value: ir.Value) -> FoundCell | None:
        terms = self._algebra.expand(value)
        if terms is None or any(abs(number) != 1 for number in terms.values()):
            return None
        added = [key for key, number in terms.items() if number == 1]
        if len(terms) == len(added) == 2 and all(len(key) == 2 for key in added):
            for kept, written in (added, added[::-1]):
                f = [factor for factor in kept if self._sum(factor)]
                c = [factor for factor in kept if not self._sum(factor)]
                if len(f) == len(c) == 1 and all(self._sum(factor) for factor in written):
                    return self._lstm(scope, value, c[0], written, f[0])
        if len(terms) == 3 and sorted(map(len, terms)) == [1, 2, 2]:
            (p,) = next(key for key in terms if len(key) == 1)
            taken = [key for key, number in terms.items() if number == -1 and len(key) == 2 and p in key]
            rest = [key for key in added if len(key) == 2]
            if len(taken) == len(rest) == 1 and terms[(p,)] == 1:
                z = next((factor for factor in taken[0] if factor is not p), p)
                q = next((factor for factor in rest[0] if factor is not z), z)
                if z in rest[0] and self._sum(z):
                    return self._gru(scope, value, z, p, q) or self._lstm(scope, value, p, (z, q), None)
        return None

    # ---- LSTM ----

    def _lstm(
        self, scope: Scope, c_next: ir.Value, c: ir.Value, written: Sequence[ir.Value], f: ir.Value | None
    ) -> FoundCell | None:
        """The cell of `c' = f * c + written`; without f it is 1 - the first of what is written."""
        read = self._output(c_next)
        sums = [each for value in written if (each := self._sum(value)) is not None]
        if read is None or len(sums) != 2:
            return None
        h_next, o, squash = read
        i, g = sums
        # Where functions are alike, and there is no peephole, the equations do not tell i from g, nor does any number:
        # i is then the one that is computed first.
        i, g = sorted((i, g), key=lambda each: _position(each.value))
        if f is not None and (
            (i.function != o.function and g.function == o.function)
            or (i.function == g.function and g.linear.peepholes and not i.linear.peepholes)
        ):
            i, g = g, i
        found: dict[str, _Sum | None] = {"i": i, "f": self._sum(f) if f is not None else None, "g": g, "o": o}
        own = {symbol: each for symbol, each in found.items() if each is not None}
        ends = self._ends(list(own.values()))
        if ends is None or len({each.clip for each in own.values()}) != 1:
            return None
        x, h, alike = ends
        gates: dict[str, Gate] = {}
        for symbol, each in found.items():
            if each is None:
                complement = self._complement_of(i.value)
                gates[symbol] = Gate(symbol, complement, i.function, None, None)
                continue
            gate = self._gate(symbol, each, x, h, c_next if symbol == "o" else c)
            if gate is None:
                return None
            gates[symbol] = gate
        return self._made(
            scope,
            "LSTM",
            gates,
            x,
            h,
            h_next,
            c=c,
            c_next=c_next,
            clip=i.clip,
            squash=squash,
            coupled=f is None,
            alike=alike,
        )

    def _output(self, c_next: ir.Value) -> tuple[ir.Value, _Sum, Activation] | None:
        """h', o and the function of `h' = o * function(c')`."""
        for squashed, function in list(self._activations.of(c_next)):
            self._atoms.add(squashed)
            for reader in squashed.uses():
                product = reader.node.outputs[0]
                terms = self._algebra.expand(product) or {}
                for key, number in terms.items():
                    others = [factor for factor in key if factor is not squashed]
                    if len(terms) == len(others) == number == 1 and len(key) == 2:
                        o = self._sum(others[0])
                        if o is not None:
                            return product, o, function
        return None

    @staticmethod
    def _complement_of(i: ir.Value) -> ir.Value | None:
        """The tensor that is 1 - i, where there is one."""
        for use in i.uses():
            if made_by(use.node.outputs[0], "Sub") and use.node.inputs[1] is i:
                return use.node.outputs[0]
        return None

    # ---- GRU ----

    def _gru(self, scope: Scope, h_next: ir.Value, z: ir.Value, p: ir.Value, q: ir.Value) -> FoundCell | None:
        """The cell of `h' = p - z * p + z * q`."""
        update = self._sum(z)
        if update is None:
            return None
        operands = [product.operand for product in update.linear.products]
        for n, h, complement in ((p, q, False), (q, p, True)):
            candidate = self._sum(n)
            if candidate is not None and any(same(h, operand) for operand in operands):
                return self._gru_of(scope, h_next, update, candidate, h, complement)
        return None

    def _gru_of(
        self, scope: Scope, h_next: ir.Value, update: _Sum, candidate: _Sum, h: ir.Value, complement: bool
    ) -> FoundCell | None:
        linear = candidate.linear
        if behind := bool(linear.reset):
            if len(linear.reset) != 1 or len(linear.products) != 1 or linear.peepholes:
                return None
            factor, inner = linear.reset[0]
            if len(inner.products) != 1 or inner.reset or inner.peepholes or not same(inner.products[0].operand, h):
                return None
            feed, recurrent = linear.products[0], inner.products[0]
            biases, biases_R = linear.biases, inner.biases
        else:
            found = self._reset_before(linear, h)
            if found is None:
                return None
            factor, feed, recurrent = found
            biases, biases_R = linear.biases, ()
        reset = self._sum(factor)
        x = feed.operand
        if reset is None or len({each.clip for each in (reset, update, candidate)}) != 1:
            return None
        hidden = len(recurrent.weight.array)
        r, z = (self._gate(symbol, each, x, h, None) for symbol, each in (("r", reset), ("z", update)))
        if r is None or z is None:
            return None
        n = Gate(
            "n",
            candidate.value,
            candidate.function,
            feed.weight.weight(),
            recurrent.weight.weight(),
            _added(biases, hidden),
            _added(biases_R, hidden),
        )
        return self._made(
            scope,
            "GRU",
            {"r": r, "z": z, "n": n},
            x,
            h,
            h_next,
            clip=update.clip,
            linear_before_reset=behind,
            complement=complement,
        )

    def _reset_before(self, linear: Linear, h: ir.Value) -> tuple[ir.Value, Product, Product] | None:
        """The reset gate, the product with x and that with `r * h`."""
        if len(linear.products) != 2 or linear.peepholes:
            return None
        for feed, recurrent in (linear.products, linear.products[::-1]):
            terms = self._algebra.expand(recurrent.operand) or {}
            if list(terms.values()) != [1]:
                continue
            (factors,) = terms
            others = [factor for factor in factors if not same(factor, h)]
            if len(factors) == 2 and len(others) == 1 and self._sum(others[0]):
                return others[0], feed, recurrent
        return None

    # ---- both ----

    def _sum(self, value: ir.Value) -> _Sum | None:
        """A gate; None: it is none."""
        if value not in self._sums:
            self._sums[value] = self._read_sum(value)
        return self._sums[value]

    def _read_sum(self, value: ir.Value) -> _Sum | None:
        found = self._activations.read(value)
        if found is None:
            return None
        (function, applied), clip = found, None
        if held := made_by(applied, "Clip"):
            bounds = [self._scopes.known(each) for each in held.inputs[1:]]
            numbers = [float(each.array.ravel()[0]) for each in bounds if each is not None and each.array.size == 1]
            if len(numbers) != 2 or numbers[0] != -numbers[1] or held.inputs[0] is None:
                return None
            applied, clip = held.inputs[0], numbers[1]
        linear = self._reader.read(applied)
        if linear is None or not (linear.products or linear.reset):
            return None
        return _Sum(value, function, linear, clip)

    def _ends(self, sums: Sequence[_Sum]) -> tuple[ir.Value, ir.Value, bool] | None:
        """Find x and h, which all gates are fed by, and whether nothing but their order tells them apart."""
        first = sums[0].linear.products
        if len(first) != 2:
            return None
        for one, other in (first, first[::-1]):
            if self._is_state(other) and not self._is_state(one):
                return one.operand, other.operand, False
        for one, other in (first, first[::-1]):
            if _square(other) and not _square(one):
                return one.operand, other.operand, False
        return first[0].operand, first[1].operand, True

    def _is_state(self, product: Product) -> bool:
        """Whether the operand is known to be carried from step to step, or comes from the same cell one step before."""
        operand = product.operand
        if self._scopes.after(operand) is not None or strip(operand, *_ONE_OF_MANY) in self._states:
            return True
        R = product.weight.weight().initializer
        return any(
            cell.h_next is not None
            and same(cell.h_next, operand)
            and R in {gate.R.initializer for gate in cell.gates.values() if gate.R}
            for cell in self._found
        )

    def _gate(self, symbol: str, found: _Sum, x: ir.Value, h: ir.Value, c: ir.Value | None) -> Gate | None:
        """A gate of one product with x and one with h; None: it is fed otherwise."""
        linear = found.linear
        feeds = [product for product in linear.products if product.operand is x]
        recurrent = [product for product in linear.products if same(product.operand, h) and product.operand is not x]
        if len(feeds) != 1 or len(recurrent) != 1 or len(linear.products) != 2 or linear.reset:
            return None
        if any(c is None or not same(operand, c) for _, operand in linear.peepholes) or len(linear.peepholes) > 1:
            return None
        hidden = len(recurrent[0].weight.array)
        return Gate(
            symbol,
            found.value,
            found.function,
            feeds[0].weight.weight(),
            recurrent[0].weight.weight(),
            _added(linear.biases, hidden),
            p=linear.peepholes[0][0].weight() if linear.peepholes else None,
        )

    def _made(
        self,
        scope: Scope,
        kind: str,
        gates: Mapping[str, Gate],
        x: ir.Value,
        h: ir.Value,
        h_next: ir.Value,
        **more: object,
    ) -> FoundCell | None:
        sizes = {weight.shape[0] for gate in gates.values() for weight in gate.weights.values()}
        if len(sizes) != 1:
            return None
        return FoundCell(
            name="",
            kind=kind,
            graph=scope.graph,
            holder=scope.node,
            operator=None,
            hidden=sizes.pop(),
            gates=gates,
            x=x,
            h=h,
            h_next=h_next,
            **({"c": None, "c_next": None} | more),  # type: ignore[arg-type]  # FoundCell's own fields
        )


def _position(value: ir.Value) -> int:
    """Of the node that makes a gate, in its graph."""
    node = value.producer()
    assert node is not None  # a nonlinearity
    assert node.graph is not None
    return next(k for k, each in enumerate(node.graph) if each is node)


def _square(product: Product) -> bool:
    rows, columns = product.weight.array.shape
    return bool(rows == columns)


def _added(biases: Sequence[Span], hidden: int) -> Weight | None:
    """All biases of a gate as one, [hidden]; None: there are none."""
    if not biases:
        return None
    weights = [each.weight() for each in biases]
    array = np.zeros(hidden, np.float32)
    for weight in weights:
        array = array + weight.array
    return Weight(" + ".join(map(str, weights)), "", array, weights[0].dtype)
