"""A server's life: load, warm up, serve, drain, stop."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any, Final

import structlog

import gatestream
from gatestream.server.background import carry_on
from gatestream.server.config import ServerConfig
from gatestream.server.core.accounts import Accounts
from gatestream.server.core.catalog import Catalog, Model
from gatestream.server.core.checkpointer import Checkpointer
from gatestream.server.drain import drain
from gatestream.server.durability.opening import open_store
from gatestream.server.errors import ServerError
from gatestream.server.loader import Loader
from gatestream.server.monitoring import watched
from gatestream.server.process.adopted import adopted
from gatestream.server.process.link import Served, Worker
from gatestream.server.process.port import warn_of_strangers, write_port
from gatestream.server.process.signals import StopSignals
from gatestream.server.process.tuning import Tuned, grpc_is_silent
from gatestream.server.reload import keep_fresh
from gatestream.server.repository.adopting import Adopting
from gatestream.server.repository.repository import Repository
from gatestream.server.repository.shared import SharedControl
from gatestream.server.telemetry import ServerStats, Totals
from gatestream.server.transport import model_calls, native_calls, oip_calls
from gatestream.server.transport.auth import Tenants
from gatestream.server.transport.connection import Streams
from gatestream.server.transport.grpc_server.calls import Calls
from gatestream.server.transport.grpc_server.health import Health
from gatestream.server.transport.grpc_server.health_socket import HealthSocket
from gatestream.server.transport.grpc_server.reflection import reflection
from gatestream.server.transport.grpc_server.server import SAFE_FROM_PATHS, GrpcServer
from gatestream.server.transport.grpc_server.tls import Tls
from gatestream.server.transport.model_calls import GuardedControl

_CHECK_SECONDS: Final = 1.0
_MOST_DIFFERENCES: Final = 10
_EXPIRY_PERIODS: Final = 10
_LONGEST_EXPIRY_PERIOD: Final = 10.0

_log = structlog.get_logger(__name__)


async def serve(config: ServerConfig, worker: Worker | None = None, tuned: Tuned | None = None) -> None:
    """Serve until the process is told to stop.

    The first SIGTERM, SIGINT or SIGHUP drains: health says NOT_SERVING, nothing new is opened, what is open may finish.
    It ends when no stream is left that has sessions or waits for answers, or `config.drain_seconds` have passed; every
    accepted step is answered before that. A second signal ends at once.

    Args:
        config: of the server.
        worker: which of its processes this one is, where `config.workers` is more than 1 (`process.supervisor`).
        tuned: what was done to this process for it (`process.tuning`); None: nothing, and nothing is.

    Raises:
        ServerError: it cannot be started as configured.
    """
    with adopted(config) if worker is None else nullcontext(worker.adopted) as cache:
        await _serve(config, worker, tuned or Tuned(config), cache)


async def _serve(config: ServerConfig, worker: Worker | None, tuned: Tuned, cache: Path | None) -> None:
    began = time.monotonic()
    # That it cannot be written is found out before anything is started.
    write_port(config.port_file, "")
    models = Catalog(Accounts(config.limits), straight=config.straight_path)
    tenants = Tenants(config.tokens)
    tls = Tls.of(config)
    models.divide(several=tenants.several)
    streams = Streams(models, config.limits, tenants, prompt="prompt-writer" in tuned.active)
    health = Health(item.full_name for item in (native_calls.DESCRIPTOR, model_calls.DESCRIPTOR, oip_calls.DESCRIPTOR))
    await health.say(serving=False)
    calls = Calls(tenants, config.unary_calls, config.tenant_unary_calls, config.limits.streams, models.stats)
    tasks: list[asyncio.Task[None]] = []
    background = asyncio.TaskGroup()

    def spawn(task: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        tasks.append(background.create_task(task))
        tasks[-1].add_done_callback(tasks.remove)
        return tasks[-1]

    checkpointer = _checkpointer(config)
    if checkpointer is not None:
        models.stats.checkpoints = checkpointer.stats
    leases, threads = (None, None) if worker is None else (worker.leases, worker.threads)
    loader = Loader(models, config, spawn, leases, threads, checkpointer)
    adopting = None if cache is None else Adopting(config, cache)
    repository = Repository(config, models, loader, adopting, spawn)
    shared = repository if worker is None else SharedControl(repository, worker)
    control = GuardedControl(shared, allowed=config.model_control)
    services = [
        native_calls.Service(models, config, streams).definition(),
        model_calls.ModelControlService(control).definition(),
        oip_calls.OpenInferenceService(models, config.limits, streams, control).definition(),
        health.definition(),
    ]
    server = GrpcServer(config, tls, calls, [*services, reflection(services)])
    health_socket = None if config.health_socket is None else HealthSocket(config.health_socket, health)

    def own_totals() -> Totals:
        found = models.totals()
        if checkpointer is not None:
            found.checkpoints.add(checkpointer.now())
        return found

    async def totals() -> Totals:
        return own_totals()

    def unready() -> str:
        if health.serving:
            return ""
        return "draining" if signals.first.is_set() else "starting"

    signals = StopSignals(alone=worker is None)
    if worker is not None:
        worker.obey(signals.first.set, signals.second.set, own_totals)
    async with watched(config.http_address, totals, unready, lambda: repository.failures), background:

        def run_behind(name: str, task: Callable[[], Awaitable[None]]) -> None:
            spawn(carry_on(name, task))

        if checkpointer is not None:
            # Before the first claim.
            await checkpointer.beat_once()
            run_behind("the beat of an owner of sessions", checkpointer.beat)
            run_behind("the writing of checkpoints", checkpointer.run)
            run_behind("the forgetting of parked sessions", checkpointer.prune)
        for path in config.artifacts:
            await loader.load(path if adopting is None else await adopting.artifact_of(path))
        wanted = None if worker is None else worker.wanted
        await repository.begin(wanted)
        if not len(models) and wanted is None:
            why = "; ".join(repository.failures) or "there is no NAME/VERSION/model.onnx"
            raise ServerError(f"models: nothing under {config.models} can be served: {why}")
        if worker is not None:
            repository.changed, repository.failing = worker.changed, worker.failing
        await tuned.when_loaded()
        guards = {"grpc-paths": SAFE_FROM_PATHS, "grpc-lines": grpc_is_silent()}
        _log.info("tuning", active=tuned.active, inactive=tuned.inactive, guards=guards)
        await server.start()
        # Alone among them it may end the server: one that nobody can connect to is better begun again.
        spawn(server.watch())
        if health_socket is not None:
            await health_socket.start()
        run_behind("the look at files", partial(keep_fresh, [tenants] if tls is None else [tenants, tls]))
        run_behind("the look at what must add up", partial(_check, models.stats, models, streams))
        for name, look in tuned.while_serving(lambda: len(streams) + calls.unanswered):
            run_behind(name, look)
        if config.watch_models:
            run_behind("the look at the folder of models", repository.watch)
        if config.limits.idle_stream_timeout:
            run_behind("the look at idle streams", streams.end_idle)
        limits = config.limits
        if timeouts := [t for t in (limits.idle_timeout, limits.sequence_timeout, limits.park_timeout) if t]:
            run_behind("the look at idle sessions", partial(_expire, models, min(timeouts)))
        await health.say(serving=True)
        if worker is None:
            warn_of_strangers(config)
        # First the log: who is told of the port finds in it that the server serves.
        _log.info(
            "serving",
            address=server.address,
            models=list(dict.fromkeys(model.name for model in models)),
            failed=repository.failures,
            start_s=round(time.monotonic() - began, 3),
            version=gatestream.__version__,
        )
        write_port(config.port_file, str(server.port))
        if worker is not None:
            worker.serving(
                tuple(_served(model) for model in models), tuple(repository.loaded), tuple(repository.failures)
            )
        await signals.first.wait()
        await health.say(serving=False)
        await drain(models, streams, config.drain_seconds, signals, checkpointer)
        await server.stop(0.5)
        if health_socket is not None:
            await health_socket.stop()
        for task in tasks:
            task.cancel()
    if checkpointer is not None:
        await checkpointer.store.close_store(checkpointer.owner)
    _log.info("stopped")


def _checkpointer(config: ServerConfig) -> Checkpointer | None:
    durability = config.durability
    if durability == "off":
        return None
    store = open_store(config.store, durability)
    return Checkpointer(store, config.limits, before_answer=durability == "before-answer")


async def _check(stats: ServerStats, *parts: Catalog | Streams) -> None:
    """Say and count what does not add up, when it is seen first."""
    seen: list[str] = []
    while True:
        await asyncio.sleep(_CHECK_SECONDS)
        found = [each for part in parts for each in part.check()]
        if found and found != seen:
            stats.differences += len(found)
            _log.error("what must add up does not", differences=found[:_MOST_DIFFERENCES])
        seen = found


async def _expire(models: Catalog, shortest: float) -> None:
    while True:
        await asyncio.sleep(min(shortest / _EXPIRY_PERIODS, _LONGEST_EXPIRY_PERIOD))
        for model in models:
            if count := await model.lifecycle.expiry.expire():
                _log.info("idle sessions closed", model=model.spec.name, sessions=count)


def _served(model: Model) -> Served:
    return Served(model.name, model.version, model.spec.weights_fingerprint, model.measured.threads)
