"""The reference model, and the demo that is made of it: once for all tests that need them."""

import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class Demo:
    """What `gatestream demo` left in a folder, and what it said."""

    folder: Path
    output: str

    @property
    def artifacts(self) -> Path:
        """Has reber.safetensors, reber.gates.onnx and reber.fused.onnx."""
        return self.folder / "artifacts"


def demo(folder: Path, symbols: int) -> Demo:
    """Run the whole path; training, of all the slowest, is taken up from ./artifacts, and finished there."""
    checkpoint = ROOT / "artifacts" / "reber.safetensors"
    checkpoint.parent.mkdir(exist_ok=True)
    gatestream("train", "reber", "-o", checkpoint)
    (folder / "artifacts").mkdir(exist_ok=True)
    shutil.copy(checkpoint, folder / "artifacts")
    return Demo(folder, gatestream("demo", f"--symbols={symbols}", cwd=folder).stdout)


def gatestream(*arguments: object, cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
    """Run the command in a process of its own; it must end with 0."""
    done = subprocess.run(
        [sys.executable, "-m", "gatestream.cli", *map(str, arguments)], cwd=cwd, capture_output=True, text=True
    )
    assert done.returncode == 0, f"gatestream {arguments} ended with {done.returncode}:\n{done.stdout}\n{done.stderr}"
    return done
