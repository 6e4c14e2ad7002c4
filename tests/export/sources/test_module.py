"""Modules of users' own, each exported and proved, and their files compared with the modules themselves once more."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from torch import nn

from gatestream.export.sources.module import export_module
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
    "minGRU": (modules.MinGRU, {"inputs": ["x[4]"], "states": ["h[6]"]}, ["h"]),
    "last step": (modules.LastStep, {"inputs": ["x[time,batch,4]"]}, ["gru.h"]),
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
        np.testing.assert_allclose(found[name], values.numpy(), rtol=0, atol=2e-6)
