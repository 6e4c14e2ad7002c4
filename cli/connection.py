"""How a command connects to a server: the options of its connection, and what they make."""

import os
import socket
import ssl
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    import grpc

_FILE = click.Path(path_type=Path)


def tls_options(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command the flags that `credentials` takes."""
    for option in (
        click.option("--tls-key", type=_FILE, help="The private key of --tls-cert, PEM."),
        click.option("--tls-cert", type=_FILE, help="Use TLS, and show the server this certificate chain, PEM."),
        click.option("--tls-ca", type=_FILE, help="Use TLS, and trust the authorities in this PEM file."),
        click.option("--tls", is_flag=True, help="Use TLS, and trust the authorities that gRPC trusts."),
    ):
        command = option(command)
    return command


def credentials(
    *, tls: bool, tls_ca: Path | None, tls_cert: Path | None, tls_key: Path | None
) -> "grpc.ChannelCredentials | None":
    """What to connect with; None: in clear.

    Raises:
        ClickException: a file is not what it should be.
    """
    # What gRPC's core writes by itself of a handshake that fails; the error has it too.
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    import grpc

    from gatestream.server.errors import ConfigError
    from gatestream.server.transport.certificates import read_authorities, read_pair

    if (tls_cert is None) != (tls_key is None):
        raise click.UsageError("--tls-cert and --tls-key go together; only one is given")
    if not (tls or tls_ca or tls_cert):
        return None
    try:
        authorities = None if tls_ca is None else read_authorities(tls_ca, "--tls-ca")
        pair: Any = (None, None)
        if tls_cert is not None and tls_key is not None:
            pair = read_pair(tls_cert, tls_key, ("--tls-cert", "--tls-key"))
    except ConfigError as error:
        raise click.ClickException(str(error)) from error
    return grpc.ssl_channel_credentials(authorities, pair[1], pair[0])


def speaks_tls(address: str, seconds: float) -> bool:
    """Whether what listens at HOST:PORT begins a connection as TLS does, whomever it then takes.

    Args:
        address: as gRPC takes it; of any other form than HOST:PORT: no.
        seconds: to wait for it, at each step.
    """
    host, _, port = address.rpartition(":")
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.set_alpn_protocols(["h2"])
    try:
        with (
            socket.create_connection((host.strip("[]"), int(port)), seconds) as plain,
            context.wrap_socket(plain),
        ):
            return True
    except (OSError, ValueError, OverflowError):
        return False
