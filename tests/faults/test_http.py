"""What a client can do to the HTTP port: nothing that the steps of another one notice."""

import contextlib
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.support.process import ServerProcess, serving
from tests.support.scrape import HTTP, address, get
from tests.support.wire import PATIENCE, Stream, until

CONNECTIONS = 32
NO_ROOM = {b"HTTP/1.1 503", b"HTTP/1.1 408"}
"""How a connection ends for which there was no room, or which had a place and did not use it."""


@pytest.fixture(scope="module")
def server(accumulator_path: Path) -> Iterator[ServerProcess]:
    with serving(accumulator_path, **HTTP) as running:
        yield running
        assert running.popen.poll() is None


class Neighbour:
    """A client whose session is stepped, and which misses nothing."""

    def __init__(self, stream: Stream):
        self._stream = stream
        self._sum = 0
        stream.opened(0)

    def goes_on(self, steps: int = 20) -> None:
        for _ in range(steps):
            self._sum += 1
            assert self._stream.stepped(0, [[1, 1]]).tolist() == [[self._sum, self._sum]]


@pytest.fixture
def neighbour(server: ServerProcess) -> Iterator[Neighbour]:
    with Stream(server.address) as stream:
        made = Neighbour(stream)
        yield made
        made.goes_on()


@contextlib.contextmanager
def connections(server: ServerProcess, count: int) -> Iterator[list[socket.socket]]:
    host, _, port = address(server).rpartition(":")
    with contextlib.ExitStack() as opened:
        yield [
            opened.enter_context(socket.create_connection((host, int(port)), timeout=PATIENCE)) for _ in range(count)
        ]


def answer(connection: socket.socket) -> bytes:
    """All that comes; nothing where the connection is reset."""
    got = b""
    with contextlib.suppress(ConnectionError):
        while some := connection.recv(65_536):
            got += some
    return got


def test_slow_clients_take_all_places_and_lose_them_again(server: ServerProcess, neighbour: Neighbour) -> None:
    with connections(server, CONNECTIONS) as slow:
        for connection in slow:
            connection.sendall(b"GET /metrics HTTP/1.1\r\nX: ")
        neighbour.goes_on()
        with connections(server, 1) as (late,):
            assert answer(late)[:12] in NO_ROOM
        neighbour.goes_on()
        assert {answer(connection)[:12] for connection in slow} <= NO_ROOM
    until(lambda: get(address(server), "/healthz")[0] == 200, "there was room again")


def test_a_header_without_end(server: ServerProcess, neighbour: Neighbour) -> None:
    with connections(server, 4) as opened:
        for connection in opened:
            with contextlib.suppress(ConnectionError):
                connection.sendall(b"GET /metrics HTTP/1.1\r\nX: " + b"x" * 2**22)
        neighbour.goes_on()
        for connection in opened:
            # What the server no longer reads may have the kernel drop its answer.
            assert answer(connection)[:12] in (b"HTTP/1.1 431", b"")


def test_many_connections_that_say_nothing(server: ServerProcess, neighbour: Neighbour) -> None:
    with connections(server, 200) as opened:
        neighbour.goes_on()
        refused = [answer(connection)[:12] for connection in opened[CONNECTIONS:]]
        assert set(refused) <= {*NO_ROOM, b""}
    until(lambda: get(address(server), "/healthz")[0] == 200, "there was room again")


def test_many_scrapes_at_once(server: ServerProcess, neighbour: Neighbour) -> None:
    with ThreadPoolExecutor(8) as pool:
        asked = [pool.submit(get, address(server), "/metrics") for _ in range(200)]
        neighbour.goes_on(50)
        assert {future.result()[0] for future in asked} == {200}
