"""A server's life: load, warm up, serve, drain, stop."""

import asyncio
import itertools
import time
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any, Final

import structlog

import gatestream
from gatestream.protos.gatestream.v1 import gatestream_pb2 as pb
from gatestream.server.backend.threads import Measured
from gatestream.server.background import carry_on
from gatestream.server.config import ServerConfig
from gatestream.server.core.catalog import Model, Models, load_models
from gatestream.server.drain import drain
from gatestream.server.errors import ServerError
from gatestream.server.process.allocator import fault_in, give_back
from gatestream.server.process.garbage import collect, keep_loaded
from gatestream.server.process.link import Served, Worker
from gatestream.server.process.port import warn_of_strangers, write_port
from gatestream.server.process.signals import StopSignals
from gatestream.server.reload import keep_fresh
from gatestream.server.transport import native_calls, oip_calls
from gatestream.server.transport.auth import Tenants
from gatestream.server.transport.connection import Streams
from gatestream.server.transport.grpc_server.calls import Calls
from gatestream.server.transport.grpc_server.health import Health
from gatestream.server.transport.grpc_server.health_socket import HealthSocket
from gatestream.server.transport.grpc_server.reflection import reflection
from gatestream.server.transport.grpc_server.server import GrpcServer
from gatestream.server.transport.grpc_server.tls import Tls
from gatestream.server.transport.native import ClientStream

_EXPIRY_PERIODS: Final = 10
_LONGEST_EXPIRY_PERIOD: Final = 10.0

_log = structlog.get_logger(__name__)


async def serve(config: ServerConfig, worker: Worker | None = None) -> None:
    """Serve until the process is told to stop.

    The first SIGTERM, SIGINT or SIGHUP drains: health says NOT_SERVING, nothing new is opened, what is open may finish.
    It ends when no stream is left that has sessions or waits for answers, or `config.drain_seconds` have passed; every
    accepted step is answered before that. A second signal ends at once.

    Args:
        config: of the server.
        worker: which of its processes this one is, where `config.workers` is more than 1 (`process.supervisor`).

    Raises:
        ServerError: it cannot be started as configured.
    """
    began = time.monotonic()
    # That it cannot be written is found out before anything is started.
    write_port(config.port_file, "")
    models = load_models(config) if worker is None else load_models(config, worker.leases, worker.threads)
    tenants = Tenants(config.tokens)
    tls = Tls.of(config)
    models.divide(several=tenants.several)
    streams = Streams(models, config.limits, tenants)
    health = Health(item.full_name for item in (native_calls.DESCRIPTOR, oip_calls.DESCRIPTOR))
    await health.say(serving=False)
    calls = Calls(tenants, config.unary_calls, config.tenant_unary_calls, most_lasting=config.limits.streams)
    services = [
        native_calls.Service(models, config.limits, streams).definition(),
        oip_calls.OpenInferenceService(models, config.limits, streams).definition(),
        health.definition(),
    ]
    server = GrpcServer(config, tls, calls, [*services, reflection(services)])
    health_socket = None if config.health_socket is None else HealthSocket(config.health_socket, health)
    signals = StopSignals(alone=worker is None)
    if worker is not None:
        worker.obey(signals.first.set, signals.second.set)
    async with asyncio.TaskGroup() as background:
        tasks = [background.create_task(model.engine.run()) for model in models]

        def run_behind(name: str, task: Callable[[], Awaitable[None]]) -> None:
            tasks.append(background.create_task(carry_on(name, task)))

        for model in models:
            await _warm_up(model, models, config)
            _log_model(model)
        keep_loaded()
        await fault_in()
        await server.start()
        # Alone among them it may end the server: one that nobody can connect to is better begun again.
        tasks.append(background.create_task(server.watch()))
        if health_socket is not None:
            await health_socket.start()
        run_behind("the look at files", partial(keep_fresh, [tenants] if tls is None else [tenants, tls]))
        run_behind("the look at memory", give_back)
        run_behind("the look at garbage", partial(collect, lambda: len(streams) + calls.unanswered))
        if config.limits.idle_stream_timeout:
            run_behind("the look at idle streams", streams.end_idle)
        if timeouts := [t for t in (config.limits.idle_timeout, config.limits.sequence_timeout) if t]:
            run_behind("the look at idle sessions", partial(_expire, models, min(timeouts)))
        await health.say(serving=True)
        if worker is None:
            warn_of_strangers(config)
        write_port(config.port_file, str(server.port))
        if worker is not None:
            worker.serving(tuple(_served(model) for model in models))
        _log.info(
            "serving",
            address=server.address,
            models=[model.spec.name for model in models],
            start_s=round(time.monotonic() - began, 3),
            version=gatestream.__version__,
        )
        await signals.first.wait()
        await health.say(serving=False)
        await drain(models, streams, config.drain_seconds, signals)
        await server.stop(0.5)
        if health_socket is not None:
            await health_socket.stop()
        for task in tasks:
            task.cancel()
    _log.info("stopped")


async def _warm_up(model: Model, models: Models, config: ServerConfig) -> None:
    """Send steps the way that a client's go, so that the first client does not wait for first runs."""
    stream = ClientStream(models, config.limits, tenant="gatestream.warm-up")
    chunk = min(config.tick.steps, config.limits.chunk_length)
    layout = model.engine.layout
    for gates, most in itertools.product({False, bool(layout.gates)}, (1, chunk)):
        steps = min(most, model.engine.admission.most_rows(gates))
        columns = [bytes(steps * item.row_bytes) for item in layout.inputs]
        stream.receive(pb.ClientMessage(open=pb.Open(handle=0, model=model.spec.name, gates=gates)).SerializeToString())
        stream.receive(pb.ClientMessage(steps=pb.Steps(handle=[0], length=[steps], input=columns)).SerializeToString())
        stream.receive(pb.ClientMessage(close=pb.Close(handle=[0])).SerializeToString())
        while (item := await stream.outbox.take()) is not None:
            stream.rows -= item[1]
            message = pb.ServerMessage.FromString(bytes(item[0]))
            if message.HasField("error"):
                raise ServerError(f"model {model.spec.name!r} failed its warm-up: {message.error.message}")
            if message.HasField("closed"):
                break


async def _expire(models: Models, shortest: float) -> None:
    while True:
        await asyncio.sleep(min(shortest / _EXPIRY_PERIODS, _LONGEST_EXPIRY_PERIOD))
        for model in models:
            if count := await model.lifecycle.expire():
                _log.info("idle sessions closed", model=model.spec.name, sessions=count)


def _log_model(model: Model) -> None:
    runner = model.engine.rows.runner
    _log.info(
        "loaded",
        model=model.spec.name,
        version=model.spec.version,
        form=pb.Form.Name(model.spec.form),
        weights=pb.WeightFormat.Name(model.spec.weights),
        execution_provider=runner.provider,
        nodes={item.execution_provider: item.nodes for item in runner.placements},
        threads=model.measured.threads,
        **_table(model.measured),
    )


def _table(measured: Measured) -> dict[str, Any]:
    """Microseconds of one step, by threads and rows, where they were measured."""
    rounded = {
        threads: {rows: round(1e6 * seconds) for rows, seconds in times.items()}
        for threads, times in measured.seconds.items()
    }
    return {"step_us": rounded} if rounded else {}


def _served(model: Model) -> Served:
    return Served(model.spec.name, model.spec.weights_fingerprint, model.measured.threads)
