"""What the benchmark runs on."""

import datetime
import importlib.metadata
import os
import platform
from collections.abc import Sequence
from pathlib import Path

PACKAGES = ("onnxruntime", "grpcio", "protobuf", "numpy")


def describe(packages: Sequence[str] = PACKAGES) -> dict[str, str]:
    """Processor, memory, versions, date."""
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in packages)
    return {
        "date": datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "processor": f"{cores()} cores of {_processor()}",
        "memory": f"{os.sysconf('SC_PHYS_PAGES') * os.sysconf('SC_PAGE_SIZE') / 2**30:.0f} GiB",
        "system": f"{platform.system()} {platform.release()}",
        "versions": f"Python {platform.python_version()}, {versions}",
        "load before the start": f"{load():.1f} (processes that ran beside the benchmark blur it)",
    }


def cores() -> int:
    """That this process may use."""
    return len(os.sched_getaffinity(0))


def load() -> float:
    """Processes that wanted a core, averaged over the last minute."""
    return os.getloadavg()[0]


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        name, _, value = line.partition(":")
        if name.strip() == "model name":
            return value.strip()
    return platform.machine()
