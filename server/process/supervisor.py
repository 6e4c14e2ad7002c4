"""A server of several workers, from its supervisor: start them, replace those that die, stop them."""

import asyncio
import contextlib
import os
import signal
import sys
import time
from asyncio.subprocess import DEVNULL, Process
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from typing import Final

import structlog

import gatestream
from gatestream.server.config import ServerConfig
from gatestream.server.cpus import cpus_available
from gatestream.server.durability.leases import LeaseFiles
from gatestream.server.errors import ServerError
from gatestream.server.process.link import Failed, Order, Orders, Served, Serving
from gatestream.server.process.port import reserved, warn_of_strangers, write_port
from gatestream.server.process.signals import on_stop
from gatestream.server.transport.grpc_server.health import Health
from gatestream.server.transport.grpc_server.health_socket import HealthSocket

_COMMAND: Final = "from gatestream.server.worker import main; main({})"
# A worker that has served for less has ended early.
_EARLY_SECONDS: Final = 1.0
_MOST_EARLY_ENDS: Final = 3
_PAUSE_SECONDS: Final = 0.2
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
    with reserved(config.listen) as address:
        team = _Team(config, address)
        on_stop(team.told_to_stop)
        async with team.health(), asyncio.TaskGroup() as tasks:
            for worker in range(1, config.workers + 1):
                tasks.create_task(team.keep(worker))
            tasks.create_task(team.announce(began))
    _log.info("stopped")


@dataclass(eq=False, slots=True)
class _Running:
    """The process of a worker.

    Attributes:
        process: as the kernel knows it.
        link: to it.
        said: that it serves, or that it cannot; None when it ended without a word.
    """

    process: Process
    link: Connection
    said: "asyncio.Future[Serving | Failed | None]"

    @classmethod
    async def start(cls, orders: Orders) -> "_Running":
        """Start a worker: a fresh interpreter, since gRPC does not live through a fork."""
        ours, theirs = Pipe()
        with theirs:
            process = await asyncio.create_subprocess_exec(
                sys.executable,
                "-c",
                _COMMAND.format(theirs.fileno()),
                stdin=DEVNULL,
                pass_fds=(theirs.fileno(), *orders.files.descriptors),
                # It imports from where this one did, and not from the folder that this one happens to be in.
                env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "PYTHONSAFEPATH": "1"},
            )
        loop = asyncio.get_running_loop()
        running = cls(process, ours, loop.create_future())
        loop.add_reader(ours.fileno(), running._hear)
        with contextlib.suppress(OSError):  # It has ended.
            ours.send(orders)
        return running

    def _hear(self) -> None:
        try:
            said: Serving | Failed | None = self.link.recv()
        except (EOFError, OSError):
            asyncio.get_running_loop().remove_reader(self.link.fileno())
            said = None
        if not self.said.done():
            self.said.set_result(said)

    @property
    def message(self) -> str:
        """How it ended."""
        said = self.said.result()
        code = self.process.returncode
        if isinstance(said, Failed):
            return said.message
        return f"killed by {signal.Signals(-code).name}" if code is not None and code < 0 else f"exit code {code}"

    async def ended(self) -> None:
        """Return when it has ended."""
        await self.process.wait()
        await self.said
        asyncio.get_running_loop().remove_reader(self.link.fileno())
        self.link.close()

    def order(self, order: Order, seconds: float) -> None:
        """Tell it to stop, within some time."""
        if self.process.returncode is not None:
            return
        if not self.said.done():
            # It does not serve yet and has nothing to drain.
            self._signal(signal.SIGTERM)
        else:
            with contextlib.suppress(OSError):  # It has ended.
                self.link.send(order)
        asyncio.get_running_loop().call_later(seconds, self._signal, signal.SIGKILL)

    def _signal(self, number: signal.Signals) -> None:
        with contextlib.suppress(ProcessLookupError):  # It has ended.
            self.process.send_signal(number)


class _Team:
    """The workers of one server.

    Args:
        config: of the whole server.
        address: that they share.
    """

    def __init__(self, config: ServerConfig, address: str):
        self._config = config
        self._address = address
        sessions = config.workers * config.limits.sessions * len(config.artifacts)
        self._files = LeaseFiles.make(config.workers, sessions)
        self._threads: dict[str, int] = {}
        self._models: tuple[Served, ...] = ()
        self._running: dict[int, _Running] = {}
        # By worker: it has served.
        self._served = {worker: asyncio.Event() for worker in range(1, config.workers + 1)}
        self._stopping = False
        self._health = Health()
        # Those that serve now.
        self._serving: set[int] = set()

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
        write_port(self._config.port_file, self._address.rpartition(":")[2])
        _log.info(
            "serving",
            address=self._address,
            workers=self._config.workers,
            models=[model.name for model in self._models],
            threads={model.name: model.threads for model in self._models},
            start_s=round(time.monotonic() - began, 3),
            version=gatestream.__version__,
        )

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
            running = self._running[worker] = await _Running.start(self._orders(worker))
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
            early = 0 if seconds is not None and seconds >= _EARLY_SECONDS else early + 1
            _log.error("worker died", worker=worker, pid=running.process.pid, how=running.message)
            if early == _MOST_EARLY_ENDS:
                raise ServerError(
                    f"worker {worker} died {early} times within {_EARLY_SECONDS:g} s of its start: {running.message}"
                )
            await asyncio.sleep(_PAUSE_SECONDS * early)

    async def _watch(self, worker: int, running: _Running) -> float | None:
        """Wait for a worker's end; for how long it has served."""
        said = await running.said
        began = time.monotonic()
        if isinstance(said, Serving):
            if self._models and said.models != self._models:
                raise ServerError(
                    f"worker {worker} has found other models in the files of the artifacts than the workers before it; "
                    "start the whole server anew"
                )
            self._models = said.models
            self._threads = {model.name: model.threads for model in said.models}
            self._served[worker].set()
            self._serving.add(worker)
            await self._tell_health()
            _log.info("worker serves", worker=worker, pid=running.process.pid)
            if self._stopping:
                running.order("drain", self._longest_drain)
        await running.ended()
        self._serving.discard(worker)
        await self._tell_health()
        return time.monotonic() - began if isinstance(said, Serving) else None

    def _orders(self, worker: int) -> Orders:
        config = replace(self._config, listen=self._address, port_file=None, health_socket=None)
        return Orders(worker, config, self._files, self._threads)
