"""The processes that are compared, and those that measure them."""

import ctypes
import json
import os
import select
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import IO, Final, Self

ROOT: Final = Path(__file__).parent.parent.parent
_PATIENCE_SECONDS: Final = 120.0
# https://man7.org/linux/man-pages/man2/PR_SET_PDEATHSIG.2const.html
_PR_SET_PDEATHSIG: Final = 1


class ContenderError(Exception):
    """A process failed; the message holds what it said."""


class Process:
    """A child process that ends with its `with` block; what it says on standard error is kept for the error message.

    Args:
        arguments: the command.
        talks: its standard output is for `line`, and not part of what it says.
        environment: more than ours.
    """

    def __init__(
        self, arguments: Sequence[str | Path], *, talks: bool = True, environment: Mapping[str, str] | None = None
    ):
        self._arguments = [str(argument) for argument in arguments]
        self._said: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115
        self._popen = subprocess.Popen(
            self._arguments,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE if talks else self._said,
            stderr=self._said,
            cwd=ROOT,
            env=os.environ | (environment or {}),
            preexec_fn=_end_with_us,
        )
        self.pid = self._popen.pid

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def stop(self) -> None:
        """Kill it."""
        self._popen.kill()
        self._popen.wait()
        for pipe in (self._popen.stdin, self._popen.stdout, self._said):
            if pipe is not None:
                pipe.close()

    def line(self) -> str:
        """The next line on its standard output.

        Raises:
            ContenderError: it ended, or said nothing for too long.
        """
        assert self._popen.stdout is not None
        ready, _, _ = select.select([self._popen.stdout], [], [], _PATIENCE_SECONDS)
        line = self._popen.stdout.readline() if ready else b""
        if not line.endswith(b"\n"):
            raise self.failure("ended" if ready else f"said nothing for {_PATIENCE_SECONDS:.0f} s")
        return line.decode()

    def failure(self, what: str) -> ContenderError:
        """An error with what the process said."""
        self._said.seek(0)
        said = self._said.read().decode(errors="replace")[-4000:].strip()
        return ContenderError(f"{' '.join(self._arguments)}: {what}\n{said}")

    @property
    def running(self) -> bool:
        """It has not ended."""
        return self._popen.poll() is None

    def resident_bytes(self) -> int:
        """Memory of it and its children that is in RAM and theirs alone."""
        return sum(_private_bytes(pid) for pid in _with_descendants(self.pid))


class Instrument(Process):
    """A process that measures one window for each line it gets: the load generator, or a bare run."""

    def begin(self, line: str) -> None:
        """Start a window."""
        assert self._popen.stdin is not None
        try:
            self._popen.stdin.write(line.encode() + b"\n")
            self._popen.stdin.flush()
        except BrokenPipeError as error:
            raise self.failure("ended") from error

    def finish(self) -> dict[str, float]:
        """Wait for the window to end."""
        figures: dict[str, float] = json.loads(self.line())
        return figures

    def measure(self, warm_up: float, seconds: float, rate: float | None = None) -> dict[str, float]:
        """One window; with a rate, of an open loop."""
        self.begin(f"{warm_up} {seconds}" + (f" {rate}" if rate else ""))
        return self.finish()

    def begin_count(self, messages: int) -> None:
        """Start a window that ends when every stream has had so many messages."""
        self.begin(f"count {messages}")

    def count(self, messages: int) -> dict[str, float]:
        """Such a window, to its end."""
        self.begin_count(messages)
        return self.finish()

    def close(self) -> None:
        """Have it end in order: it checks that nothing is owed to it.

        Raises:
            ContenderError: something is.
        """
        assert self._popen.stdin is not None
        self._popen.stdin.close()
        if self._popen.wait(_PATIENCE_SECONDS) != 0:
            raise self.failure("failed at its end")


class Server(Process):
    """A process that listens.

    Attributes:
        port: on the loopback address.
    """

    port: int


class Announced(Server):
    """A contender of ours, which says its port on standard output."""

    def __init__(self, module: str, arguments: Sequence[str | Path] = ()):
        super().__init__([sys.executable, "-m", f"benchmarks.contenders.{module}", *arguments])
        self.port = int(self.line())


class Gatestream(Server):
    """`gatestream serve`, with one model on the CPU; returns when it serves.

    Args:
        artifact: the model.
        settings: flags, without their dashes; True for one without a value.
        command: what to run in place of `gatestream`.
        environment: more than ours.
    """

    def __init__(
        self,
        artifact: Path,
        settings: Mapping[str, object],
        command: Sequence[str] = ("-m", "gatestream.cli"),
        environment: Mapping[str, str] | None = None,
    ):
        with tempfile.TemporaryDirectory() as folder:
            port_file = Path(folder) / "port"
            arguments = flags({"listen": "127.0.0.1:0", "provider": "cpu", "port_file": port_file, **settings})
            super().__init__(
                [sys.executable, *command, "serve", artifact, *arguments], talks=False, environment=environment
            )
            deadline = time.monotonic() + _PATIENCE_SECONDS
            while not (port_file.exists() and port_file.read_text().endswith("\n")):
                if not self.running or time.monotonic() > deadline:
                    error = self.failure("did not start to serve")
                    self.stop()
                    raise error
                time.sleep(0.01)
            self.port = int(port_file.read_text())


def flags(settings: Mapping[str, object]) -> list[str]:
    """As they stand on a command line; of True the name alone."""
    return [f"--{name.replace('_', '-')}" + ("" if value is True else f"={value}") for name, value in settings.items()]


def free_port() -> int:
    """A port of the loopback address that nobody has, for as long as nobody takes it."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _end_with_us() -> None:
    """Have the kernel kill this process when the one that started it has gone, however it went."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def _private_bytes(pid: int) -> int:
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return sum(1024 * int(line.split()[1]) for line in lines if line.startswith(("Private_Clean:", "Private_Dirty:")))


def _with_descendants(root: int) -> list[int]:
    parents = {}
    for entry in os.scandir("/proc"):
        if entry.name.isdecimal():
            try:
                stat = Path(entry.path, "stat").read_text()
            except FileNotFoundError:
                continue  # It ended while we looked.
            parents[int(entry.name)] = int(stat.rpartition(")")[2].split()[1])
    found = [root]
    for pid in found:
        found += [child for child, parent in parents.items() if parent == pid]
    return found
