"""What a client can do to gRPC's task that accepts calls, and what becomes of the server when that task has died."""

import contextlib
import signal
import socket
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from gatestream.protos.gatestream.v1 import gatestream_pb2 as pb
from tests.support.http2 import RawCall
from tests.support.process import ServerProcess, serving
from tests.support.wire import PATIENCE, Stream, stub, until
from tests.support.workers import lines, streams_on_both

REPLACED = "gRPC stopped accepting calls and is replaced"
# Has grpc.aio make its own servers again, whose accepting task a path that is not UTF-8 ends.
AS_GRPC_IS = """
import os, types
os.environ.setdefault("GRPC_EXPERIMENTS", "-event_engine_listener")
import grpc.aio._server as server
server.cygrpc = types.SimpleNamespace(**vars(server.cygrpc))
"""

# A grpcio with other insides than those that are known.
OTHERWISE = """
import os, types
os.environ.setdefault("GRPC_EXPERIMENTS", "-event_engine_listener")
import grpc._cython as cython, grpc.aio
names = vars(cython.cygrpc)
cython.cygrpc = types.SimpleNamespace(**{name: names[name] for name in names if name != "_handle_rpc"})
"""


@pytest.fixture
def mortal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Servers started from now on die of a path that is not UTF-8."""
    (tmp_path / "sitecustomize.py").write_text(AS_GRPC_IS)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))


def bad_path(server: ServerProcess) -> RawCall:
    return RawCall(server.port, b"/gatestream.v1.Gatestream/\xff\xfe")


def serves(server: ServerProcess) -> bool:
    """Whether a new client is served."""
    with contextlib.suppress(Exception), stub(server.address) as calls:
        calls.Describe(pb.DescribeRequest(), timeout=5)
        return True
    return False


def stepped(stream: Stream, times: int) -> None:
    for _ in range(times):
        np.testing.assert_array_equal(stream.stepped(0, [[0, 0]]), [[1, 2]])


@contextlib.contextmanager
def streaming(server: ServerProcess) -> Iterator[Stream]:
    with Stream(server.address) as stream:
        stream.opened(0)
        np.testing.assert_array_equal(stream.stepped(0, [[1, 2]]), [[1, 2]])
        yield stream


def test_a_path_that_is_not_utf8_is_a_method_that_is_not_there(accumulator_path: Path) -> None:
    with serving(accumulator_path) as server, streaming(server) as stream:
        for _ in range(20):
            with bad_path(server) as call:
                call.data(b"", end=True)
                assert b"grpc-status\x0212" in call.read_until(b"Method not found!")
        stepped(stream, 3)
        assert serves(server)
        assert lines(server, REPLACED) == []


def test_that_a_path_can_end_the_accepting_of_calls_is_said_at_the_start(
    accumulator_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said = "a call's path that is not UTF-8 ends this grpcio's accepting of calls; it is then replaced"
    with serving(accumulator_path) as server:
        assert lines(server, said) == []
    (tmp_path / "sitecustomize.py").write_text(OTHERWISE)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    with serving(accumulator_path) as server:
        assert [line["level"] for line in lines(server, said)] == ["warning"]
        with bad_path(server):
            until(partial(_deaths, server, 1), "the death was noticed")
        until(lambda: serves(server), "new clients are served")


@pytest.mark.usefixtures("mortal")
def test_a_grpc_server_that_died_is_replaced(accumulator_path: Path) -> None:
    with serving(accumulator_path, drain_seconds=20) as server, streaming(server) as old:
        for death in range(1, 4):
            with bad_path(server):
                until(partial(_deaths, server, death), "the death was noticed")
            until(lambda: serves(server), "new clients are served")
        stepped(old, 3)
        with streaming(server) as new:
            # Both are told, both may finish.
            server.popen.send_signal(signal.SIGTERM)
            for stream in (old, new):
                stream.expect("going_away")
                stepped(stream, 2)
                stream.half_close()
                assert stream.expect("closed").reason == pb.CLOSE_REASON_REQUESTED
        assert server.popen.wait(PATIENCE) == 0
        assert lines(server, "drained")


@pytest.mark.usefixtures("mortal")
def test_a_worker_replaces_its_own(accumulator_path: Path) -> None:
    with serving(accumulator_path, workers=2) as server, streams_on_both(server) as (here, there):
        for stream in (here, there):
            stream.opened(1)
        until(lambda: _both_died(server), "both workers have lost theirs")
        until(lambda: serves(server), "new clients are served")
        for stream in (here, there):
            np.testing.assert_array_equal(stream.stepped(1, [[1, 2]]), [[1, 2]])
        assert lines(server, "worker died") == []
        assert server.terminate() == 0


def _deaths(server: ServerProcess, count: int) -> bool:
    return len(lines(server, REPLACED)) == count


def _both_died(server: ServerProcess) -> bool:
    # The kernel deals connections out.
    with contextlib.suppress(OSError), bad_path(server):
        time.sleep(0.05)
    return {line["worker"] for line in lines(server, REPLACED)} == {1, 2}


@pytest.mark.usefixtures("mortal")
def test_a_server_whose_port_is_taken_meanwhile_ends(accumulator_path: Path) -> None:
    with serving(accumulator_path) as server, socket.socket() as thief:
        thief.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)

        def taken() -> bool:
            with contextlib.suppress(OSError):
                thief.bind(("127.0.0.1", server.port))
                thief.listen()
                return True
            return False

        with bad_path(server):
            until(taken, "the port was free")
        assert server.popen.wait(PATIENCE) == 1
        last = server.log.read_text().splitlines()[-1]
        assert last.startswith("Error: gRPC stopped accepting calls (UnicodeDecodeError(")
        assert last.endswith(f"127.0.0.1:{server.port} cannot be listened on again")
