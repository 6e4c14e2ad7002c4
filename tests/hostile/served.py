"""A server with its loop probed, a neighbour beside it, and what both tell of some stretch of time."""

import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, Final

import psutil

from tests.hostile.model import artifact
from tests.hostile.neighbour import Seen, answered, seen
from tests.hostile.target import Served, Target
from tests.support import tls

RATE: Final = 100.0
HOSTILE, GOOD = "hostile-token-0123456789", "good-token-0123456789abc"
_START_SECONDS = 60.0
_NEIGHBOUR_SECONDS = 30.0
_MIB = 2**20


class NotServing(RuntimeError):
    """A server did not start, or a neighbour got nothing of it."""


@dataclass
class Server:
    """One server with one neighbour.

    Attributes:
        served: which it is.
        ca: a file with the authority of its certificate; empty: it speaks no TLS.
        door: the neighbour's.
    """

    served: Served
    popen: subprocess.Popen[bytes]
    port: int
    folder: Path
    ca: str = ""
    neighbour: subprocess.Popen[bytes] | None = None
    door: str = "own"

    @property
    def target(self) -> Target:
        tokens = (HOSTILE, GOOD) if self.served == "tokens" else ("", "")
        return Target(f"127.0.0.1:{self.port}", *tokens, ca=self.ca)

    @property
    def alive(self) -> bool:
        return self.popen.poll() is None

    @property
    def log(self) -> str:
        path = self.folder / "log"
        return path.read_text(errors="replace") if path.exists() else ""

    def rss_mib(self) -> float:
        try:
            return float(psutil.Process(self.popen.pid).memory_info().rss) / _MIB
        except psutil.Error:
            return 0.0

    def cpu_seconds(self) -> float:
        try:
            return sum(psutil.Process(self.popen.pid).cpu_times()[:2])
        except psutil.Error:
            return 0.0

    def hold_ms(self, begin: float, end: float) -> tuple[float, str]:
        """The longest callback of the loop that ended from begin to end, and which it was."""
        longest, which = 0.0, ""
        for line in (self.folder / "holds").read_text().splitlines():
            at, took, name = line.split(maxsplit=2)
            if begin <= float(at) < end and float(took) > longest:
                longest, which = float(took), name
        return longest, which

    def attend(self, door: str = "own") -> None:
        """Have a neighbour, that has been answered once."""
        if self.neighbour is not None:
            self.neighbour.kill()
            self.neighbour.wait()
        token = GOOD if self.served == "tokens" else ""
        self.door = door
        self._steps = self.folder / f"neighbour-{time.time_ns()}"
        arguments = [self.target.address, door, str(RATE), str(self._steps), token, self.ca]
        self.neighbour = subprocess.Popen([sys.executable, "-m", "tests.hostile.neighbour", *arguments])
        begin = time.monotonic()
        while not answered(self._steps, 0.0):
            if time.monotonic() - begin > _NEIGHBOUR_SECONDS or self.neighbour.poll() is not None:
                raise NotServing(f"the neighbour got no answer:\n{self.log[-3000:]}")
            time.sleep(0.02)

    def seen(self, begin: float, end: float) -> Seen:
        """What the neighbour saw of steps that were due from begin to end: the last is waited for."""
        until = time.monotonic() + _NEIGHBOUR_SECONDS
        while not answered(self._steps, end - 2 / RATE) and time.monotonic() < until:
            time.sleep(0.02)
        return seen(self._steps, begin, end)

    def close(self) -> None:
        for process in (self.neighbour, self.popen):
            if process is not None and process.poll() is None:
                process.kill()
                process.wait()


def start(served: Served) -> Server:
    """A server with default limits, on a free port."""
    folder = Path(tempfile.mkdtemp(prefix="gatestream-hostile-"))
    flags = ["--listen=127.0.0.1:0", "--provider=cpu", "--log-format=json", f"--port-file={folder / 'port'}"]
    if served == "tokens":
        tokens = folder / "tokens.toml"
        tokens.write_text(f'"{HOSTILE}" = "hostile"\n"{GOOD}" = "good"\n')
        tokens.chmod(0o600)
        flags.append(f"--tokens={tokens}")
    ca = ""
    if served == "tls":
        files = tls.Files(folder)
        ca, (chain, key) = str(files.ca), files.issue("server")
        flags += [f"--tls-cert={chain}", f"--tls-key={key}"]
    if served == "workers":
        flags.append("--workers=2")
    if served.startswith("log"):
        # What is left must expire while it is watched.
        flags.append("--idle-timeout=2")
    reader, writer = os.pipe()
    with open("/dev/full" if served == "log full" else folder / "log", "ab") as log:  # noqa: PTH123
        out: IO[Any] | int = writer if served == "log closed" else log
        popen = subprocess.Popen(
            [
                sys.executable,
                "-m",
                "tests.hostile.probed",
                str(folder / "holds"),
                "serve",
                str(artifact(folder)),
                *flags,
            ],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=out,
        )
    os.close(writer)
    begin, port = time.monotonic(), folder / "port"
    try:
        while not (port.exists() and port.read_text().endswith("\n")):
            if popen.poll() is not None or time.monotonic() - begin > _START_SECONDS:
                popen.kill()
                said = (folder / "log").read_text() if (folder / "log").exists() else ""
                raise NotServing(f"the server did not start:\n{said}")
            time.sleep(0.02)
    finally:
        os.close(reader)
    return Server(served, popen, int(port.read_text()), folder, ca)


@contextmanager
def serving(served: Served, door: str = "own") -> Iterator[Server]:
    """A server with a neighbour, for the length of a block."""
    server = start(served)
    try:
        server.attend(door)
        yield server
    finally:
        server.close()


@dataclass
class Memory:
    """The most that a server has, looked at again and again; it is ended where that is too much for this machine."""

    server: Server
    most_mib: float
    peak_mib: float = 0.0
    _over: threading.Event = field(default_factory=threading.Event)

    def __enter__(self) -> "Memory":
        self._thread = threading.Thread(target=self._look, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_exc: object) -> None:
        self._over.set()
        self._thread.join()

    def _look(self) -> None:
        while not self._over.is_set():
            self.peak_mib = max(self.peak_mib, self.server.rss_mib())
            if self.peak_mib > self.most_mib:
                self.server.popen.kill()
                return
            self._over.wait(0.02)
