"""States that loops carry: what tf2onnx and torch.jit.script write, and by hand."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper
from torch import Tensor, nn

from gatestream.export.adopting.dataflow import pairs
from gatestream.export.adopting.expose import expose
from gatestream.export.adopting.reading import read
from gatestream.export.adopting.refusals import check
from gatestream.export.errors import NotStreamableError
from tests.export.adopting import graphs
from tests.export.adopting.exports import export
from tests.export.adopting.stepping import assert_streams, run, stepped

RNG = np.random.default_rng(9)
X = RNG.standard_normal((7, 2, 3)).astype(np.float32)
FLOAT = TensorProto.FLOAT


def looped(*, start: str = "zeros", weights_inside: bool = True) -> onnx.ModelProto:
    """tf2onnx's way: a Loop over time with an Elman cell, whose weights are loop variables; a counter is another.

    Args:
        start: "zeros" in the shape of the batch, "constant", or "input" for a state that is one already.
        weights_inside: they are loop variables; else the body reads them from outside.
    """
    W, R = "Wi" if weights_inside else "W", "Ri" if weights_inside else "R"
    passing = ["Wi", "Ri"] if weights_inside else []
    body = helper.make_graph(
        [
            helper.make_node("Gather", ["x", "i"], ["xt"], axis=0),
            helper.make_node("MatMul", ["xt", W], ["wx"]),
            helper.make_node("MatMul", ["h_in", R], ["rh"]),
            helper.make_node("Add", ["wx", "rh"], ["s"]),
            helper.make_node("Tanh", ["s"], ["h_out"]),
            helper.make_node("Identity", ["go"], ["go_out"]),
            helper.make_node("Add", ["count_in", "one"], ["count_out"]),
            *(helper.make_node("Identity", [name], [f"{name}_out"]) for name in passing),
            helper.make_node("Identity", ["h_out"], ["y_t"]),
        ],
        "body",
        [
            graphs.tensor("i", [], TensorProto.INT64),
            graphs.tensor("go", [], TensorProto.BOOL),
            graphs.tensor("count_in", [], TensorProto.INT64),
            graphs.tensor("h_in", ["batch", 4]),
            *(graphs.tensor(name, [None, 4]) for name in passing),
        ],
        [
            graphs.tensor("go_out", [], TensorProto.BOOL),
            graphs.tensor("count_out", [], TensorProto.INT64),
            graphs.tensor("h_out", ["batch", 4]),
            *(graphs.tensor(f"{name}_out", [None, 4]) for name in passing),
            graphs.tensor("y_t", ["batch", 4]),
        ],
    )
    nodes = [
        helper.make_node("Shape", ["x"], ["sizes"]),
        helper.make_node("Gather", ["sizes", "zero"], ["steps"]),
        helper.make_node("Slice", ["sizes", "first", "second"], ["rows"]),
        helper.make_node("Concat", ["rows", "hidden"], ["shape"], axis=0),
        helper.make_node("ConstantOfShape", ["shape"], ["zeros"]),
        helper.make_node(
            "Loop",
            [
                "steps",
                "true",
                "zero",
                {"zeros": "zeros", "constant": "h0", "input": "h"}[start],
                *["W", "R"][: len(passing)],
            ],
            ["count", "last", *(f"{name}_last" for name in passing), "y"],
            name="while/loop",
            body=body,
        ),
    ]
    constants: dict[str, Any] = {
        "W": RNG.uniform(-0.8, 0.8, (3, 4)).astype(np.float32),
        "R": RNG.uniform(-0.8, 0.8, (4, 4)).astype(np.float32),
        "h0": RNG.uniform(-0.8, 0.8, (1, 4)).astype(np.float32),
        "zero": np.array(0),
        "one": np.array(1),
        "true": np.array(True),
        "first": np.array([1]),
        "second": np.array([2]),
        "hidden": np.array([4]),
    }
    states = [graphs.tensor("h", ["batch", 4])] if start == "input" else []
    ends = [graphs.tensor("last", ["batch", 4])] if start == "input" else []
    inputs, outputs = (
        [graphs.tensor("x", ["time", "batch", 3]), *states],
        [graphs.tensor("y", ["time", "batch", 4]), *ends],
    )
    return graphs.model(nodes, inputs, outputs, constants)


@pytest.mark.parametrize("weights_inside", [True, False])
def test_what_a_loop_changes_is_its_state(weights_inside: bool, tmp_path: Path) -> None:
    """Neither the counter, nor the weights that pass through."""
    proto = looped(weights_inside=weights_inside)
    model = read(graphs.saved(proto, tmp_path))
    check(model)
    assert pairs(model) == []
    [pair] = expose(model)
    assert (pair.input.name, pair.output.name, pair.batch_axis, pair.initial) == (
        "while.loop.h_in",
        "while.loop.h_in_next",
        0,
        None,
    )
    assert_streams(proto, model, [pair], {"x": X}, {"x": 0, "y": 0})


def repeated() -> onnx.ModelProto:
    """A GRU, and three rounds of refinement of what it gives, each from a guess of zeros: no state of a session."""
    body = helper.make_graph(
        [
            helper.make_node("Add", ["guess", "Y"], ["s"]),
            helper.make_node("Tanh", ["s"], ["better"]),
            helper.make_node("Identity", ["go"], ["go_out"]),
        ],
        "body",
        [
            graphs.tensor("i", [], TensorProto.INT64),
            graphs.tensor("go", [], TensorProto.BOOL),
            graphs.tensor("guess", [None, 1, None, 4]),
        ],
        [graphs.tensor("go_out", [], TensorProto.BOOL), graphs.tensor("better", [None, 1, None, 4])],
    )
    nodes = [
        helper.make_node("GRU", ["x", "W", "R", "B"], ["Y"], name="rnn", hidden_size=4),
        helper.make_node("Shape", ["Y"], ["shape"]),
        helper.make_node("ConstantOfShape", ["shape"], ["zeros"]),
        helper.make_node("Loop", ["three", "true", "zeros"], ["y"], name="refine", body=body),
    ]
    constants: dict[str, Any] = {"three": np.array(3), "true": np.array(True)}
    return graphs.model(
        nodes,
        [graphs.tensor("x", ["time", "batch", 3])],
        [graphs.tensor("y", ["time", 1, "batch", 4])],
        graphs.weights("GRU", 3, 4) | constants,
    )


def test_a_loop_within_a_step_has_no_state(tmp_path: Path) -> None:
    proto = repeated()
    model = read(graphs.saved(proto, tmp_path))
    check(model)
    found = expose(model)
    assert [pair.input.name for pair in found] == ["rnn.h"]
    assert_streams(proto, model, found, {"x": X}, {"x": 0, "y": 0})


def test_a_loop_over_the_steps_of_an_example_is_refused(tmp_path: Path) -> None:
    proto = looped()
    proto.graph.initializer.append(onnx.numpy_helper.from_array(np.array(7), "seven"))
    loop = proto.graph.node[-1]
    loop.input[0] = "seven"
    with pytest.raises(NotStreamableError, match="Loop 'while/loop' runs as often"):
        check(read(graphs.saved(proto, tmp_path)))
    longer = RNG.standard_normal((9, 2, 3)).astype(np.float32)
    assert run(proto, {"x": longer})["y"].shape == (7, 2, 4)


def test_a_loop_that_starts_from_a_constant(tmp_path: Path) -> None:
    """Of one row, whose axis nothing in the graph tells."""
    proto = looped(start="constant")
    model = read(graphs.saved(proto, tmp_path))
    [pair] = expose(model)
    assert pair.batch_axis is None
    assert pair.initial is not None
    assert pair.initial.shape == (1, 4)
    x = X[:, :1]
    expected = run(proto, {"x": x})["y"]
    for cuts in ([1] * 7, [3, 4]):
        y = stepped(model, [pair], {"x": x}, cuts, {"x": 0, "y": 0}, rows=1)["y"]
        np.testing.assert_allclose(y, expected, atol=1e-6)


def test_a_loops_state_that_is_an_input_already(tmp_path: Path) -> None:
    model = read(graphs.saved(looped(start="input"), tmp_path))
    [pair] = pairs(model)
    assert (pair.input.name, pair.output.name) == ("h", "last")
    assert expose(model) == []


def scanned(*, backwards: bool = False) -> onnx.ModelProto:
    """A Scan with two states: an Elman cell's, and a running maximum that starts from -1."""
    body = helper.make_graph(
        [
            helper.make_node("MatMul", ["h_in", "R"], ["rh"]),
            helper.make_node("Add", ["x_t", "rh"], ["s"]),
            helper.make_node("Tanh", ["s"], ["h_out"]),
            helper.make_node("Max", ["m_in", "h_out"], ["m_out"]),
            helper.make_node("Identity", ["m_out"], ["y_t"]),
        ],
        "body",
        [graphs.tensor(name, ["batch", 3]) for name in ("h_in", "m_in", "x_t")],
        [graphs.tensor(name, ["batch", 3]) for name in ("h_out", "m_out", "y_t")],
    )
    more: dict[str, Any] = {"scan_input_directions": [1]} if backwards else {}
    nodes = [
        helper.make_node("Gather", ["x", "zero"], ["x0"], axis=0),
        helper.make_node("Shape", ["x0"], ["shape"]),
        helper.make_node("Expand", ["f0", "shape"], ["zeros"]),
        helper.make_node("Expand", ["f1", "shape"], ["least"]),
        helper.make_node(
            "Scan", ["zeros", "least", "x"], ["h_end", "m_end", "y"], name="scan", body=body, num_scan_inputs=1, **more
        ),
    ]
    constants: dict[str, Any] = {
        "R": RNG.uniform(-0.8, 0.8, (3, 3)).astype(np.float32),
        "f0": np.zeros((), np.float32),
        "f1": np.full((), -1, np.float32),
        "zero": np.array(0),
    }
    return graphs.model(
        nodes, [graphs.tensor("x", ["time", "batch", 3])], [graphs.tensor("y", ["time", "batch", 3])], constants
    )


