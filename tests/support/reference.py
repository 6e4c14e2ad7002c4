"""The reference model, as `make artifacts` leaves it in ./artifacts."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def artifacts() -> Path:
    """The folder with reber.safetensors, reber.gates.onnx and reber.fused.onnx; finished training is taken up."""
    folder = ROOT / "artifacts"
    checkpoint = folder / "reber.safetensors"
    folder.mkdir(exist_ok=True)
    gatestream("train", "reber", "-o", checkpoint)
    for form in ("gates", "fused"):
        gatestream("export", checkpoint, "-o", folder / f"reber.{form}.onnx", "--form", form)
    return folder


def gatestream(*arguments: object, cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
    """Run the command in a process of its own; it must end with 0."""
    done = subprocess.run(
        [sys.executable, "-m", "gatestream.cli", *map(str, arguments)], cwd=cwd, capture_output=True, text=True
    )
    assert done.returncode == 0, f"gatestream {arguments} ended with {done.returncode}:\n{done.stdout}\n{done.stderr}"
    return done
