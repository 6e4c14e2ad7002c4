import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner, Result

from gatestream.cli.main import main
from gatestream.model import checkpoint
from gatestream.model.checkpoint import CheckpointError

SMALL = ["--hidden", "8", "--streams", "4", "--steps", "10"]


@pytest.fixture(autouse=True)
def threads_as_before() -> object:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def train(*arguments: object) -> Result:
    return CliRunner().invoke(main, ["train", *map(str, arguments)])


@pytest.fixture
def waves(tmp_path: Path) -> Path:
    file = tmp_path / "waves.csv"
    rows = (f"day {k},{20 + math.sin(k / 5)},{100 * math.cos(k / 5)}\n" for k in range(400))
    file.write_text("day,temp,load\n" + "".join(rows))
    return file


def test_series_end_to_end(waves: Path, tmp_path: Path) -> None:
    output = tmp_path / "new" / "waves.safetensors"
    done = train("series", waves, "-o", output, "--updates", 150, "--horizon", 2, "--name", "sea", *SMALL)
    assert done.exit_code == 0, done.output
    for text in (
        "columns: temp, load",
        "not used: day",
        "100 updates, loss",
        f"checkpoint: {output}",
        f"learning curve: {output.with_suffix('.png')}",
    ):
        assert text in done.output
    assert output.with_suffix(".png").read_bytes().startswith(b"\x89PNG")
    config = checkpoint.load(output).network.config
    assert (config.name, config.columns, config.outputs) == ("sea", ("temp", "load"), 4)

    again = train("series", waves, "-o", output, "--updates", 150, "--horizon", 2, "--name", "sea", *SMALL)
    assert again.exit_code == 0
    assert f"{output}: finished already, 150 updates made" in again.output
    assert "loss" not in again.output


def test_text_end_to_end(tmp_path: Path) -> None:
    file, output = tmp_path / "a.txt", tmp_path / "a.safetensors"
    file.write_text("the quick brown fox jumps over the lazy dog\n" * 20)
    done = train("text", file, "-o", output, "--updates", 20, *SMALL)
    assert done.exit_code == 0, done.output
    assert "bits per character on 87 held out" in done.output
    assert checkpoint.load(output).network.config.vocabulary[0] == "\n"


def test_reber_that_is_not_solved_is_a_failure_with_a_checkpoint(tmp_path: Path) -> None:
    output = tmp_path / "reber.safetensors"
    done = train("reber", "-o", output, "--updates", 1, *SMALL)
    assert done.exit_code == 1
    assert done.output.endswith("Error: not solved after 1 updates; start over with another --seed or more --updates\n")
    assert checkpoint.load(output).training.values["solved"] is False


def test_a_checkpoint_of_another_run_is_left_alone_unless_told_to_restart(waves: Path, tmp_path: Path) -> None:
    output = tmp_path / "n.safetensors"
    assert train("series", waves, "-o", output, "--updates", 2, *SMALL).exit_code == 0
    before = output.read_bytes()
    other = ["series", waves, "-o", output, "--updates", 3, *SMALL]
    refused = train(*other)
    assert refused.exit_code == 1
    assert "Error: the checkpoint is of another run (updates 2 there, 3 here)" in refused.output
    assert output.read_bytes() == before
    assert train(*other, "--restart").exit_code == 0
    assert len(checkpoint.load(output).training.tensors["losses"]) == 3


