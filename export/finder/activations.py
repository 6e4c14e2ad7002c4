"""The nonlinearities of cells as they stand in a graph: one operator of ONNX each, but Affine and ScaledTanh."""

from collections.abc import Iterator

import onnx_ir as ir

from gatestream.export.finder.operators import COMPOUND, PARAMETERS, Activation
from gatestream.export.finder.scopes import Scopes
from gatestream.export.graph.flow import made_by

_OPERATORS = tuple(name for name in PARAMETERS if name not in COMPOUND)

Applied = tuple[Activation, ir.Value]
"""A nonlinearity, and what it is applied to."""


class Activations:
    """Reads nonlinearities.

    Args:
        scopes: of the model.
    """

    def __init__(self, scopes: Scopes) -> None:
        self._scopes = scopes

    def read(self, value: ir.Value) -> Applied | None:
        """The nonlinearity that makes a tensor; None: something else does."""
        node = made_by(value, *_OPERATORS)
        if node is None:
            return self._scaled_tanh(value) or self._affine(value)
        if node.inputs[0] is None:
            return None
        numbers = [
            None if default is None else node.attributes[name].as_float() if name in node.attributes else default
            for name, default in zip(("alpha", "beta"), PARAMETERS[node.op_type], strict=True)
        ]
        return Activation(node.op_type, *numbers), node.inputs[0]

    def of(self, value: ir.Value) -> Iterator[tuple[ir.Value, Activation]]:
        """What nonlinearities make of a tensor, and which."""
        reached = [value]
        for _ in range(3):  # of as many nodes as ScaledTanh is
            reached = [use.node.outputs[0] for each in reached for use in each.uses()]
            for result in dict.fromkeys(reached):
                applied = self.read(result)
                if applied is not None and applied[1] is value:
                    yield result, applied[0]

    def _scaled_tanh(self, value: ir.Value) -> Applied | None:
        """`alpha * tanh(beta * x)`."""
        if (outer := self._with_number(value, "Mul")) is None or (tanh := made_by(outer[0], "Tanh")) is None:
            return None
        inner = self._with_number(tanh.inputs[0], "Mul")
        return (Activation("ScaledTanh", outer[1], inner[1]), inner[0]) if inner is not None else None

    def _affine(self, value: ir.Value) -> Applied | None:
        """`alpha * x + beta`."""
        if (outer := self._with_number(value, "Add")) is None:
            return None
        inner = self._with_number(outer[0], "Mul")
        return (Activation("Affine", inner[1], outer[1]), inner[0]) if inner is not None else None

    def _with_number(self, value: ir.Value | None, operator: str) -> tuple[ir.Value, float] | None:
        """The other operand of an operator, one of whose is one number: no bias or peephole, which have an axis."""
        node = made_by(value, operator) if value is not None else None
        if node is None:
            return None
        for operand, number in (node.inputs, reversed(node.inputs)):
            known = self._scopes.known(number)
            if operand is not None and known is not None and known.array.ndim == 0:
                return operand, float(known.array)
        return None
