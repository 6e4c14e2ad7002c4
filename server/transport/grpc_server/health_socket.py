"""A Unix socket on which the health service alone answers: for a machine's own checks, without TLS and tokens."""

import contextlib
import errno
import os
import socket
import stat
from pathlib import Path
from typing import Final

import grpc
from grpc_health.v1 import health_pb2_grpc

from gatestream.server.errors import ConfigError
from gatestream.server.transport.grpc_server.health import Health

# What the kernel has room for.
_LONGEST_PATH: Final = 107
_OWNER_ONLY: Final = 0o177


class HealthSocket:
    """Bound when it is made; it answers between `start` and `stop`. Only the server's own user may connect.

    Args:
        path: of the socket. One that a dead server has left there is replaced.
        health: what is answered.

    Raises:
        ConfigError: another server answers there, something else is there, or nothing can be made there.
    """

    def __init__(self, path: Path, health: Health):
        self._path = path
        self._server = grpc.aio.server()
        health_pb2_grpc.add_HealthServicer_to_server(health.servicer, self._server)
        _make_room(path)
        before = os.umask(_OWNER_ONLY)
        try:
            self._server.add_insecure_port(f"unix:{path}")
        except RuntimeError as error:
            raise ConfigError(f"health_socket: {path} cannot be listened on: {error}") from error
        finally:
            os.umask(before)

    async def start(self) -> None:
        """Begin to answer."""
        await self._server.start()

    async def stop(self) -> None:
        """Answer no more, and leave nothing behind."""
        await self._server.stop(grace=None)
        self._path.unlink(missing_ok=True)


def _make_room(path: Path) -> None:
    """Have nothing at the path, which may be a socket that nobody listens on any more."""
    if len(os.fsencode(path)) > _LONGEST_PATH:
        raise ConfigError(
            f"health_socket: {path} has more than the {_LONGEST_PATH} bytes that a socket's path may have"
        )
    if not path.parent.is_dir():
        raise ConfigError(f"health_socket: there is no folder {path.parent}")
    try:
        there = path.lstat()
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(there.st_mode):
        raise ConfigError(f"health_socket: {path} is there already, and is no socket")
    with contextlib.closing(socket.socket(socket.AF_UNIX)) as client:
        if (code := client.connect_ex(str(path))) != errno.ECONNREFUSED:
            why = "another server answers there" if code in (0, errno.EAGAIN) else os.strerror(code)
            raise ConfigError(f"health_socket: {path} is there already: {why}")
    path.unlink()
