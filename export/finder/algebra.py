"""A tensor as a polynomial of others: `(1 - z) * n + z * h` and `n + z * (h - n)` are the same one."""

from collections.abc import Callable, Mapping

import numpy as np
import onnx_ir as ir

from gatestream.export.finder.scopes import Scopes

Polynomial = Mapping[tuple[ir.Value, ...], float]
"""By the tensors that are multiplied, in no special order; the empty product is the constant term."""

_MOST = 8
"""Terms of more are no cell's."""


class Algebra:
    """Expands sums, differences and products.

    Args:
        scopes: of the model.
        is_atom: whether a tensor is left as it is, though it is a sum or a product.
    """

    def __init__(self, scopes: Scopes, is_atom: Callable[[ir.Value], bool]) -> None:
        self._scopes, self._is_atom = scopes, is_atom

    def expand(self, value: ir.Value) -> Polynomial | None:
        """What makes `value`; None: it has too many terms."""
        return self._expand(value, root=True)

    def _expand(self, value: ir.Value, *, root: bool = False) -> dict[tuple[ir.Value, ...], float] | None:
        value = self._scopes.resolve(value)
        node = value.producer()
        if node is None or node.domain != "" or (not root and self._is_atom(value)):
            return self._atom(value)
        terms: dict[tuple[ir.Value, ...], float] | None = None
        if node.op_type in ("Add", "Sum", "Sub", "Neg"):
            signs = {"Sub": (1, -1), "Neg": (-1,)}.get(node.op_type, (1,) * len(node.inputs))
            parts = [self._expand(operand) for operand in node.inputs if operand is not None]
            terms = {}
            for sign, part in zip(signs, parts, strict=True):
                if part is None:
                    return None
                for key, number in part.items():
                    terms[key] = terms.get(key, 0.0) + sign * number
        elif node.op_type == "Mul":
            left, right = (self._expand(operand) if operand is not None else None for operand in node.inputs)
            if left is None or right is None:
                return None
            terms = {}
            for one, a in left.items():
                for other, b in right.items():
                    key = tuple(sorted((*one, *other), key=id))
                    terms[key] = terms.get(key, 0.0) + a * b
        else:
            return self._atom(value)
        terms = {key: number for key, number in terms.items() if number != 0}
        return terms if len(terms) <= _MOST else None

    def _atom(self, value: ir.Value) -> dict[tuple[ir.Value, ...], float]:
        found = self._scopes.known(value)
        if found is not None and found.array.size and np.all(found.array == found.array.flat[0]):
            return {(): float(found.array.flat[0])}
        return {(value,): 1.0}
