"""A TCP proxy of the tests' own, whose connections are cut in mid-message, delayed, throttled, stalled, half-open."""

import asyncio
import contextlib
import random
import socket
import struct
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Final

_READ = 1 << 14
_HALF_OPEN_SECONDS = 3.0
# With this nothing is sent when a socket is closed but a reset.
_NO_LINGER = struct.pack("ii", 1, 0)


class Connection:
    """One that goes through the proxy.

    Attributes:
        delay: seconds that each piece waits.
        rate: bytes a second at most; 0: no bound.
        left: bytes that still pass, either way, before it is cut; None: all.
        half_open: one of the two sides has been cut, and what the other sends goes nowhere.
    """

    def __init__(self, client: asyncio.StreamWriter, server: asyncio.StreamWriter):
        self.delay = 0.0
        self.rate = 0.0
        self.left: int | None = None
        self.half_open = False
        self._client = client
        self._server = server

    async def carry(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        """What comes from one side goes to the other."""
        with contextlib.suppress(OSError):
            while data := await source.read(_READ):
                await asyncio.sleep(self.delay + (len(data) / self.rate if self.rate else 0.0))
                if self.half_open:
                    continue
                if self.left is not None:
                    data = data[: self.left]
                    self.left -= len(data)
                sink.write(data)
                if self.left == 0:
                    # What came before the cut arrives, to the middle of a message.
                    sink.close()
                    self.cut()
                await sink.drain()

    def cut(self) -> None:
        """Reset both sides."""
        _reset(self._client)
        _reset(self._server)

    def part(self, *, client: bool) -> None:
        """Reset one side, of which the other hears nothing."""
        self.half_open = True
        _reset(self._client if client else self._server)


def _reset(writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _NO_LINGER)
    writer.transport.abort()


class Wire:
    """Listens on a port of its own.

    Args:
        targets: the ports to which the next connection may go, the best first.

    Attributes:
        address: where it listens.
        connections: those that are open.
    """

    def __init__(self, targets: Callable[[], Sequence[int]]):
        self.targets = targets
        self.address = ""
        self.connections: set[Connection] = set()
        self.accepting: set[asyncio.Task[None]] = set()

    async def accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Carry a new connection, until it ends."""
        task = asyncio.current_task()
        assert task is not None
        self.accepting.add(task)
        task.add_done_callback(self.accepting.discard)
        for port in self.targets():
            with contextlib.suppress(OSError):
                answers, asks = await asyncio.open_connection("127.0.0.1", port)
                break
        else:
            _reset(writer)
            return
        connection = Connection(writer, asks)
        self.connections.add(connection)
        ways = [asyncio.create_task(connection.carry(*way)) for way in ((reader, asks), (answers, writer))]
        try:
            await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
            if connection.half_open:
                await asyncio.wait(ways, timeout=_HALF_OPEN_SECONDS)
        finally:
            connection.cut()
            for way in ways:
                way.cancel()
            self.connections.discard(connection)

    def cut(self) -> None:
        """Reset all connections."""
        for each in list(self.connections):
            each.cut()


@asynccontextmanager
async def wire(targets: Callable[[], Sequence[int]]) -> AsyncIterator[Wire]:
    """A proxy for the length of a block."""
    made = Wire(targets)
    listener = await asyncio.start_server(made.accept, "127.0.0.1", 0)
    made.address = f"127.0.0.1:{listener.sockets[0].getsockname()[1]}"
    try:
        yield made
    finally:
        listener.close()
        made.cut()
        await asyncio.gather(*made.accepting, return_exceptions=True)


Fault = Callable[[Connection, random.Random], None]


def _cut(connection: Connection, rng: random.Random) -> None:
    connection.left = rng.randint(1, 2000)


def _delay(connection: Connection, rng: random.Random) -> None:
    connection.delay = rng.random() * 0.3


def _throttle(connection: Connection, rng: random.Random) -> None:
    connection.rate = rng.uniform(5_000, 50_000)


def _part(connection: Connection, rng: random.Random) -> None:
    connection.part(client=rng.random() < 0.5)


FAULTS: Final[dict[str, tuple[Fault, int]]] = {
    "cut in mid-message": (_cut, 6),
    "delayed": (_delay, 3),
    "throttled": (_throttle, 3),
    "half-open": (_part, 8),
}
"""What may happen to a connection, and how often of twenty times."""
