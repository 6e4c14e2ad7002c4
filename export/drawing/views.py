"""What is drawn of a cell, whichever way it was found."""

from collections.abc import Mapping
from dataclasses import dataclass

from gatestream.export.finder.cells import FoundCell
from gatestream.export.finder.structure import Structure, Weight
from gatestream.export.graph.flow import name_of
from gatestream.protos.roles import BY_SYMBOL, OF_CELL


@dataclass(frozen=True, slots=True)
class GateView:
    """One gate, in words.

    Attributes:
        title: "forget f".
        formula: what its activations are.
        weights: a line for each.
        activation: what its activations are called, and where they are put out.
    """

    title: str
    formula: str
    weights: tuple[str, ...]
    activation: str


@dataclass(frozen=True, slots=True)
class View:
    """One cell, in words.

    Attributes:
        kind: LSTM or GRU.
        title: "layer 0".
        where: what it stands in.
        gates: by symbol.
        x, h, c: what comes in, by name, with its size; of a GRU there is no c.
        h_next, c_next: what goes out.
        squash: what an LSTM applies to its cell state.
        complement: a GRU's z lets the candidate through, and 1 - z the state.
    """

    kind: str
    title: str
    where: str
    gates: Mapping[str, GateView]
    x: tuple[str, int]
    h: tuple[str, int]
    c: tuple[str, int]
    h_next: tuple[str, int]
    c_next: tuple[str, int]
    squash: str = "tanh"
    complement: bool = False


def of_layer(structure: Structure, layer: int) -> View:
    """A layer of gatestream's own network."""
    cell = structure.cells[layer]
    hidden, inputs = cell.gates["i"].W.shape
    gates = {}
    for symbol, gate in cell.gates.items():
        role, output = BY_SYMBOL[symbol], structure.activations.get(symbol)
        gates[symbol] = GateView(
            f"{role.name} {symbol}",
            f"{'tanh' if role.activation == 'Tanh' else 'σ'}(W x + R h + b)",
            tuple(_line(name, weight) for name, weight in (("W", gate.W), ("R", gate.R), ("b", gate.b))),
            f"{gate.activation} → {output}[:, :, {layer}]" if output else symbol,
        )
    return View(
        "LSTM",
        f"layer {layer}",
        f"in '{cell.node}'",
        gates,
        (cell.x, inputs),
        (cell.h, hidden),
        (cell.c, hidden),
        (cell.h_next, hidden),
        (cell.c_next, hidden),
    )


def of_cell(cell: FoundCell, outputs: Mapping[str, str]) -> View:
    """A cell of anybody's model.

    Args:
        cell: an LSTM or a GRU.
        outputs: by symbol, the graph's output with a gate's activations.
    """
    gates = {}
    inputs = 0
    for role in OF_CELL[cell.kind]:
        gate = cell.gates[role.symbol]
        if gate.W is not None:
            inputs = gate.W.shape[1]
        called = name_of(gate.activation) if gate.activation is not None and gate.activation.name else role.symbol
        output = outputs.get(role.symbol)
        gates[role.symbol] = GateView(
            f"{role.name} {role.symbol}",
            _formula(cell, role.symbol),
            tuple(_line(name, weight) for name, weight in gate.weights.items()),
            f"{called} → {output}" if output else called,
        )

    def end(value: object, letter: str) -> tuple[str, int]:
        return str(getattr(value, "name", None) or letter), cell.hidden

    return View(
        cell.kind,
        cell.name,
        cell.where,
        gates,
        (cell.x.name or "x", inputs),
        end(cell.h, "zeros"),
        end(cell.c, "zeros"),
        end(cell.h_next, "h'"),
        end(cell.c_next, "c'"),
        squash=_short(cell.squash.name) if cell.squash is not None else "",
        complement=cell.complement,
    )


def _formula(cell: FoundCell, symbol: str) -> str:
    gate = cell.gates[symbol]
    if gate.W is None:
        return "1 − i"
    terms = ["W x"]
    if symbol != "n" or cell.kind != "GRU":
        terms.append("R h")
    else:
        terms.append(("r (R h + b_R)" if gate.b_R is not None else "r R h") if cell.linear_before_reset else "R (r h)")
    if gate.p is not None:
        terms.append("p c'" if symbol == "o" else "p c")
    if gate.b is not None:
        terms.append("b")
    total = " + ".join(terms)
    return f"{_short(gate.function.name)}({f'clip({total})' if cell.clip is not None else total})"


def _short(function: str) -> str:
    return {"Sigmoid": "σ", "Tanh": "tanh"}.get(function, function)


def _line(name: str, weight: Weight) -> str:
    return f"{name} {weight} {list(weight.shape)}"
