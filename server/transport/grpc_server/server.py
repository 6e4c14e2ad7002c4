"""The gRPC server of this process: what it is made with, whether it still serves, and the one that follows it."""

import asyncio
from collections.abc import Iterable
from typing import Any, Final

import grpc
import structlog
from grpc._cython import cygrpc  # type: ignore[attr-defined]

from gatestream.server.config import ServerConfig
from gatestream.server.errors import ConfigError, ServerError, cut
from gatestream.server.transport.grpc_server.calls import Calls
from gatestream.server.transport.grpc_server.definition import ServiceDefinition
from gatestream.server.transport.grpc_server.options import channel_options
from gatestream.server.transport.grpc_server.tls import Tls

_ASK_SECONDS: Final = 0.2
# The port of a server that has died is free as soon as gRPC has closed its listener, on another thread.
_TRIES: Final = 40
_PAUSE_SECONDS: Final = 0.05
# As long as the streams of a server that has died go on.
_AGES_SECONDS: Final = 1e9

_log = structlog.get_logger(__name__)

# The loop does not hold its tasks.
_unknown: set[asyncio.Task[None]] = set()


class GrpcServer:
    """A gRPC server on a port, and another in its place when it dies.

    grpc.aio accepts calls in one task. An exception there ends it without a word: what is open goes on, and no new
    client is served.

    Args:
        config: of the server.
        tls: what it shows to those who connect; None: it is spoken to in clear.
        calls: admits every call.
        services: what can be called.

    Attributes:
        port: that it listens on.
        address: HOST:PORT of that.

    Raises:
        ConfigError: the address cannot be listened on.
    """

    def __init__(self, config: ServerConfig, tls: Tls | None, calls: Calls, services: Iterable[ServiceDefinition]):
        self._options = channel_options(config)
        self._tls = tls
        self._calls = calls
        self._handlers = calls.handlers(services)
        self._servers = [self._make()]
        self.port = self._bind(self._servers[0], config.listen)
        self.address = f"{config.listen.rpartition(':')[0]}:{self.port}"
        self._stopping = False
        self._ends: set[asyncio.Task[None]] = set()

    def _make(self) -> grpc.aio.Server:
        server = grpc.aio.server(interceptors=[self._calls], options=self._options)
        for name, methods in self._handlers.items():
            server.add_registered_method_handlers(name, methods)
        return server

    def _bind(self, server: grpc.aio.Server, address: str) -> int:
        try:
            if self._tls is None:
                return server.add_insecure_port(address)
            return server.add_secure_port(address, self._tls.credentials())
        except RuntimeError as error:
            raise ConfigError(f"listen is {address!r}, which cannot be listened on: {error}") from error

    async def start(self) -> None:
        """Accept calls."""
        if not SAFE_FROM_PATHS:
            _log.warning(
                "a call's path that is not UTF-8 ends this grpcio's accepting of calls; it is then replaced",
                grpcio=grpc.__version__,
            )
        await self._servers[-1].start()

    async def watch(self) -> None:
        """See to it that calls are accepted, until `stop`.

        Raises:
            ServerError: they no longer are, and no other server can be made.
        """
        while not self._stopping:
            try:
                await self._servers[-1].wait_for_termination(_ASK_SECONDS)
            except Exception as error:
                _log.error("gRPC stopped accepting calls and is replaced", address=self.address, error=cut(repr(error)))
                await self._replace(error)

    async def _replace(self, error: Exception) -> None:
        dead = self._servers[-1]
        # Its streams go on; it is freed with the last of them.
        end = asyncio.create_task(dead.stop(_AGES_SECONDS))
        self._ends.add(end)
        end.add_done_callback(lambda _end: self._servers.remove(dead))
        end.add_done_callback(self._ends.discard)
        for _ in range(_TRIES):
            server = self._make()
            try:
                self._bind(server, self.address)
            except ServerError:
                await asyncio.sleep(_PAUSE_SECONDS)
                continue
            await server.start()
            self._servers.append(server)
            return
        raise ServerError(
            f"gRPC stopped accepting calls ({cut(repr(error))}), and {self.address} cannot be listened on again"
        )

    async def stop(self, grace: float) -> None:
        """End, with all that is open.

        Args:
            grace: seconds that calls may take to end by themselves.
        """
        self._stopping = True
        await asyncio.gather(*(server.stop(grace) for server in self._servers))


def _prevent_death_by_path() -> bool:
    """Have grpc.aio answer calls of methods that it does not know without reading their names.

    It decodes the name of such a method, which the client chose, in the task that accepts calls, and UnicodeDecodeError
    ends that. Each method of ours is registered with gRPC, which then matches it by itself; so what comes unregistered
    is UNIMPLEMENTED whatever it is called. Where another grpcio has other insides, `GrpcServer.watch` is what is left.

    Returns:
        Whether it does.
    """
    try:
        cygrpc.AioServer = _server_type(cygrpc.AioServer, cygrpc._schedule_rpc_coro, cygrpc._handle_rpc)
    except AttributeError:
        return False
    return True


def _server_type(base: Any, schedule: Any, handle: Any) -> Any:
    class Server(base):  # type: ignore[misc]
        async def _request_call(self) -> Any:
            loop = asyncio.get_running_loop()
            while True:
                state = await super()._request_call()
                call = loop.create_task(schedule(handle("", _NoMethods(), (), state, loop, False), state, loop, ""))
                _unknown.add(call)
                call.add_done_callback(_unknown.discard)

    return Server


class _NoMethods:
    def resolve_handler(self, _details: Any) -> None:
        """There is no handler."""


SAFE_FROM_PATHS: Final = _prevent_death_by_path()
"""Whether no path of a call can end the accepting of calls."""
