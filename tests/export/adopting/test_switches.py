"""Inputs by which a model is switched: what is found of its states holds whichever way they are."""

from pathlib import Path

import pytest
from onnx import TensorProto

from gatestream.export.adopting.adopt import adopt
from gatestream.export.adopting.options import Options
from gatestream.export.errors import AmbiguousError
from tests.support.strangers.graph import Graph

N = 3
ONE_STEP = Options(time={"x": None, "mode": None})


def switched(name: str, number: int) -> tuple[Graph, str]:
    """x and a mode, one step a run; whether the mode is a number."""
    g = Graph(name)
    g.input("x", ["batch", N])
    mode = g.input("mode", ["batch", 1], TensorProto.INT64)
    return g, g.node("Equal", mode, g.constant(number))


@pytest.mark.parametrize("number", [1, 700])
def test_a_mode_in_which_a_state_starts_anew_is_said(number: int, tmp_path: Path) -> None:
    g, again = switched(f"reset_{number}", number)
    h = g.input("h", ["batch", 5])
    kept = g.node("Where", again, g.constant(0.0), h)
    h_next = g.output("h2", ["batch", 5])
    both = g.node("Add", g.node("MatMul", kept, g.weight(5, 5)), g.node("MatMul", "x", g.weight(N, 5)))
    g.node("Tanh", both, out=h_next)
    g.node("MatMul", h_next, g.weight(5, 2), out=g.output("y", ["batch", 2]))
    found = adopt(g.save(tmp_path), tmp_path / "out.onnx", ONE_STEP)
    [state] = [tensor for tensor in found.spec.source.tensors if tensor.role == "state"]
    assert state.found.endswith(f"; nothing of it is left where 'mode' {number}")


@pytest.mark.parametrize("number", [1, 700])
def test_a_mode_that_exchanges_states_is_not_overlooked(number: int, tmp_path: Path) -> None:
    """At any other number each state keeps itself, and would be taken for that."""
    g, swapped = switched(f"swap_{number}", number)
    kept = []
    for name, part in (("a", 0.9), ("b", 0.5)):
        old = g.node("Mul", g.input(name, ["batch", N]), g.constant(part))
        kept.append(g.node("Add", old, g.node("Mul", "x", g.constant(1 - part))))
    for name, (there, here) in (("a2", kept[::-1]), ("b2", kept)):
        g.node("Where", swapped, there, here, out=g.output(name, ["batch", N]))
    y = g.node("Add", "a2", g.node("Mul", "b2", g.constant(2.0)))
    g.node("MatMul", y, g.weight(N, 2), out=g.output("y", ["batch", 2]))
    with pytest.raises(AmbiguousError, match="may be in any of the outputs 'a2', 'b2'"):
        adopt(g.save(tmp_path), tmp_path / "out.onnx", ONE_STEP)
