"""One worker of a server that has several: a process of its own, started by gatestream.server.workers."""

import asyncio
import os
import signal
import sys
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Literal

from gatestream.server.claims import ClaimFiles, Claims
from gatestream.server.config import ServerConfig
from gatestream.server.errors import ServerError, first_of

Order = Literal["drain", "end"]


@dataclass(frozen=True, slots=True)
class Orders:
    """What a worker is started with.

    Attributes:
        worker: its number, from 1.
        config: of the server, with the address that the supervisor has reserved.
        files: to claim sessions in.
        threads: by model, as another worker has measured; empty: as `config` says.
    """

    worker: int
    config: ServerConfig
    files: ClaimFiles
    threads: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class Served:
    """One model that a worker serves."""

    name: str
    weights_fingerprint: str
    threads: int


@dataclass(frozen=True, slots=True)
class Serving:
    """What a worker says when it serves."""

    models: tuple[Served, ...]


@dataclass(frozen=True, slots=True)
class Failed:
    """What a worker says that cannot serve.

    Attributes:
        message: why.
        fault: it is one of gatestream's own.
    """

    message: str
    fault: bool


class Worker:
    """A worker's side of the link to its supervisor.

    Args:
        link: its end.
        orders: that came over it.

    Attributes:
        threads: as in `Orders`.
        claims: on sessions.
    """

    def __init__(self, link: Connection, orders: Orders):
        self._link = link
        self.threads = orders.threads
        self.claims = Claims(orders.files, orders.worker)

    def obey(self, drain: Callable[[], None], end: Callable[[], None]) -> None:
        """Have the supervisor's orders done from now on, on the running event loop.

        A supervisor that is gone, however it went, wants its workers to end.
        """
        loop = asyncio.get_running_loop()

        def read() -> None:
            try:
                order: Order = self._link.recv()
            except (EOFError, OSError):
                loop.remove_reader(self._link.fileno())
                order = "end"
            drain()
            if order == "end":
                end()

        loop.add_reader(self._link.fileno(), read)

    def serving(self, models: tuple[Served, ...]) -> None:
        """Tell the supervisor."""
        self._link.send(Serving(models))


def main(descriptor: int) -> None:
    """Be a worker.

    Args:
        descriptor: of this process's end of the link.
    """
    # What a terminal sends goes to every process at once; the supervisor knows what it means.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    link = Connection(descriptor)
    try:
        orders: Orders = link.recv()
    except EOFError:
        sys.exit(1)

    from gatestream.server.logs import configure
    from gatestream.server.loop import run
    from gatestream.server.polling import busy_poll
    from gatestream.server.server import serve

    configure(orders.config.log_format, worker=orders.worker)
    try:
        run(serve(orders.config, Worker(link, orders)), busy_poll(orders.config))
    except Exception as error:
        first = first_of(error)
        if isinstance(first, ServerError):
            link.send(Failed(str(first), fault=False))
        else:
            link.send(Failed(f"worker {orders.worker}: {type(first).__name__}: {first}", fault=True))
        if os.environ.get("GATESTREAM_TRACEBACK"):
            traceback.print_exception(error)
        sys.exit(1)
