"""Files with weights in fewer bits: what they hold, compute, and are not taken for."""

import re
from copy import deepcopy
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
import torch
from numpy.typing import NDArray
from onnx import numpy_helper
from onnx.reference import ReferenceEvaluator

from gatestream.export.artifact import load, weights
from gatestream.export.drawing.inspection import inspect
from gatestream.export.drawing.text import as_json, as_text
from gatestream.export.errors import ArtifactError, PrecisionError
from gatestream.export.exporter import Form, build, export, weights_of
from gatestream.export.finder.finder import find
from gatestream.export.formats import FORMATS, Precision, rounded
from gatestream.export.proof import int8_parity, samples
from gatestream.export.proof.comparison import FLOW, DifferenceError
from gatestream.export.proof.int8_parity import Int8Model
from gatestream.export.proof.report import VerificationError
from gatestream.export.proof.runtime import Session
from gatestream.export.rewriting.narrow import narrow
from gatestream.model.network import NetworkConfig
from gatestream.protos.gatestream.v1 import gatestream_pb2 as pb
from gatestream.protos.spec import SpecError
from tests.export import mutations as m
from tests.export import networks
from tests.export.conftest import PROOF, Exported
from tests.export.mutations import Mutation

KINDS: tuple[tuple[Form, Precision], ...] = (("gates", "float16"), ("fused", "float16"), ("gates", "int8"))


@pytest.mark.parametrize(("form", "stored"), KINDS)
@pytest.mark.parametrize(
    "name", ["tokens", "numbers", *(pytest.param(name, marks=pytest.mark.slow) for name in ("embedding", "series"))]
)
def test_every_encoder_is_proved_and_measured(exported: Exported, name: str, form: Form, stored: Precision) -> None:
    path, report = exported(name, form, stored)
    assert [check.name for check in report.checks if check.passed] == [*PROOF, "accuracy"]
    tensors = [tensor for tensor in FLOW if form == "gates" or tensor in "hcy"]
    accuracy = report.accuracy
    assert accuracy is not None
    assert [loss.tensor for loss in accuracy.losses] == tensors
    assert all(0 < loss.mean_abs_difference < loss.max_abs_difference for loss in accuracy.losses)
    assert all(cost.microseconds > 0 for cost in accuracy.costs)
    spec = load(path).spec
    assert spec.weights == {"float16": pb.WEIGHT_FORMAT_FLOAT16, "int8": pb.WEIGHT_FORMAT_INT8}[stored]
    assert [figure.tensor for figure in spec.parity if figure.reference == "float32"] == tensors


@pytest.mark.parametrize(("form", "stored"), KINDS)
def test_the_file_s_weights_are_the_rounded_ones(exported: Exported, form: Form, stored: Precision) -> None:
    model = load(exported("tokens", form, stored)[0]).model
    found = weights(model, find(model))
    expected = rounded(weights_of(networks.random(networks.TOKENS)), stored)
    assert found.keys() == expected.keys()
    for name, array in expected.items():
        np.testing.assert_array_equal(found[name], array, err_msg=name)


@pytest.mark.parametrize(("form", "stored"), KINDS)
def test_onnx_s_own_evaluator_computes_the_same(exported: Exported, form: Form, stored: Precision) -> None:
    path, _ = exported("numbers", form, stored)
    rng = np.random.default_rng(0)
    feed = {
        "x": rng.standard_normal((3, 1, 3)).astype(np.float32),
        "length": np.ones(3, np.int32),
        "h": rng.uniform(-1, 1, (3, 1, 8)).astype(np.float32),
        "c": rng.standard_normal((3, 1, 8)).astype(np.float32),
    }
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    for found, expected in zip(session.run(None, feed), ReferenceEvaluator(str(path)).run(None, feed), strict=True):
        np.testing.assert_allclose(found, expected, atol=2e-6)


