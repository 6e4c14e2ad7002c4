"""All cells of anybody's model: operators, and equations in any of its graphs."""

from collections import Counter
from collections.abc import Collection
from dataclasses import replace
from itertools import takewhile

import onnx_ir as ir

from gatestream.export.errors import StructureError
from gatestream.export.finder.cells import FoundCell, Gate
from gatestream.export.finder.equations import Equations
from gatestream.export.finder.operators import ORDERS, Activation, Operator, is_operator, read
from gatestream.export.finder.scopes import Scope, Scopes
from gatestream.export.finder.structure import Weight
from gatestream.export.graph.constants import Constant


def survey(model: ir.Model, states: Collection[str] = ()) -> tuple[FoundCell, ...]:
    """Find the cells of a model, in the order in which data reaches them.

    Args:
        model: anybody's.
        states: names of graph inputs of which is known that they are carried from step to step: it helps to tell h from
            x, where one is as large as the other.

    Raises:
        StructureError: an operator is none that can be read: it goes backwards, or its weights are computed.
    """
    scopes = Scopes(model)
    known = {value for value in model.graph.inputs if value.name in states}
    equations = Equations(scopes, known)
    found: list[FoundCell] = []
    for scope in scopes.all:
        here = [_operator(scope, read(node, scopes.resolve)) for node in scope.graph if is_operator(node)]
        found += here + equations.find(scope)
    places = _Places(scopes)
    return _named(sorted(found, key=places.of))


class _Places:
    """Where a cell stands among all nodes of a model: by the path of positions that leads to it."""

    def __init__(self, scopes: Scopes) -> None:
        self._holders = {scope.graph: scope.node for scope in scopes.all}
        self._positions = {node: k for scope in scopes.all for k, node in enumerate(scope.graph)}

    def of(self, cell: FoundCell) -> tuple[int, ...]:
        node = cell.holder if cell.operator is not None or cell.h_next is None else cell.h_next.producer()
        path: list[int] = []
        while node is not None and node.graph is not None:
            path.append(self._positions[node])
            graph = node.graph
            assert isinstance(graph, ir.Graph)
            node = self._holders[graph]
        return tuple(reversed(path))


def _operator(scope: Scope, operator: Operator) -> FoundCell:
    node = operator.node
    x = operator.input("X")
    if x is None:
        raise StructureError(f"{operator.kind} '{node.name}' has no input X")
    f, *rest = operator.activations
    candidate = f if operator.kind == "RNN" else rest[0]
    outputs = [value if value.name else None for value in node.outputs] + [None] * 3
    return FoundCell(
        name=node.name or "",
        kind=operator.kind,
        graph=scope.graph,
        holder=node,
        operator=operator,
        hidden=operator.hidden,
        gates={symbol: _gate(operator, symbol, candidate if symbol in "gn" else f) for symbol in ORDERS[operator.kind]},
        x=x,
        h=operator.input("initial_h"),
        c=operator.input("initial_c") if operator.kind == "LSTM" else None,
        h_next=outputs[1],
        c_next=outputs[2],
        clip=operator.clip,
        squash=rest[1] if operator.kind == "LSTM" else None,
        linear_before_reset=operator.linear_before_reset,
        coupled=operator.input_forget,
    )


def _gate(operator: Operator, symbol: str, function: Activation) -> Gate:
    part = operator.parts[symbol]
    if operator.input_forget and symbol == "f":
        return Gate(symbol, None, function, None, None)

    def weight(source: Constant, rows: tuple[int, int], array: object) -> Weight:
        return Weight(source.name, f"[0, {rows[0]}:{rows[1]}]", array, source.dtype)  # type: ignore[arg-type]

    b = b_R = p = None
    if operator.B is not None and part.b is not None and part.b_R is not None:
        b, b_R = (weight(operator.B, rows, each) for rows, each in zip(part.bias_rows, (part.b, part.b_R), strict=True))
        if not (symbol == "n" and operator.linear_before_reset):
            both = f"{b.rows} + {b_R.rows}"
            b, b_R = Weight(b.initializer, both, b.array + b_R.array, b.dtype), None
    if operator.P is not None and part.p is not None:
        k = "iof".index(symbol) * operator.hidden
        p = weight(operator.P, (k, k + operator.hidden), part.p)
    return Gate(
        symbol, None, function, weight(operator.W, part.rows, part.W), weight(operator.R, part.rows, part.R), b, b_R, p
    )


def _named(cells: list[FoundCell]) -> tuple[FoundCell, ...]:
    """Each by a name that no other has."""
    said = [cell.name or _common(cell) or (cell.holder.name if cell.holder is not None else None) for cell in cells]
    names = [name or f"{cell.kind.lower()}_{k}" for k, (name, cell) in enumerate(zip(said, cells, strict=True))]
    counted, seen = Counter(names), Counter[str]()
    found = []
    for name, cell in zip(names, cells, strict=True):
        seen[name] += 1
        found.append(replace(cell, name=name if counted[name] == 1 else f"{name}.{seen[name] - 1}"))
    return tuple(found)


def _common(cell: FoundCell) -> str:
    """What the names of a cell's matrices begin with, up to a dot, a slash or an underscore: "decoder.rnn"."""
    names = [weight.initializer for gate in cell.gates.values() for weight in (gate.W, gate.R) if weight is not None]
    alike = takewhile(lambda letters: len(set(letters)) == 1, zip(*names, strict=False))
    prefix = "".join(letters[0] for letters in alike)
    return prefix[: max(prefix.rfind("."), prefix.rfind("/"), 0)]
