"""The command as a whole: what it lists, what it imports, how it refuses."""

import importlib
import os
import subprocess
import sys
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

import gatestream.cli
from gatestream.cli.main import main
from tests.support.artifacts import accumulator
from tests.support.wire import PATIENCE

COMMANDS = main.list_commands(click.Context(main))
HEAVY = {"torch", "onnx", "onnxruntime", "onnx_ir", "grpc", "numpy", "matplotlib", "structlog"}


def imported_by(*arguments: str) -> set[str]:
    """The heavy modules that a fresh process has imported once the command is through."""
    code = (
        "import sys\n"
        "from gatestream.cli.main import main\n"
        f"main({list(arguments)!r}, standalone_mode=False)\n"
        f"print('imported', *({HEAVY!r} & sys.modules.keys()))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    last = done.stdout.splitlines()[-1].split()
    assert last[0] == "imported"
    return set(last[1:])


def test_every_module_is_a_command_and_every_command_a_module() -> None:
    folder = Path(next(iter(gatestream.cli.__path__)))
    modules = [path.stem for path in folder.glob("*.py") if path.stem not in ("__init__", "__main__", "main")]
    found = {name for name in modules if hasattr(importlib.import_module(f"gatestream.cli.{name}"), "command")}
    assert (
        set(COMMANDS)
        == found
        == {*modules}
        - {"called", "connection", "export_module", "extras", "numbers", "outcome", "table_options", "values"}
    )


def test_the_list_of_commands_costs_no_import() -> None:
    assert imported_by("--help") == set()


@pytest.mark.parametrize("name", COMMANDS)
def test_help_of_a_command(name: str) -> None:
    result = CliRunner().invoke(main, [name, "--help"])
    assert result.exit_code == 0, result.output
    assert result.output.startswith(f"Usage: main {name}")
    assert "--help" in result.output


@pytest.mark.parametrize("name", COMMANDS)
def test_help_of_a_command_needs_no_torch(name: str) -> None:
    assert not imported_by(name, "--help") & {"torch", "onnxruntime", "matplotlib"}


@pytest.mark.parametrize("name", COMMANDS)
def test_an_unknown_option_is_named(name: str) -> None:
    result = CliRunner().invoke(main, [name, "--frobnicate"])
    assert result.exit_code == 2
    assert "No such option" in result.output
    assert "--frobnicate" in result.output


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "Missing command (see `main --help`)"),
        (["train"], "Missing command (see `main train --help`)"),
        (["export"], "Missing argument 'CHECKPOINT|MODULE:FACTORY' (see `main export --help`)"),
        (
            ["train", "series", __file__, "-o", "x", "--columns=a,a"],
            "Invalid value for '--columns': 'a' stands there more",
        ),
        (["serve", __file__, "--frobnicate"], "(see `main serve --help`)"),
        (
            ["health", "127.0.0.1:1", "--tls-cert=a.pem"],
            "--tls-cert and --tls-key go together; only one is given (see `",
        ),
        (["stream", "127.0.0.1:1", "--decimal=;"], "Invalid value for '--decimal': ';' is not one of '.', ','"),
    ],
)
def test_a_wrong_call_is_told_in_one_line(arguments: list[str], said: str) -> None:
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 2
    assert result.stdout == ""
    assert result.stderr.startswith("Error: ")
    assert result.stderr.count("\n") == 1
    assert said in result.stderr


def test_an_unknown_command_is_named() -> None:
    result = CliRunner().invoke(main, ["frobnicate"])
    assert result.exit_code == 2
    assert "No such command 'frobnicate'" in result.output


def test_the_installed_script_knows_its_version() -> None:
    script = Path(sys.executable).with_name("gatestream")
    done = subprocess.run([script, "--version"], capture_output=True, text=True, check=True)
    assert done.stdout.split()[-1] == gatestream.__version__


def ended(*arguments: object, **environment: str) -> subprocess.CompletedProcess[str]:
    """The installed script, as a process."""
    script = Path(sys.executable).with_name("gatestream")
    return subprocess.run(
        [script, *map(str, arguments)], capture_output=True, text=True, timeout=PATIENCE, env=os.environ | environment
    )


def test_a_traceback_is_shown_when_asked_for(tmp_path: Path) -> None:
    called = ("health", f"unix:{tmp_path}/none")
    plain = ended(*called)
    assert (plain.returncode, plain.stdout, plain.stderr.count("\n")) == (1, "", 1)
    for shown in (ended("--traceback", *called), ended(*called, GATESTREAM_TRACEBACK="1")):
        assert (shown.returncode, shown.stdout) == (1, "")
        assert shown.stderr.startswith("Traceback (most recent call last):\n")
        assert "health.py" in shown.stderr
        assert shown.stderr.endswith(f"\n{plain.stderr}")


def test_so_is_that_of_a_worker(tmp_path: Path) -> None:
    spoilt = accumulator(tmp_path / "spoilt.onnx")
    spoilt.write_bytes(spoilt.read_bytes().replace(b'"contract": 1', b'"contract": 9'))
    shown = ended("--traceback", "serve", spoilt, "--listen=127.0.0.1:0", "--workers=2")
    assert shown.returncode == 1
    assert "in load" in shown.stderr
    assert shown.stderr.splitlines()[-1].startswith(f"Error: {spoilt}: ")
