"""Floods of HTTP/2 frames that are no calls: what they cost the server, and that a neighbour is served beside them."""

import contextlib
import socket
import threading
from pathlib import Path

import grpc
import numpy as np
import psutil
import pytest

from gatestream.protos.gatestream.v1 import gatestream_pb2 as pb
from tests.support.http2 import PREFACE, frame
from tests.support.process import serving
from tests.support.wire import PATIENCE, Stream, stub

PING, SETTINGS = frame(0x6, 0, 0, b"12345678"), frame(0x4, 0, 0, b"\0\3\0\0\0\x64")
MEGABYTES = 13
CONNECTIONS = 4


def flood(port: int, kind: bytes) -> None:
    with socket.create_connection(("127.0.0.1", port), PATIENCE) as connection:
        reader = threading.Thread(target=_read, args=(connection,))
        reader.start()
        with contextlib.suppress(OSError):
            connection.sendall(PREFACE + frame(0x4, 0, 0, b""))
            for _ in range(MEGABYTES * 1_000_000 // CONNECTIONS // (1000 * len(kind))):
                connection.sendall(1000 * kind)
        with contextlib.suppress(OSError):
            connection.shutdown(socket.SHUT_RDWR)
        reader.join()


def _read(connection: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while connection.recv(2**16):
            pass


@pytest.mark.parametrize("kind", [PING, SETTINGS], ids=["PING", "SETTINGS"])
def test_a_flood_of_frames(accumulator_path: Path, kind: bytes) -> None:
    with serving(accumulator_path) as server, Stream(server.address) as neighbour:
        neighbour.opened(0)
        np.testing.assert_array_equal(neighbour.stepped(0, [[1, 2]]), [[1, 2]])
        process = psutil.Process(server.popen.pid)
        before = sum(process.cpu_times()[:2])
        floods = [threading.Thread(target=flood, args=(server.port, kind)) for _ in range(CONNECTIONS)]
        for thread in floods:
            thread.start()
        while any(thread.is_alive() for thread in floods):
            np.testing.assert_array_equal(neighbour.stepped(0, [[0, 0]]), [[1, 2]])
        for thread in floods:
            thread.join()
        # It took minutes when gRPC counted PINGs.
        assert sum(process.cpu_times()[:2]) - before < 15


def test_connections_have_a_bound(accumulator_path: Path) -> None:
    with serving(accumulator_path, connections=4) as server:
        with contextlib.ExitStack() as held:
            streams = [held.enter_context(Stream(server.address)) for _ in range(4)]
            for stream in streams:
                stream.opened(0)
            with stub(server.address) as calls, pytest.raises(grpc.RpcError) as caught:
                calls.Describe(pb.DescribeRequest(), timeout=PATIENCE)
            assert isinstance(caught.value, grpc.Call)
            assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
            np.testing.assert_array_equal(streams[0].stepped(0, [[1, 2]]), [[1, 2]])
        with stub(server.address) as calls:
            calls.Describe(pb.DescribeRequest(), timeout=PATIENCE, wait_for_ready=True)
