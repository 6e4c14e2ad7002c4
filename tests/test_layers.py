"""Which package may import what: a container that serves has no torch, a client has neither torch nor onnxruntime."""

import subprocess
import sys

import pytest

HEAVY = {"torch", "onnx", "onnxruntime", "onnxscript", "matplotlib"}


@pytest.mark.parametrize(
    ("module", "allowed"),
    [
        ("gatestream.protos.spec", set()),
        ("gatestream.client", set()),
        ("gatestream.cli.main", set()),
        ("gatestream.cli.stream", set()),
        ("gatestream.cli.health", set()),
        ("gatestream.model.tasks.reber", set()),
        ("gatestream.server.server", {"onnx"}),
        ("gatestream.export.structure", {"onnx", "onnxscript"}),
    ],
)
def test_a_module_brings_along_no_more_than_it_needs(module: str, allowed: set[str]) -> None:
    code = f"import sys, {module}; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert HEAVY & set(done.stdout.split()) <= allowed


@pytest.mark.parametrize("package", ["model", "export", "server", "client", "cli", "protos"])
def test_a_package_has_one_name(package: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "ruff", "check", "--select=TID", "--config=pyproject.toml", "-"],
        input=f"import {package}\n",
        capture_output=True,
        text=True,
        check=False,
    )
    assert "TID251" in done.stdout
