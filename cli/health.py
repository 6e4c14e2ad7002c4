"""`gatestream health`: what a container's health check and a start-up script ask."""

import os
from typing import Any

import click

from gatestream.cli.connection import credentials, speaks_tls, tls_options
from gatestream.cli.numbers import SECONDS
from gatestream.cli.outcome import Outcome

_TLS_TOLD = (
    "this server speaks TLS: give --tls-ca, or --tls, and --tls-cert with --tls-key where it wants a client "
    "certificate; or ask unix:PATH of its --health-socket"
)


@click.command("health", cls=Outcome)
@click.argument("address", required=False)
@click.option("--timeout", type=SECONDS, default=3.0, show_default=True, help="Seconds to wait for the answer.")
@tls_options
def command(address: str | None, timeout: float, **tls: Any) -> None:
    """Ask the server at ADDRESS whether it serves.

    ADDRESS is HOST:PORT, or unix:PATH with the path of its --health-socket, which needs no TLS. By default it is
    GATESTREAM_HEALTH_SOCKET, where that is set as for the server, and else 127.0.0.1:50051.

    Ends with 0 only when it does: a server that warms up or drains answers NOT_SERVING, and one that is not there does
    not answer; both end with 1.
    """
    secure = credentials(**tls)
    import grpc
    from grpc_health.v1 import health_pb2, health_pb2_grpc

    if address is None:
        path = os.environ.get("GATESTREAM_HEALTH_SOCKET")
        address = f"unix:{path}" if path else "127.0.0.1:50051"
    with grpc.insecure_channel(address) if secure is None else grpc.secure_channel(address, secure) as channel:
        try:
            # The package's types leave the stub's methods out.
            answer = health_pb2_grpc.HealthStub(channel).Check(  # type: ignore[attr-defined]
                health_pb2.HealthCheckRequest(), timeout=timeout
            )
        except grpc.RpcError as error:
            details = " ".join((error.details() or "no details").split())
            if error.code() == grpc.StatusCode.UNAVAILABLE and speaks_tls(address, timeout):
                details = _TLS_TOLD if secure is None else f"{details}; {_TLS_TOLD}"
            raise click.ClickException(f"{address}: {error.code().name}: {details}") from error
    status = health_pb2.HealthCheckResponse.ServingStatus.Name(answer.status)
    if answer.status != health_pb2.HealthCheckResponse.SERVING:
        raise click.ClickException(f"{address}: {status}")
    click.echo(status)
