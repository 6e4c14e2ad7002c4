"""Cells of anybody's model that are equations, to ONNX's own operators: what `unfuse` does, undone."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from gatestream.export.errors import StructureError
from gatestream.export.finder.cells import FoundCell, Gate
from gatestream.export.finder.operators import DEFAULTS, ORDERS, PEEPHOLES
from gatestream.export.finder.scopes import Scopes, strip
from gatestream.export.graph.edit import replace
from gatestream.export.graph.flow import integer, label, made_by, operands
from gatestream.export.rewriting.equations import Names

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
    loop = _Loop.read(Scopes(model), cell)
    if loop is not None:
        operator.over(loop)
        return f"{cell.kind} '{name}', a Scan, to the operator"
    operator.once()
    return f"{cell.kind} '{name}', written out, to the operator"


@dataclass(frozen=True, slots=True)
class _Loop:
    """A Scan that computes one cell and nothing else.

    Attributes:
        scan: the node.
        x: outside, what it goes over.
        axis: of `x`, that it goes over.
        states: of h, and of an LSTM c: what it starts from outside, and what is left of it.
        ys: outside, what collects h of every step, with the axis of time.
        length: outside, how many steps of each row are real; None: all are.
    """

    scan: ir.Node
    x: ir.Value
    axis: int
    states: tuple[tuple[ir.Value, ir.Value], ...]
    ys: tuple[tuple[ir.Value, int], ...]
    length: ir.Value | None

    @classmethod
    def read(cls, scopes: Scopes, cell: FoundCell) -> "_Loop | None":
        scan, body = cell.holder, cell.graph
        if scan is None or scan.op_type != "Scan" or integer(scan, "num_scan_inputs", 0) != 1 or cell.h is None:
            return None
        if any(any(scan.attributes[key].as_ints()) for key in _DIRECTIONS if key in scan.attributes):
            return None
        count = len(body.inputs) - 1
        x = scan.inputs[-1]
        before = [cell.h] if cell.c is None else [cell.h, cell.c]
        after = [value for value in (cell.h_next, cell.c_next) if value is not None]
        places = [next((k for k, value in enumerate(body.inputs[:count]) if value is each), None) for each in before]
        if x is None or None in places or cell.x is not body.inputs[-1]:
            return None
        states, lengths = [], set()
        for place, old, new in zip(places, before, after, strict=True):
            assert place is not None
            try:
                length = _frozen(scopes, body.outputs[place], old, new)
            except _OtherError:
                return None
            initial = scan.inputs[place]
            if initial is None:
                return None
            lengths.add(length)
            states.append((_started(initial, length), scan.outputs[place]))
        if len(lengths) != 1:
            return None
        (length,) = lengths
        ys = []
        axes = _axes(scan, "scan_output_axes", len(body.outputs) - count)
        for inside, outside, axis in zip(body.outputs[count:], scan.outputs[count:], axes, strict=True):
            if _used(outside):
                if not _is_y(inside, after[0], length):
                    return None
                ys.append((outside, axis))
        others = [k for k in range(count) if k not in places]
        if any(_used(scan.outputs[k]) for k in others):
            return None
        return cls(scan, x, _axes(scan, "scan_input_axes", 1)[0], tuple(states), tuple(ys), length)


_DIRECTIONS = ("scan_input_directions", "scan_output_directions")


class _OtherError(Exception):
    """What a Scan carries is not the state, or it freezes otherwise than by its row's length."""


def _axes(scan: ir.Node, name: str, count: int) -> Sequence[int]:
    return scan.attributes[name].as_ints() if name in scan.attributes else [0] * count


def _used(value: ir.Value) -> bool:
    return bool(value.uses()) or value.is_graph_output()


def _frozen(scopes: Scopes, out: ir.Value, old: ir.Value, new: ir.Value) -> ir.Value | None:
    """The lengths from which on a state stays as it is; None: it goes on."""
    out = strip(out, "Identity")
    if out is new:
        return None
    where = made_by(out, "Where")
    if where is None or where.inputs[1] is not new or where.inputs[2] is not old:
        raise _OtherError
    return _length(scopes, where.inputs[0])


def _length(scopes: Scopes, live: ir.Value | None) -> ir.Value:
    """Of `t < length`, with t the number of the step."""
    less = made_by(strip(live, "Unsqueeze"), "Less") if live is not None else None
    if less is None or less.inputs[0] is None or less.inputs[1] is None:
        raise _OtherError
    t, length = operands(less)
    after = scopes.after(t)
    counted = made_by(after, "Add")
    if counted is None or counted.inputs[0] is not t or scopes.after(length) is not None:
        raise _OtherError
    for value, number in ((counted.inputs[1], 1), (scopes.initial(t), 0)):
        found = scopes.known(value)
        if found is None or found.array.size != 1 or found.array.ravel()[0] != number:
            raise _OtherError
    return length


def _started(initial: ir.Value, length: ir.Value | None) -> ir.Value:
    """What a state starts from, without what zeroes it in rows of no step: the operator does that itself."""
    where = made_by(initial, "Where")
    if length is None or where is None or where.inputs[0] is None or where.inputs[1] is None:
        return initial
    greater = made_by(strip(where.inputs[0], "Unsqueeze"), "Greater")
    return where.inputs[1] if greater is not None and greater.inputs[0] is length else initial


def _is_y(inside: ir.Value, h_next: ir.Value, length: ir.Value | None) -> bool:
    inside = strip(inside, "Identity")
    where = made_by(inside, "Where")
    return inside is h_next or (where is not None and where.inputs[1] is h_next and length is not None)


class _Operator:
    def __init__(self, model: ir.Model, cell: FoundCell, name: str) -> None:
        self._cell, self._name = cell, name
        self._names = Names(model, name)
        self._weights = model.graph
        self._tensors = _packed(cell)
        self._attributes = _attributes(cell)

    def over(self, loop: _Loop) -> None:
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
            rank = None if value.shape is None else len(value.shape)
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

    def __init__(self, graph: ir.Graph, node: ir.Node, names: Names) -> None:
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
