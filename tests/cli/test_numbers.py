"""Every option that takes a number, of every command: what is outside its range is refused before anything begins."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner

from gatestream.cli.main import main
from gatestream.cli.serve import number_or_auto

FLOATS = ["nan", "inf", "-inf", "-1", "100000000000000000000"]
INTEGERS = [*FLOATS, "1.5", ""]


def options(command: click.Command, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], click.Option, Any]]:
    if isinstance(command, click.Group):
        with click.Context(command) as ctx:
            for name in command.list_commands(ctx):
                found = command.get_command(ctx, name)
                assert found is not None
                yield from options(found, (*path, name))
        return
    for option in command.params:
        kind = option.type.func if isinstance(option.type, click.types.FuncParamType) else option.type
        if isinstance(option, click.Option) and (
            isinstance(kind, (click.types.IntParamType, click.types.FloatParamType)) or kind is number_or_auto
        ):
            yield path, option, kind


NUMBERS = [
    pytest.param(path, option.opts[0], kind, id=" ".join((*path, option.opts[0])))
    for path, option, kind in options(main)
]


@pytest.fixture
def arguments(tmp_path: Path) -> list[str]:
    """What a command wants before it looks at a number."""
    file = tmp_path / "file.csv"
    file.write_text("a\n1\n")
    return [str(file), f"--output={tmp_path / 'made'}"]


def test_the_commands_that_take_numbers() -> None:
    assert {parameter.values[0] for parameter in NUMBERS} == {
        ("train", "reber"),
        ("train", "text"),
        ("train", "series"),
        ("export",),
        ("serve",),
        ("models",),
        ("sessions",),
        ("health",),
        ("stream",),
        ("demo",),
    }


@pytest.mark.parametrize(("path", "flag", "kind"), NUMBERS)
def test_what_is_no_number_of_the_range(path: tuple[str, ...], flag: str, kind: Any, arguments: list[str]) -> None:
    given = {
        "reber": arguments[1:],
        "serve": arguments[:1],
        "health": [],
        "models": ["127.0.0.1:1"],
        "sessions": ["memory", "list"],
        "stream": ["127.0.0.1:1"],
        "demo": [],
    }
    for value in FLOATS if isinstance(kind, click.types.FloatParamType) else INTEGERS:
        done = CliRunner().invoke(main, [*path, *given.get(path[-1], arguments), f"{flag}={value}"])
        assert done.exit_code == 2, (value, done.output, done.exception)
        assert isinstance(done.exception, SystemExit)
        line = done.output.splitlines()[-1]
        assert line.startswith("Error: ")
        # The flag, or the setting that it gives.
        assert flag in line or flag.removeprefix("--").replace("-", "_") in line
        if value:
            assert str(float(value)) in line or value in line
    assert not Path(arguments[1].removeprefix("--output=")).exists()


@pytest.mark.parametrize(
    ("arguments", "environment"),
    [
        (["serve", "x.onnx", "--idle-timeout=nan"], {}),
        (["serve", "x.onnx"], {"GATESTREAM_IDLE_TIMEOUT": "nan"}),
        (["serve", "x.onnx"], {"GATESTREAM_DRAIN_SECONDS": "inf"}),
        (["train", "reber", "-o", "x.safetensors", "--threads=100000"], {}),
        (["train", "reber", "-o", "x.safetensors", f"--seed={2**64}"], {}),
    ],
)
def test_as_a_process(arguments: list[str], environment: dict[str, str], tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "gatestream.cli", *arguments],
        cwd=tmp_path,
        env=os.environ | environment,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert "Traceback" not in done.stderr
    assert done.stderr.splitlines()[-1].startswith("Error: ")
    assert list(tmp_path.iterdir()) == []