def test_what_a_scan_carries_is_its_state(tmp_path: Path) -> None:
    proto = scanned()
    model = read(graphs.saved(proto, tmp_path))
    check(model)
    found = expose(model)
    assert [pair.input.name for pair in found] == ["scan.h_in", "scan.m_in"]
    assert found[0].initial is None
    np.testing.assert_array_equal(found[1].initial, -np.ones((1, 3), np.float32))
    assert_streams(proto, model, found, {"x": X}, {"x": 0, "y": 0})


def test_a_scan_that_goes_backwards_is_refused(tmp_path: Path) -> None:
    with pytest.raises(NotStreamableError, match="Scan 'scan'"):
        check(read(graphs.saved(scanned(backwards=True), tmp_path)))


class Scripted(nn.Module):
    """A cell of its own equations, in a loop that torch.jit.script keeps."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.input, self.hidden = nn.Linear(3, 4), nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        h = torch.zeros(x.size(1), 4)
        ys: list[Tensor] = []
        for t in range(x.size(0)):
            h = torch.tanh(self.input(x[t]) + self.hidden(h))
            ys.append(h)
        return torch.stack(ys)


@pytest.mark.filterwarnings("ignore")
def test_a_loop_that_torch_scripted(tmp_path: Path) -> None:
    path = export(
        torch.jit.script(Scripted()),
        [torch.randn(5, 2, 3)],
        tmp_path / "scripted.onnx",
        names=(["x"], ["y"]),
        axes={"x": ["time", "batch", None], "y": ["time", "batch", None]},
    )
    assert "Loop" in {node.op_type for node in onnx.load(path).graph.node}
    model = read(path)
    check(model)
    [pair] = expose(model)
    assert_streams(path, model, [pair], {"x": X}, {"x": 0, "y": 0})
