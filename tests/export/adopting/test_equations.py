"""Cells and caches that are written out, from torch's exporters and by hand."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import helper
from torch import Tensor, nn

from gatestream.export.adopting.dataflow import pairs
from gatestream.export.adopting.reading import read
from tests.export.adopting import graphs
from tests.export.adopting.exports import Exporter, export


class Cell(nn.Module):
    """One step of torch's cell, and what is read off it."""

    def __init__(self, kind: str, inputs: int = 3) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.cell = nn.LSTMCell(inputs, 4) if kind == "LSTM" else nn.GRUCell(inputs, 4)
        self.head = nn.Linear(4, 2)

    def forward(self, x: Tensor, h: Tensor, c: Tensor | None = None) -> tuple[Tensor, ...]:
        after = self.cell(x, h if c is None else (h, c))
        states = after if isinstance(after, tuple) else (after,)
        return self.head(states[0]), *states


@pytest.mark.parametrize("exporter", ["torchscript", "dynamo"])
@pytest.mark.parametrize("kind", ["LSTM", "GRU"])
def test_a_cell_of_torch_is_paired_by_its_equations(kind: str, exporter: Exporter, tmp_path: Path) -> None:
    before, after = (["a", "b"], ["p", "q"]) if kind == "LSTM" else (["a"], ["p"])
    path = export(
        Cell(kind),
        [torch.randn(2, 3), *(torch.zeros(2, 4) for _ in before)],
        tmp_path / "cell.onnx",
        exporter=exporter,
        opset=18,
        names=(["x", *before], ["y", *after]),
        axes={name: ["batch", None] for name in ("x", *before, "y", *after)},
    )
    found = pairs(read(path))
    assert [(pair.input.name, pair.output.name) for pair in found] == list(zip(before, after, strict=True))


def mixture(*, gate: str = "Sigmoid", candidate: str = "Tanh", size: int = 3) -> onnx.ModelProto:
    """h' = (1 - z) n + z h."""
    nodes = [
        helper.make_node("MatMul", ["x", "Wz"], ["zx"]),
        helper.make_node(gate, ["zx"], ["z"]),
        helper.make_node("MatMul", ["x", "Wn"], ["nx"]),
        helper.make_node(candidate, ["nx"], ["n"]),
        helper.make_node("Sub", ["one", "z"], ["rest"]),
        helper.make_node("Mul", ["rest", "n"], ["new"]),
        helper.make_node("Mul", ["z", "h"], ["kept"]),
        helper.make_node("Add", ["kept", "new"], ["h_next"]),
    ]
    rng = np.random.default_rng(0)
    weights: dict[str, Any] = {name: rng.standard_normal((size, 4)).astype(np.float32) for name in ("Wz", "Wn")}
    return graphs.model(
        nodes,
        [graphs.tensor("x", ["batch", size]), graphs.tensor("h", ["batch", 4])],
        [graphs.tensor("h_next", ["batch", 4])],
        weights | {"one": np.float32(1)},
    )


def named(proto: onnx.ModelProto, folder: Path) -> list[tuple[str | None, str | None]]:
    return [(pair.input.name, pair.output.name) for pair in pairs(read(graphs.saved(proto, folder)))]


def test_a_mixture_of_state_and_candidate(tmp_path: Path) -> None:
    assert named(mixture(), tmp_path) == [("h", "h_next")]


@pytest.mark.parametrize("changed", [{"gate": "Relu"}, {"candidate": "Relu"}])
def test_what_is_no_gate_or_no_candidate_is_not_taken_for_one(changed: dict[str, str], tmp_path: Path) -> None:
    assert named(mixture(**changed), tmp_path) == []  # type: ignore[arg-type]


def test_an_input_of_the_states_shape_makes_it_ambiguous(tmp_path: Path) -> None:
    """x and h of an LSTM cell stand in its equations alike; where their shapes are alike too, running it tells."""
    path = export(
        Cell("LSTM", inputs=4),
        [torch.randn(2, 4), torch.zeros(2, 4), torch.zeros(2, 4)],
        tmp_path / "cell.onnx",
        names=(["x", "h", "c"], ["y", "hn", "cn"]),
        axes={name: ["batch", None] for name in ("x", "h", "c", "y", "hn", "cn")},
    )
    assert pairs(read(path)) == []


def masked(*nodes: onnx.NodeProto, **constants: Any) -> onnx.ModelProto:
    """A mask of x, by itself: y is of x's shape, and no state."""
    own = [
        helper.make_node("MatMul", ["x", "W"], ["s"]),
        helper.make_node("Sigmoid", ["s"], ["mask"]),
        helper.make_node("Mul", ["mask", "x"], ["m"]),
    ]
    W = np.random.default_rng(0).standard_normal((4, 4)).astype(np.float32)
    return graphs.model(
        [*own, *nodes],
        [graphs.tensor("x", ["batch", 4])],
        [graphs.tensor("y", ["batch", 4])],
        {"W": W, **constants},
    )


def test_a_mask_is_no_state(tmp_path: Path) -> None:
    assert named(masked(helper.make_node("Identity", ["m"], ["y"])), tmp_path) == []
    assert named(masked(helper.make_node("Add", ["m", "x"], ["y"])), tmp_path) == []


def test_numbers_that_pass_beside_changed_ones_are_no_cache(tmp_path: Path) -> None:
    """y is the first number of x as it is, and the others masked."""
    nodes = [
        helper.make_node("Slice", ["x", "zero", "one", "one"], ["kept"]),
        helper.make_node("Slice", ["m", "one", "four", "one"], ["others"]),
        helper.make_node("Concat", ["kept", "others"], ["y"], axis=1),
    ]
    constants = {"zero": np.array([0]), "one": np.array([1]), "four": np.array([4])}
    assert named(masked(*nodes, **constants), tmp_path) == []


def test_caches_of_one_shape_are_not_confused(tmp_path: Path) -> None:
    """Two convolutions one above the other, whose caches are of one shape, and named so as to mislead."""
    nodes = []
    source = "x"
    for k, (cache, after) in enumerate((("b", "p"), ("a", "q"))):
        nodes += [
            helper.make_node("Concat", [cache, source], [f"joined{k}"], axis=2),
            helper.make_node("Slice", [f"joined{k}", "last", "end", "axis"], [after]),
            helper.make_node("Conv", [f"joined{k}", f"K{k}"], [f"y{k}"]),
        ]
        source = f"y{k}"
    nodes.append(helper.make_node("Identity", [source], ["y"]))
    rng = np.random.default_rng(0)
    constants: dict[str, Any] = {f"K{k}": rng.standard_normal((3, 3, 3)).astype(np.float32) for k in range(2)}
    constants |= {"last": np.array([-2]), "end": np.array([2**31]), "axis": np.array([2])}
    proto = graphs.model(
        nodes,
        [graphs.tensor("x", ["batch", 3, "time"]), *(graphs.tensor(name, ["batch", 3, 2]) for name in "ab")],
        [graphs.tensor("y", ["batch", 3, "time"]), *(graphs.tensor(name, ["batch", 3, 2]) for name in "pq")],
        constants,
    )
    assert named(proto, tmp_path) == [("a", "q"), ("b", "p")]
