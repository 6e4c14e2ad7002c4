"""The folder for what is adopted does not outlive its server for long."""

import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from gatestream.server.config import ServerConfig
from gatestream.server.process.adopted import adopted

HOLDS = """
import sys, time
from pathlib import Path
from gatestream.server.config import ServerConfig
from gatestream.server.process.adopted import adopted
with adopted(ServerConfig(models=Path("."))) as folder:
    print(folder, flush=True)
    time.sleep(600)
"""


def holder(folder: Path) -> "tuple[subprocess.Popen[str], Path]":
    """A process that has such a folder, and the folder."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDS], stdout=subprocess.PIPE, text=True, env=os.environ | {"TMPDIR": str(folder)}
    )
    assert process.stdout is not None
    return process, Path(process.stdout.readline().strip())


def test_what_a_killed_server_left_goes_when_the_next_one_starts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    killed, left = holder(tmp_path)
    running, kept = holder(tmp_path)
    try:
        (left / "made.onnx").write_bytes(b"made")
        killed.send_signal(signal.SIGKILL)
        killed.wait()
        assert left.exists()
        with adopted(ServerConfig(models=tmp_path)) as own:
            assert own is not None
            assert own.exists()
            assert not left.exists()
            assert kept.exists()
        assert not own.exists()
    finally:
        for process in (killed, running):
            process.kill()
            process.wait()
            assert process.stdout is not None
            process.stdout.close()


def test_a_folder_of_that_name_elsewhere_is_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "there").mkdir()
    (tmp_path / "tmp").mkdir()
    (tmp_path / "tmp" / "gatestream-cache-link").symlink_to(tmp_path / "there")
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "tmp"))
    with adopted(ServerConfig(models=tmp_path)):
        assert (tmp_path / "there").exists()
