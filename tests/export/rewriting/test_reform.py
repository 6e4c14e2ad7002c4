"""A model of contract 2 in its two forms gives the same numbers, and in form gates its gates."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from gatestream.export import artifact
from gatestream.export.errors import StructureError
from gatestream.export.finder.claims import check_claims
from gatestream.export.finder.operators import DEFAULTS
from gatestream.export.proof.streaming import prove
from gatestream.export.rewriting.reform import reform
from gatestream.protos.gatestream.v1 import gatestream_pb2 as pb
from tests.export.rewriting.test_unfuse import SAFE
from tests.support import recurrent
from tests.support.recurrent import Cell, Numbers

RNG = np.random.default_rng(0)
STACKS: dict[str, list[Cell]] = {
    "lstm": [recurrent.random("LSTM", 3, 4, RNG)],
    "gru": [recurrent.random("GRU", 3, 4, RNG).with_options(linear_before_reset=True)],
    "gru, reset before": [recurrent.random("GRU", 3, 4, RNG)],
    "mixed": [
        recurrent.random("LSTM", 3, 5, RNG, peepholes=True).with_options(clip=1.5),
        recurrent.random("GRU", 5, 2, RNG).with_options(linear_before_reset=True),
        recurrent.random("RNN", 2, 3, RNG),
        recurrent.random("LSTM", 3, 1, RNG).with_options(input_forget=True),
    ],
}


def reformed(
    stack: str, form: str = "gates", *, length: bool = False
) -> tuple[onnx.ModelProto, pb.ModelSpec, ir.Model]:
    original, spec = recurrent.streaming(STACKS[stack], length=length)
    model = ir.from_proto(original)
    reform(model, spec, "gates" if form == "gates" else "fused")
    onnx.checker.check_model(ir.to_proto(model), full_check=True)
    return original, spec, model


def sample(spec: pb.ModelSpec, rows: int, steps: int) -> dict[str, Numbers]:
    rng = np.random.default_rng(1)
    feed = {"x": rng.normal(size=(rows, steps, *spec.inputs[0].shape)).astype(np.float32)}
    feed |= {state.input: rng.uniform(-1, 1, (rows, *state.shape)).astype(np.float32) for state in spec.states}
    if spec.length_input:
        feed["length"] = (1 + np.arange(rows) % steps).astype(np.int32)
    return feed


@pytest.mark.parametrize("length", [False, True])
@pytest.mark.parametrize("stack", STACKS)
def test_gates_are_put_out_and_the_rest_stays(stack: str, length: bool) -> None:
    original, spec, model = reformed(stack, length=length)
    cells = STACKS[stack]
    feed = sample(spec, 4, 3)
    found, theirs = recurrent.outputs(ir.to_proto(model), feed), recurrent.outputs(original, feed)
    below, lengths = feed["x"].transpose(1, 0, 2), feed["length"].tolist() if length else None
    live = (np.arange(3) < (feed["length"] if length else np.full(4, 3))[:, None])[..., None]
    shown = {gate.output: gate for gate in spec.gates}
    for k, cell in enumerate(cells):
        states = [feed[f"cell{k}_{letter}"] for letter in cell.states]
        truth, tolerance = recurrent.allowed(cell, below, states, lengths)
        below = truth["y"].astype(np.float32)
        for symbol in recurrent.GATES[cell.kind] if cell.kind != "RNN" else "":
            gate = next(each for each in spec.gates if (each.cell, each.symbol) == (f"cell{k}", symbol))
            assert list(shown.pop(gate.output).shape) == [cell.hidden]
            bound = 1e-6 + 4 * tolerance[symbol]
            np.testing.assert_allclose(found[gate.output] * live, truth[symbol] * live, rtol=0, atol=bound)
    assert not shown
    for name, values in theirs.items():
        np.testing.assert_allclose(
            found[name] * live if name == "y" else found[name], values * live if name == "y" else values, atol=1e-5
        )


def test_the_spec_says_what_is_shown() -> None:
    _, spec, model = reformed("mixed")
    before, _ = recurrent.streaming(STACKS["mixed"])
    assert spec.form == pb.FORM_GATES
    assert spec.weights_fingerprint == "0" * 64
    assert [(gate.name, gate.symbol, gate.output, gate.cell, list(gate.shape)) for gate in spec.gates][4:7] == [
        ("cell1.reset", "r", "cell1.reset", "cell1", [2]),
        ("cell1.update", "z", "cell1.update", "cell1", [2]),
        ("cell1.candidate", "n", "cell1.candidate", "cell1", [2]),
    ]
    names = set(model.graph.initializers)
    assert {"cell0.forget_gate.W", "cell0.forget_gate.R", "cell0.forget_gate.b", "cell0.forget_gate.p"} <= names
    assert {"cell1.candidate.b_R", "cell3.input_gate.W"} <= names
    packed = {each.name for each in before.graph.initializer if each.name[:6] in ("cell0.", "cell1.", "cell3.")}
    assert not packed & names
    assert "cell2.W" in names  # an RNN has no gates, and stays an operator


def test_one_cell_has_short_names() -> None:
    _, spec, _ = reformed("gru")
    assert [gate.name for gate in spec.gates] == ["reset", "update", "candidate"]


@pytest.mark.parametrize("stack", ["gru", "mixed"])
def test_the_proof_holds(stack: str, tmp_path: Path) -> None:
    for length in (False, True):
        _, spec, model = reformed(stack, length=length)
        artifact.save(model, spec, tmp_path / "model.onnx")
        report = prove(tmp_path / "model.onnx").report
        assert report.passed, report.checks[-1]


def test_a_model_without_gates_is_refused() -> None:
    original, spec = recurrent.streaming([recurrent.random("RNN", 2, 3, RNG)])
    with pytest.raises(StructureError, match="--form gates: data flow shows no LSTM and no GRU in it"):
        reform(ir.from_proto(original), spec, "gates")


@pytest.mark.parametrize("place", range(3))
@pytest.mark.parametrize("kind", ["LSTM", "GRU"])
@pytest.mark.parametrize("function", SAFE, ids=lambda function: function[0])
def test_whatever_the_activations_the_gates_are_found(function: tuple[Any, ...], kind: str, place: int) -> None:
    """Each in each place; and what is shown is what `gatestream inspect` finds."""
    activations: list[tuple[Any, ...]] = [("Sigmoid",), ("Tanh",), ("Tanh",)][: len(DEFAULTS[kind])]
    activations[place % len(activations)] = function
    cell = recurrent.random(kind, 3, 4, np.random.default_rng(0)).with_options(activations=tuple(activations))
    original, spec = recurrent.streaming([cell])
    model = ir.from_proto(original)
    reform(model, spec, "gates")
    assert len(spec.gates) == len(recurrent.GATES[kind])
    assert check_claims(model, spec).startswith(kind)


@pytest.mark.parametrize("length", [False, True])
@pytest.mark.parametrize("stack", STACKS)
def test_there_and_back(stack: str, length: bool) -> None:
    """To gates and to operators again: the same operators, of the same weights but for biases that were added up."""
    original, spec, model = reformed(stack, length=length)
    reform(model, spec, "fused")
    back = ir.to_proto(model)
    onnx.checker.check_model(back, full_check=True)
    assert spec.form == pb.FORM_FUSED
    assert not spec.gates
    assert [node.op_type for node in back.graph.node] == [node.op_type for node in original.graph.node]
    assert not any(name.endswith("_gate.W") for name in model.graph.initializers)
    operators = [[node for node in each.graph.node if node.op_type in recurrent.GATES] for each in (original, back)]
    for one, other in zip(*operators, strict=True):
        assert one.name == other.name
        assert sorted(map(str, one.attribute)) == sorted(map(str, other.attribute))
    feed = sample(spec, 4, 3)
    found, theirs = recurrent.outputs(back, feed), recurrent.outputs(original, feed)
    for name, values in theirs.items():
        np.testing.assert_allclose(found[name], values, atol=1e-5)
