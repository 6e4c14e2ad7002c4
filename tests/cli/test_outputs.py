"""An output that is an input, or another output, of the same command is refused, and all files stay."""

import shutil
from pathlib import Path

import pytest
from click.testing import CliRunner

from gatestream.cli.main import main
from tests.support.artifacts import accumulator
from tests.support.hostile_files import CHECKPOINT, digests


@pytest.mark.parametrize(
    "called",
    [
        "train series table.csv -o table.csv",
        "train series table.csv -o table.csv --force",
        "train text table.csv -o table.csv --restart --force",
        "train series data.png -o data.safetensors --force",
        "export c.safetensors -o c.safetensors",
        "export c.safetensors -o link --force",
        "export c.safetensors -o new.onnx --report new.onnx",
        "export c.safetensors -o new.onnx --report c.safetensors --force",
        "inspect m.onnx --svg m.onnx --force",
        "serve m.onnx --port-file m.onnx",
        "serve m.onnx --config settings.toml --port-file settings.toml",
    ],
)
def test_it_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, called: str) -> None:
    monkeypatch.chdir(tmp_path)
    accumulator(tmp_path / "m.onnx")
    shutil.copy(CHECKPOINT, "c.safetensors")
    Path("link").symlink_to("c.safetensors")
    for name in ("table.csv", "data.png"):
        Path(name).write_text("a,b\n1,2\n3,4\n")
    Path("settings.toml").write_text("sessions = 7\n")
    before = digests(tmp_path)
    result = CliRunner().invoke(main, called.split())
    assert result.exit_code == 1, result.output
    (line,) = result.output.splitlines()
    assert line.startswith("Error: ")
    assert " is the same file as " in line
    assert digests(tmp_path) == before
