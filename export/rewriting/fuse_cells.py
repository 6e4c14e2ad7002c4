"""Cells of anybody's model that are equations, to ONNX's own operators: what `unfuse` does, undone."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from gatestream.export.errors import StructureError
from gatestream.export.finder.cells import FoundCell, Gate
from gatestream.export.finder.loop import Loop, read
from gatestream.export.finder.operators import DEFAULTS, ORDERS, PEEPHOLES
from gatestream.export.finder.scopes import Scopes
from gatestream.export.graph.edit import replace
from gatestream.export.graph.flow import label
from gatestream.export.rewriting.equations import CellNames

Numbers = NDArray[Any]


def fuse_cell(model: ir.Model, cell: FoundCell, name: str) -> str:
    """Let an operator take the place of a cell's equations.

    Where they are all that a Scan computes, the operator goes over the whole input, and the Scan is gone; elsewhere it
    takes one step where the equations stand.

    Args:
        model: it is changed; what is left of the equations and is not used any more stays for others to remove.
        cell: what was found in it, no operator; shapes of what it is given are known.
        name: of the operator, and of its weights, `<name>.W` and so on.

    Returns:
        What was done, for a person.

    Raises:
        StructureError: there is no such operator: its hidden state is projected, its gates have unlike nonlinearities,
            or it does not take one row of numbers for each of the batch.
    """
    operator = _Operator(model, cell, name)
    try:
        loop = read(Scopes(model), cell)
    except StructureError:
        operator.once()
        return f"{cell.kind} '{name}', written out, to the operator"
    operator.over(loop)
    return f"{cell.kind} '{name}', a Scan, to the operator"


class _Operator:
    def __init__(self, model: ir.Model, cell: FoundCell, name: str) -> None:
        self._model, self._cell, self._name = model, cell, name
        self._names = CellNames(model, name)
        self._weights = model.graph
        self._tensors = _packed(cell)
        self._attributes = _attributes(cell)

    def over(self, loop: Loop) -> None:
        """Go over a whole input."""
        graph = loop.scan.graph
        assert graph is not None  # it is in the model
        write = _Before(graph, loop.scan, self._names)
        x = loop.x if loop.axis == 0 else write("Transpose", [loop.x], "xs", perm=[1, 0, 2])
        Y, *left = self._write(write, x, [initial for initial, _ in loop.states], loop.length)
        for (_, final), value in zip(loop.states, left, strict=True):
            replace(final, write("Squeeze", [value, self._axis(0)], "left"))
        hs = write("Squeeze", [Y, self._axis(1)], "hs")  # [time, batch, hidden]
        for old, axis in loop.ys:
            replace(old, hs if axis == 0 else write("Transpose", [hs], "hs_rows", perm=[1, 0, 2]))
        graph.remove(loop.scan, safe=True)
        # What the body of a removed Scan reads still counts as read.
        body = loop.scan.attributes["body"].as_graph()
        body.outputs.clear()
        body.remove(list(body), safe=True)

    def once(self) -> None:
        """Take one step."""
        cell = self._cell
        end = cell.c_next if cell.c_next is not None else cell.h_next
        assert end is not None  # equations have it
        node, states = end.producer(), [value for value in (cell.h, cell.c) if value is not None]
        assert node is not None  # as above
        for value in (cell.x, *states):
            rank = self._rank(value)
            if rank != 2 or value.graph not in (cell.graph, self._weights):
                raise StructureError(
                    f"{cell.kind} '{self._name}' takes {label(value)} of {rank or 'unknown many'} "
                    "axes; expected [batch, units]: it cannot be made an operator"
                )
        write = _Before(cell.graph, node, self._names)
        x = write("Unsqueeze", [cell.x, self._axis(0)], "x_step")
        _, *left = self._write(write, x, states, None)
        for old, value in zip((cell.h_next, cell.c_next), left, strict=False):
            assert old is not None  # one for each state
            replace(old, write("Squeeze", [value, self._axis(0)], "left"))

    def _rank(self, value: ir.Value) -> int | None:
        """How many axes a tensor has; of what a Loop carries, whose shape nobody infers, as many as it starts with."""
        scopes = Scopes(self._model)
        current: ir.Value | None = value
        while current is not None and current.shape is None:
            current = scopes.initial(current)
        return None if current is None or current.shape is None else len(current.shape)

    def _write(
        self, write: "_Before", x: ir.Value, states: Sequence[ir.Value], length: ir.Value | None
    ) -> Sequence[ir.Value]:
        wide = [write("Unsqueeze", [state, self._axis(0)], "initial") for state in states]
        stored = {key: self._names.stored(self._weights, key, array) for key, array in self._tensors.items()}
        inputs = [
            x,
            stored["W"],
            stored["R"],
            stored.get("B"),
            length,
            *wide,
            *([stored["P"]] if "P" in stored else []),
        ]
        node = ir.node(self._cell.kind, inputs, self._attributes, num_outputs=1 + len(states), name=self._name)
        for value, called in zip(node.outputs, ("Y", "Y_h", "Y_c"), strict=False):
            value.name = self._names.fresh(called)
            value.type = ir.TensorType(ir.DataType.FLOAT)
        write.insert(node)
        return node.outputs

    def _axis(self, axis: int) -> ir.Value:
        return self._names.stored(self._weights, f"axis_{axis}", np.array([axis], np.int64))


class _Before:
    """Writes nodes in front of another."""

    def __init__(self, graph: ir.Graph, node: ir.Node, names: CellNames) -> None:
        self._graph, self._node, self._names = graph, node, names

    def __call__(self, operator: str, inputs: Sequence[ir.Value], name: str, **attributes: Any) -> ir.Value:
        called = self._names.fresh(name)
        node = ir.node(operator, inputs, attributes, name=called)
        node.outputs[0].name = called
        self.insert(node)
        return node.outputs[0]

    def insert(self, node: ir.Node) -> None:
        self._graph.insert_before(self._node, node)


def _packed(cell: FoundCell) -> dict[str, Numbers]:
    """W, R, and where there are any B and P, as the operator takes them."""
    order, hidden = ORDERS[cell.kind], cell.hidden
    gates = [cell.gates[symbol] for symbol in order]
    inputs = {gate.W.array.shape[1] for gate in gates if gate.W is not None}
    recurrent = {gate.R.array.shape for gate in gates if gate.R is not None}
    if len(inputs) != 1 or recurrent != {(hidden, hidden)}:
        raise StructureError(
            f"{cell.kind} '{cell.name}' has recurrent weights {sorted(recurrent)}; expected {[hidden, hidden]}: ONNX "
            "has no operator whose hidden state is projected"
        )

    def rows(gate: Gate, which: str, *shape: int) -> Numbers:
        weight = gate.weights.get(which)
        array: Numbers = np.zeros(shape, np.float32) if weight is None else weight.array
        # A logistic gate that is 1 - z is one of the opposite numbers.
        return -array if gate.symbol == "z" and cell.complement else array

    tensors = {
        "W": np.concatenate([rows(gate, "W", hidden, *inputs) for gate in gates])[None],
        "R": np.concatenate([rows(gate, "R", hidden, hidden) for gate in gates])[None],
    }
    if any(gate.b is not None or gate.b_R is not None for gate in gates):
        biases = [rows(gate, which, hidden) for which in ("b", "b_R") for gate in gates]
        tensors["B"] = np.concatenate(biases)[None]
    if any(gate.p is not None for gate in gates):
        tensors["P"] = np.concatenate([rows(cell.gates[symbol], "p", hidden) for symbol in PEEPHOLES])[None]
    return tensors


def _attributes(cell: FoundCell) -> dict[str, Any]:
    attributes: dict[str, Any] = {"hidden_size": cell.hidden}
    functions = cell.functions
    if functions is None or (cell.complement and functions[0].name != "Sigmoid"):
        said = ", ".join(f"{symbol} {gate.function}" for symbol, gate in cell.gates.items())
        raise StructureError(f"{cell.kind} '{cell.name}' has gates of {said}; ONNX's operator has one function for all")
    if [function.name for function in functions] != list(DEFAULTS[cell.kind]):
        attributes["activations"] = [function.name for function in functions]
        for key in ("alpha", "beta"):
            numbers = [getattr(function, key) for function in functions]
            if given := [number for number in numbers if number is not None]:
                attributes[f"activation_{key}"] = given
    if cell.clip is not None:
        attributes["clip"] = cell.clip
    if cell.coupled:
        attributes["input_forget"] = 1
    if cell.linear_before_reset:
        attributes["linear_before_reset"] = 1
    return attributes
