import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from gatestream.cli.adopt import command
from gatestream.export.artifact import load
from tests.support.strangers.generators import ADOPTED, REFUSED


def run(*arguments: object) -> tuple[int, str]:
    result = CliRunner().invoke(command, [str(argument) for argument in arguments])
    return result.exit_code, result.output


def test_adopts_proves_prints_and_reports(tmp_path: Path) -> None:
    path, output, report = ADOPTED["lstm_exposed"](tmp_path).path, tmp_path / "mine.onnx", tmp_path / "report.json"
    code, said = run(path, "-o", output, "--name", "ours", "--model-version", "7", "--report", report)
    assert code == 0, said
    assert said.endswith(f"{output} is {path}: proved\n")
    assert "initial_h of LSTM" in said
    spec = load(output).spec
    assert (spec.contract, spec.name, spec.version) == (2, "ours", "7")
    assert json.loads(report.read_text())["passed"] is True


def test_flags_say_what_cannot_be_found_out(tmp_path: Path) -> None:
    path, output = ADOPTED["sample_rate"](tmp_path).path, tmp_path / "mine.onnx"
    code, said = run(path, "-o", output)
    assert code == 1
    assert "--constant sr" in said
    assert not output.exists()
    code, said = run(path, "-o", output, "--constant", "sr=16000")
    assert code == 0, said


def test_values_are_numbers_or_a_file(tmp_path: Path) -> None:
    path, output = ADOPTED["lstm_exposed"](tmp_path).path, tmp_path / "mine.onnx"
    run(path, "-o", output)
    [first, second] = load(output).spec.states
    np.save(tmp_path / "c.npy", np.full((1, 1, first.shape[-1]), 0.5, np.float32))
    code, said = run(
        path, "-o", output, "--initial", f"{first.input}=0.25", "--initial", f"{second.input}={tmp_path / 'c.npy'}"
    )
    assert code == 0, said
    assert [state.initial for state in load(output).spec.states] == [0.25, 0.5]


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--state", "h"], "expected IN=OUT"),
        (["--time", "x:soon"], "expected INPUT:AXIS|none with a whole number"),
        (["--constant", "sr=fast"], "expected numbers with commas"),
        (["--initial", "h"], "expected STATE=VALUE"),
    ],
)
def test_a_flag_that_cannot_be_read_is_a_matter_of_usage(flags: list[str], said: str, tmp_path: Path) -> None:
    code, output = run(tmp_path / "any.onnx", "-o", tmp_path / "mine.onnx", *flags)
    assert code == 2
    assert said in " ".join(output.split())


def test_a_refusal_is_one_line_that_names_the_file(tmp_path: Path) -> None:
    path = REFUSED["padded_convolution"](tmp_path).path
    code, said = run(path, "-o", tmp_path / "mine.onnx")
    assert code == 1
    [line] = said.splitlines()
    assert line.startswith(f"Error: {path}: Conv ")


def test_a_file_of_the_users_is_not_overwritten(tmp_path: Path) -> None:
    path, output = ADOPTED["lstm_exposed"](tmp_path).path, tmp_path / "mine.onnx"
    output.write_bytes(b"a letter")
    code, said = run(path, "-o", output)
    assert (code, output.read_bytes()) == (1, b"a letter")
    assert "--force" in said
    code, said = run(path, "-o", path)
    assert "is the same file as MODEL" in said


@pytest.mark.parametrize("flag", ["--name", "--model-version"])
@pytest.mark.parametrize("text", ["", " ", "two\nlines"])
def test_a_model_and_a_version_are_called_something(flag: str, text: str, tmp_path: Path) -> None:
    path, output = ADOPTED["lstm_exposed"](tmp_path).path, tmp_path / "mine.onnx"
    code, said = run(path, "-o", output, flag, text)
    assert code == 2
    assert "; expected a name of printable characters, which is not empty" in said.splitlines()[-1]
    assert not output.exists()
