"""Files that torch's exporters write, with and without the states outside."""

from itertools import product
from pathlib import Path

import numpy as np
import pytest
import torch

from gatestream.export.adopting.dataflow import pairs
from gatestream.export.adopting.expose import expose
from gatestream.export.adopting.reading import read
from gatestream.export.adopting.refusals import check
from gatestream.export.errors import NotStreamableError
from tests.export.adopting.exports import Exporter, Stack, WithLast, WithStates, export
from tests.export.adopting.stepping import assert_streams, run

RNG = np.random.default_rng(2)
GRID = [
    *(("torchscript", opset, kind) for opset, kind in product((11, 12, 13, 14, 16, 18, 20), ("LSTM", "GRU", "RNN"))),
    ("dynamo", 18, "LSTM"),
]


@pytest.mark.parametrize(("exporter", "opset", "kind"), GRID)
def test_states_that_nobody_exposed(exporter: Exporter, opset: int, kind: str, tmp_path: Path) -> None:
    layers, batch_first, bias = 1 + opset % 2, opset % 4 > 1, opset != 12
    module = Stack(kind, layers, batch_first, bias)
    axes: list[str | None] = ["batch", "time"] if batch_first else ["time", "batch"]
    path = export(
        module,
        [torch.randn(2, 7, 3)],
        tmp_path / "theirs.onnx",
        exporter=exporter,
        opset=opset,
        names=(["x"], ["y"]),
        axes={"x": [*axes, None], "y": [*axes, None]},
    )
    model = read(path)
    check(model)
    assert pairs(model) == []
    found = expose(model)
    assert len(found) == layers * (2 if kind == "LSTM" else 1)
    time = axes.index("time")
    x = RNG.standard_normal((2, 9, 3) if batch_first else (9, 2, 3)).astype(np.float32)
    assert_streams(path, model, found, {"x": x}, {"x": time, "y": time})


@pytest.mark.parametrize(
    ("exporter", "kind", "layers"), [("torchscript", "LSTM", 2), ("torchscript", "GRU", 3), ("dynamo", "GRU", 2)]
)
def test_states_that_are_inputs_and_outputs(exporter: Exporter, kind: str, layers: int, tmp_path: Path) -> None:
    module = WithStates(kind, layers)
    before = ["a", "b"][: 2 if kind == "LSTM" else 1]
    after = ["p", "q"][: len(before)]
    state = [None, "batch", None]
    path = export(
        module,
        [torch.randn(2, 7, 3), *(torch.zeros(layers, 2, 4) for _ in before)],
        tmp_path / "theirs.onnx",
        exporter=exporter,
        opset=18,
        names=(["x", *before], ["y", *after]),
        axes={"x": ["batch", "time", None], "y": ["batch", "time", None], **dict.fromkeys([*before, *after], state)},
    )
    model = read(path)
    found = pairs(model)
    assert [(pair.input.name, pair.output.name) for pair in found] == list(zip(before, after, strict=True))
    assert expose(model) == []


@pytest.mark.parametrize("layers", [1, 2])
def test_last_states_that_are_outputs_already(layers: int, tmp_path: Path) -> None:
    path = export(
        WithLast("LSTM", layers),
        [torch.randn(2, 7, 3)],
        tmp_path / "theirs.onnx",
        names=(["x"], ["y", "hn", "cn"]),
        axes={
            "x": ["batch", "time", None],
            "y": ["batch", "time", None],
            "hn": [None, "batch", None],
            "cn": [None, "batch", None],
        },
    )
    model = read(path)
    found = expose(model)
    outputs = [value.name for value in model.graph.outputs]
    assert outputs[0] == "y"
    assert set(outputs[1:]) == {pair.output.name for pair in found}
    x = RNG.standard_normal((2, 9, 3)).astype(np.float32)
    assert_streams(path, model, found, {"x": x}, {"x": 1, "y": 1})


@pytest.mark.parametrize(("kind", "said"), [("GRU", "frozen"), ("RNN", "unrolled")])
def test_steps_that_an_exporter_counted_once_for_all(kind: str, said: str, tmp_path: Path) -> None:
    """Time first: torch's new exporter writes the example's two steps into a Reshape, and takes nn.RNN to pieces."""
    module = Stack(kind, batch_first=False)
    path = export(
        module,
        [torch.randn(2, 7, 3)],
        tmp_path / "theirs.onnx",
        exporter="dynamo",
        opset=20,
        names=(["x"], ["y"]),
        axes={"x": ["time", "batch", None], "y": ["time", "batch", None]},
    )
    with pytest.raises(NotStreamableError, match=said):
        check(read(path))
    x = torch.from_numpy(RNG.standard_normal((6, 7, 3)).astype(np.float32))
    expected = module(x).detach().numpy()
    found = run(path, {"x": x.numpy()})["y"]
    assert found.shape != expected.shape or np.abs(found - expected).max() > 1e-2
