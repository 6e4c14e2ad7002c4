"""`gatestream health` against real servers."""

import socket
from collections.abc import Iterator
from concurrent import futures
from contextlib import contextmanager
from pathlib import Path

import grpc
import pytest
import trustme
from click.testing import CliRunner, Result
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from gatestream.cli.health import command


def ask(address: str, *arguments: object) -> Result:
    return CliRunner().invoke(command, [address, "--timeout=0.5", *map(str, arguments)])


@contextmanager
def answering(status: int, credentials: grpc.ServerCredentials | None = None) -> Iterator[str]:
    """The address of a server whose health is `status`."""
    server = grpc.server(futures.ThreadPoolExecutor(1))
    servicer = health.HealthServicer()
    servicer.set("", status)
    health_pb2_grpc.add_HealthServicer_to_server(servicer, server)
    address = "127.0.0.1:0"
    port = server.add_secure_port(address, credentials) if credentials else server.add_insecure_port(address)
    server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        server.stop(None).wait()


def test_serving() -> None:
    with answering(health_pb2.HealthCheckResponse.SERVING) as address:
        result = ask(address)
    assert (result.exit_code, result.output) == (0, "SERVING\n")


@pytest.mark.parametrize("status", ["NOT_SERVING", "UNKNOWN", "SERVICE_UNKNOWN"])
def test_anything_but_serving_fails(status: str) -> None:
    with answering(health_pb2.HealthCheckResponse.ServingStatus.Value(status)) as address:
        result = ask(address)
    assert (result.exit_code, result.output) == (1, f"Error: {address}: {status}\n")


def test_over_tls(tmp_path: Path) -> None:
    authority = trustme.CA()
    pair = authority.issue_cert("127.0.0.1")
    chain = b"".join(blob.bytes() for blob in pair.cert_chain_pems)
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    credentials = grpc.ssl_server_credentials([(pair.private_key_pem.bytes(), chain)])
    with answering(health_pb2.HealthCheckResponse.SERVING, credentials) as address:
        assert ask(address, "--tls-ca", tmp_path / "ca.pem").exit_code == 0
        assert ask(address).exit_code == 1
        assert ask(address, "--tls").exit_code == 1
        missing = ask(address, "--tls-ca", tmp_path / "none.pem")
    assert missing.exit_code == 1
    assert missing.output.startswith("Error: --tls-ca: ")


def test_nobody_there() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound and not listening: no one else takes the port meanwhile
        result = ask(f"127.0.0.1:{taken.getsockname()[1]}")
    assert result.exit_code == 1
    assert "UNAVAILABLE" in result.output
    assert result.output.count("\n") == 1


def test_no_answer_in_time() -> None:
    with socket.socket() as mute:
        mute.bind(("127.0.0.1", 0))
        mute.listen()
        result = ask(f"127.0.0.1:{mute.getsockname()[1]}")
    assert result.exit_code == 1
    assert "DEADLINE_EXCEEDED" in result.output
    assert result.output.count("\n") == 1
