"""The link between a supervisor and its workers: what goes over it, and a worker's end."""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Literal

from gatestream.server.config import ServerConfig
from gatestream.server.durability.leases import LeaseFiles, WorkerLeases
from gatestream.server.telemetry import Totals

Order = Literal["drain", "end", "report"]
"""What a supervisor tells a worker: to drain; to end at once; to send its `Totals`. It may also send a `Do`, and an
`Answer`."""

Key = tuple[str, str]
"""Name and version of a model."""


@dataclass(frozen=True, slots=True)
class Command:
    """Something that each worker is to do about the models that it serves; what the fields mean, `ModelControl` says.

    Attributes:
        threads: of a run, as another worker has measured.
    """

    kind: Literal["statuses", "load", "unload", "migrate"]
    name: str = ""
    version: str = ""
    before: str = ""
    seconds: float | None = None
    threads: int | None = None


@dataclass(frozen=True, slots=True)
class Reply:
    """What came of a command in one worker.

    Attributes:
        error: why it was not done; empty: it was.
        statuses: of models, as plain values.
        count: of sessions that were moved.
    """

    error: str = ""
    statuses: tuple[tuple[Any, ...], ...] = ()
    count: int = 0


@dataclass(frozen=True, slots=True)
class Ask:
    """A worker wants all others to do something; `Answer` tells it what came of that."""

    number: int
    command: Command


@dataclass(frozen=True, slots=True)
class Answer:
    """What came of an `Ask` of the same number, by worker."""

    number: int
    replies: Mapping[int, Reply]


@dataclass(frozen=True, slots=True)
class Do:
    """A worker is to do something, and to say so by a `Done` of the same number."""

    number: int
    command: Command


@dataclass(frozen=True, slots=True)
class Done:
    """As `Do`."""

    number: int
    reply: Reply


@dataclass(frozen=True, slots=True)
class Changed:
    """A worker has loaded or unloaded a version of a model.

    Attributes:
        key: its name and version.
        loaded: which of the two.
        threads: of its runs.
    """

    key: Key
    loaded: bool
    threads: int


@dataclass(frozen=True, slots=True)
class Failures:
    """What a worker cannot serve of the folder of models now, a line for each; said whenever that is another."""

    lines: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Orders:
    """What a worker is started with.

    Attributes:
        worker: its number, from 1.
        config: of the server, with the address that the supervisor has reserved.
        files: to claim sessions in.
        threads: by a model's name and version, as another worker has measured; empty: as `config` says.
        wanted: what of the folder of models is to be served; None: as the folder says.
        adopted: where artifacts are kept that were made of other files; None: none are made.
    """

    worker: int
    config: ServerConfig
    files: LeaseFiles
    threads: Mapping[Key, int]
    wanted: tuple[Key, ...] | None = None
    adopted: Path | None = None


@dataclass(frozen=True, slots=True)
class Served:
    """One version of a model that a worker serves."""

    name: str
    version: str
    weights_fingerprint: str
    threads: int


@dataclass(frozen=True, slots=True)
class Serving:
    """What a worker says when it serves.

    Attributes:
        models: that it serves.
        loaded: which of them it has from the folder of models.
        failures: what it could not load of that, a line for each.
    """

    models: tuple[Served, ...]
    loaded: tuple[Key, ...] = ()
    failures: tuple[str, ...] = ()


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
        number: of it, from 1.
        threads: as in `Orders`.
        wanted: likewise.
        adopted: likewise.
        leases: on sessions.
        do: does a command.
    """

    def __init__(self, link: Connection, orders: Orders):
        self._link = link
        self.number = orders.worker
        self.threads = orders.threads
        self.wanted = orders.wanted
        self.adopted = orders.adopted
        self.do: Callable[[Command], Awaitable[Reply]] | None = None
        self._asked: dict[int, asyncio.Future[Mapping[int, Reply]]] = {}
        self._doing: set[asyncio.Task[None]] = set()
        self._last = 0
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
                order: Order | Do | Answer = self._link.recv()
            except (EOFError, OSError):
                loop.remove_reader(self._link.fileno())
                order = "end"
            if isinstance(order, Do):
                doing = loop.create_task(self._do(order))
                self._doing.add(doing)
                doing.add_done_callback(self._doing.discard)
                return
            if isinstance(order, Answer):
                if not (asked := self._asked.pop(order.number)).done():
                    asked.set_result(order.replies)
                return
            if order == "report":
                self._send(totals())
                return
            drain()
            if order == "end":
                end()

        loop.add_reader(self._link.fileno(), read)

    async def _do(self, order: Do) -> None:
        assert self.do is not None, "it serves"
        self._send(Done(order.number, await self.do(order.command)))

    async def ask(self, command: Command) -> Mapping[int, Reply]:
        """Have all other workers that serve do something; what came of it, by worker."""
        self._last += 1
        number = self._last
        self._asked[number] = asyncio.get_running_loop().create_future()
        self._send(Ask(number, command))
        return await self._asked[number]

    def changed(self, key: Key, loaded: bool, threads: int) -> None:
        """Tell the supervisor that a version of a model was loaded, or unloaded."""
        self._send(Changed(key, loaded, threads))

    def failing(self, lines: Sequence[str]) -> None:
        """Tell the supervisor what cannot be served now."""
        self._send(Failures(tuple(lines)))

    def serving(self, models: tuple[Served, ...], loaded: tuple[Key, ...] = (), failures: tuple[str, ...] = ()) -> None:
        """Tell the supervisor; arguments as in `Serving`."""
        self._link.send(Serving(models, loaded, failures))

    def _send(self, what: object) -> None:
        with contextlib.suppress(OSError):  # It has gone, and that is read next.
            self._link.send(what)
