"""`gatestream demo`: the whole path in a folder of its own."""

import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from click.testing import CliRunner
from matplotlib import image

from gatestream.cli.demo import SHOWN, Live, Server, command, draw, stream_through
from gatestream.protos.spec import from_metadata
from tests.support.artifacts import save
from tests.support.process import serving
from tests.support.reference import Demo

pytestmark = pytest.mark.timeout(600)  # the model may have to be trained first


def run(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "gatestream.cli", "demo", *arguments], cwd=folder, capture_output=True, text=True
    )


def test_the_whole_path(demo: Demo) -> None:
    assert "finished already" in demo.output
    assert "form gates: proved" in demo.output
    assert "form fused: proved" in demo.output
    assert {path.name for path in demo.artifacts.glob("*.onnx")} == {"reber.gates.onnx", "reber.fused.onnx"}
    *_, streamed, illegal, latency, picture = demo.output.splitlines()
    assert streamed == "streamed  400 symbols in one session"
    assert illegal == "illegal   0 predictions"
    assert latency.startswith("latency   p50 ")
    assert "demo/gates.png" in picture
    assert image.imread(demo.folder / "demo" / "gates.png").std() > 0
    assert "stopped" in (demo.folder / "demo" / "server.log").read_text()


def test_the_picture_shows_every_gate_step_and_symbol(tmp_path: Path) -> None:
    """Each gate has a colour of its own here, so each must leave many pixels of it in its quarter of the picture."""
    names = ("input", "forget", "candidate", "output")
    gates = {name: np.full((SHOWN, 1, 8), k / 4, np.float32) for k, name in enumerate(names)}
    live = Live(SHOWN, 0, np.ones(SHOWN), "B" * SHOWN, gates)
    draw(live, tmp_path / "gates.png")
    pixels = np.rint(255 * image.imread(tmp_path / "gates.png")[..., :3]).astype(int) @ (1, 256, 256**2)
    colours = set()
    for quarter in np.array_split(pixels, 4):
        found, counts = np.unique(quarter, return_counts=True)
        painted = found != 256**3 - 1
        colours.add(int(found[painted][counts[painted].argmax()]))
        assert counts[painted].max() > 0.4 * counts.sum()
    assert len(colours) == 4


def test_through_a_server_that_runs_already(reference: Path, tmp_path: Path) -> None:
    with serving(reference / "reber.gates.onnx") as server:
        done = run(tmp_path, f"--address={server.address}", "--symbols=200")
    assert done.returncode == 0, done.stderr
    assert "streamed  200 symbols" in done.stdout
    assert list(tmp_path.iterdir()) == []


def test_a_server_that_is_killed_in_mid_stream(reference: Path, tmp_path: Path) -> None:
    with Server(reference / "reber.gates.onnx", tmp_path / "log") as server:
        killed = stream_through(server.address, 400, 1, server.kill)
        quiet = stream_through(server.address, 400, 1)
    assert killed.illegal == 0
    assert killed.shown == quiet.shown
    for name, gates in quiet.gates.items():
        np.testing.assert_array_equal(killed.gates[name], gates)
    assert (tmp_path / "log").read_text().count(" serving ") == 2


def test_only_its_own_server_is_killed(tmp_path: Path) -> None:
    done = run(tmp_path, "--address=127.0.0.1:1", "--kill")
    assert done.returncode == 2
    assert "--kill is for the demo's own server, and --address names another" in done.stderr


def test_illegal_predictions_are_a_failure(reference: Path, tmp_path: Path) -> None:
    model = onnx.load(reference / "reber.gates.onnx")
    (head,) = [item for item in model.graph.initializer if item.name.startswith("head.weight")]
    head.CopyFrom(onnx.numpy_helper.from_array(-onnx.numpy_helper.to_array(head), head.name))
    spec = from_metadata({item.key: item.value for item in model.metadata_props}, "wrong.onnx")
    save(tmp_path / "wrong.onnx", model.graph, spec)
    with serving(tmp_path / "wrong.onnx") as server:
        done = run(tmp_path, f"--address={server.address}", "--symbols=200")
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].endswith("of 200 predictions were illegal; there should be none")


def test_nobody_at_the_address(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        done = run(tmp_path, f"--address={address}")
    assert done.returncode == 1
    assert done.stderr.startswith("Error: ")
    assert address in done.stderr
    assert done.stderr.count("\n") == 1


def test_a_checkpoint_that_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "artifacts"
    folder.mkdir()
    (folder / "reber.safetensors").write_text("not a checkpoint")
    done = CliRunner().invoke(command, [])
    assert done.exit_code == 1
    assert done.stderr.startswith("Error: ")
    assert "reber.safetensors" in done.stderr
    assert done.stderr.count("\n") == 1
