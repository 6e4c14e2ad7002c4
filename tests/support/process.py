"""A real server in a process of its own."""

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path

_START_SECONDS = 60.0


@dataclass
class ServerProcess:
    """A running `gatestream serve`."""

    popen: subprocess.Popen[bytes]
    port: int
    log: Path

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Hold the process still, so that all that is sent meanwhile has come before it takes up any of it."""
        self.popen.send_signal(signal.SIGSTOP)
        try:
            yield
        finally:
            self.popen.send_signal(signal.SIGCONT)

    def terminate(self, seconds: float = 30.0) -> int:
        """SIGTERM, then wait; the exit code."""
        self.popen.send_signal(signal.SIGTERM)
        return self.popen.wait(seconds)

    def close(self) -> None:
        """Have it not running."""
        if self.popen.poll() is None:
            self.kill()

    def kill(self) -> None:
        """SIGKILL: no chance to clean up."""
        self.popen.kill()
        self.popen.wait()


# As a login shell starts it, whatever started the tests: `nohup`, for one, has SIGHUP ignored.
_DEFAULT_SIGNALS = ("env", "--default-signal=HUP")


def start(*artifacts: Path, **settings: object) -> ServerProcess:
    """Start a server on a free port and wait until it serves; settings are its flags, True for one without a value."""
    return start_under(_DEFAULT_SIGNALS, *artifacts, **settings)


def start_under(launcher: Sequence[str], *artifacts: Path, **settings: object) -> ServerProcess:
    """As `start`, by a command that becomes the one that stands behind it."""
    return start_of(Path(sys.executable), launcher, *artifacts, **settings)


def start_of(python: Path, launcher: Sequence[str], *artifacts: Path, **settings: object) -> ServerProcess:
    """As `start_under`, the server of the environment that this Python is of."""
    folder = Path(tempfile.mkdtemp(dir=_folders().name))
    port_file, log = folder / "port", folder / "log"
    flags = {"listen": "127.0.0.1:0", "provider": "cpu", "log_format": "json", **settings}
    arguments = [
        f"--{name.replace('_', '-')}" + ("" if value is True else f"={value}") for name, value in flags.items()
    ]
    with log.open("wb") as out:
        popen = subprocess.Popen(
            [
                *launcher,
                python,
                "-m",
                "gatestream.cli",
                "serve",
                *map(str, artifacts),
                f"--port-file={port_file}",
                *arguments,
            ],
            stdout=out,
            stderr=out,
            env=os.environ | {"PYTHONWARNINGS": "default"},
        )
    deadline = time.monotonic() + _START_SECONDS
    while not (port_file.exists() and port_file.read_text().endswith("\n")):
        if popen.poll() is not None or time.monotonic() > deadline:
            popen.kill()
            popen.wait()
            raise RuntimeError(f"the server did not start:\n{log.read_text()}")
        time.sleep(0.02)
    return ServerProcess(popen, int(port_file.read_text()), log)


@cache
def _folders() -> tempfile.TemporaryDirectory[str]:
    """Where the servers of this process have their logs, until it ends."""
    return tempfile.TemporaryDirectory(prefix="gatestream-test-", ignore_cleanup_errors=True)


@contextmanager
def serving(*artifacts: Path, **settings: object) -> Iterator[ServerProcess]:
    """A server for the length of a block."""
    server = start(*artifacts, **settings)
    try:
        yield server
    finally:
        server.close()
    assert "what must add up does not" not in server.log.read_text()
