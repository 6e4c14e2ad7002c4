"""Adopted files in both forms: the same numbers, and gates that are those of the file's own cell."""

from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import onnxruntime
import pytest
from onnx import TensorProto, helper

from gatestream.export import artifact
from gatestream.export.adopting.adopt import adopt
from gatestream.export.adopting.options import Options
from gatestream.export.errors import StructureError
from gatestream.export.finder.claims import check_claims
from gatestream.export.proof import stream_checks
from gatestream.export.rewriting.reform import Form, reform
from gatestream.protos.dtypes import DTYPES
from gatestream.protos.gatestream.v1 import gatestream_pb2 as pb
from tests.export.adopting import graphs
from tests.export.adopting.test_adopt import told
from tests.support.strangers.generators import ADOPTED

KINDS = {
    "window": "LSTM",  # an operator in a Scan over time
    "sample_rate": "LSTM",  # in an If, once
    "no_batch": "LSTM",
    "lstm_cell_unrolled": "LSTM",
    "lstm_packed": "LSTM",
    "frozen_inside": "GRU",  # in a Scan over rows
    "gru_loop": "GRU",
    "caches": "GRU",
    "gru_float16": "GRU",
}


@pytest.fixture(scope="module")
def adopted(tmp_path_factory: pytest.TempPathFactory) -> Any:
    @cache
    def made(name: str) -> tuple[Path, pb.ModelSpec]:
        folder = tmp_path_factory.mktemp(name)
        stranger = ADOPTED[name](folder)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(stream_checks, "_SECONDS", 0.1)
            spec = adopt(stranger.path, folder / "out.onnx", told(stranger)).spec
        return folder / "out.onnx", spec

    return made


def reformed(path: Path, folder: Path, *forms: Form) -> tuple[Path, pb.ModelSpec]:
    found = artifact.load(path)
    for form in forms:
        reform(found.model, found.spec, form)
    check_claims(found.model, found.spec)
    artifact.save(found.model, found.spec, folder / "reformed.onnx")
    return folder / "reformed.onnx", found.spec


def feed_of(spec: pb.ModelSpec, rows: int, steps: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    feed = {}
    for tensor in spec.inputs:
        feed[tensor.name] = rng.normal(size=(rows, steps, *tensor.shape)).astype(DTYPES[tensor.dtype])
    for state in spec.states:
        feed[state.input] = rng.uniform(-1, 1, (rows, *state.shape)).astype(DTYPES[state.dtype])
    return feed


def run(path: Path, feed: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    names = [each.name for each in session.get_outputs()]
    return dict(zip(names, session.run(names, feed), strict=True))


@pytest.mark.parametrize("forms", [("gates",), ("fused",), ("gates", "fused"), ("fused", "gates")], ids="+".join)
@pytest.mark.parametrize("name", KINDS)
def test_numbers_stay(adopted: Any, tmp_path: Path, name: str, forms: tuple[Form, ...]) -> None:
    path, before = adopted(name)
    again, spec = reformed(path, tmp_path, *forms)
    assert spec.weights_fingerprint == before.weights_fingerprint
    assert bool(spec.gates) == (forms[-1] == "gates")
    feed = feed_of(spec, 3, 4)
    found = run(again, feed)
    for output, values in run(path, feed).items():
        tolerance = 2e-3 if values.dtype == np.float16 else 1e-5
        np.testing.assert_allclose(found[output], values, rtol=0, atol=tolerance, err_msg=output)


@pytest.mark.parametrize("name", KINDS)
def test_gates_are_those_of_the_step(adopted: Any, tmp_path: Path, name: str) -> None:
    """One step from a given state: what becomes of it is what the gates say, by the cell's equations in NumPy."""
    path, _ = adopted(name)
    again, spec = reformed(path, tmp_path, "gates")
    feed = feed_of(spec, 3, 1)
    found = run(again, feed)
    gates = {gate.symbol: found[gate.output][:, 0].astype(np.float64) for gate in spec.gates}
    hidden = next(iter(gates.values())).shape[1]
    states = [state for state in spec.states if not state.input.startswith("cache")]
    before, after = (
        np.concatenate([each[key].reshape(3, -1, hidden) for key in keys], axis=1).astype(np.float64)
        for each, keys in ((feed, [s.input for s in states]), (found, [s.output for s in states]))
    )
    tolerance = 2e-3 if name == "gru_float16" else 1e-5
    if KINDS[name] == "LSTM":
        c = gates["f"] * before[:, 1] + gates["i"] * gates["g"]
        np.testing.assert_allclose(after[:, 1], c, rtol=0, atol=tolerance)
        np.testing.assert_allclose(after[:, 0], gates["o"] * np.tanh(c), rtol=0, atol=tolerance)
    else:
        h = (1 - gates["z"]) * gates["n"] + gates["z"] * before[:, 0]
        np.testing.assert_allclose(after[:, 0], h, rtol=0, atol=tolerance)
    assert np.ptp(gates["n" if KINDS[name] == "GRU" else "g"]) > 0.01


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("quantised", "DynamicQuantizeLSTM"),
        ("rnn_no_bias", "data flow shows no LSTM and no GRU in it, so it has no gates"),
    ],
)
def test_what_has_no_gates_to_show(adopted: Any, name: str, message: str) -> None:
    path, _ = adopted(name)
    found = artifact.load(path)
    with pytest.raises(StructureError, match=message):
        reform(found.model, found.spec, "gates")


