import os
from pathlib import Path

import pytest

from gatestream.server.cpus import cpus_available

QUOTA, PERIOD = "cpu.cfs_quota_us", "cpu.cfs_period_us"


@pytest.fixture(autouse=True)
def eight(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _process: set(range(8)), raising=False)


def cpus(folder: Path, groups: str, files: dict[str, str]) -> int:
    (folder / "groups").write_text(groups)
    for name, text in files.items():
        path = folder / "root" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return cpus_available(folder / "groups", folder / "root")


@pytest.mark.parametrize(
    ("groups", "files", "expected"),
    [
        ("0::/\n", {}, 8),
        ("0::/\n", {"cpu.max": "max 100000\n"}, 8),
        ("0::/\n", {"cpu.max": "250000 100000\n"}, 2),
        ("0::/\n", {"cpu.max": "50000 100000\n"}, 1),
        ("0::/a/b\n", {"a/cpu.max": "300000 100000\n", "a/b/cpu.max": "max 100000\n"}, 3),
        ("0::/of/the/host\n", {"cpu.max": "400000 100000\n"}, 4),
        (
            "4:memory:/x\n3:cpu,cpuacct:/x\n",
            {"cpu/x/cpu.cfs_quota_us": "200000", "cpu/x/cpu.cfs_period_us": "100000"},
            2,
        ),
        ("3:cpuacct,cpu:/\n", {f"cpu/{QUOTA}": "-1", f"cpu/{PERIOD}": "100000"}, 8),
        ("3:cpuset:/x\n", {f"cpu/x/{QUOTA}": "100000", f"cpu/x/{PERIOD}": "100000"}, 8),
    ],
)
def test_the_smallest_quota_counts(tmp_path: Path, groups: str, files: dict[str, str], expected: int) -> None:
    assert cpus(tmp_path, groups, files) == expected


def test_without_control_groups_the_affinity_counts(tmp_path: Path) -> None:
    assert cpus_available(tmp_path / "none", tmp_path) == 8


def test_on_this_machine() -> None:
    assert 1 <= cpus_available() <= 8
