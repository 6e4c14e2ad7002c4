"""Which package may import what: a container that serves has no torch, a client has neither torch nor onnxruntime."""

import ast
import subprocess
import sys
import tomllib
from functools import cache
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


_STUBS = "gatestream.v1.gatestream_pb2_grpc", "inference.open_inference_grpc_pb2_grpc"
_GRPC = " ".join(["grpc grpc_health grpc_reflection", *(f"gatestream.protos.{stub}" for stub in _STUBS)])
_PROTOBUF = "google.protobuf gatestream.protos.gatestream gatestream.protos.inference"
_ONNX = "onnx onnxruntime"
_MODELS = "gatestream.server.backend gatestream.server.core"
_ABOVE = "gatestream.server.process gatestream.server.app gatestream.server.worker"
# What the files of a folder, and of the folders in it, may not import, anywhere in them.
BANNED = {
    "files": f"numpy {_GRPC} {_ONNX} torch gatestream.protos gatestream.model gatestream.export gatestream.server "
    "gatestream.client gatestream.cli",
    "protos": "torch onnxruntime gatestream.files gatestream.model gatestream.export gatestream.server "
    "gatestream.client gatestream.cli",
    "model": f"{_GRPC} {_ONNX} gatestream.export gatestream.server gatestream.client",
    "export": f"{_GRPC} torch gatestream.server gatestream.client gatestream.cli",
    "client": f"{_ONNX} torch gatestream.model gatestream.export gatestream.server gatestream.cli",
    "client/protocol": f"{_GRPC} asyncio socket threading time",
    "server": f"{_GRPC} prometheus_client torch gatestream.model gatestream.export gatestream.client gatestream.cli",
    "server/durability": f"{_ONNX} {_ABOVE} {_MODELS} gatestream.server.transport",
    "server/backend": f"{_ABOVE} gatestream.server.core gatestream.server.transport",
    "server/core": f"{_PROTOBUF} {_ONNX} {_ABOVE} gatestream.server.transport",
    "server/transport": f"{_ONNX} {_ABOVE} gatestream.server.backend",
    "server/process": f"{_ONNX} {_MODELS} gatestream.server.app",
}
# What a folder may import that those around it may not.
FREE = {"export/sources": "torch", "server/transport/grpc_server": _GRPC}
# Files that import what is banned in their folder, each told to the linter where it does so.
EXCEPT = {
    ("export/exporter.py", "torch"),
    ("server/metrics.py", "prometheus_client"),
    # A model's spec, as the artifact has it, for whoever asks what is served.
    ("server/core/catalog.py", "gatestream.protos.gatestream"),
    # Whether what the event loop relies on is inside the gRPC that is installed.
    ("server/process/tuning.py", "grpc"),
}


def banned(folder: str) -> set[str]:
    """What may not be imported in a folder, by its own bans and those of the folders around it."""
    found = {name for place, names in BANNED.items() if f"{folder}/".startswith(f"{place}/") for name in names.split()}
    return found - set(FREE.get(folder, "").split())


def imported(path: Path) -> set[str]:
    """All that a file imports, in full, wherever it does so."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module is not None:
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
    return found


def linted(folder: str, lines: list[str]) -> set[str]:
    """Which of some imports the linter takes exception to in a file of a folder."""
    command = [sys.executable, "-m", "ruff", "check", "--select=TID251", "--output-format=concise"]
    done = subprocess.run(
        [*command, f"--stdin-filename={folder}/some.py", "-"],
        input="\n".join(lines),
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    reports = [line.split(":") for line in done.stdout.splitlines() if "TID251" in line]
    return {lines[int(row) - 1] for _, row, *_ in reports}


@pytest.mark.parametrize("folder", [*BANNED, *FREE])
def test_the_linter_holds_the_bans_of_a_folder(folder: str) -> None:
    bans = banned(folder)
    lines = [f"import {name}" for name in bans]
    lines += [f"from {package} import {name}" for package, dot, name in (ban.rpartition(".") for ban in bans) if dot]
    assert linted(folder, lines) == set(lines)
    assert linted(folder, [f"import {name}" for name in FREE.get(folder, "math").split()]) == set()


@pytest.mark.parametrize("folder", [*BANNED, *FREE])
def test_a_folders_bans_are_added_to_the_projects(folder: str) -> None:
    own = tomllib.loads((ROOT / folder / "ruff.toml").read_text())
    projects = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["ruff"]
    assert (ROOT / folder / own["extend"]).resolve() == ROOT / "pyproject.toml"
    for name in ("lint", "flake8-tidy-imports", "banned-api"):
        own, projects = own[name], projects[name]
    assert own.items() >= projects.items()
    assert own.keys() - projects.keys() == banned(folder)


def test_a_file_imports_nothing_that_is_banned_where_it_stands() -> None:
    """Read from the sources, whatever the linter is told to overlook."""
    found = set()
    for package in {folder.partition("/")[0] for folder in BANNED}:
        for path in (ROOT / package).rglob("*.py"):
            bans = banned(path.parent.relative_to(ROOT).as_posix())
            found |= {
                (path.relative_to(ROOT).as_posix(), ban)
                for module in imported(path)
                for ban in bans
                if f"{module}.".startswith(f"{ban}.")
            }
    assert found == EXCEPT


# What each package is made of, from the ground up. A file or folder imports what stands before its own line, and
# inside a folder no two files import each other, nor in a circle.
LAYERS = {
    "server": [
        "arrays background cpus errors sequence_ids",
        "config http reload telemetry",
        "logs durability backend metrics",
        "monitoring core",
        "transport",
        "process",
        "drain loader",
        "repository",
        "app",
        "worker",
    ],
    "export": [
        "errors",
        "formats graph",
        "finder",
        "artifact",
        "proof",
        "rewriting",
        "sources spec adopting",
        "drawing",
        "exporter",
    ],
    "client": [
        "results",
        "errors",
        "addresses",
        "channel numbers",
        "columns",
        "models protocol unary",
        "calls patience paused session",
        "aio sync",
    ],
}


@cache
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
