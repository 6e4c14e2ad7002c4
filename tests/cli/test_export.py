import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner

from gatestream.cli.export import command
from gatestream.export.artifact import load
from gatestream.model.checkpoint import load as load_checkpoint
from gatestream.model.network import Network
from tests.support.traces import traced, traced_once

FIXTURE = Path(__file__).parents[1] / "export" / "fixtures" / "small.safetensors"


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    return Path(shutil.copy(FIXTURE, tmp_path / "small.safetensors"))


@pytest.fixture
def traced_before(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """The checkpoint has been traced, and is not traced again."""
    traced(tmp_path_factory, "fixture", load_checkpoint(FIXTURE).network)
    with traced_once(tmp_path_factory, "fixture"):
        yield


def test_exports_proves_and_reports(checkpoint: Path, tmp_path: Path) -> None:
    output, report = tmp_path / "new" / "model.onnx", tmp_path / "report.json"
    arguments = [str(checkpoint), "-o", str(output), "--form", "fused", "--model-version", "7", "--report", str(report)]
    result = CliRunner().invoke(command, arguments)
    assert result.exit_code == 0, result.output
    assert result.output.endswith(f"{output} is {checkpoint}, form fused: proved\n")
    assert "rows of unlike length" in result.output
    assert json.loads(report.read_text())["passed"] is True
    spec = load(output).spec
    assert (spec.name, spec.version, spec.task, spec.packed_gate_order) == ("reber-small", "7", "reber", "iofc")


@pytest.mark.usefixtures("traced_before")
def test_a_failed_proof_is_one_line_an_exit_code_and_a_report(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """torch computes something else than what was traced: the head's bias is off by 1."""
    decode = Network.decode
    monkeypatch.setattr(Network, "decode", lambda self, h: decode(self, h) + 1.0)
    output, report = tmp_path / "model.onnx", tmp_path / "report.json"
    result = CliRunner().invoke(command, [str(checkpoint), "-o", str(output), "--report", str(report)])
    assert result.exit_code == 1
    (line,) = result.output.splitlines()
    assert line.startswith(
        f"Error: {checkpoint}, form gates: carried steps: y differs from torch (each step), first at"
    )
    assert not output.exists()
    said = json.loads(report.read_text())
    assert (said["passed"], said["difference"]["tensor"], said["difference"]["step"]) == (False, "y", 0)


def test_a_cell_that_is_no_lstm_is_one_line(checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "sigmoid", torch.tanh)
    report = tmp_path / "report.json"
    result = CliRunner().invoke(command, [str(checkpoint), "-o", str(tmp_path / "m.onnx"), "--report", str(report)])
    assert result.exit_code == 1
    assert result.output.startswith(f"Error: {checkpoint}, form gates: build: ")
    assert result.output.endswith("should be the forget gate's Sigmoid\n")
    assert json.loads(report.read_text())["passed"] is False
    assert sorted(path.name for path in tmp_path.iterdir()) == ["report.json", "small.safetensors"]


def test_a_checkpoint_that_is_not_there(tmp_path: Path) -> None:
    result = CliRunner().invoke(command, [str(tmp_path / "none.safetensors"), "-o", str(tmp_path / "model.onnx")])
    assert result.exit_code == 1
    assert (
        result.output == f"Error: {tmp_path}/none.safetensors: no such checkpoint; make one with `gatestream train`\n"
    )


def test_a_file_that_is_no_checkpoint(tmp_path: Path) -> None:
    path = tmp_path / "text.safetensors"
    path.write_text("no checkpoint")
    result = CliRunner().invoke(command, [str(path), "-o", str(tmp_path / "model.onnx")])
    assert result.exit_code == 1
    assert result.output.startswith(f"Error: {path}: not a safetensors file")
    assert result.output.count("\n") == 1


@pytest.mark.slow
def test_weights_in_fewer_bits_are_measured(checkpoint: Path, tmp_path: Path) -> None:
    output, report = tmp_path / "model.onnx", tmp_path / "report.json"
    arguments = [str(checkpoint), "-o", str(output), "--weights", "int8", "--report", str(report)]
    result = CliRunner().invoke(command, arguments)
    assert result.exit_code == 0, result.output
    assert result.output.endswith(f"{output} is {checkpoint}, form gates, its weights rounded to int8: proved\n")
    assert "against the float32 network, 8 rows of 1,024 carried steps of the Reber grammar" in result.output
    said = json.loads(report.read_text())
    assert (said["weights"], said["checks"][-1]["name"]) == ("int8", "accuracy")
    accuracy = said["accuracy"]
    assert [loss["tensor"] for loss in accuracy["losses"]] == list("ifgochy")
    assert (accuracy["decisions"], accuracy["rows"] * accuracy["steps"]) == (8192, 8192)
    assert 0 < accuracy["bytes"] <= output.stat().st_size  # which has the figures too
    assert [cost["batch"] for cost in accuracy["costs"]] == [1, 32, 128]
    found, float32 = accuracy["illegal"]
    assert 0 < float32 < 8192  # the fixture is hardly trained
    assert found != float32 or accuracy["other_decisions"] > 0


@pytest.mark.usefixtures("traced_before")
def test_weights_that_cost_too_much_are_refused(checkpoint: Path, tmp_path: Path) -> None:
    output, report = tmp_path / "model.onnx", tmp_path / "report.json"
    options = ["--weights", "int8", "--max-error", "1e-6", "--report", str(report)]
    result = CliRunner().invoke(command, [str(checkpoint), "-o", str(output), *options])
    assert result.exit_code == 1
    (line,) = result.output.splitlines()
    assert line.startswith(f"Error: {checkpoint}, form gates, weights int8: accuracy: y is up to ")
    assert "at most 1e-06 was asked for" in line
    assert not output.exists()
    said = json.loads(report.read_text())
    assert said["passed"] is False
    assert said["accuracy"]["losses"]


@pytest.mark.parametrize(
    ("options", "code", "message"),
    [
        (["--weights", "int8", "--form", "fused"], 1, "Error: weights int8 need form gates: "),
        (["--max-error", "1"], 2, "Error: --max-error is for --weights float16 or int8"),
        (["--weights", "int4"], 2, "'int4' is not one of 'float32', 'float16', 'int8'"),
        (["--weights", "int8", "--max-error", "-1"], 2, "-1"),
    ],
)
def test_options_that_do_not_go_together(
    checkpoint: Path, tmp_path: Path, options: list[str], code: int, message: str
) -> None:
    result = CliRunner().invoke(command, [str(checkpoint), "-o", str(tmp_path / "model.onnx"), *options])
    assert result.exit_code == code
    assert message in result.output
    assert not (tmp_path / "model.onnx").exists()