def test_int8_gates_from_the_file_s_whole_numbers(exported: Exported) -> None:
    """The first gate, by hand: whole numbers times whole numbers, added up in int32, times the scales."""
    path, _ = exported("numbers", "gates", "int8")
    held = {each.name: numpy_helper.to_array(each) for each in onnx.load(path).graph.initializer}
    W, R = held["cells.0.input_gate.W.T"], held["cells.0.input_gate.R.T"]
    assert W.dtype == R.dtype == np.int8
    assert (W.shape, R.shape) == ((3, 8), (8, 8))
    x = np.array([[0.5, -2.0, 1.1]], np.float32)
    h = np.linspace(-1, 1, 8, dtype=np.float32)[None]
    whole_x = np.rint(x / 2 * 63).astype(np.int32) @ W.astype(np.int32)
    whole_h = np.rint(h * 63).astype(np.int32) @ R.astype(np.int32)
    z = whole_x * held["cells.0.input_gate.W.scale"] * 2 + whole_h * held["cells.0.input_gate.R.scale"]
    expected = 1 / (1 + np.exp(-(z + held["cells.0.input_gate.b"])))
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    feed = {"x": x[None], "length": np.ones(1, np.int32), "h": h[None], "c": np.zeros((1, 1, 8), np.float32)}
    np.testing.assert_allclose(session.run(["i"], feed)[0][0, 0], expected, atol=1e-6)


@pytest.mark.parametrize("loud", [1, 1e6])
def test_int8_rows_know_nothing_of_each_other(exported: Exported, loud: float) -> None:
    """Bit for bit, however large the numbers of the row beside."""
    path, _ = exported("numbers", "gates", "int8")
    session = Session(path, load(path).spec)
    rng = np.random.default_rng(1)
    x = rng.standard_normal((2, 50, 3)).astype(np.float32)
    x[1] *= loud
    zeros = np.zeros((2, 1, 8), np.float32)
    both = session.run(x, zeros, zeros, np.array([50, 50], np.int32))
    alone = session.run(x[:1], zeros[:1], zeros[:1], np.array([50], np.int32))
    for tensor in "ifgohc":
        np.testing.assert_array_equal(both[tensor][0], alone[tensor][0], err_msg=tensor)
    np.testing.assert_allclose(both["y"][0], alone["y"][0], atol=1e-6)  # the head is float32


def test_a_row_of_zeros_is_one(exported: Exported) -> None:
    path, _ = exported("numbers", "gates", "int8")
    session = Session(path, load(path).spec)
    zeros = np.zeros((1, 1, 8), np.float32)
    found = session.run(np.zeros((1, 1, 3), np.float32), zeros, zeros, np.ones(1, np.int32))
    bias = weights_of(networks.random(networks.NUMBERS))["cells.0.cell_candidate.b"]
    np.testing.assert_allclose(found["g"][0, 0, 0], np.tanh(bias), atol=1e-6)


@pytest.mark.slow
def test_files_are_smaller() -> None:
    """Where weights are most of it."""
    config = NetworkConfig(name="wide", task="own", encoder="none", inputs=64, hidden=96, outputs=4)
    built = ir.to_proto(build(networks.random(config), "gates"))
    size = {}
    for stored in FORMATS:
        model = ir.from_proto(deepcopy(built))
        narrow(model, stored)
        size[stored] = ir.to_proto(model).ByteSize()
    assert size["float16"] < 0.6 * size["float32"]
    assert size["int8"] < 0.4 * size["float32"]


# ---- what is refused ----


def test_int8_needs_form_gates(tmp_path: Path) -> None:
    with pytest.raises(PrecisionError, match=r"weights int8 need form gates: .* depend on the sessions beside it"):
        export(networks.random(networks.NUMBERS), tmp_path / "model.onnx", "fused", weights="int8")
    assert list(tmp_path.iterdir()) == []


