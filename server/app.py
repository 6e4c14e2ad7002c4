"""A server's life: load, warm up, serve, drain, stop."""

import asyncio
import itertools
import time
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Any, Final

import grpc
import structlog
from grpc_health.v1 import health, health_pb2

import gatestream
from gatestream.protos.gatestream.v1 import gatestream_pb2 as pb
from gatestream.protos.inference import open_inference_grpc_pb2 as oip
from gatestream.server.backend.threads import Measured
from gatestream.server.background import carry_on
from gatestream.server.config import ServerConfig
from gatestream.server.core.catalog import Model, Models, load_models
from gatestream.server.drain import drain
from gatestream.server.errors import ConfigError, ServerError
from gatestream.server.process.allocator import fault_in, give_back
from gatestream.server.process.garbage import collect, keep_loaded
from gatestream.server.process.link import Served, Worker
from gatestream.server.process.port import warn_of_strangers, write_port
from gatestream.server.process.signals import StopSignals
from gatestream.server.reload import keep_fresh
from gatestream.server.transport import reflection
from gatestream.server.transport.auth import Tenants
from gatestream.server.transport.calls import Calls
from gatestream.server.transport.connection import Streams
from gatestream.server.transport.grpc_server import Serving
from gatestream.server.transport.health_socket import HealthSocket
from gatestream.server.transport.native import ClientStream
from gatestream.server.transport.native_calls import Service
from gatestream.server.transport.oip_calls import OpenInferenceService
from gatestream.server.transport.tls import Tls

_OWN: Final[Any] = pb.DESCRIPTOR.services_by_name["Gatestream"]
_OPEN_INFERENCE: Final[Any] = oip.DESCRIPTOR.services_by_name["GRPCInferenceService"]
_HEALTH: Final[Any] = health_pb2.DESCRIPTOR.services_by_name["Health"]
# Whoever asks whether the server lives needs no token.
_OPEN_TO_ALL: Final = frozenset(
    {f"/{_HEALTH.full_name}/{name}" for name in ("Check", "Watch")}
    | {f"/{_OPEN_INFERENCE.full_name}/{name}" for name in ("ServerLive", "ServerReady")}
)
# Of each method. gRPC keeps 16 KB of each, also of those that were reset; a connection may have fewer.
_PENDING: Final = 8_192
# Of one connection, besides `streams`; its client has what is over it wait.
_CALLS_OF_CONNECTION: Final = 256
# As long as a client may take to say something, and to acknowledge what it was told of this server's bounds.
_GREETING_MS: Final = 10_000
# A call that gRPC holds for so long, since the calls before it take the server that long, is cancelled by it.
_UNSEEN_SECONDS: Final = 120
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
    health_servicer = health.aio.HealthServicer()
    await _say(health_servicer, health_pb2.HealthCheckResponse.NOT_SERVING)
    host = config.listen.rpartition(":")[0]
    calls = Calls(
        tenants,
        config.unary_calls,
        config.tenant_unary_calls,
        most_lasting=config.limits.streams,
        open_to_all=_OPEN_TO_ALL,
    )
    handlers = _handlers(
        calls,
        Service(models, config.limits, streams),
        OpenInferenceService(models, config.limits, streams),
        health_servicer,
    )

    def make() -> grpc.aio.Server:
        server = grpc.aio.server(interceptors=[calls], options=_options(config))
        for name, methods in handlers.items():
            server.add_registered_method_handlers(name, methods)
        return server

    def bind(server: grpc.aio.Server, address: str) -> int:
        try:
            if tls is None:
                return server.add_insecure_port(address)
            return server.add_secure_port(address, tls.credentials())
        except RuntimeError as error:
            raise ConfigError(f"listen is {address!r}, which cannot be listened on: {error}") from error

    serving = Serving(make, bind, config.listen)
    health_socket = None if config.health_socket is None else HealthSocket(config.health_socket, health_servicer)
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
        await serving.start()
        # Alone among them it may end the server: one that nobody can connect to is better begun again.
        tasks.append(background.create_task(serving.watch()))
        if health_socket is not None:
            await health_socket.start()
        run_behind("the look at files", partial(keep_fresh, [tenants] if tls is None else [tenants, tls]))
        run_behind("the look at memory", give_back)
        run_behind("the look at garbage", partial(collect, lambda: len(streams) + calls.unanswered))
        if config.limits.idle_stream_timeout:
            run_behind("the look at idle streams", streams.end_idle)
        if timeouts := [t for t in (config.limits.idle_timeout, config.limits.sequence_timeout) if t]:
            run_behind("the look at idle sessions", partial(_expire, models, min(timeouts)))
        await _say(health_servicer, health_pb2.HealthCheckResponse.SERVING)
        if worker is None:
            warn_of_strangers(config)
        write_port(config.port_file, str(serving.port))
        if worker is not None:
            worker.serving(tuple(_served(model) for model in models))
        _log.info(
            "serving",
            address=f"{host}:{serving.port}",
            models=[model.spec.name for model in models],
            start_s=round(time.monotonic() - began, 3),
            version=gatestream.__version__,
        )
        await signals.first.wait()
        await _say(health_servicer, health_pb2.HealthCheckResponse.NOT_SERVING)
        await drain(models, streams, config.drain_seconds, signals)
        await serving.stop(0.5)
        if health_socket is not None:
            await health_socket.stop()
        for task in tasks:
            task.cancel()
    _log.info("stopped")


