"""A server of several workers, from its supervisor: start them, replace those that die, stop them."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Coroutine
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Final

import structlog

import gatestream
from gatestream.server.background import carry_on
from gatestream.server.config import ServerConfig
from gatestream.server.cpus import cpus_available
from gatestream.server.durability.leases import LeaseFiles
from gatestream.server.errors import ServerError
from gatestream.server.monitoring import watched
from gatestream.server.process.adopted import adopted
from gatestream.server.process.link import (
    Answer,
    Ask,
    Changed,
    Command,
    Failed,
    Failures,
    Key,
    Order,
    Orders,
    Served,
    Serving,
)
from gatestream.server.process.port import reserved, warn_of_strangers, write_port
from gatestream.server.process.signals import on_stop
from gatestream.server.process.worker_process import REPORT_SECONDS, WorkerProcess
from gatestream.server.telemetry import Totals, summed
from gatestream.server.transport.grpc_server.health import Health
from gatestream.server.transport.grpc_server.health_socket import HealthSocket

# A worker that has served for less has ended early.
_EARLY_SECONDS: Final = 1.0
_MOST_EARLY_ENDS: Final = 3
_PAUSE_SECONDS: Final = 0.2
# What a folder of models is taken to hold, where it matters little.
_MODELS_OF_A_FOLDER: Final = 4
# Beyond what a worker allows itself for its end.
_PATIENCE_SECONDS: Final = 5.0

_log = structlog.get_logger(__name__)


class WorkerFault(Exception):
    """A worker cannot serve, by a fault of gatestream's own."""


async def supervise(config: ServerConfig) -> None:
    """Serve with `config.workers` workers until the process is told to stop.

    The first SIGTERM, SIGINT or SIGHUP drains every worker, a second one ends them at once. A worker that dies is
    started anew. When this process dies, its workers end.

    Raises:
        ServerError: a worker cannot serve as configured, dies early again and again, or does not end in order.
        WorkerFault: one cannot serve at all.
    """
    began = time.monotonic()
    write_port(config.port_file, "")
    with reserved(config.listen) as address, adopted(config) as cache:
        team = _Team(config, address, cache)
        on_stop(team.told_to_stop)
        async with team.health(), team.watched(), asyncio.TaskGroup() as tasks:
            for worker in range(1, config.workers + 1):
                tasks.create_task(team.keep(worker))
            tasks.create_task(team.announce(began))
    _log.info("stopped")


