"""Which package may import what: a container that serves has no torch, a client has neither torch nor onnxruntime."""

import ast
import subprocess
import sys
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
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
        ("gatestream.server.app", {"onnx"}),
        ("gatestream.export.finder.structure", {"onnx", "onnxscript"}),
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


# What each package is made of, from the ground up. A file or folder imports what stands before its own line, and
# inside a folder no two files import each other, nor in a circle.
LAYERS = {
    "server": [
        "arrays background errors sequence_ids",
        "config reload",
        "logs durability backend",
        "core",
        "transport",
        "process",
        "drain",
        "app",
        "worker",
    ],
    "export": [
        "errors",
        "formats graph",
        "finder",
        "artifact",
        "proof",
        "rewriting sources spec drawing",
        "exporter",
    ],
    "client": [
        "results",
        "errors",
        "channel numbers",
        "columns",
        "models protocol unary",
        "calls patience session",
        "aio sync",
    ],
}


def imports(package: str) -> dict[str, set[str]]:
    """By module of a package, which others of it are imported anywhere in its file."""
    files = {}
    for path in (ROOT / package).rglob("*.py"):
        parts = path.relative_to(ROOT).with_suffix("").parts
        files[".".join(parts[:-1] if path.stem == "__init__" else parts)] = path
    found: dict[str, set[str]] = {}
    for name, path in files.items():
        asked = set()
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and node.module is not None:
                module = node.module.removeprefix("gatestream.")
                asked |= {f"{module}.{alias.name}" for alias in node.names} | {module}
            elif isinstance(node, ast.Import):
                asked |= {alias.name.removeprefix("gatestream.") for alias in node.names}
        found[name] = (asked & files.keys()) - {name}
    return found


@pytest.mark.parametrize("package", LAYERS)
def test_imports_go_one_way(package: str) -> None:
    level = {part: k for k, parts in enumerate(LAYERS[package]) for part in parts.split()}

    def part(module: str) -> str:
        return ".".join(module.split(".")[:2])

    wrong = []
    for module, others in imports(package).items():
        if module == package:
            continue
        assert part(module).split(".")[1] in level, f"{part(module)} stands in no layer"
        for other in others:
            here, there = part(module), part(other)
            if here == there or other == package:
                continue
            if level[there.split(".")[1]] >= level[here.split(".")[1]]:
                wrong.append(f"{module} imports {other}")
    assert wrong == []


@pytest.mark.parametrize("package", LAYERS)
def test_no_files_import_each_other_in_a_circle(package: str) -> None:
    # An __init__ names what its folder offers, and imports all of it.
    graph = {name: others for name, others in imports(package).items() if name != package}
    TopologicalSorter(graph).prepare()
