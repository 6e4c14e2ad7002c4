"""`gatestream health` against real servers."""

import socket
from collections.abc import Iterator
from concurrent import futures
from contextlib import contextmanager
from pathlib import Path

import grpc
import pytest
from click.testing import CliRunner, Result
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from gatestream.cli.health import command
from gatestream.cli.main import main
from tests.support.tls import Files


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


def told(result: Result) -> None:
    """One line says what this server wants to see."""
    assert result.exit_code == 1
    assert result.output.startswith("Error: 127.0.0.1:")
    assert result.output.count("\n") == 1
    assert "this server speaks TLS: give --tls-ca, or --tls, and --tls-cert with --tls-key" in result.output
    assert "or ask unix:PATH of its --health-socket" in result.output


def test_over_tls(tmp_path: Path) -> None:
    files = Files(tmp_path)
    chain, key = files.issue("server")
    credentials = grpc.ssl_server_credentials([(key.read_bytes(), chain.read_bytes())])
    with answering(health_pb2.HealthCheckResponse.SERVING, credentials) as address:
        assert ask(address, "--tls-ca", files.ca).exit_code == 0
        told(ask(address))
        told(ask(address, "--tls"))


def test_with_a_client_certificate(tmp_path: Path) -> None:
    files = Files(tmp_path)
    chain, key = files.issue("server")
    pair = (key.read_bytes(), chain.read_bytes())
    credentials = grpc.ssl_server_credentials([pair], files.ca.read_bytes(), require_client_auth=True)
    shown, its_key = files.issue("client")
    with answering(health_pb2.HealthCheckResponse.SERVING, credentials) as address:
        assert ask(address, "--tls-ca", files.ca, "--tls-cert", shown, "--tls-key", its_key).exit_code == 0
        told(ask(address))
        told(ask(address, "--tls-ca", files.ca))


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (["--tls-ca=none"], 1, "--tls-ca: none cannot be read: No such file or directory"),
        (["--tls-ca=empty"], 1, "--tls-ca: empty holds no certificate in PEM"),
        (["--tls-ca=."], 1, "--tls-ca: . cannot be read: is a folder, expected a file"),
        (["--tls-cert=a.pem"], 2, "--tls-cert and --tls-key go together; only one is given"),
        (["--tls-cert=a.pem", "--tls-key=b.key"], 1, "--tls-key: b.key is not the key of the certificate in a.pem"),
        (["--tls-cert=a.key", "--tls-key=a.key"], 1, "--tls-cert: a.key holds no certificate in PEM"),
        (["--tls-cert=a.pem", "--tls-key=a.pem"], 1, "--tls-key: a.pem holds no private key in PEM"),
    ],
)
@pytest.mark.parametrize("name", ["health", "stream"])
def test_a_file_that_is_not_what_it_should_be(
    name: str, arguments: list[str], code: int, says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    files = Files(tmp_path)
    files.issue("a")
    files.issue("b")
    Path("empty").touch()
    result = CliRunner().invoke(main, [name, "127.0.0.1:1", *arguments])
    hint = f" (see `main {name} --help`)" if code == 2 else ""
    assert (result.exit_code, result.output) == (code, f"Error: {says}{hint}\n")


def test_nobody_there() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound and not listening: no one else takes the port meanwhile
        result = ask(f"127.0.0.1:{taken.getsockname()[1]}")
    assert result.exit_code == 1
    assert "UNAVAILABLE" in result.output
    assert "TLS" not in result.output
    assert result.output.count("\n") == 1


def test_no_answer_in_time() -> None:
    with socket.socket() as mute:
        mute.bind(("127.0.0.1", 0))
        mute.listen()
        result = ask(f"127.0.0.1:{mute.getsockname()[1]}")
    assert result.exit_code == 1
    assert "DEADLINE_EXCEEDED" in result.output
    assert result.output.count("\n") == 1
