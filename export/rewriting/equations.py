"""The equations of an LSTM, GRU or RNN, written into a graph, step by step and gate by gate."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from gatestream.export.finder.operators import Activation, Operator, Part
from gatestream.export.graph.initializers import store
from gatestream.export.graph.names import Names
from gatestream.protos.roles import modules_of

Numbers = NDArray[Any]


@dataclass(frozen=True, slots=True)
class Step:
    """What one step of a cell gives.

    Attributes:
        states: h, and of an LSTM c, after the step, [batch, hidden].
        gates: by symbol, their activations, [batch, hidden]. An RNN has none: its one activation is h.
    """

    states: tuple[ir.Value, ...]
    gates: Mapping[str, ir.Value]


class CellNames:
    """Names for what is written of a cell, that nothing else in the model has.

    Args:
        model: anybody's.
        cell: what they begin with.
    """

    def __init__(self, model: ir.Model, cell: str) -> None:
        self._cell = cell
        self._names = Names(model)
        self._stored: dict[str, ir.Value] = {}

    def fresh(self, name: str) -> str:
        """`<cell>.<name>`, or where that is taken, with a number behind it."""
        return self._names.fresh(f"{self._cell}.{name}")

    def stored(self, graph: ir.Graph, name: str, array: Numbers) -> ir.Value:
        """The initializer that is called so here, in `graph`."""
        if name not in self._stored:
            self._stored[name] = store(graph, self.fresh(name), np.ascontiguousarray(array).reshape(array.shape))
        return self._stored[name]


class Equations:
    """Writes one cell's equations.

    Its weights become initializers of their own, `<name>.forget_gate.W`, `.R` and `.b`; where biases of the two
    products cannot be added up `.b_R`, and peepholes `.p`.

    Args:
        graph: gets the initializers.
        names: of what is written.
        operator: whose equations they are.
    """

    def __init__(self, graph: ir.Graph, names: CellNames, operator: Operator) -> None:
        self._graph, self._names, self._operator = graph, names, operator
        self._modules = modules_of(operator.kind)
        self._dtype = operator.W.array.dtype
        self.nodes: list[ir.Node] = []
        """In the order in which they are computed."""

    def step(self, x: ir.Value, states: Sequence[ir.Value]) -> Step:
        """One step.

        Args:
            x: [batch, inputs].
            states: h, and of an LSTM c, before the step, [batch, hidden].
        """
        if self._operator.kind == "LSTM":
            h, c = states
            return self._lstm(x, h, c)
        return self._gru(x, states[0]) if self._operator.kind == "GRU" else self._rnn(x, states[0])

    def _lstm(self, x: ir.Value, h: ir.Value, c: ir.Value) -> Step:
        f_, g_, h_ = self._operator.activations
        i = self._gate("i", f_, self._sum("i", x, h), c)
        f = self._complement("f", i) if self._operator.input_forget else self._gate("f", f_, self._sum("f", x, h), c)
        g = self._gate("g", g_, self._sum("g", x, h), None)
        c_next = self.op("Add", [self.op("Mul", [f, c], "fc"), self.op("Mul", [i, g], "ig")], "c_next")
        o = self._gate("o", f_, self._sum("o", x, h), c_next)
        h_next = self.op("Mul", [o, self._activated(h_, c_next, "c_squashed")], "h_next")
        return Step((h_next, c_next), {"i": i, "f": f, "g": g, "o": o})

    def _gru(self, x: ir.Value, h: ir.Value) -> Step:
        f_, g_ = self._operator.activations
        r = self._gate("r", f_, self._sum("r", x, h), None)
        z = self._gate("z", f_, self._sum("z", x, h), None)
        if self._operator.linear_before_reset:
            part = self._operator.parts["n"]
            behind = self.op("Mul", [r, self._product("n", "R", h, part.R, "b_R", part.b_R)], "n_reset")
            total = self.op("Add", [behind, self._product("n", "W", x, part.W, "b", part.b)], "n_sum")
        else:
            total = self._sum("n", x, self.op("Mul", [r, h], "h_reset"))
        n = self._gate("n", g_, total, None)
        kept, written = self.op("Mul", [z, h], "zh"), self.op("Mul", [self._complement("z_complement", z), n], "zn")
        return Step((self.op("Add", [written, kept], "h_next"),), {"r": r, "z": z, "n": n})

    def _rnn(self, x: ir.Value, h: ir.Value) -> Step:
        return Step((self._gate("n", self._operator.activations[0], self._sum("n", x, h), None, "h_next"),), {})

    def _sum(self, symbol: str, x: ir.Value, h: ir.Value) -> ir.Value:
        """`W x + R h + b`, where one bias stands for both."""
        part = self._operator.parts[symbol]
        feed = self._product(symbol, "W", x, part.W, "b", _added(part))
        R = self._weight(symbol, "R", part.R)
        return self.op("Gemm", [h, R, feed], f"{symbol}_sum", transB=1)

    def _product(
        self, symbol: str, which: str, x: ir.Value, weight: Numbers, bias: str, values: Numbers | None
    ) -> ir.Value:
        inputs = [x, self._weight(symbol, which, weight)]
        if values is not None:
            inputs.append(self._weight(symbol, bias, values))
        return self.op("Gemm", inputs, f"{symbol}_{which}", transB=1)

    def _gate(
        self, symbol: str, activation: Activation, total: ir.Value, c: ir.Value | None, name: str = ""
    ) -> ir.Value:
        """Activate a sum, to which the peephole is added where there is one, and which is held within the clip."""
        peephole = self._operator.parts[symbol].p
        if peephole is not None and c is not None:
            seen = self.op("Mul", [self._weight(symbol, "p", peephole), c], f"{symbol}_peephole")
            total = self.op("Add", [total, seen], f"{symbol}_peeped")
        if (clip := self._operator.clip) is not None:
            bounds = [self._number("clip.least", -clip), self._number("clip.most", clip)]
            total = self.op("Clip", [total, *bounds], f"{symbol}_clipped")
        return self._activated(activation, total, name or symbol)

    def _activated(self, activation: Activation, value: ir.Value, name: str) -> ir.Value:
        alpha, beta = activation.alpha, activation.beta
        if activation.name == "Affine":
            scaled = self.op("Mul", [value, self._number(f"{name}.alpha", alpha)], f"{name}_scaled")
            return self.op("Add", [scaled, self._number(f"{name}.beta", beta)], name)
        if activation.name == "ScaledTanh":
            scaled = self.op("Mul", [value, self._number(f"{name}.beta", beta)], f"{name}_scaled")
            tanh = self.op("Tanh", [scaled], f"{name}_tanh")
            return self.op("Mul", [tanh, self._number(f"{name}.alpha", alpha)], name)
        numbers = {key: number for key, number in (("alpha", alpha), ("beta", beta)) if number is not None}
        return self.op(activation.name, [value], name, **numbers)

    def _complement(self, name: str, value: ir.Value) -> ir.Value:
        return self.op("Sub", [self._number("one", 1.0), value], name)

    def op(self, operator: str, inputs: Sequence[ir.Value], name: str, **attributes: float) -> ir.Value:
        """Another node, whose output is called `<cell>.<name>`."""
        called = self._names.fresh(name)
        node = ir.node(operator, inputs, attributes, name=called)
        node.outputs[0].name = called
        self.nodes.append(node)
        return node.outputs[0]

    def _weight(self, symbol: str, parameter: str, array: Numbers) -> ir.Value:
        module = self._modules[symbol]
        return self._stored(f"{module}.{parameter}" if module else parameter, array)

    def _number(self, name: str, number: float | None) -> ir.Value:
        return self._stored(name, np.array(number, self._dtype))

    def _stored(self, name: str, array: Numbers) -> ir.Value:
        return self._names.stored(self._graph, name, array)


def _added(part: Part) -> Numbers | None:
    if part.b is None or part.b_R is None:
        return None
    added: Numbers = part.b + part.b_R
    return added