def saved_updates(path: Path) -> int:
    try:
        return len(checkpoint.load(path).training.tensors["losses"])
    except FileNotFoundError:
        return 0


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="kills a process")
def test_a_killed_run_continued_is_the_uninterrupted_run_bit_for_bit(waves: Path, tmp_path: Path) -> None:
    killed, whole = tmp_path / "killed.safetensors", tmp_path / "whole.safetensors"
    arguments = ["series", str(waves), *SMALL, "--updates", "500"]
    command = [sys.executable, "-c", "from gatestream.cli.main import main; main()", "train", *arguments]
    process = subprocess.Popen([*command, "-o", killed], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        while saved_updates(killed) == 0 and process.poll() is None:
            time.sleep(0.05)
    finally:
        process.kill()
        process.wait()
    assert process.returncode == -signal.SIGKILL
    made = saved_updates(killed)
    assert 0 < made < 500
    assert not checkpoint.load(killed).training.values["finished"]

    going_on = train(*arguments, "-o", killed)
    assert going_on.exit_code == 0
    assert f"{killed}: going on, {made} updates made" in going_on.output
    assert train(*arguments, "-o", whole).exit_code == 0
    one, other = checkpoint.load(killed), checkpoint.load(whole)
    assert one.training.values == other.training.values
    torch.testing.assert_close(one.training.tensors, other.training.tensors, rtol=0, atol=0)
    torch.testing.assert_close(dict(one.network.state_dict()), dict(other.network.state_dict()), rtol=0, atol=0)


def test_an_interrupt_says_how_to_go_on(waves: Path, tmp_path: Path) -> None:
    output = tmp_path / "n.safetensors"
    arguments = ["series", str(waves), *SMALL, "--updates", "100000", "-o", str(output)]
    command = [sys.executable, "-c", "from gatestream.cli.main import main; main()", "train", *arguments]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    while saved_updates(output) == 0 and process.poll() is None:
        time.sleep(0.05)
    os.kill(process.pid, signal.SIGINT)
    _, error = process.communicate()
    assert process.returncode == 130
    assert error.startswith("Error: interrupted; the same command goes on after update ")
    assert error.count("\n") == 1
    assert saved_updates(output) > 0


@pytest.mark.parametrize(
    ("content", "kind", "message"),
    [
        (None, "text", "does not exist"),
        (b"caf\xe9 " * 300, "text", "not UTF-8 (byte 0xe9 at offset 3)"),
        (b"short", "text", "5 characters, expected at least 110"),
        (b"a,b\nx,y\n" * 90, "series", "no numeric column among a, b"),
        (b"a,b\n" + b"1,2\n" * 90 + b"3,nan\n", "series", "line 92, column 'b': a missing value (missing: 1 in b)"),
        (b"a,b\n1,2\n", "series", "1 rows, expected at least"),
        (b"a,b\n1\n", "series", "line 2 has 1 cell, but line 1 has 2"),
        (b"", "series", "empty, expected rows of numbers"),
    ],
)
def test_unusable_input_is_one_line(content: bytes | None, kind: str, message: str, tmp_path: Path) -> None:
    file = tmp_path / "input"
    if content is not None:
        file.write_bytes(content)
    done = train(kind, file, "-o", tmp_path / "n.safetensors", *SMALL)
    assert done.exit_code != 0
    assert isinstance(done.exception, SystemExit)
    last = done.output.splitlines()[-1]
    assert last.startswith("Error: ")
    assert message in last
    assert not (tmp_path / "n.safetensors").exists()


def test_a_damaged_checkpoint_is_one_line_and_is_not_overwritten(waves: Path, tmp_path: Path) -> None:
    output = tmp_path / "n.safetensors"
    output.write_text("not a checkpoint")
    done = train("series", waves, "-o", output, *SMALL)
    assert done.exit_code == 1
    assert done.output.splitlines()[-1].startswith(
        f"Error: -o {output} is there and is not a checkpoint of gatestream's; name another file, or overwrite it with"
    )
    assert output.read_text() == "not a checkpoint"
    with pytest.raises(CheckpointError):
        checkpoint.load(output)


def test_the_checkpoint_does_not_go_where_the_curve_does(waves: Path, tmp_path: Path) -> None:
    done = train("series", waves, "-o", tmp_path / "n.png", *SMALL)
    assert done.exit_code == 1
    assert "the learning curve goes there; call the checkpoint .safetensors" in done.output


def test_help_names_the_tasks_and_loads_no_torch() -> None:
    assert all(task in train("--help").output for task in ("reber", "text", "series"))
    code = "import sys; from gatestream.cli.main import main\ntry: main(['train', 'series', '--help'])\n"
    code += "except SystemExit: sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.DEVNULL)
