"""An operator's equations give what the operator gives."""

import importlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from onnx import numpy_helper
from onnx.backend.test.case import node as node_cases

from gatestream.export.errors import StructureError
from gatestream.export.rewriting.unfuse import unfuse
from tests.support import recurrent
from tests.support.recurrent import ACTIVATIONS, GATES, Cell, Numbers

OPERATORS = ("LSTM", "GRU", "RNN")


def unfused(model: onnx.ModelProto) -> onnx.ModelProto:
    """All operators of a model to their equations, their gates put out as `gate.<symbol>`."""
    made = ir.from_proto(model)
    for node in [node for node in made.graph if node.op_type in OPERATORS]:
        found = unfuse(made, node, node.name or "cell")
        for symbol, gate in found.gates.items():
            gate.name = f"gate.{symbol}"
            gate.shape = ir.Shape(["batch", "time", found.operator.hidden])
            made.graph.outputs.append(gate)
    result = ir.to_proto(made)
    onnx.checker.check_model(result, full_check=True)
    assert not {node.op_type for node in result.graph.node} & set(OPERATORS)
    return result


def feed_of(
    cell: Cell, x: Numbers, states: Sequence[Numbers], lengths: Sequence[int] | None, initial: bool, layout: int
) -> dict[str, Numbers]:
    feed = {"X": x if layout == 0 else x.transpose(1, 0, 2)}
    if lengths is not None:
        feed["lengths"] = np.array(lengths, np.int32)
    if initial:
        for letter, state in zip(cell.states, states, strict=True):
            feed[f"initial_{letter}"] = np.expand_dims(state, layout)
    return {name: np.ascontiguousarray(array) for name, array in feed.items()}


def squeezed(found: dict[str, Numbers], layout: int) -> dict[str, Numbers]:
    """By the oracle's names, time first, without the axis of directions."""
    y = found["Y"][:, 0] if layout == 0 else found["Y"][:, :, 0].transpose(1, 0, 2)
    named = {"y": y}
    for key, array in found.items():
        if key.startswith("Y_"):
            named[key[-1]] = array.squeeze(layout)
        elif key.startswith("gate."):
            named[key.split(".")[1]] = array
    return named


NUMBERS = {"Affine": (0.7, 0.1), "Elu": (0.8,), "HardSigmoid": (0.3, 0.4), "LeakyRelu": (0.2,)}
NUMBERS |= {"ScaledTanh": (1.7159, 0.66667), "ThresholdedRelu": (0.1,)}
SAFE = [(name, *NUMBERS.get(name, ())) for name in ACTIVATIONS]


@st.composite
def cases(draw: st.DrawFn) -> tuple[Cell, int, dict[str, Any]]:
    kind = draw(st.sampled_from(OPERATORS))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    inputs, hidden = draw(st.integers(1, 4)), draw(st.integers(1, 5))
    peepholes = kind == "LSTM" and draw(st.booleans())
    cell = recurrent.random(kind, inputs, hidden, rng, bias=draw(st.booleans()), peepholes=peepholes)
    options: dict[str, Any] = {}
    if draw(st.booleans()):
        options["clip"] = draw(st.sampled_from([0.2, 1.0, 3.0]))
    if draw(st.booleans()):
        count = {"LSTM": 3, "GRU": 2, "RNN": 1}[kind]
        options["activations"] = tuple(draw(st.lists(st.sampled_from(SAFE), min_size=count, max_size=count)))
    if kind == "LSTM":
        options["input_forget"] = draw(st.booleans())
    if kind == "GRU":
        options["linear_before_reset"] = draw(st.booleans())
    batch, time = draw(st.integers(1, 3)), draw(st.integers(1, 5))
    lengths = draw(st.none() | st.lists(st.integers(0, time), min_size=batch, max_size=batch))
    initial, layout = draw(st.booleans()), draw(st.integers(0, 1))
    x = rng.normal(size=(time, batch, inputs)).astype(np.float32)
    states = [rng.normal(0, 0.5 if initial else 0, (batch, hidden)).astype(np.float32) for _ in cell.states]
    feed = feed_of(cell, x, states, lengths, initial, layout)
    how = {"lengths": lengths is not None, "initial": initial, "layout": layout}
    return cell.with_options(**options), layout, {"x": x, "states": states, "ends": lengths, "feed": feed, "how": how}


@settings(max_examples=120, deadline=None)
@given(cases())
def test_equals_the_equations_and_the_operator(case: tuple[Cell, int, dict[str, Any]]) -> None:
    cell, layout, given_ = case
    with np.errstate(over="ignore", invalid="ignore"):
        truth, tolerance = recurrent.allowed(cell, given_["x"], given_["states"], given_["ends"])
    # Activations without a bound may leave what float32 can hold.
    assume(all(np.abs(values).max(initial=0) < 1e6 for values in truth.values()))
    original = recurrent.model(cell, **given_["how"])
    found = squeezed(recurrent.outputs(unfused(original), given_["feed"]), layout)
    assert set(found) == set(truth)
    ends = np.full(given_["x"].shape[1], len(given_["x"])) if given_["ends"] is None else np.array(given_["ends"])
    live = (np.arange(len(given_["x"])) < ends[:, None])[..., None]  # [batch, time, 1]
    for name, expected in truth.items():
        if name in GATES[cell.kind]:
            np.testing.assert_allclose(found[name] * live, expected * live, rtol=0, atol=tolerance[name], err_msg=name)
        else:
            np.testing.assert_allclose(found[name], expected, rtol=0, atol=tolerance[name], err_msg=name)
    if layout == 0:  # onnxruntime refuses the other
        theirs = squeezed(recurrent.outputs(original, given_["feed"]), layout)
        for name, expected in theirs.items():
            np.testing.assert_allclose(found[name], expected, rtol=0, atol=2 * tolerance[name], err_msg=name)


