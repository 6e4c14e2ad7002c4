"""The gRPC server of this process: what it is made with, and whether it still serves."""

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

_log = structlog.get_logger(__name__)

# The loop does not hold its tasks.
_unknown: set[asyncio.Task[None]] = set()


class GrpcServer:
    """A gRPC server on a port.

    grpc.aio accepts calls in one task. An exception there ends it without a word: what is open goes on, and no new
    client is served. Nor can another take its place in the same process: the task frees what gRPC's core still writes
    the next call to, or that there is none, and so zeros land in whatever has that memory by then.

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
        self._server = grpc.aio.server(interceptors=[calls], options=channel_options(config))
        for name, methods in calls.handlers(services).items():
            self._server.add_registered_method_handlers(name, methods)
        self.port = self._listen(config.listen, tls)
        self.address = f"{config.listen.rpartition(':')[0]}:{self.port}"
        self._stopping = False

    def _listen(self, address: str, tls: Tls | None) -> int:
        try:
            if tls is None:
                return self._server.add_insecure_port(address)
            return self._server.add_secure_port(address, tls.credentials())
        except RuntimeError as error:
            raise ConfigError(f"listen is {address!r}, which cannot be listened on: {error}") from error

    async def start(self) -> None:
        """Accept calls."""
        if not SAFE_FROM_PATHS:
            _log.warning(
                "a call's path that is not UTF-8 ends this grpcio's accepting of calls, and the server with it",
                grpcio=grpc.__version__,
            )
        await self._server.start()

    async def watch(self) -> None:
        """See to it that calls are accepted, until `stop`.

        Raises:
            ServerError: they no longer are.
        """
        while not self._stopping:
            try:
                await self._server.wait_for_termination(_ASK_SECONDS)
            except Exception as error:
                raise ServerError(f"gRPC stopped accepting calls: {cut(repr(error))}") from error

    async def stop(self, grace: float) -> None:
        """End, with all that is open.

        Args:
            grace: seconds that calls may take to end by themselves.
        """
        self._stopping = True
        await self._server.stop(grace)


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
