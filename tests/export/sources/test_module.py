"""Modules of users' own, each exported and proved, and their files compared with the modules themselves once more."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import nn

from gatestream.export.proof.report import VerificationError
from gatestream.export.sources import operators
from gatestream.export.sources.module import export_module
from gatestream.export.sources.signature import read
from gatestream.export.sources.streamed import Streamed
from gatestream.export.sources.tracing import trace
from gatestream.protos.gatestream.v1 import gatestream_pb2 as pb
from gatestream.protos.weights import fingerprint
from gatestream.server.backend.artifact import Artifact
from tests.export.sources import modules


def run(path: Path, feed: dict[str, Any]) -> dict[str, Any]:
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    names = [each.name for each in session.get_outputs()]
    return dict(zip(names, session.run(names, feed), strict=True))


def walked(path: Path, x: Any, chunks: tuple[int, ...]) -> dict[str, Any]:
    """The first input's steps in chunks, states carried; outputs joined."""
    spec = Artifact.load(path).spec
    layout = Artifact.load(path).layout
    states = {each.name: np.repeat(each.first()[None], len(x), 0) for each in layout.states}
    parts = []
    for start, stop in zip(np.cumsum((0, *chunks)), np.cumsum(chunks), strict=False):
        found = run(path, {spec.inputs[0].name: x[:, start:stop], **states})
        states = {each.name: found[each.after] for each in layout.states}
        parts.append(found)
    return {each.name: np.concatenate([part[each.name] for part in parts], axis=1) for each in spec.outputs}


CASES: dict[str, tuple[Callable[[], nn.Module], dict[str, Any], list[str]]] = {
    "explicit": (modules.Explicit, {"inputs": ["x[4]"], "states": ["h[1,batch,6]"]}, ["h"]),
    "hidden": (modules.Hidden, {"inputs": ["x[4]"]}, ["lstm.h", "lstm.c"]),
    "bias off": (lambda: modules.Hidden(bias=False), {"inputs": ["x[4]"]}, ["lstm.h", "lstm.c"]),
    "time first": (
        lambda: modules.Hidden(batch_first=False),
        {"inputs": ["x[time,batch,4]"]},
        ["lstm.h", "lstm.c"],
    ),
    "projected": (lambda: modules.Hidden(proj_size=3), {"inputs": ["x[4]"]}, ["lstm.h", "lstm.c"]),
    "nested": (modules.Nested, {"inputs": ["x[4]"]}, ["body.low.h", "body.high.h", "last.h"]),
    "packed": (modules.Packed, {"inputs": ["x[4]"], "length": "lengths"}, ["lstm.h", "lstm.c"]),
    "cells in a loop": (modules.CellLoop, {"inputs": ["x[4]"]}, ["first.h", "first.c", "second.h"]),
    "cells without gates": (modules.Elman, {"inputs": ["x[4]"]}, ["low.h", "high.h"]),
    "minGRU": (modules.MinGRU, {"inputs": ["x[4]"], "states": ["h[6]"]}, ["h"]),
    "one number": (modules.OneNumber, {"inputs": ["x[4]"]}, ["gru.h"]),
    "last step": (modules.LastStep, {"inputs": ["x[time,batch,4]"]}, ["gru.h"]),
    "tutorial": (modules.Tutorial, {"inputs": ["x[4]"]}, ["rnn.h", "rnn.c"]),
    "both kinds": (modules.Both, {"inputs": ["x[4]"], "states": ["states.h[5]"]}, ["states.h", "hidden.h"]),
    "one layer twice": (modules.Twice, {"inputs": ["x[4]"]}, ["gru.h", "gru_2.h"]),
    "one cell for two layers": (
        modules.Shared,
        {"inputs": ["x[4]"]},
        ["cell.h", "cell_2.h", "twice.h", "twice.c"],
    ),
    "a state that is normalised": (lambda: modules.Normalised(last=True), {"inputs": ["x[4]"]}, ["cell.h"]),
    "a state that decays": (modules.Decaying, {"inputs": ["x[4]"], "states": ["h[6]"]}, ["h"]),
    "a cell of one's own": (modules.OwnLoop, {"inputs": ["x[4]"]}, ["below.h", "cell.state.0", "cell.state.1"]),
    "LSTM itself": (lambda: nn.LSTM(4, 6), {"inputs": ["input[time,batch,4]"]}, ["h", "c"]),
}