def test_a_cell_in_a_loop_that_says_nothing_of_shapes_becomes_an_operator(tmp_path: Path) -> None:
    """As torch.jit.script writes an LSTMCell in a loop: the shapes of what a Loop carries are inferred by nobody."""
    rng = np.random.default_rng(0)
    constants = {
        "W": rng.normal(0, 0.4, (3, 16)).astype(np.float32),
        "R": rng.normal(0, 0.4, (4, 16)).astype(np.float32),
        "first": np.array(0),
        "true": np.array(True),
    }
    steps = """Gather xs count > x; MatMul x W > wx; MatMul h R > rh; Add wx rh > sum; Split sum > i f g o;
        Sigmoid i > si; Sigmoid f > sf; Tanh g > tg; Sigmoid o > so; Mul sf c > kept; Mul si tg > new;
        Add kept new > c2; Tanh c2 > tc; Mul so tc > h2; Identity h2 > each; Identity on > on2"""
    nodes = []
    for line in steps.split(";"):
        (operator, *taken), given = (part.split() for part in line.split(">"))
        nodes.append(helper.make_node(operator, taken, given))
        if operator == "Split":
            nodes[-1].attribute.append(helper.make_attribute("axis", 1))
    count = graphs.tensor("count", [], TensorProto.INT64)
    on, on2 = (graphs.tensor(name, [], TensorProto.BOOL) for name in ("on", "on2"))
    carried, ends = (
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in names]
        for names in (("h", "c"), ("h2", "c2", "each"))
    )
    body = helper.make_graph(nodes, "body", [count, on, *carried], [on2, *ends])
    outer = [
        helper.make_node("Shape", ["xs"], ["sizes"]),
        helper.make_node("Gather", ["sizes", "first"], ["steps"]),
        helper.make_node("Loop", ["steps", "true", "h0", "c0"], ["hn", "cn", "y"], body=body),
    ]
    made = graphs.model(
        outer,
        [graphs.tensor("xs", ["time", "batch", 3]), *(graphs.tensor(name, ["batch", 4]) for name in ("h0", "c0"))],
        [graphs.tensor("y", ["time", "batch", 4]), *(graphs.tensor(name, ["batch", 4]) for name in ("hn", "cn"))],
        constants,
    )
    found = adopt(graphs.saved(made, tmp_path), tmp_path / "out.onnx", Options(form="fused"))
    assert found.spec.source.rewritten[-1].endswith("to the operator")
    assert "LSTM" in [node.op_type for node in ir.load(tmp_path / "out.onnx").graph.all_nodes()]
