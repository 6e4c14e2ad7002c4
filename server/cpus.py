"""How many CPUs this process may use."""

import math
import os
from collections.abc import Iterator
from pathlib import Path


def cpus_available(groups: Path = Path("/proc/self/cgroup"), root: Path = Path("/sys/fs/cgroup")) -> int:
    """By its affinity and the quotas of its control groups, of version 1 or 2; rounded down, at least 1.

    Args:
        groups: says which control groups it is in.
        root: where they are mounted.
    """
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, int(min([allowed, *_quotas(groups, root)])))


def _quotas(groups: Path, root: Path) -> Iterator[float]:
    for line in groups.read_text().splitlines() if groups.exists() else ():
        _, controllers, path = line.split(":", 2)
        if controllers == "":
            base, names = root, ["cpu.max"]
        elif "cpu" in controllers.split(","):
            base, names = root / "cpu", ["cpu.cfs_quota_us", "cpu.cfs_period_us"]
        else:
            continue
        # A quota holds for all below it. In a container the path can be one of the host, and its end the base.
        group = base / path.lstrip("/")
        for folder in (group, *group.parents):
            files = [folder / name for name in names]
            if folder.is_relative_to(base) and all(file.exists() for file in files):
                quota, period = " ".join(file.read_text() for file in files).split()
                yield math.inf if quota in ("max", "-1") else int(quota) / int(period)