def _handlers(
    calls: Calls, service: Service, open_inference: OpenInferenceService, health_servicer: health.aio.HealthServicer
) -> dict[str, dict[str, Any]]:
    """What gRPC calls, by service and method. The two streams take and give bytes."""
    own = calls.handlers(_OWN, service, service.request_bytes())
    own["Stream"] = grpc.stream_stream_rpc_method_handler(service.Stream)
    other = calls.handlers(
        _OPEN_INFERENCE, open_inference, open_inference.request_bytes(), unparsed=("ModelInfer", "ModelStreamInfer")
    )
    other["ModelStreamInfer"] = grpc.stream_stream_rpc_method_handler(open_inference.ModelStreamInfer)
    served = {_OWN.full_name: own, _OPEN_INFERENCE.full_name: other}
    served[_HEALTH.full_name] = calls.handlers(_HEALTH, health_servicer)
    reflecting = calls.handlers(reflection.SERVICE, reflection.servicer([_OWN, _OPEN_INFERENCE, _HEALTH]))
    return served | dict.fromkeys(reflection.NAMES, reflecting)


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


async def _say(servicer: health.aio.HealthServicer, status: int) -> None:
    for name in ("", _OWN.full_name, _OPEN_INFERENCE.full_name):
        await servicer.set(name, status)


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


def _options(config: ServerConfig) -> Sequence[tuple[str, int]]:
    return (
        ("grpc.max_receive_message_length", config.limits.message_bytes),
        # What is over `unary_calls` is refused by us; gRPC, which holds what comes between two looks of ours, cancels
        # it.
        ("grpc.server.max_pending_requests", _PENDING),
        ("grpc.server.max_pending_requests_hard_limit", _PENDING),
        ("grpc.server_max_unrequested_time_in_server", _UNSEEN_SECONDS),
        # Two servers on one port would each hold half of the sessions. Workers know of each other.
        ("grpc.so_reuseport", int(config.workers > 1)),
        # A peer that vanished without a word is found out within 40 s.
        ("grpc.keepalive_time_ms", 30_000),
        ("grpc.keepalive_timeout_ms", 10_000),
        # Clients may ping as often to learn the same of us.
        ("grpc.http2.min_ping_interval_without_data_ms", 5_000),
        ("grpc.keepalive_permit_without_calls", 1),
        # After so many PINGs too soon gRPC would close the connection, once for each of the thousands that it has read
        # already: tens of seconds of the thread that reads for everyone. To answer all of them is cheap.
        ("grpc.http2.max_ping_strikes", 0),
        ("grpc.max_concurrent_streams", config.limits.streams + _CALLS_OF_CONNECTION),
        # gRPC would count calls for longer than their clients do, and refuse some of clients that keep to the bound.
        ("grpc.http.overload_protection", 0),
        ("grpc.server_handshake_timeout_ms", _GREETING_MS),
        ("grpc.http2.settings_timeout", _GREETING_MS),
        ("grpc.max_allowed_incoming_connections", config.connections),
    )