@pytest.mark.parametrize("case", CASES)
def test_a_module_becomes_a_file_that_gives_the_same(case: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    make, said, states = CASES[case]
    module = make()
    made = export_module(module, tmp_path / "mine.onnx", **said)
    assert [each.input for each in made.spec.states] == states
    assert made.report.passed
    x = np.random.default_rng(1).standard_normal((3, 12, 4), dtype=np.float32)
    found = walked(tmp_path / "mine.onnx", x, (5, 1, 4, 2))
    given = torch.from_numpy(x)
    if case in ("time first", "last step", "LSTM itself"):
        given = given.transpose(0, 1)
    with torch.no_grad():
        if case == "explicit":
            expected = {"y": module(given, torch.zeros(1, 3, 6))[0]}
        elif case == "minGRU":
            expected = {"y": module(given, torch.zeros(3, 6))[0]}
        elif case == "a state that decays":
            expected = {"y": module(given, torch.zeros(3, 6)).y}
        elif case == "both kinds":
            expected = {"y": module(given, {"h": torch.zeros(3, 5)})[0]}
        elif case in ("tutorial", "a state that is normalised"):
            expected = {"y": torch.stack([module(given[:, : t + 1]) for t in range(12)], dim=1)}
        elif case == "packed":
            expected = {"y": module(given, torch.full((3,), 12))}
        elif case == "nested":
            expected = module(given)
        elif case == "LSTM itself":
            expected = {"y": module(given)[0].transpose(0, 1)}
        elif case == "time first":
            expected = {"y": module(given).transpose(0, 1)}
        elif case == "last step":
            expected = {"y": torch.stack([module(given[: t + 1]) for t in range(12)], dim=1)}
        else:
            expected = {"y": module(given)}
    for name, values in expected.items():
        np.testing.assert_allclose(found[name], values.numpy(), rtol=0, atol=5e-6)


def test_a_module_shows_how_it_is_called_by_its_methods(tmp_path: Path) -> None:
    """One step a call, and a state of its own start: a state-space layer."""
    torch.manual_seed(0)
    module = modules.StateSpace()
    made = export_module(module, tmp_path / "ssm.onnx", outputs=["signal"])
    first, second = made.spec.states
    assert (first.input, first.initial, second.input) == ("state.0", 0.5, "state.1")
    assert np.frombuffer(second.initial_values, "<f4").tolist() == [0, 1, 2, 3, 4, 5]
    x = torch.randn(3, 12, 4)
    state, ys = module.initial_state(3), []
    with torch.no_grad():
        for t in range(12):
            y, state = module(x[:, t], state)
            ys.append(y)
    found = walked(tmp_path / "ssm.onnx", x.numpy(), (5, 1, 6))
    np.testing.assert_allclose(found["signal"], torch.stack(ys, dim=1).numpy(), rtol=0, atol=2e-6)


def test_caches_counters_and_tokens(tmp_path: Path) -> None:
    torch.manual_seed(0)
    module = modules.ConvCache()
    states = ["states.0[batch,4,2]", "states.1:int64[]"]
    made = export_module(module, tmp_path / "conv.onnx", inputs=["token:int64<11[]"], states=states)
    assert (made.spec.inputs[0].limit, made.spec.states[1].dtype) == (11, pb.DATA_TYPE_INT64)
    tokens = torch.randint(11, (3, 12))
    with torch.no_grad():
        whole = module(tokens, torch.zeros(3, 4, 2), torch.zeros(3, dtype=torch.int64))[0]
    found = walked(tmp_path / "conv.onnx", tokens.numpy(), (5, 1, 6))
    np.testing.assert_allclose(found["y"], whole.numpy(), rtol=0, atol=2e-6)


@pytest.mark.parametrize("make", [modules.Windowed, modules.WindowedLoop])
def test_convolutions_along_a_window_are_products(make: Callable[[], nn.Module], tmp_path: Path) -> None:
    """In a graph of many steps, and in one of a step that a Scan goes over."""
    torch.manual_seed(0)
    module = make()
    made = export_module(module, tmp_path / "mine.onnx", inputs=["x[48]"])
    assert "convolutions of few positions as one product for all rows: 2" in made.spec.source.rewritten
    graph = onnx.load(tmp_path / "mine.onnx").graph
    assert (make is modules.WindowedLoop) == any(node.op_type == "Scan" for node in graph.node)
    assert {"filters.bias", "filters.weight.product"} <= {each.name for each in graph.initializer}
    assert "filters.weight" not in {each.name for each in graph.initializer}
    x = np.random.default_rng(1).standard_normal((3, 12, 48), dtype=np.float32)
    with torch.no_grad():
        whole = module(torch.from_numpy(x))
    found = walked(tmp_path / "mine.onnx", x, (5, 1, 4, 2))
    np.testing.assert_allclose(found["y"], whole.numpy(), rtol=0, atol=2e-6)


def test_half_as_many_bits(tmp_path: Path) -> None:
    torch.manual_seed(0)
    made = export_module(modules.Half(), tmp_path / "half.onnx", inputs=["x:float16[4]"], states=["h:float16[4]"])
    assert made.spec.states[0].dtype == made.spec.inputs[0].dtype == pb.DATA_TYPE_FLOAT16


def test_layers_are_operators_and_named_after_the_submodules(tmp_path: Path) -> None:
    torch.manual_seed(0)
    made = export_module(modules.Nested(), tmp_path / "mine.onnx", inputs=["x[4]"])
    model = onnx.load(tmp_path / "mine.onnx")
    kinds = {node.name: node.op_type for node in model.graph.node if node.op_type in ("LSTM", "GRU", "RNN")}
    assert kinds == {"body.low": "GRU", "body.high": "GRU", "last": "RNN"}
    assert {"body.low.W", "body.low.R", "body.low.B", "body.high.R", "last.W"} <= {
        each.name for each in model.graph.initializer
    }
    assert [(cell.name, cell.kind, cell.hidden, list(cell.states)) for cell in made.spec.cells] == [
        ("body.low", pb.CELL_KIND_GRU, 6, ["body.low.h"]),
        ("body.high", pb.CELL_KIND_GRU, 7, ["body.high.h"]),
        ("last", pb.CELL_KIND_RNN, 3, ["last.h"]),
    ]
    assert [each.name for each in made.spec.outputs] == ["scores", "features", "loudness"]
    assert len(made.spec.states[1].initial_values) == 7 * 4


def test_of_the_step_that_shows_a_state_nothing_is_computed() -> None:
    streamed = Streamed(modules.OwnLoop(), read(modules.OwnLoop(), ["x[4]"]))
    (scan,) = trace(streamed).model.graph
    body = [node.op_type for node in scan.attributes["body"].as_graph()]
    assert (body.count("LayerNormalization"), body.count("Concat")) == (1, 0)
    assert body.count("Gemm") + body.count("MatMul") == 4  # two of the GRU cell, two of the other


def test_the_fingerprint_is_that_of_the_modules_weights(tmp_path: Path) -> None:
    torch.manual_seed(0)
    module = modules.Explicit()
    made = export_module(module, tmp_path / "a.onnx", **CASES["explicit"][1])
    assert made.spec.weights_fingerprint == fingerprint({k: v.numpy() for k, v in module.state_dict().items()})
    shown = export_module(module, tmp_path / "b.onnx", form="gates", **CASES["explicit"][1])
    assert shown.spec.weights_fingerprint == made.spec.weights_fingerprint
    assert [gate.name for gate in shown.spec.gates] == ["reset", "update", "candidate"]


def test_a_wrong_file_is_found_by_the_proof(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The gates of an operator in another order than torch has them."""
    monkeypatch.setattr(operators, "_LSTM", (0, 3, 2, 1))
    torch.manual_seed(0)
    with pytest.raises(VerificationError, match="carried steps"):
        export_module(modules.Hidden(), tmp_path / "mine.onnx", inputs=["x[4]"])
    assert not list(tmp_path.iterdir())


def test_what_float32_loses_inside_a_step_is_no_difference(tmp_path: Path) -> None:
    torch.manual_seed(0)
    module = modules.Loud()
    x, h = torch.randn(1, 256), torch.zeros(1, 4)
    with torch.no_grad():
        true = module.double()(x.double(), h.double())[0]
        assert (module.float()(x, h)[0] - true).abs().max() > 1e-5
    assert export_module(module, tmp_path / "mine.onnx", inputs=["x[batch,256]"], states=["h[4]"]).report.passed
