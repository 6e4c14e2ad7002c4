"""Refusals behind which there is no file to serve: what a server would do with the source is done by hand here."""

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnxruntime.capi.onnxruntime_pybind11_state import Fail, RuntimeException

from gatestream.export.adopting.adopt import adopt
from gatestream.export.adopting.options import Options
from gatestream.export.errors import AmbiguousError, NotStreamableError
from tests.export.adopting import graphs
from tests.export.adopting.stepping import run

RNG = np.random.default_rng(8)
X = RNG.standard_normal((2, 4, 3)).astype(np.float32)
"""Of two sessions, [sessions, steps, features]."""


def test_float64_layers_do_not_run(tmp_path: Path) -> None:
    made = graphs.plain()
    for item in made.graph.initializer:
        item.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(item).astype(np.float64), item.name))
    for value in (*made.graph.input, *made.graph.output):
        value.type.tensor_type.elem_type = TensorProto.DOUBLE
    with pytest.raises(NotStreamableError, match="LSTM 'rnn' computes in float64, which onnxruntime does not"):
        adopt(graphs.saved(made, tmp_path), tmp_path / "out.onnx")
    with pytest.raises(RuntimeException, match="does not support double"):
        run(made, {"x": np.zeros((1, 1, 3))})


W, R = RNG.standard_normal((3, 4)).astype(np.float32), RNG.standard_normal((4, 4)).astype(np.float32)


def two_rows() -> onnx.ModelProto:
    """h' = tanh(x W + h R) of two rows in every run: a Reshape says so."""
    nodes = [
        helper.make_node("Reshape", ["x", "rows"], ["two"]),
        helper.make_node("MatMul", ["two", "W"], ["xw"]),
        helper.make_node("MatMul", ["h", "R"], ["hr"]),
        helper.make_node("Add", ["xw", "hr"], ["sum"]),
        helper.make_node("Tanh", ["sum"], ["h2"]),
        helper.make_node("Identity", ["h2"], ["y"]),
    ]
    inputs = [graphs.tensor("x", [None, 3]), graphs.tensor("h", [None, 4])]
    ends = [graphs.tensor("y", [None, 4]), graphs.tensor("h2", [None, 4])]
    return graphs.model(nodes, inputs, ends, {"rows": np.array([2, 3]), "W": W, "R": R})


def alone(session: int, steps: int) -> graphs.Array:
    """What a session's last step gives, by the equation."""
    h = np.zeros((1, 4), np.float32)
    for t in range(steps):
        h = np.tanh(X[session, t][None] @ W + h @ R)
    return h


def test_rows_frozen_at_two_step_a_session_that_waits(tmp_path: Path) -> None:
    made = two_rows()
    told = Options(states={"h": "h2"}, time={"x": None}, batch={"x": 0, "h": 0})
    with pytest.raises(NotStreamableError, match=r"makes \[2, 3\] of 'x'.* is frozen inside"):
        adopt(graphs.saved(made, tmp_path), tmp_path / "out.onnx", told)
    with pytest.raises(Fail, match="cannot be reshaped"):
        run(made, {"x": X[:1, 0], "h": np.zeros((1, 4), np.float32)})
    # Two sessions as its two rows: the first takes two steps while the second waits, then the second takes its second.
    h = np.zeros((2, 4), np.float32)
    for x in (X[:, 0], np.stack([X[0, 1], np.zeros(3, np.float32)]), np.stack([np.zeros(3, np.float32), X[1, 1]])):
        h = run(made, {"x": x, "h": h})["h2"]
    assert np.abs(h[1:] - alone(1, 2)).max() > 0.01


def growing() -> onnx.ModelProto:
    """The mean of all steps so far, each of which is kept: seen [batch, past, 3] is longer after every step."""
    nodes = [
        helper.make_node("Unsqueeze", ["x", "one"], ["step"]),
        helper.make_node("Concat", ["seen", "step"], ["seen2"], axis=1),
        helper.make_node("ReduceMean", ["seen2"], ["y"], axes=[1], keepdims=0),
    ]
    inputs = [graphs.tensor("x", ["batch", 3]), graphs.tensor("seen", ["batch", "past", 3])]
    ends = [graphs.tensor("y", ["batch", 3]), graphs.tensor("seen2", ["batch", "now", 3])]
    return graphs.model(nodes, inputs, ends, {"one": np.array([1])})


def test_a_state_that_grows_gives_sessions_of_unlike_age_wrong_numbers(tmp_path: Path) -> None:
    made = growing()
    for options in (Options(), Options(states={"seen": "seen2"}, time={"x": None})):
        with pytest.raises((AmbiguousError, NotStreamableError), match="seen"):
            adopt(graphs.saved(made, tmp_path), tmp_path / "out.onnx", options)
    seen = [X[0, :3], X[1, :1]]
    right = [run(made, {"x": X[k, None, 3], "seen": each[None]})["y"] for k, each in enumerate(seen)]
    # A batch has rows of one length: the younger session's are filled up with zeros.
    together = np.stack([seen[0], np.concatenate([seen[1], np.zeros((2, 3), np.float32)])])
    found = run(made, {"x": X[:, 3], "seen": together})["y"]
    np.testing.assert_allclose(found[:1], right[0], atol=1e-6)
    assert np.abs(found[1:] - right[1]).max() > 0.01
