"""The Unix socket on which health alone answers: what a container's check asks, whatever the port wants to see."""

import os
import signal
import socket
import stat
import subprocess
import sys
from pathlib import Path

import grpc
import pytest
from click.testing import CliRunner

from gatestream.cli.health import command
from gatestream.protos.gatestream.v1 import gatestream_pb2 as pb
from gatestream.protos.gatestream.v1 import gatestream_pb2_grpc as pb_grpc
from tests.support.process import serving
from tests.support.tls import Files
from tests.support.wire import PATIENCE, Stream, until
from tests.support.workers import process_of, started

NEVER = 10 * PATIENCE
SERVE = (sys.executable, "-m", "gatestream.cli", "serve", "--provider=cpu")


def asked(*arguments: str, **environment: str) -> tuple[int, str]:
    result = CliRunner(env=environment).invoke(command, arguments)
    return result.exit_code, result.output


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "health.sock"


@pytest.mark.parametrize("workers", [1, 2])
def test_it_answers_without_certificates(accumulator_path: Path, tmp_path: Path, path: Path, workers: int) -> None:
    files = Files(tmp_path)
    chain, key = files.issue("server")
    tokens = tmp_path / "tokens.toml"
    tokens.write_text('"token-of-acme-0123456789" = "acme"\n')
    flags = {"tls_cert": chain, "tls_key": key, "tls_client_ca": files.ca, "tokens": tokens, "workers": workers}
    with serving(accumulator_path, health_socket=path, **flags) as server:
        assert asked(f"unix:{path}") == (0, "SERVING\n")
        # As the image's check has it.
        assert asked(GATESTREAM_HEALTH_SOCKET=str(path)) == (0, "SERVING\n")
        assert asked(server.address, "--timeout=2")[0] == 1
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        with grpc.insecure_channel(f"unix:{path}") as channel, pytest.raises(grpc.RpcError) as caught:
            pb_grpc.GatestreamStub(channel).Describe(pb.DescribeRequest(), timeout=PATIENCE)
        assert caught.value.code() == grpc.StatusCode.UNIMPLEMENTED
        assert server.terminate(PATIENCE) == 0
    assert not path.exists()
    code, output = asked(f"unix:{path}")
    assert code == 1
    assert output.startswith(f"Error: unix:{path}: UNAVAILABLE: ")
    assert output.count("\n") == 1


@pytest.mark.parametrize("workers", [1, 2])
def test_it_says_so_when_the_server_drains(accumulator_path: Path, path: Path, workers: int) -> None:
    with (
        serving(accumulator_path, health_socket=path, workers=workers, drain_seconds=NEVER) as server,
        Stream(server.address) as stream,
    ):
        stream.opened(0)
        server.popen.send_signal(signal.SIGTERM)
        stream.expect("going_away")
        assert asked(f"unix:{path}") == (1, f"Error: unix:{path}: NOT_SERVING\n")
        stream.close(0)
        assert server.popen.wait(PATIENCE) == 0


def test_a_server_of_which_a_worker_is_replaced_serves(accumulator_path: Path, path: Path) -> None:
    with serving(accumulator_path, health_socket=path, workers=2) as server:
        os.kill(process_of(server, 1), signal.SIGKILL)
        until(lambda: '"worker died"' in server.log.read_text(), "it was noticed")
        assert asked(f"unix:{path}") == (0, "SERVING\n")
        started(server, 1, times=2)
        assert asked(f"unix:{path}") == (0, "SERVING\n")


def test_what_a_killed_server_has_left_is_replaced(accumulator_path: Path, path: Path) -> None:
    with serving(accumulator_path, health_socket=path) as server:
        server.kill()
        assert path.exists()
    with serving(accumulator_path, health_socket=path):
        assert asked(f"unix:{path}") == (0, "SERVING\n")


@pytest.mark.parametrize(
    ("kind", "says"),
    [
        ("live", "health_socket: {path} is there already: another server answers there"),
        ("file", "health_socket: {path} is there already, and is no socket"),
        ("folder", "health_socket: there is no folder {path.parent}"),
        ("long", "health_socket: {path} has more than the 107 bytes that a socket's path may have"),
    ],
)
def test_a_place_that_cannot_be_had(accumulator_path: Path, path: Path, kind: str, says: str) -> None:
    with socket.socket(socket.AF_UNIX) as live:
        if kind == "live":
            live.bind(str(path))
            live.listen()
        elif kind == "file":
            path.write_text("mine")
        elif kind == "folder":
            path = path / "missing" / "health.sock"
        else:
            path = path.parent / ("n" * 100) / "health.sock"
        done = subprocess.run(
            [*SERVE, str(accumulator_path), "--listen=127.0.0.1:0", f"--health-socket={path}"],
            capture_output=True,
            text=True,
            timeout=PATIENCE,
        )
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == f"Error: {says.format(path=path)}"
    assert kind != "file" or path.read_text() == "mine"
