"""`python -m benchmarks.cuda` without a GPU: a rehearsal of it, and that it never takes one for a measurement."""

import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from click.testing import CliRunner

from benchmarks import models
from benchmarks.cuda.__main__ import _LIMIT, MARK, PAGE, PUBLISHED, main
from benchmarks.cuda.contenders import Arena, Limit
from benchmarks.cuda.crossings import CrossedError, Profile, bus_bytes, check, check_bus, profile
from benchmarks.harness.processes import ROOT
from benchmarks.harness.report import Report, Section, Verdict
from benchmarks.harness.statistics import Spread
from benchmarks.harness.table import put_between_marks, put_on_page, render
from benchmarks.models import Form, ModelShape
from gatestream.server.backend.artifact import Artifact
from gatestream.server.backend.runner import CPU, CUDA, ArenaRunner, Placement

NO_GPU = not torch.cuda.is_available() or CUDA not in onnxruntime.get_available_providers()
STATE = 1000


@pytest.mark.slow
def test_a_rehearsal_says_that_it_is_one() -> None:
    done = CliRunner().invoke(main, ["--provider=cpu"], catch_exceptions=False)
    assert done.exit_code == 0
    assert "no figure here says anything of a GPU" in done.output
    assert f"all placed on {CPU}" in done.output
    assert f"| batch 8, {_LIMIT} |" in done.output
    assert "| GPU |" not in done.output


def test_a_rehearsal_is_not_published() -> None:
    done = CliRunner().invoke(main, ["--provider=cpu", "--publish"])
    assert done.exit_code != 0
    assert "it says nothing of a GPU" in done.output


@pytest.mark.skipif(not NO_GPU, reason="there is a GPU")
def test_without_a_gpu_one_line_says_what_is_missing() -> None:
    done = CliRunner().invoke(main, ["--publish"])
    assert done.exit_code == 1
    (line,) = done.output.splitlines()
    assert line.startswith("Error: cannot measure on a GPU: ")
    assert "make bench-cuda" in line


@pytest.mark.skipif(shutil.which("make") is None or shutil.which("nvidia-smi") is not None, reason="there is a GPU")
def test_without_a_gpu_make_installs_nothing() -> None:
    done = subprocess.run(["make", "bench-cuda"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode != 0
    assert done.stderr.startswith("make bench-cuda: nvidia-smi finds no GPU; nothing was installed\n")
    assert "pip" not in done.stdout


@pytest.mark.parametrize("form", ["gates", pytest.param("fused", marks=pytest.mark.slow)])
def test_both_contenders_take_the_same_steps(form: Form, tmp_path: Path) -> None:
    shape = ModelShape("tiny", hidden=6, inputs=3, outputs=2)
    network = models.network(shape).eval()
    models.export(network, form, tmp_path / "model.onnx")
    artifact = Artifact.load(tmp_path / "model.onnx")
    x = np.random.default_rng(0).standard_normal((5, 3), np.float32)
    arena = Arena(ArenaRunner(artifact, 7, CPU, 1), x)
    limit = Limit(network, x, "cpu")
    state = network.initial_state(5)
    for _ in range(4):
        with torch.no_grad():
            expected, state, _ = network.step(torch.from_numpy(x), state)
        np.testing.assert_allclose(arena.step(), expected, atol=1e-6)
        np.testing.assert_allclose(limit.step(), expected, atol=1e-6)
    found = profile(artifact, CPU, 5, tmp_path)
    assert set(found.nodes) == {CPU}
    assert not found.copies


def node(provider: str, operator: str, size: int = 0) -> dict[str, Any]:
    return {"cat": "Node", "args": {"provider": provider, "op_name": operator, "output_size": str(size)}}


@pytest.mark.parametrize(
    ("placed", "ran", "message"),
    [
        ([CUDA, CPU], [], "1 nodes on CPUExecutionProvider"),
        ([CUDA], [node(CUDA, "LSTM"), node(CPU, "Gather")], "1 on CPUExecutionProvider"),
        ([CUDA], [node(CUDA, "MemcpyFromHost", 8), node(CUDA, "MemcpyToHost", STATE)], "moved 1000 bytes"),
    ],
)
def test_a_state_that_leaves_the_device_is_an_error(placed: list[str], ran: list[Any], message: str) -> None:
    placements = [Placement(name, 1, ("LSTM",)) for name in placed]
    with pytest.raises(CrossedError, match=message):
        check(placements, Profile.read(ran), CUDA, STATE)


def test_small_copies_are_counted() -> None:
    found = Profile.read([node(CUDA, "LSTM", 4000), node(CUDA, "MemcpyFromHost", 8), {"cat": "Session", "args": {}}])
    said = check([Placement(CUDA, 3, ())], found, CUDA, STATE)
    assert "3 nodes, all placed on CUDAExecutionProvider; 2 ran, all there; 1 Memcpy nodes, 8 bytes" in said


def copies(sizes: Sequence[tuple[str, int]]) -> list[dict[str, Any]]:
    events: list[dict[str, Any]] = [{"cat": "gpu_memcpy", "name": name, "args": {"bytes": n}} for name, n in sizes]
    return [*events, {"cat": "kernel", "name": "gemm", "args": {}}, {"ph": "M", "name": "process_name", "args": {}}]


def test_only_copies_between_host_and_device_cross_the_bus() -> None:
    trace = copies(
        [
            ("Memcpy HtoD (Pageable -> Device)", 100),
            ("Memcpy DtoH (Device -> Pinned)", 20),
            ("Memcpy DtoD (Device -> Device)", 4000),
        ]
    )
    assert bus_bytes(trace) == 120


def test_what_crosses_beyond_inputs_and_outputs_has_no_room_for_a_state() -> None:
    assert "1099 bytes a step" in check_bus(1099, 100, STATE)
    assert "not counted" in check_bus(0, 100, STATE)
    with pytest.raises(CrossedError, match="1100 bytes cross the bus"):
        check_bus(1100, 100, STATE)


def test_a_published_report_stands_on_the_page_and_in_a_file(tmp_path: Path) -> None:
    (tmp_path / "page.md").write_text(PAGE.read_text())
    section = Section("cuda-512", 0, "Hidden 512", "One step.")
    section.verdicts.append(Verdict("batch 256, fused", Spread(0.9, 0.8, 1.0), 0.8, at_most=False))
    report = Report({"GPU": "one"}, {"windows": "7"}, [section])
    put_on_page(report, tmp_path / "page.md", tmp_path / "published.json", MARK)
    page = (tmp_path / "page.md").read_text()
    assert "- Hit: batch 256, fused: 0.90 (0.80 to 1.00); target at least 0.8." in page
    assert "Nothing has been measured" not in page
    assert page == put_between_marks(PAGE.read_text(), render(Report.load(tmp_path / "published.json")), MARK)


def test_no_published_number_was_typed_by_hand() -> None:
    page = PAGE.read_text()
    measured = render(Report.load(PUBLISHED)) if PUBLISHED.exists() else "Nothing has been measured on a GPU yet.\n"
    assert page == put_between_marks(page, measured, MARK)
