"""The address that a server listens on: holding it for several processes, and saying which it is."""

import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from ipaddress import ip_address
from pathlib import Path

import structlog

from gatestream.files.names import shown
from gatestream.files.writing import deliver, is_written_through, write
from gatestream.server.config import ServerConfig
from gatestream.server.errors import ConfigError

_log = structlog.get_logger(__name__)


@contextmanager
def reserved(listen: str) -> Iterator[str]:
    """Hold an address for processes that share it (SO_REUSEPORT), so that no other server joins them.

    Yields:
        HOST:PORT, with a free port in place of port 0.

    Raises:
        ConfigError: somebody listens there, or holds it.
    """
    host, _, port_text = listen.rpartition(":")
    port = int(port_text)
    with ExitStack() as held:
        try:
            found = socket.getaddrinfo(host.strip("[]"), port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
            for family, kind, protocol, _, (name, _, *scope) in found:
                address = held.enter_context(socket.socket(family, kind, protocol))
                # What the kernel remembers of an earlier server's connections is in nobody's way.
                address.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                # It does not share yet: this fails where anybody listens. It never listens itself, so no connection
                # comes its way.
                address.bind((name, port, *scope))
                port = address.getsockname()[1]
                address.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
                # Whoever has reserved it and does not listen yet is found by a name in the same network namespace.
                mark = held.enter_context(socket.socket(socket.AF_UNIX))
                mark.bind(f"\0gatestream/{name}/{port}")
        except OSError as error:
            raise ConfigError(f"listen is {listen!r}, which cannot be listened on: {error}") from error
        yield f"{host}:{port}"


def write_port(port_file: Path | None, port: str) -> None:
    """Say in a file, if there is to be one, which port is listened on; empty: nobody serves yet.

    Raises:
        ConfigError: it cannot be written.
    """
    if port_file is None:
        return
    try:
        port_file.parent.stat()  # a server makes no folders
        if port:
            deliver(port_file, f"{port}\n".encode())
        elif not (port_file.exists() and is_written_through(port_file.stat())):
            write(port_file, b"")
    except OSError as error:
        raise ConfigError(f"port_file: {shown(port_file)} cannot be written: {error.strerror}") from error


def warn_of_strangers(config: ServerConfig) -> None:
    """Log what a server that listens beyond this machine lacks against those who should not reach it."""
    host = _host(config.listen)
    if config.http_address is not None and not _is_loopback(http_host := _host(config.http_address)):
        _log.warning("HTTP beyond this machine", host=http_host, risk="whoever can connect may read the metrics")
    if _is_loopback(host):
        return
    for given, without, risk in (
        (config.tokens, "tokens", "whoever can connect may do everything"),
        (config.tls_cert, "TLS", "whoever is on the way can read and change everything, tokens too"),
    ):
        if given is None:
            _log.warning("listening beyond this machine", host=host, without=without, risk=risk)


def _host(address: str) -> str:
    return address.rpartition(":")[0].strip("[]")


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
