"""The link between a supervisor and its workers: what goes over it, and a worker's end."""

import asyncio
import contextlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Literal

from gatestream.server.config import ServerConfig
from gatestream.server.durability.leases import LeaseFiles, WorkerLeases
from gatestream.server.telemetry import Totals

Order = Literal["drain", "end", "report"]
"""What a supervisor tells a worker: to drain; to end at once; to send its `Totals`."""


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
    files: LeaseFiles
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
        leases: on sessions.
    """

    def __init__(self, link: Connection, orders: Orders):
        self._link = link
        self.threads = orders.threads
        self.leases = WorkerLeases(orders.files, orders.worker)

    def obey(self, drain: Callable[[], None], end: Callable[[], None], totals: Callable[[], Totals]) -> None:
        """Have the supervisor's orders done from now on, on the running event loop.

        A supervisor that is gone, however it went, wants its workers to end. One that asks for a report waits for it
        before it asks again, so that what is sent always fits the link.

        Args:
            drain: begins the end.
            end: ends at once.
            totals: of this worker.
        """
        loop = asyncio.get_running_loop()

        def read() -> None:
            try:
                order: Order = self._link.recv()
            except (EOFError, OSError):
                loop.remove_reader(self._link.fileno())
                order = "end"
            if order == "report":
                with contextlib.suppress(OSError):  # It has gone, and that is read next.
                    self._link.send(totals())
                return
            drain()
            if order == "end":
                end()

        loop.add_reader(self._link.fileno(), read)

    def serving(self, models: tuple[Served, ...]) -> None:
        """Tell the supervisor."""
        self._link.send(Serving(models))