def test_a_weight_beyond_float16_is_refused_and_the_old_file_stays(tmp_path: Path) -> None:
    network = networks.random(networks.NUMBERS)
    with torch.no_grad():
        network.cells[0].get_parameter("forget_gate.R")[2, 3] = 1e5
    path = tmp_path / "model.onnx"
    path.write_bytes(b"the old one")
    with pytest.raises(PrecisionError, match=r"'cells.0.forget_gate.R'\[2, 3\] is 100000, float16 ends at 65504"):
        export(network, path, "fused", weights="float16")
    assert path.read_bytes() == b"the old one"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.slow
def test_what_is_too_far_from_float32_is_refused(exported: Exported, tmp_path: Path) -> None:
    _, report = exported("numbers", "gates", "int8")
    assert report.accuracy is not None
    network, path = networks.random(networks.NUMBERS), tmp_path / "model.onnx"
    too_little = 0.9 * report.accuracy.error
    with pytest.raises(VerificationError, match=r"accuracy: y is up to .* from the float32 network's over 1024") as e:
        export(network, path, "gates", weights="int8", max_error=too_little)
    assert e.value.report.accuracy is not None
    assert not path.exists()
    assert export(network, path, "gates", weights="int8", max_error=1.1 * report.accuracy.error).passed


def tampered(name: str, change: float) -> Mutation:
    def mutate(model: onnx.ModelProto) -> None:
        array = m.values(model, name).copy()
        array.flat[0] = array.flat[0] + np.array(change).astype(array.dtype)
        m.set_values(model, name, array)

    return mutate


def says(stored: int) -> Mutation:
    def edit(spec: pb.ModelSpec) -> None:
        spec.weights = stored  # type: ignore[assignment]

    return m.spec(edit)


def rounded_instead(old: str, new: str) -> Mutation:
    """In the first layer, another tensor is rounded."""

    def mutate(model: onnx.ModelProto) -> None:
        m.rewire(m.maker(model, f"cells.0.{old}_rounded"), f"cells.0.{old}", f"cells.0.{new}")

    return mutate


def range_dropped(model: onnx.ModelProto) -> None:
    """What was divided by the row's range is not multiplied by it."""
    m.rewire(
        m.maker(model, "cells.0.forget_gate.sum"), "cells.0.forget_gate.Wx_ranged", "cells.0.forget_gate.W_product"
    )


def range_of_all_rows(model: onnx.ModelProto) -> None:
    m.set_values(model, "rounding.axis", np.array([0], np.int64))


def weights_exchanged(model: onnx.ModelProto) -> None:
    for parameter in "WR":
        for part in ("T", "scale"):
            names = (f"cells.0.{gate}.{parameter}.{part}" for gate in ("input_gate", "forget_gate"))
            m.exchange_values(model, *names)


def wider(name: str, dtype: type[np.generic]) -> Mutation:
    def mutate(model: onnx.ModelProto) -> None:
        m.set_values(model, name, m.values(model, name).astype(dtype))

    return mutate