class _Team:
    """The workers of one server.

    Args:
        config: of the whole server.
        address: that they share.
        cache: where they keep the artifacts that they make of other files.
    """

    def __init__(self, config: ServerConfig, address: str, cache: Path | None):
        self._config = config
        self._address = address
        self._cache = cache
        models = len(config.artifacts) + (_MODELS_OF_A_FOLDER if config.models else 0)
        sessions = config.workers * config.limits.sessions * models
        self._files = LeaseFiles.make(config.workers, sessions)
        self._threads: dict[tuple[str, str], int] = {}
        self._models: tuple[Served, ...] = ()
        # What is served of the folder of models; None: as it says itself.
        self._wanted: set[Key] | None = None
        # By worker, what cannot be served of it now.
        self._failures: dict[int, tuple[str, ...]] = {}
        self._commanding: set[asyncio.Task[object]] = set()
        self._running: dict[int, WorkerProcess] = {}
        # By worker: it has served.
        self._served = {worker: asyncio.Event() for worker in range(1, config.workers + 1)}
        self._stopping = False
        self._health = Health()
        # Those that serve now.
        self._serving: set[int] = set()
        # Of those that have ended.
        self._past = Totals()

    @contextlib.asynccontextmanager
    async def health(self) -> AsyncIterator[None]:
        """Answer health checks by the health socket, if there is to be one, for the length of a block.

        The server serves from when every worker has served until it is told to stop, as long as any worker does.
        """
        if self._config.health_socket is None:
            yield
            return
        await self._tell_health()
        listening = HealthSocket(self._config.health_socket, self._health)
        await listening.start()
        try:
            yield
        finally:
            await listening.stop()

    @contextlib.asynccontextmanager
    async def watched(self) -> AsyncIterator[None]:
        """Serve the metrics of all workers together, if they are to be served, for the length of a block."""
        async with watched(self._config.http_address, self._totals, self._unready, self._failing):
            if self._config.http_address is None:
                yield
                return
            asking = asyncio.create_task(carry_on("the workers' reports", self._ask))
            try:
                yield
            finally:
                asking.cancel()

    async def _ask(self) -> None:
        while True:
            await asyncio.sleep(REPORT_SECONDS)
            await self._report()

    async def _report(self) -> None:
        await asyncio.gather(*(running.report() for running in self._running.values()))

    async def _totals(self) -> Totals:
        await self._report()
        return summed([self._past, *(running.totals for running in self._running.values())])

    def _unready(self) -> str:
        if self._health.serving:
            return ""
        if self._stopping:
            return "draining"
        return "no worker serves" if all(event.is_set() for event in self._served.values()) else "starting"

    def _failing(self) -> list[str]:
        """What cannot be served, a line for each; with the workers, where it is not so in all of them."""
        by_line: dict[str, list[int]] = {}
        for worker in sorted(self._failures.keys() & self._serving):
            for line in self._failures[worker]:
                by_line.setdefault(line, []).append(worker)
        return [
            line if len(workers) == len(self._serving) else f"worker {', '.join(map(str, workers))}: {line}"
            for line, workers in by_line.items()
        ]

    async def _tell_health(self) -> None:
        begun = all(event.is_set() for event in self._served.values())
        serves = begun and bool(self._serving) and not self._stopping
        await self._health.say(serving=serves)

    def told_to_stop(self) -> None:
        """A signal came."""
        order: Order = "end" if self._stopping else "drain"
        self._stopping = True
        for running in self._running.values():
            running.order(order, self._longest_drain)
        for event in self._served.values():
            event.set()
        self._telling = asyncio.create_task(self._tell_health())

    @property
    def _longest_drain(self) -> float:
        return self._config.drain_seconds + _PATIENCE_SECONDS

    async def announce(self, began: float) -> None:
        """Say that all of them serve."""
        for event in self._served.values():
            await event.wait()
        if self._stopping:
            return
        warn_of_strangers(self._config)
        # First the log, as each worker does.
        _log.info(
            "serving",
            address=self._address,
            workers=self._config.workers,
            models=list(dict.fromkeys(name for name, _ in self._threads)),
            failed=self._failing(),
            threads={name: threads for (name, _), threads in self._threads.items()},
            start_s=round(time.monotonic() - began, 3),
            version=gatestream.__version__,
        )
        write_port(self._config.port_file, self._address.rpartition(":")[2])

    async def keep(self, worker: int) -> None:
        """Have a worker running until the server is told to stop.

        Raises:
            ServerError, WorkerFault: as `supervise`.
        """
        if worker > 1 and self._config.threads == "auto" and cpus_available() >= 2 * self._config.workers:
            # The first one measures for all, while nothing disturbs it.
            await self._served[1].wait()
        early = 0
        while not self._stopping:
            running = self._running[worker] = await WorkerProcess.start(self._orders(worker))
            running.heard = partial(self._heard, worker)
            if self._stopping:
                running.order("drain", self._longest_drain)
            try:
                seconds = await self._watch(worker, running)
            except BaseException:
                running.order("drain", self._longest_drain)
                await running.ended()
                raise
            if self._stopping:
                if seconds is not None and running.process.returncode != 0:
                    raise ServerError(f"worker {worker} did not end in order: {running.message}")
                return
            if not self._served[worker].is_set():
                said = running.said.result()
                if isinstance(said, Failed):
                    raise WorkerFault(said.message) if said.fault else ServerError(said.message)
                raise ServerError(f"worker {worker} did not start: {running.message}")
            self._past.server.deaths += 1
            early = 0 if seconds is not None and seconds >= _EARLY_SECONDS else early + 1
            _log.error("worker died", worker=worker, pid=running.process.pid, how=running.message)
            if early == _MOST_EARLY_ENDS:
                raise ServerError(
                    f"worker {worker} died {early} times within {_EARLY_SECONDS:g} s of its start: {running.message}"
                )
            await asyncio.sleep(_PAUSE_SECONDS * early)

    async def _watch(self, worker: int, running: WorkerProcess) -> float | None:
        """Wait for a worker's end; for how long it has served."""
        said = await running.said
        began = time.monotonic()
        if isinstance(said, Serving):
            # Those of the folder may have changed since: what each worker has of it, it says when it is asked.
            models = tuple(model for model in said.models if (model.name, model.version) not in said.loaded)
            if self._models and models != self._models:
                raise ServerError(
                    f"worker {worker} has found other models in the files of the artifacts than the workers before it; "
                    "start the whole server anew"
                )
            self._models = models
            self._threads |= {(model.name, model.version): model.threads for model in said.models}
            if self._wanted is None:
                self._wanted = set(said.loaded)
            for key in self._wanted - set(said.loaded):
                # It was loaded by others while this one started, or could not be loaded here.
                self._command(running.do(Command("load", *key, threads=self._threads.get(key))))
            for key in set(said.loaded) - self._wanted:
                self._command(running.do(Command("unload", *key)))
            self._failures[worker] = said.failures
            self._served[worker].set()
            self._serving.add(worker)
            await self._tell_health()
            _log.info("worker serves", worker=worker, pid=running.process.pid)
            if self._stopping:
                running.order("drain", self._longest_drain)
        await running.ended()
        self._past.bury(running.totals)
        running.totals = Totals()
        self._serving.discard(worker)
        await self._tell_health()
        return time.monotonic() - began if isinstance(said, Serving) else None

    def _orders(self, worker: int) -> Orders:
        config = replace(self._config, listen=self._address, port_file=None, health_socket=None, http_listen=None)
        wanted = None if self._wanted is None else tuple(sorted(self._wanted))
        return Orders(worker, config, self._files, self._threads, wanted, self._cache)

    # ---- Which models are served --------------------------------------------------------------

    def _heard(self, worker: int, said: Ask | Changed | Failures) -> None:
        if isinstance(said, Ask):
            self._command(self._have_done(worker, said))
            return
        if isinstance(said, Failures):
            self._failures[worker] = said.lines
            return
        if self._wanted is None:
            self._wanted = set()
        if said.loaded:
            self._wanted.add(said.key)
            self._threads[said.key] = said.threads
        else:
            self._wanted.discard(said.key)

    async def _have_done(self, asker: int, said: Ask) -> None:
        """Have all workers but one do what that one has asked for."""
        # Another process may have its number when all have answered.
        asking = self._running[asker]
        others = {number: each for number, each in self._running.items() if number != asker and each.serves}
        replies = await asyncio.gather(*(each.do(said.command) for each in others.values()))
        asking.answer(Answer(said.number, dict(zip(others, replies, strict=True))))

    def _command(self, work: Coroutine[Any, Any, object]) -> None:
        task = asyncio.ensure_future(work)
        self._commanding.add(task)
        task.add_done_callback(self._commanding.discard)
