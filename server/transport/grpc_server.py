"""The gRPC server of this process: what it is made with, whether it still serves, and the one that follows it."""

import asyncio
from collections.abc import Callable
from typing import Any, Final

import grpc
import structlog
from grpc._cython import cygrpc  # type: ignore[attr-defined]

from gatestream.server.errors import ServerError, cut

_ASK_SECONDS: Final = 0.2
# The port of a server that has died is free as soon as gRPC has closed its listener, on another thread.
_TRIES: Final = 40
_PAUSE_SECONDS: Final = 0.05
# As long as the streams of a server that has died go on.
_AGES_SECONDS: Final = 1e9

_log = structlog.get_logger(__name__)

# The loop does not hold its tasks.
_unknown: set[asyncio.Task[None]] = set()

Make = Callable[[], grpc.aio.Server]
Bind = Callable[[grpc.aio.Server, str], int]


class Serving:
    """A gRPC server on a port, and another in its place when it dies.

    grpc.aio accepts calls in one task. An exception there ends it without a word: what is open goes on, and no new
    client is served.

    Args:
        make: a server, with its services.
        bind: has a server listen at an address; the port.
        address: HOST:PORT.

    Raises:
        ConfigError: the address cannot be listened on.
    """

    def __init__(self, make: Make, bind: Bind, address: str):
        self._make = make
        self._bind = bind
        self._servers = [make()]
        self.port = bind(self._servers[0], address)
        self._address = f"{address.rpartition(':')[0]}:{self.port}"
        self._stopping = False
        self._ends: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        """Accept calls."""
        if not _SAFE_FROM_PATHS:
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
                _log.error(
                    "gRPC stopped accepting calls and is replaced", address=self._address, error=cut(repr(error))
                )
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
                self._bind(server, self._address)
            except ServerError:
                await asyncio.sleep(_PAUSE_SECONDS)
                continue
            await server.start()
            self._servers.append(server)
            return
        raise ServerError(
            f"gRPC stopped accepting calls ({cut(repr(error))}), and {self._address} cannot be listened on again"
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
    is UNIMPLEMENTED whatever it is called. Where another grpcio has other insides, `Serving.watch` is what is left.

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


_SAFE_FROM_PATHS: Final = _prevent_death_by_path()
