"""What a client can do to gRPC's task that accepts calls, and what becomes of the server when that task has died."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from gatestream.protos.gatestream.v1 import gatestream_pb2 as pb
from tests.support.http2 import RawCall
from tests.support.process import ServerProcess, serving
from tests.support.wire import PATIENCE, Stream, stub, until
from tests.support.workers import lines, started, streams_with_numbers

DEATH = "gRPC stopped accepting calls"
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


def test_that_a_path_can_end_the_accepting_of_calls_is_said_at_the_start(
    accumulator_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said = "a call's path that is not UTF-8 ends this grpcio's accepting of calls, and the server with it"
    with serving(accumulator_path) as server:
        assert lines(server, said) == []
    (tmp_path / "sitecustomize.py").write_text(OTHERWISE)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    with serving(accumulator_path) as server:
        assert [line["level"] for line in lines(server, said)] == ["warning"]
        with bad_path(server):
            assert server.popen.wait(PATIENCE) == 1


@pytest.mark.usefixtures("mortal")
def test_a_server_that_accepts_no_calls_ends(accumulator_path: Path) -> None:
    with serving(accumulator_path) as server, streaming(server):
        with bad_path(server):
            assert server.popen.wait(PATIENCE) == 1
        last = server.log.read_text().splitlines()[-1]
        assert last.startswith(f"Error: {DEATH}: UnicodeDecodeError(")


@pytest.mark.usefixtures("mortal")
def test_a_worker_that_accepts_no_calls_is_started_again(accumulator_path: Path) -> None:
    with serving(accumulator_path, workers=2, drain_seconds=0) as server, streams_with_numbers(server) as streams:
        for stream in streams.values():
            stream.opened(1)
        with bad_path(server):
            until(lambda: bool(lines(server, "worker died")), "a worker died")
        (died,) = lines(server, "worker died")
        number = died["worker"]
        assert isinstance(number, int)
        np.testing.assert_array_equal(streams[3 - number].stepped(1, [[1, 2]]), [[1, 2]])
        started(server, number, times=2)
        until(lambda: serves(server), "new clients are served")
        assert server.terminate() == 0
