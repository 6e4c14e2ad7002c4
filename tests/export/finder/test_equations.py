"""Equations that are the same polynomial are the same cell, however they are written; others are none."""

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import TensorProto, helper, numpy_helper

from gatestream.export.finder.survey import survey

HIDDEN, INPUTS = 3, 2
RNG = np.random.default_rng(0)


class Writer:
    """A graph of one step of a cell, written node by node."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.tensors: dict[str, np.ndarray] = {}

    def op(self, operator: str, *inputs: str, **attributes: Any) -> str:
        name = f"t{len(self.nodes)}"
        self.nodes.append(helper.make_node(operator, list(inputs), [name], **attributes))
        return name

    def number(self, *shape: int, value: float | None = None) -> str:
        name = f"w{len(self.tensors)}"
        array = RNG.normal(size=shape) if value is None else np.full(shape, value)
        self.tensors[name] = array.astype(np.float32)
        return name

    def product(self, operand: str, size: int) -> str:
        return self.op("MatMul", operand, self.number(size, HIDDEN))

    def sum(self, x: str = "x", h: str = "h") -> str:
        total = self.op("Add", self.product(x, INPUTS), self.product(h, HIDDEN))
        return self.op("Add", total, self.number(HIDDEN))

    def gate(self, function: str = "Sigmoid", x: str = "x", h: str = "h") -> str:
        return self.op(function, self.sum(x, h))

    def model(self, *outputs: str) -> ir.Model:
        def info(name: str, size: int = HIDDEN) -> onnx.ValueInfoProto:
            return helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", size])

        graph = helper.make_graph(
            self.nodes,
            "step",
            [info("x", INPUTS), info("h"), info("c")],
            [info(name) for name in outputs],
            [numpy_helper.from_array(array, name) for name, array in self.tensors.items()],
        )
        made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)
        onnx.checker.check_model(made, full_check=True)
        return ir.from_proto(made)


def blended(w: Writer, how: str, z: str, n: str, h: str = "h") -> str:
    """`(1 - z) * n + z * h`, in one of several ways of writing it."""
    one = w.number(1, value=1)
    match how:
        case "(1 - z) * n + z * h":
            return w.op("Add", w.op("Mul", w.op("Sub", one, z), n), w.op("Mul", z, h))
        case "n + z * (h - n)":
            return w.op("Add", n, w.op("Mul", z, w.op("Sub", h, n)))
        case "n - z * n + z * h":
            return w.op("Add", w.op("Sub", n, w.op("Mul", z, n)), w.op("Mul", h, z))
        case "z * h - (z - 1) * n":
            return w.op("Sub", w.op("Mul", z, h), w.op("Mul", w.op("Sub", z, one), n))
        case "h + (1 - z) * (n - h)":
            return w.op("Add", h, w.op("Mul", w.op("Sub", one, z), w.op("Sub", n, h)))
    raise AssertionError(how)


WAYS = ["(1 - z) * n + z * h", "n + z * (h - n)", "n - z * n + z * h", "z * h - (z - 1) * n", "h + (1 - z) * (n - h)"]


@pytest.mark.parametrize("how", WAYS)
@pytest.mark.parametrize("behind", [False, True])
def test_gru(how: str, behind: bool) -> None:
    w = Writer()
    r, z = w.gate(), w.gate()
    if behind:
        recurrent = w.op("Add", w.product("h", HIDDEN), w.number(HIDDEN))
        n = w.op("Tanh", w.op("Add", w.op("Mul", recurrent, r), w.product("x", INPUTS)))
    else:
        n = w.gate("Tanh", h=w.op("Mul", "h", r))
    (cell,) = survey(w.model(blended(w, how, z, n)))
    assert (cell.kind, cell.hidden, cell.linear_before_reset, cell.complement) == ("GRU", HIDDEN, behind, False)
    assert {symbol: gate.activation and gate.activation.name for symbol, gate in cell.gates.items()} == {
        "r": r,
        "z": z,
        "n": n,
    }
    assert cell.x.name == "x"
    assert cell.h is not None
    assert cell.h.name == "h"


def test_the_update_gate_the_other_way_round() -> None:
    w = Writer()
    r, z = w.gate(), w.gate()
    n = w.gate("Tanh", h=w.op("Mul", r, "h"))
    one = w.number(1, value=1)
    h_next = w.op("Add", w.op("Mul", z, n), w.op("Mul", w.op("Sub", one, z), "h"))
    (cell,) = survey(w.model(h_next))
    assert cell.kind == "GRU"
    assert cell.complement


@pytest.mark.parametrize("coupled", [False, True])
def test_lstm(coupled: bool) -> None:
    w = Writer()
    i, g, o = w.gate(), w.gate("Tanh"), w.gate()
    f = w.op("Sub", w.number(1, value=1), i) if coupled else w.gate()
    c_next = w.op("Add", w.op("Mul", g, i), w.op("Mul", "c", f))
    h_next = w.op("Mul", w.op("Tanh", c_next), o)
    (cell,) = survey(w.model(h_next, c_next))
    assert (cell.kind, cell.coupled) == ("LSTM", coupled)
    assert {symbol: gate.activation and gate.activation.name for symbol, gate in cell.gates.items()} == {
        "i": i,
        "f": f,
        "g": g,
        "o": o,
    }


def without_a_recurrent_product(w: Writer) -> str:
    """A minimal GRU, whose gates see the input alone: no cell that ONNX has."""
    z, n = (w.op(function, w.product("x", INPUTS)) for function in ("Sigmoid", "Tanh"))
    return blended(w, WAYS[0], z, n)


def without_a_nonlinearity(w: Writer) -> str:
    r, z = w.gate(), w.gate()
    return blended(w, WAYS[0], z, w.sum(h=w.op("Mul", r, "h")))


def reset_that_resets_the_input(w: Writer) -> str:
    r, z = w.gate(), w.gate()
    fed = w.op("Mul", r, w.product("x", INPUTS))
    return blended(w, WAYS[0], z, w.op("Tanh", w.op("Add", fed, w.product("h", HIDDEN))))


def highway(w: Writer) -> str:
    """A gate between two layers, and no state."""
    t, n = (w.op(function, w.product("h", HIDDEN)) for function in ("Sigmoid", "Tanh"))
    return blended(w, WAYS[0], t, n)


def doubled(w: Writer) -> str:
    r, z = w.gate(), w.gate()
    n = w.gate("Tanh", h=w.op("Mul", r, "h"))
    return blended(w, WAYS[0], z, n, h=w.op("Add", "h", "h"))


def fed_by_the_cell_state(w: Writer) -> str:
    """An LSTM one of whose gates takes c in h's place."""
    i, f, g, o = w.gate(), w.gate(h="c"), w.gate("Tanh"), w.gate()
    c_next = w.op("Add", w.op("Mul", f, "c"), w.op("Mul", i, g))
    return w.op("Mul", o, w.op("Tanh", c_next))


def output_that_is_not_squashed(w: Writer) -> str:
    i, f, g, o = w.gate(), w.gate(), w.gate("Tanh"), w.gate()
    return w.op("Mul", o, w.op("Add", w.op("Mul", f, "c"), w.op("Mul", i, g)))


@pytest.mark.parametrize(
    "write",
    [
        without_a_recurrent_product,
        without_a_nonlinearity,
        reset_that_resets_the_input,
        highway,
        doubled,
        fed_by_the_cell_state,
        output_that_is_not_squashed,
    ],
)
def test_what_is_no_cell(write: Callable[[Writer], str]) -> None:
    w = Writer()
    assert not survey(w.model(write(w)))