REFUSED: dict[str, tuple[Form, Precision, Mutation, str]] = {
    "a whole number changed": ("gates", "int8", tampered("cells.0.output_gate.R.T", 1), "weights: the weights hash to"),
    "a scale changed": ("gates", "int8", tampered("cells.0.output_gate.W.scale", 1e-6), "weights: the weights hash to"),
    "two gates exchanged": ("gates", "int8", weights_exchanged, "the weights hash to"),
    "another step": ("gates", "int8", tampered("rounding.step", 0.01), "'rounding.step' is 0.0258"),
    "another zero": ("gates", "int8", tampered("rounding.zero", 1), "'rounding.zero' is 65, expected uint8 64"),
    "one range for all rows": ("gates", "int8", range_of_all_rows, "is not the largest number of each row of"),
    "c rounded for h": ("gates", "int8", rounded_instead("h", "c"), "of its products 0 are with its own hidden state"),
    "the range left out": ("gates", "int8", range_dropped, "'cells.0.x' feeds all four gates of 0 cells"),
    "missing forget gate": ("gates", "int8", m.missing_forget_gate, "the forget gate is missing"),
    "length ignored": ("gates", "int8", m.length_ignored, "'length' is ignored"),
    "said to be float32": ("gates", "int8", says(1), "is int8, the spec says weights float32"),
    "said to be float16": ("gates", "int8", says(2), "'head.weight.T' is float32, expected float16"),
    "float16 said to be float32": ("fused", "float16", says(1), "'head.weight.T' is float16, expected float32"),
    "float32 said to be float16": ("fused", "float32", says(2), "'head.weight.T' is float32, expected float16"),
    "float16 changed": ("fused", "float16", tampered("cells.0.lstm.R", 0.01), "weights: the weights hash to"),
    "weights unknown": ("gates", "int8", says(9), "its spec says weights 9, which this version does not know"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_a_spoilt_file_is_refused(exported: Exported, tmp_path: Path, what: str) -> None:
    form, stored, mutate, message = REFUSED[what]
    model = onnx.load(exported("numbers", form, stored)[0])
    mutate(model)
    path = tmp_path / "model.onnx"
    onnx.save(model, path)
    with pytest.raises((ArtifactError, SpecError), match=re.escape(message)):
        inspect(path)


def test_parity_sees_other_weights(exported: Exported) -> None:
    """The comparison of numbers, alone: the file is sound, the weights that it should have are others."""
    path, _ = exported("numbers", "gates", "int8")
    spec = load(path).spec
    others = rounded(weights_of(networks.random(networks.NUMBERS, seed=1)), "int8")
    with pytest.raises(DifferenceError, match=r"differs from numpy \(each step\), first at step 0, row 0, layer 0"):
        int8_parity.carried(Int8Model(Session(path, spec), spec, others), steps=4)


def test_parity_sees_weights_that_were_not_rounded(exported: Exported) -> None:
    path, _ = exported("tokens", "gates", "int8")
    spec = load(path).spec
    with pytest.raises(DifferenceError, match=r"differs from numpy \(each step\)"):
        int8_parity.carried(Int8Model(Session(path, spec), spec, weights_of(networks.random(networks.TOKENS))), 40)


# ---- what is said ----


def test_inspect_says_how_weights_are_stored(exported: Exported) -> None:
    text = as_text(inspect(exported("tokens", "gates", "int8")[0]))
    assert "weights  int8, " in text
    assert "W cells.1.forget_gate.W.T [6, 6] int8" in text
    assert "against float32 over 1024 steps  at most" in text
    said = as_json(inspect(exported("tokens", "fused", "float16")[0]))
    assert said["spec"]["weights"] == "WEIGHT_FORMAT_FLOAT16"
    assert said["cells"][0]["gates"]["f"]["R"]["dtype"] == "float16"
    assert said["cells"][0]["gates"]["f"]["b"]["dtype"] == "float32"


def test_losses_are_those_of_the_network(exported: Exported) -> None:
    """The largest difference of y, once more with torch in float32 and onnxruntime, the whole way."""
    path, report = exported("series", "gates", "int8")
    spec, network = load(path).spec, networks.random(networks.SERIES)
    accuracy = report.accuracy
    assert accuracy is not None
    x = np.asarray(samples.inputs(spec, accuracy.rows, accuracy.steps, np.random.default_rng(0)), np.float32)
    state: NDArray[np.float32] = np.zeros((accuracy.rows, 1, 4), np.float32)
    lengths = np.full(accuracy.rows, accuracy.steps, np.int32)
    found = Session(path, spec).run(x, state, state, lengths)["y"]
    with torch.no_grad():
        expected = network(torch.from_numpy(x), network.initial_state(accuracy.rows))[0].numpy()
    off = np.abs(found - expected) / np.array(networks.SERIES.output_scale)
    assert accuracy.error == pytest.approx(off.max(), rel=0.05)
