import json
import re
import runpy
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import onnx
import pytest
from click.testing import CliRunner
from safetensors.torch import save_file
from torch.nn import GRU

from gatestream.cli.inspect import command
from gatestream.cli.main import main
from gatestream.export.exporter import export
from gatestream.model.checkpoint import load
from tests.export import mutations
from tests.support.traces import traced_once

ROOT = Path(__file__).parents[2]
FIXTURE = ROOT / "tests" / "export" / "fixtures" / "small.safetensors"


@pytest.fixture(scope="module")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("inspect") / "small.onnx"
    with traced_once(tmp_path_factory, "fixture"):
        export(load(FIXTURE).network, path, "gates")
    return path


def test_prints_and_draws(artifact: Path, tmp_path: Path) -> None:
    result = CliRunner().invoke(command, [str(artifact), "--svg", str(tmp_path / "cell.svg")])
    assert result.exit_code == 0, result.output
    assert result.output.startswith("reber-small, version 1: LSTM, 1 x 12: one of 7 tokens in, 7 numbers out\n")
    assert (tmp_path / "cell.svg").read_text().startswith("<svg")


def test_prints_json(artifact: Path) -> None:
    result = CliRunner().invoke(command, [str(artifact), "--json"])
    assert json.loads(result.output)["spec"]["name"] == "reber-small"


@pytest.mark.parametrize(
    ("mutation", "message"),
    [
        (mutations.gates_exchanged, "activations of the input gate i: data flow shows f"),
        (mutations.missing_forget_gate, "the forget gate is missing"),
        (mutations.states_exchanged_at_output, "the hidden state comes in as and goes out as"),
    ],
)
def test_a_spoilt_file_is_one_line_and_no_picture(
    artifact: Path, tmp_path: Path, mutation: mutations.Mutation, message: str
) -> None:
    model = onnx.load(artifact)
    mutation(model)
    onnx.save(model, tmp_path / "spoilt.onnx")
    result = CliRunner().invoke(command, [str(tmp_path / "spoilt.onnx"), "--svg", str(tmp_path / "cell.svg")])
    assert result.exit_code == 1
    assert result.output.startswith("Error: ")
    assert message in result.output
    assert result.output.count("\n") == 1
    assert not (tmp_path / "cell.svg").exists()


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    result = CliRunner().invoke(command, [str(tmp_path / "none.onnx")])
    assert result.exit_code == 1
    assert result.output == f"Error: {tmp_path}/none.onnx: no such file; make one with `gatestream export`\n"


def test_works_without_torch(artifact: Path) -> None:
    code = (
        "import sys; sys.modules['torch'] = sys.modules['onnxscript'] = None\n"
        f"from gatestream.cli.inspect import command; command([{str(artifact)!r}])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120)
    assert done.stdout.startswith("reber-small, version 1")


MINE = """
class Mine(nn.GRU):
    def forward(self, x):
        return super().forward(x)[0]
"""


def shell(folder: Path, commands: list[str], **env: str) -> None:
    """Run lines as a shell does, `gatestream` being the one beside this interpreter."""
    path = f"{Path(sys.executable).parent}:/usr/bin:/bin"
    script = "\n".join(["set -eo pipefail", *commands])
    subprocess.run(["bash", "-c", script], cwd=folder, env={"PATH": path} | env, check=True, timeout=170)


@pytest.mark.slow
def test_commands_of_the_document_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "artifacts").mkdir()
    shutil.copy(FIXTURE, tmp_path / "artifacts" / "reber.safetensors")
    document = (ROOT / "docs" / "export.md").read_text()
    commands = [shlex.split(line) for line in re.findall(r"^    gatestream (.*)$", document, re.MULTILINE)]
    assert [name for name, *_ in commands] == ["export", "inspect", "export", "export", "export"]
    own, python = re.findall(r"^```python\n(.*?)^```$", document, re.MULTILINE | re.DOTALL)
    (tmp_path / "theirs.py").write_text(python)
    (tmp_path / "own.py").write_text(own)
    (tmp_path / "mymodel.py").write_text(
        "from torch import nn\n\ndef build(): return Mine(40, 8, batch_first=True)\n" + MINE
    )
    save_file(GRU(40, 8).state_dict(), tmp_path / "weights.safetensors")
    monkeypatch.setattr(sys, "path", list(sys.path))
    for arguments in commands:
        result = CliRunner().invoke(main, arguments)
        assert result.exit_code == 0, result.output
    sys.modules.pop("mymodel")
    runpy.run_path("theirs.py")
    runpy.run_path("own.py")
    assert json.loads((tmp_path / "artifacts" / "report.json").read_text())["passed"] is True
    assert (tmp_path / "artifacts" / "cell.svg").exists()
    assert (tmp_path / "theirs.onnx").exists()
    assert (tmp_path / "mine.onnx").exists()


@pytest.mark.slow
def test_steps_of_the_workflow_work(tmp_path: Path) -> None:
    workflow = (ROOT / ".github" / "workflows" / "export.yml").read_text()
    (default,) = set(re.findall(r"(?:default: |\|\| ')(\S+\.safetensors)", workflow))
    steps = [line for line in re.findall(r"^      - run: (.*)$", workflow, re.MULTILINE) if "pip install" not in line]
    assert len(steps) == 3
    assert "shell: bash" in workflow, "without it a failure before a pipe is no failure"
    shell(tmp_path, steps, CHECKPOINT=str(ROOT / default), FORM="fused")
    kept = {"model.fused.onnx", "report.fused.json", "cell.fused.svg", "inspect.fused.txt"}
    assert {path.name for path in (tmp_path / "exported").iterdir()} == kept
