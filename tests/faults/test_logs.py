"""What becomes of the server when its log cannot be written, and of its log when clients would fill it."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from tests.support.http2 import RawCall, grpc_frame
from tests.support.process import ServerProcess, serving
from tests.support.wire import PATIENCE, Stream, until


@contextmanager
def logging_to(stderr: int, accumulator_path: Path, folder: Path) -> Iterator[ServerProcess]:
    """A server whose sessions expire, which it logs."""
    port_file = folder / "port"
    command = [sys.executable, "-m", "gatestream.cli", "serve", str(accumulator_path), "--listen=127.0.0.1:0"]
    settings = ["--provider=cpu", f"--port-file={port_file}", "--idle-timeout=0.2"]
    with subprocess.Popen([*command, *settings], stderr=stderr, stdout=subprocess.DEVNULL) as popen:
        try:
            deadline = time.monotonic() + PATIENCE
            while not (port_file.exists() and port_file.read_text().endswith("\n")):
                assert popen.poll() is None
                assert time.monotonic() < deadline
                time.sleep(0.02)
            yield ServerProcess(popen, int(port_file.read_text()), Path())
        finally:
            popen.kill()


def serves_on(server: ServerProcess) -> None:
    """What is logged while this is so does not end it."""
    with Stream(server.address) as stream:
        for _ in range(3):
            stream.opened(0)
            np.testing.assert_array_equal(stream.stepped(0, [[1, 2]]), [[1, 2]])
            stream.expect("closed")  # Idle.
    assert server.terminate() == 0


def test_a_full_disk(accumulator_path: Path, tmp_path: Path) -> None:
    # The device on which there is never room.
    full = os.open("/dev/full", os.O_WRONLY)
    try:
        with logging_to(full, accumulator_path, tmp_path) as server:
            serves_on(server)
    finally:
        os.close(full)


def test_a_closed_pipe(accumulator_path: Path, tmp_path: Path) -> None:
    reader, writer = os.pipe()
    with logging_to(writer, accumulator_path, tmp_path) as server:
        os.close(reader)
        os.close(writer)
        serves_on(server)


def test_a_pipe_that_nobody_reads(accumulator_path: Path, tmp_path: Path) -> None:
    reader, writer = os.pipe()
    with logging_to(writer, accumulator_path, tmp_path) as server:
        os.set_blocking(writer, False)
        try:
            while True:
                os.write(writer, b"x" * 1024)
        except BlockingIOError:
            os.set_blocking(writer, True)
        with Stream(server.address) as stream:
            # An expiry is told to its client before it is logged, but logged before the next one.
            for _ in range(2):
                stream.opened(0)
                stream.expect("closed")
            # As soon as there is room it says how much was lost.
            got = b""
            os.set_blocking(reader, False)

            def read() -> bool:
                nonlocal got
                try:
                    got += os.read(reader, 2**20)
                except BlockingIOError:
                    stream.opened(0)
                    stream.expect("closed")
                return b"log lines were lost" in got

            until(read, "the loss was logged")
        serves_on(server)
    os.close(reader)
    os.close(writer)


def test_clients_cannot_fill_the_log(accumulator_path: Path) -> None:
    with serving(accumulator_path) as server:
        before = server.log.stat().st_size
        bad = {"grpc_timeout": "-1S", "k": "\udcff" * 40}
        for _ in range(3):
            with RawCall(server.port, "/inference.GRPCInferenceService/ServerLive", **bad) as connection:
                connection.again(grpc_frame(b""), 500)
                connection.read_until(b"\x07")
        with Stream(server.address) as stream:
            stream.opened(0)
        assert server.log.stat().st_size - before < 20_000