def test_activations_take_their_numbers_in_order() -> None:
    """Those that take none leave the lists alone; where a list is too short the rest have their defaults."""
    cell = recurrent.random("LSTM", 2, 3, np.random.default_rng(0)).with_options(
        activations=("Sigmoid", ("LeakyRelu", 0.3), ("HardSigmoid", 0.25, 0.4))
    )
    x = np.random.default_rng(1).normal(size=(3, 2, 2)).astype(np.float32)
    states = [np.zeros((2, 3), np.float32)] * 2
    feed = feed_of(cell, x, states, None, True, 0)
    model = recurrent.model(cell)
    theirs = recurrent.outputs(model, feed)["Y"]
    np.testing.assert_allclose(recurrent.outputs(unfused(model), feed)["Y"], theirs, atol=1e-6)
    short = onnx.ModelProto.FromString(model.SerializeToString())
    for attribute in short.graph.node[0].attribute:
        if attribute.name == "activation_alpha":
            attribute.floats[:] = [0.3]
        if attribute.name == "activation_beta":
            attribute.floats[:] = []
    short.graph.node[0].attribute.remove(next(a for a in short.graph.node[0].attribute if a.name == "activation_beta"))
    defaults = cell.with_options(activations=("Sigmoid", ("LeakyRelu", 0.3), ("HardSigmoid", 0.2, 0.5)))
    truth, tolerance = recurrent.allowed(defaults, x, states)
    found = recurrent.outputs(unfused(short), feed)["Y"][:, 0]
    np.testing.assert_allclose(found, truth["y"], rtol=0, atol=tolerance["y"])


# Each module adds its own when it is imported; all of ONNX's would take seconds.
for each in ("lstm", "gru", "rnn"):
    importlib.import_module(f"onnx.backend.test.case.node.{each}")
NODE_CASES = {
    case.name: case
    for case in node_cases._NodeTestCases
    if case.name.startswith(("test_lstm_", "test_gru_", "test_simple_rnn_", "test_rnn_"))
}


def test_there_are_18_node_cases() -> None:
    assert len(NODE_CASES) == 18


@pytest.mark.parametrize("name", NODE_CASES)
def test_the_node_cases_of_onnx(name: str) -> None:
    case = NODE_CASES[name]
    model = onnx.ModelProto.FromString(case.model.SerializeToString())
    inputs, expected = case.data_sets[0]
    feed = dict(zip([each.name for each in model.graph.input], inputs, strict=True))
    for key in set(feed) & {"W", "R", "B", "P"}:  # weights are inputs there
        model.graph.initializer.append(numpy_helper.from_array(feed.pop(key), key))
        model.graph.input.remove(next(each for each in model.graph.input if each.name == key))
    model.ir_version, model.opset_import[0].version = 9, 20
    if any(attribute.s in (b"reverse", b"bidirectional") for attribute in model.graph.node[0].attribute):
        with pytest.raises(StructureError, match="only forward cells can stream"):
            unfused(model)
        return
    found = recurrent.outputs(unfused(model), feed)
    for each, values in zip(model.graph.output, expected, strict=True):
        np.testing.assert_allclose(found[each.name], values, rtol=1e-5, atol=1e-6)
    if "batchwise" in name:
        with pytest.raises(Exception, match=r"[Bb]atchwise"):  # layout 1
            recurrent.outputs(model, feed)
        return
    for key, values in recurrent.outputs(model, feed).items():
        np.testing.assert_allclose(found[key], values, rtol=1e-5, atol=1e-6)


def test_what_reads_the_future_is_refused() -> None:
    """The node cases have the bidirectional ones."""
    model = recurrent.model(recurrent.random("GRU", 2, 3, np.random.default_rng(0)), direction="reverse")
    with pytest.raises(StructureError, match="GRU 'rnn' is reverse: it reads what has not come yet; only forward"):
        unfused(model)


def test_weights_that_are_computed_are_refused() -> None:
    model = recurrent.model(recurrent.random("LSTM", 2, 3, np.random.default_rng(0)))
    model.graph.node[0].input[1] = "doubled"
    model.graph.node.insert(0, onnx.helper.make_node("Add", ["W", "W"], ["doubled"]))
    with pytest.raises(
        StructureError, match=r"LSTM 'rnn' takes its W from 'doubled' \(Add\), which is computed at run"
    ):
        unfused(model)


@pytest.mark.parametrize("kind", OPERATORS)
def test_each_gate_has_weights_of_its_own(kind: str) -> None:
    cell = recurrent.random(kind, 2, 3, np.random.default_rng(0))
    model = unfused(recurrent.model(cell, name="net.cell", squeezed=True))
    stored = {each.name: numpy_helper.to_array(each) for each in model.graph.initializer}
    modules = {
        "LSTM": {"i": "input_gate", "o": "output_gate", "f": "forget_gate", "g": "cell_candidate"},
        "GRU": {"z": "update_gate", "r": "reset_gate", "n": "candidate"},
        "RNN": {},
    }[kind]
    for k, symbol in enumerate(GATES[kind]):
        prefix = f"net.cell.{modules[symbol]}" if modules else "net.cell"
        np.testing.assert_array_equal(stored[f"{prefix}.W"], np.split(cell.W, len(GATES[kind]))[k])
        np.testing.assert_array_equal(stored[f"{prefix}.R"], np.split(cell.R, len(GATES[kind]))[k])
    operators = [node.op_type for node in model.graph.node]
    assert operators == ["Scan"]  # what squeezed and unsqueezed the directions has gone
