"""The wheel: what it holds, and that it works with what it asks for, and without the source tree."""

import json
import zipfile
from collections.abc import Sequence
from pathlib import Path

import pytest

import gatestream
from gatestream.client import connect
from tests.support.artifacts import accumulator
from tests.support.environments import Environment, build
from tests.support.process import serving, start_of
from tests.support.reference import ROOT

PACKAGES = sorted(link.name for link in (ROOT / ".src" / "gatestream").iterdir() if link.is_symlink())
CLIENT = ["client", "cli", "files", "protos"]
EXPORTER = ["export.exporter", "export.sources", "export.graph.passes"]
IMPORT = """
import importlib, pkgutil, sys
for package in {packages!r}:
    path = importlib.import_module(f"gatestream.{{package}}").__path__
    for found in pkgutil.walk_packages(path, f"gatestream.{{package}}."):
        if not found.name.removeprefix("gatestream.").startswith(("cli.__main__", *{without!r})):
            importlib.import_module(found.name)
print(importlib.import_module("gatestream").__file__)
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("wheel"))


@pytest.fixture(scope="module")
def plain(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Environment:
    """What `pip install gatestream` makes."""
    return Environment(tmp_path_factory.mktemp("plain"), wheel)


@pytest.fixture(scope="module")
def cpu(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Environment:
    """What `pip install 'gatestream[cpu]'` makes."""
    return Environment(tmp_path_factory.mktemp("cpu"), wheel, ["cpu"])


def imported(environment: Environment, folder: Path, packages: list[str], without: Sequence[str] = ()) -> Path:
    """Import all modules of some packages; where they are."""
    return Path(environment.python(IMPORT.format(packages=packages, without=without), folder).strip())


def test_it_holds_all_files_of_its_packages_and_no_others(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        held = {
            name
            for name in archive.namelist()
            if not name.startswith(f"gatestream-{gatestream.__version__}.dist-info/")
        }
        script = archive.read(f"gatestream-{gatestream.__version__}.dist-info/entry_points.txt").decode()
    files = {path for name in PACKAGES for path in (ROOT / name).rglob("*") if path.is_file()}
    # What the linter is told of a folder is of use to who changes it.
    files = {path for path in files if path.name != "ruff.toml" and "__pycache__" not in path.parts}
    expected = {f"gatestream/{path.relative_to(ROOT)}" for path in files}
    assert held == expected | {"gatestream/__init__.py", "gatestream/py.typed"}
    assert {Path(name).suffix for name in held} == {".py", ".pyi", ".proto", ".typed"}
    assert script.split() == ["[console_scripts]", "gatestream", "=", "gatestream.cli.main:main"]


def test_a_plain_install_is_five_distributions_and_what_they_ask_for(plain: Environment) -> None:
    assert plain.distributions == {
        "click", "grpcio", "grpcio-health-checking", "numpy", "protobuf", "typing-extensions",
    }  # fmt: skip


def test_a_plain_install_has_all_that_the_client_and_the_commands_import(plain: Environment, tmp_path: Path) -> None:
    assert ROOT not in imported(plain, tmp_path, CLIENT).parents
    assert (
        plain.run("gatestream", "--version", cwd=tmp_path).stdout == f"gatestream, version {gatestream.__version__}\n"
    )


@pytest.mark.parametrize("name", ["", "train", "export", "adopt", "inspect", "serve", "health", "stream", "demo"])
def test_a_plain_install_has_the_help_of_every_command(plain: Environment, name: str, tmp_path: Path) -> None:
    done = plain.run("gatestream", *name.split(), "--help", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith(f"Usage: gatestream {name}".rstrip())


@pytest.mark.parametrize(
    ("command", "said"),
    [
        (
            "train reber -o reber.safetensors",
            "training needs torch, which is not installed: pip install 'gatestream[train]'",
        ),
        (
            "export a.safetensors -o a.onnx",
            "exporting needs onnx_ir, which is not installed: pip install 'gatestream[cpu,train]'",
        ),
        (
            "adopt a.onnx -o b.onnx",
            "adopting needs onnx_ir, which is not installed: pip install 'gatestream[cpu,adopt]'",
        ),
        ("demo", "the demo needs torch, which is not installed: pip install 'gatestream[cpu,train]'"),
        ("inspect a.onnx", "inspecting needs onnx_ir, which is not installed: pip install 'gatestream[cpu]'"),
        ("serve a.onnx", "serving needs structlog, which is not installed: pip install 'gatestream[cpu]'"),
        ("serve a.onnx --workers 2", "serving needs structlog, which is not installed: pip install 'gatestream[cpu]'"),
    ],
)
def test_a_plain_install_says_what_else_a_command_needs(
    plain: Environment, command: str, said: str, tmp_path: Path
) -> None:
    done = plain.run("gatestream", *command.split(), cwd=tmp_path)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (1, "", 1)
    assert done.stderr.startswith(f"Error: {said}")
    assert list(tmp_path.iterdir()) == []


def test_a_plain_install_is_a_client_of_a_server(plain: Environment, tmp_path: Path) -> None:
    artifact = accumulator(tmp_path / "accumulator.onnx")
    (tmp_path / "rows.jsonl").write_text("[1, 2]\n[3, 4]\n")
    with serving(artifact) as server:
        assert plain.run("gatestream", "health", server.address, cwd=tmp_path).stdout == "SERVING\n"
        streamed = plain.run("gatestream", "stream", server.address, "rows.jsonl", cwd=tmp_path)
        assert [json.loads(line)["y"] for line in streamed.stdout.splitlines()] == [[1, 2], [4, 6]], streamed.stderr
        printed = plain.python(
            "from gatestream.client import connect\n"
            f"with connect({server.address!r}) as gs, gs.session() as session:\n"
            "    print(session.run([[1, 2], [3, 4]]).tolist())\n",
            tmp_path,
        )
    assert printed == "[[1.0, 2.0], [4.0, 6.0]]\n"


@pytest.mark.slow
def test_with_cpu_it_serves_and_inspects(cpu: Environment, tmp_path: Path) -> None:
    assert ROOT not in imported(cpu, tmp_path, [*CLIENT, "server", "export"], EXPORTER).parents
    artifact = accumulator(tmp_path / "accumulator.onnx")
    server = start_of(cpu.bin / "python", (), artifact)
    try:
        with connect(server.address) as gs, gs.session() as session:
            assert session.run([[1, 2], [3, 4]]).tolist() == [[1, 2], [4, 6]]
    finally:
        server.close()
    # Its own parts are found missing by what it is, no artifact of the exporter, and not before.
    done = cpu.run("gatestream", "inspect", artifact, cwd=tmp_path)
    assert (done.returncode, done.stdout) == (1, "")
    assert "not installed" not in done.stderr


@pytest.mark.slow
def test_with_train_it_has_all_that_training_imports(wheel: Path, tmp_path: Path) -> None:
    train = Environment(tmp_path / "train", wheel, ["train"])
    assert ROOT not in imported(train, tmp_path, [*CLIENT, "model"]).parents


@pytest.mark.slow
def test_with_both_it_has_all_that_there_is_to_import(wheel: Path, tmp_path: Path) -> None:
    both = Environment(tmp_path / "both", wheel, ["cpu", "train"])
    assert ROOT not in imported(both, tmp_path, PACKAGES).parents
