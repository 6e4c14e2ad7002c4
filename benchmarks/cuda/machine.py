"""What a GPU run needs, and what it ran on."""

import shlex
import subprocess
import sys

import onnxruntime as ort
import torch

from benchmarks.harness import machine
from gatestream.server.backend.runner import CUDA


def missing() -> list[str]:
    """What keeps this process from measuring on a GPU; empty where nothing does."""
    found = []
    if torch.version.cuda is None:
        found.append(f"torch {torch.__version__} is built without CUDA")
    elif not torch.cuda.is_available():
        found.append("torch finds no NVIDIA GPU (does nvidia-smi list one?)")
    if CUDA not in ort.get_available_providers():
        found.append(f"onnxruntime {ort.__version__} is built without {CUDA}")
    return found


def describe(rehearsal: bool) -> dict[str, str]:
    """Machine, versions, date, command."""
    found = machine.describe((ort.package_name, "torch", "numpy"))
    return (
        found
        | ({} if rehearsal else _gpu())
        | {"command": shlex.join(["python", "-m", "benchmarks.cuda", *sys.argv[1:]])}
    )


def _gpu() -> dict[str, str]:
    query = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader", "--id=0"]
    driver = subprocess.run(query, check=True, capture_output=True, text=True).stdout.strip()
    gpu = torch.cuda.get_device_properties(0)
    return {
        "GPU": f"{gpu.name}, {gpu.total_memory / 2**30:.0f} GiB, compute capability {gpu.major}.{gpu.minor}",
        "driver": driver,
        "CUDA": f"{torch.version.cuda} (torch), {ort.cuda_version} (onnxruntime)",
        "cuDNN": str(torch.backends.cudnn.version()),  # type: ignore[no-untyped-call]
    }
