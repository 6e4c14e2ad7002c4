"""`gatestream health`: what a container's health check and a start-up script ask."""

from pathlib import Path

import click

from gatestream.cli.numbers import SECONDS


@click.command("health")
@click.argument("address", default="127.0.0.1:50051")
@click.option("--timeout", type=SECONDS, default=3.0, show_default=True, help="Seconds to wait for the answer.")
@click.option("--tls", is_flag=True, help="Use TLS, and trust the authorities that gRPC trusts.")
@click.option("--tls-ca", type=click.Path(path_type=Path), help="Use TLS, and trust the authorities in this PEM file.")
def command(address: str, timeout: float, tls: bool, tls_ca: Path | None) -> None:
    """Ask the server at ADDRESS (HOST:PORT; by default 127.0.0.1:50051) whether it serves.

    Ends with 0 only when it does: a server that warms up or drains answers NOT_SERVING, and one that is not there does
    not answer; both end with 1.
    """
    import grpc
    from grpc_health.v1 import health_pb2, health_pb2_grpc

    try:
        authorities = tls_ca.read_bytes() if tls_ca else None
    except OSError as error:
        raise click.ClickException(f"--tls-ca: {error}") from error
    secure = tls or tls_ca is not None
    with (
        grpc.secure_channel(address, grpc.ssl_channel_credentials(authorities))
        if secure
        else grpc.insecure_channel(address)
    ) as channel:
        try:
            # The package's types leave the stub's methods out.
            answer = health_pb2_grpc.HealthStub(channel).Check(  # type: ignore[attr-defined]
                health_pb2.HealthCheckRequest(), timeout=timeout
            )
        except grpc.RpcError as error:
            details = " ".join((error.details() or "no details").split())
            raise click.ClickException(f"{address}: {error.code().name}: {details}") from error
    status = health_pb2.HealthCheckResponse.ServingStatus.Name(answer.status)
    if answer.status != health_pb2.HealthCheckResponse.SERVING:
        raise click.ClickException(f"{address}: {status}")
    click.echo(status)
