"""The cells in the body of a Scan, found from their equations.

Where `structure` describes in names and arrays, this holds the graph's own values, for whoever changes it.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import onnx_ir as ir

from gatestream.export.errors import StructureError
from gatestream.export.finder.carry import State, read_states
from gatestream.export.finder.products import Product, affine
from gatestream.export.graph.flow import label, made_by, operands


@dataclass(frozen=True, slots=True)
class LoopGate:
    """One gate: its activations, the products with the input and with the hidden state, its biases."""

    activation: ir.Value
    W: Product
    R: Product
    b: tuple[ir.Value, ...]


@dataclass(frozen=True, slots=True)
class LoopCell:
    """One cell: its two states and its gates by symbol."""

    hidden: State
    cell: State
    gates: Mapping[str, LoopGate]

    @property
    def x(self) -> ir.Value:
        """What it takes as input: the same for all gates."""
        return self.gates["i"].W.operand


@dataclass(frozen=True, slots=True)
class Recurrence:
    """All cells of a Scan, lowest layer first, and the graph input that says how long each row is."""

    scan: ir.Node
    body: ir.Graph
    cells: tuple[LoopCell, ...]
    length: ir.Value

    @property
    def below(self) -> ir.Value:
        """Outside, [time, batch, inputs]: what the first cell is given, step by step."""
        return operands(self.scan)[-1]

    def outputs(self, inside: ir.Value) -> list[ir.Value]:
        """The Scan's outputs that collect what `inside` is at each step."""
        carried = 2 * len(self.cells) + 1
        return [
            outer
            for inner, outer in zip(self.body.outputs[carried:], self.scan.outputs[carried:], strict=True)
            if inner is inside
        ]


def read(scan: ir.Node) -> Recurrence:
    """Find the cells in the body of `scan`.

    Raises:
        StructureError: the body is not a stack of LSTM cells whose rows freeze at their length.
    """
    body = scan.attributes["body"].as_graph()
    states, length = read_states(scan, body)
    cells = _stack(_cells(states), body.inputs[-1])
    return Recurrence(scan, body, cells, length)


def _cells(states: list[State]) -> list[LoopCell]:
    """Pair the states: `c' = f * c + i * g` with the `h' = o * tanh(c')` that reads it."""
    sums = [state for state in states if made_by(state.after, "Add")]
    hiddens = [state for state in states if made_by(state.after, "Mul")]
    for state in states:
        if state not in sums and state not in hiddens:
            raise StructureError(
                f"{label(state.after)}, the next '{state.before.name}', is neither f * c + i * g nor o * tanh(c')"
            )
    cells = []
    for cell in sums:
        f, i, g = _cell_gates(cell)
        readers = [(state, o) for state in hiddens if (o := _output_gate(state, cell)) is not None]
        if len(readers) != 1:
            raise StructureError(
                f"{label(cell.after)} is a cell state, but {len(readers)} carried states are "
                "o * tanh of it; expected one, the hidden state"
            )
        hidden, o = readers[0]
        activations = {"i": i, "f": f, "g": g, "o": o}
        cells.append(
            LoopCell(
                hidden,
                cell,
                {symbol: _gate(symbol, value, hidden.before) for symbol, value in activations.items()},
            )
        )
    if len(cells) != len(hiddens):
        raise StructureError(f"{len(hiddens)} carried states look like hidden states, {len(cells)} like cell states")
    return cells


