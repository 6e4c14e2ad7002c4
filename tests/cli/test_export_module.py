"""`gatestream export package.module:factory`."""

import json
import os
import re
import shutil
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner, Result
from safetensors.torch import save_file
from torch import nn

from gatestream.cli.export import command
from gatestream.export.artifact import load
from tests.support.reference import ROOT

MODULE = """
from torch import nn

class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.lstm = nn.LSTM(4, 6, batch_first=True)
        self.head = nn.Linear(6, 3)

    def forward(self, x):
        return self.head(self.lstm(x)[0])

def build():
    return Model()

number = 3
"""

Export = Callable[..., Result]


@pytest.fixture
def export(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Export]:
    """Export from a folder in which there is the user's file, mine.py."""
    (tmp_path / "mine.py").write_text(MODULE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))

    def run(*arguments: str) -> Result:
        return CliRunner().invoke(command, [*arguments, "-o", "mine.onnx"])

    yield run
    sys.modules.pop("mine", None)


def weights() -> dict[str, torch.Tensor]:
    torch.manual_seed(3)
    module = nn.ModuleDict({"lstm": nn.LSTM(4, 6), "head": nn.Linear(6, 3)})
    return dict(module.state_dict())


def test_exports_proves_and_reports(export: Export, tmp_path: Path) -> None:
    save_file(weights(), "w.safetensors")
    made = export("mine:build", "--weights", "w.safetensors", "--input", "x:float32[4]", "--report", "r.json")
    assert made.exit_code == 0, made.output
    assert made.output.endswith("mine.onnx is mine:build: proved\n")
    assert "weights                 w.safetensors: 6 tensors\n" in made.output
    assert "state                   lstm.h [batch, 1, 6]" not in made.output
    assert "state                   lstm.h [1, batch, 6], of LSTM 'lstm', which starts anew at each call" in made.output
    report = json.loads((tmp_path / "r.json").read_text())
    assert report["passed"] is True
    spec = load(tmp_path / "mine.onnx").spec
    assert (spec.name, spec.source.name, [cell.name for cell in spec.cells]) == ("mine", "mine:build", ["lstm"])


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["mine:build"], "what Model takes is not said: --input NAME:TYPE[SHAPE]"),
        (["mine:number"], "number is a int, neither an nn.Module nor what makes one"),
        (["mine:nothing"], "mine has no nothing"),
        (["nobodys:build"], "nobodys cannot be imported"),
        (["mine:build", "--input", "x[5]"], "Model cannot be called with x [3, 5, 5]: RuntimeError"),
        (["mine:build", "--input", "z[4]"], "Model has no parameter 'z': its forward takes x"),
        (["mine:build", "--max-error", "1"], "--max-error is for a checkpoint"),
        (["small.safetensors", "--input", "x[4]"], "--input is for a MODULE:FACTORY"),
    ],
)
def test_an_error_is_one_line(export: Export, arguments: list[str], said: str) -> None:
    made = export(*arguments)
    assert made.exit_code in (1, 2)
    assert said in made.output
    assert made.output.count("\n") == 1
    assert not Path("mine.onnx").exists()


def test_a_refusal_is_in_the_report(export: Export) -> None:
    assert export("mine:build", "--input", "x[time,batch,4]", "--report", "r.json").exit_code == 1
    report = json.loads(Path("r.json").read_text())
    assert report["passed"] is False
    assert "'lstm' (LSTM) gives a row other numbers alone" in report["checks"][0]["detail"]


def script(step: str) -> str:
    """What a step of the action runs, by its id."""
    action = (ROOT / ".github" / "actions" / "export" / "action.yml").read_text()
    (found,) = re.findall(rf"    - id: {step}\n(?:      .*\n)*?      run: \|\n((?:        .*\n)+)", action)
    return textwrap.dedent(found)


@pytest.mark.slow
@pytest.mark.parametrize(("shape", "passes"), [("[4]", True), ("[time,batch,4]", False)])
def test_the_action_exports_proves_and_keeps_the_report(shape: str, passes: bool, tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(MODULE)
    save_file(weights(), tmp_path / "w.safetensors")
    gatestream = shutil.which("gatestream", path=Path(sys.executable).parent)
    assert gatestream is not None
    said = {"MODULE": "mine:build", "WEIGHTS": "w.safetensors", "NAME": "mine"}
    said |= {"FLAGS": f"--input 'x:float32{shape}' --form gates", "GITHUB_OUTPUT": str(tmp_path / "outputs")}
    path = f"{Path(gatestream).parent}:{os.environ['PATH']}"
    done = subprocess.run(
        ["bash", "--noprofile", "--norc", "-eo", "pipefail", "-c", script("export")],
        env={**os.environ, **said, "PATH": path},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode == 0) is passes, done.stdout + done.stderr
    kept = {"mine.report.json", "mine.export.txt"} | ({"mine.onnx", "mine.inspect.txt"} if passes else set())
    assert {each.name for each in (tmp_path / "exported").iterdir()} == kept
    assert json.loads((tmp_path / "exported" / "mine.report.json").read_text())["passed"] is passes
    outputs = dict(line.split("=") for line in (tmp_path / "outputs").read_text().splitlines())
    assert Path(outputs["model"]).exists() is passes


def test_constants_are_said_by_name_shape_and_value(export: Export, tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(
        "from torch import nn\n"
        "class Voiced(nn.GRU):\n"
        "    def forward(self, x, speaker, gain):\n"
        "        return super().forward(gain * x + speaker[:, None])[0]\n"
        "def build():\n"
        "    return Voiced(4, 6, batch_first=True)\n"
    )
    made = export("mine:build", "--input", "x[4]", "--constant", "speaker:float32[4]", "--constant", "gain=0.5")
    assert made.exit_code == 0, made.output
    assert "constant                speaker [batch, 4], what a session is given once\n" in made.output
    assert "constant                gain, one value for good\n" in made.output
    assert load(tmp_path / "mine.onnx").spec.states[1].required