def _cell_gates(cell: State) -> tuple[ir.Value, ir.Value, ir.Value]:
    """f, i and g of `c' = f * c + i * g`."""
    c, c_next = cell.before, cell.after
    node = made_by(c_next, "Add")
    assert node is not None  # the caller chose it so
    terms = operands(node)
    products = [(term, operands(product)) for term in terms if (product := made_by(term, "Mul"))]
    if any(term is c for term in terms):
        raise StructureError(
            f"{label(c_next)}, the next cell state, takes '{c.name}' as it is: the forget gate is missing; "
            "expected f * c + i * g"
        )
    if len(products) != 2:
        raise StructureError(f"{label(c_next)} adds {' and '.join(map(label, terms))}; expected f * c + i * g")
    kept = [factors for _, factors in products if any(factor is c for factor in factors)]
    if len(kept) != 1:
        raise StructureError(
            f"{label(c_next)} is a sum of products, of which {len(kept)} have the cell state "
            f"'{c.name}' as a factor; expected one, f * c"
        )
    written = next(factors for _, factors in products if factors is not kept[0])
    f = next(factor for factor in kept[0] if factor is not c)
    if made_by(f, "Sigmoid") is None:
        raise StructureError(
            f"{label(f)}, the factor of the cell state '{c.name}', should be the forget gate's Sigmoid"
        )
    candidates = [factor for factor in written if made_by(factor, "Tanh")]
    inputs = [factor for factor in written if made_by(factor, "Sigmoid")]
    if len(candidates) != 1 or len(inputs) != 1:
        raise StructureError(
            f"{' * '.join(map(label, written))} is added to the cell state '{c.name}'; expected the input "
            "gate's Sigmoid * the cell candidate's Tanh"
        )
    return f, inputs[0], candidates[0]


def _output_gate(hidden: State, cell: State) -> ir.Value | None:
    """O of `h' = o * tanh(c')`; None when `hidden` does not read `cell`."""
    node = made_by(hidden.after, "Mul")
    assert node is not None  # the caller chose it so
    factors = operands(node)
    squashed = [value for value in factors if (tanh := made_by(value, "Tanh")) and tanh.inputs[0] is cell.after]
    if not squashed:
        return None
    o = next(value for value in factors if value is not squashed[0])
    if made_by(o, "Sigmoid") is None:
        raise StructureError(f"{label(o)}, the factor of tanh(c'), should be the output gate's Sigmoid")
    return o


def _gate(symbol: str, activation: ir.Value, h: ir.Value) -> LoopGate:
    """Take apart `W x + R h + b`, what the activation is applied to."""
    node = activation.producer()
    assert node is not None  # it was found to be a Sigmoid or Tanh
    products, biases = affine(operands(node)[0])
    recurrent = [product for product in products if product.operand is h]
    feeding = [product for product in products if product.operand is not h]
    if len(recurrent) != 1 or len(feeding) != 1:
        raise StructureError(
            f"gate {symbol}, {label(activation)}: of its products {len(recurrent)} are with its own hidden state "
            f"'{h.name}' and {len(feeding)} with something else; expected one of each, R h and W x"
        )
    if recurrent[0].ranged:
        raise StructureError(
            f"gate {symbol}, {label(activation)}: its hidden state '{h.name}' is rounded by a range of its own; "
            "expected between -1 and 1"
        )
    if not biases:
        raise StructureError(f"gate {symbol}, {label(activation)}: no bias is added")
    return LoopGate(activation, feeding[0], recurrent[0], tuple(biases))


def _stack(cells: list[LoopCell], below: ir.Value) -> tuple[LoopCell, ...]:
    """Put the cells in order, from the one that takes the Scan's input upwards."""
    stacked: list[LoopCell] = []
    while len(stacked) < len(cells):
        above = [cell for cell in cells if all(gate.W.operand is below for gate in cell.gates.values())]
        if len(above) != 1:
            raise StructureError(
                f"{label(below)} feeds all four gates of {len(above)} cells; expected one cell above "
                f"{'the input' if not stacked else f'layer {len(stacked) - 1}'}"
            )
        for symbol, gate in above[0].gates.items():
            if gate.W.scale is not None and gate.W.ranged == bool(stacked):
                raise StructureError(
                    f"gate {symbol} of layer {len(stacked)}: {label(below)} is rounded "
                    + ("by a range of its own" if stacked else "between -1 and 1")
                    + "; it must be by a range of its own for the lowest layer, and between -1 and 1 for the others"
                )
        stacked += above
        below = above[0].hidden.after
    return tuple(stacked)
