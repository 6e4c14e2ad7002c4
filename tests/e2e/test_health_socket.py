"""The Unix socket on which health alone answers: what a container's check asks, whatever the port wants to see."""

import os
import signal
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
SERVE = (sys.executable, "-m", "gatestream.cli", "serve", "--provider=cpu", "--listen=127.0.0.1:0")


def asked(*arguments: str, **environment: str) -> tuple[int, str]:
    result = CliRunner(env=environment).invoke(command, arguments)
    return result.exit_code, result.output


def test_it_answers_without_certificates_and_for_all_workers(accumulator_path: Path, tmp_path: Path) -> None:
    path, files = tmp_path / "health.sock", Files(tmp_path)
    chain, key = files.issue("server")
    tokens = tmp_path / "tokens.toml"
    tokens.write_text('"token-of-acme-0123456789" = "acme"\n')
    flags = {"tls_cert": chain, "tls_key": key, "tls_client_ca": files.ca, "tokens": tokens, "workers": 2}
    with serving(accumulator_path, health_socket=path, **flags) as server:
        assert asked(f"unix:{path}") == (0, "SERVING\n")
        # As the image's check has it.
        assert asked(GATESTREAM_HEALTH_SOCKET=str(path)) == (0, "SERVING\n")
        assert asked(server.address, "--timeout=2")[0] == 1
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        with grpc.insecure_channel(f"unix:{path}") as channel, pytest.raises(grpc.RpcError) as caught:
            pb_grpc.GatestreamStub(channel).Describe(pb.DescribeRequest(), timeout=PATIENCE)
        assert caught.value.code() == grpc.StatusCode.UNIMPLEMENTED
        # As long as any worker serves.
        os.kill(process_of(server, 1), signal.SIGKILL)
        until(lambda: '"worker died"' in server.log.read_text(), "it was noticed")
        assert asked(f"unix:{path}") == (0, "SERVING\n")
        started(server, 1, times=2)
        assert asked(f"unix:{path}") == (0, "SERVING\n")
        assert server.terminate(PATIENCE) == 0
    assert not path.exists()
    code, output = asked(f"unix:{path}")
    assert code == 1
    assert output.startswith(f"Error: unix:{path}: UNAVAILABLE: ")
    assert output.count("\n") == 1


def test_what_a_killed_server_has_left_is_replaced_and_a_drain_is_said(accumulator_path: Path, tmp_path: Path) -> None:
    path = tmp_path / "health.sock"
    with serving(accumulator_path, health_socket=path) as server:
        server.kill()
        assert path.exists()
    with (
        serving(accumulator_path, health_socket=path, drain_seconds=NEVER) as server,
        Stream(server.address) as stream,
    ):
        assert asked(f"unix:{path}") == (0, "SERVING\n")
        stream.opened(0)
        server.popen.send_signal(signal.SIGTERM)
        stream.expect("going_away")
        assert asked(f"unix:{path}") == (1, f"Error: unix:{path}: NOT_SERVING\n")
        stream.close(0)
        assert server.popen.wait(PATIENCE) == 0


def test_a_server_whose_socket_cannot_be_had_says_so(accumulator_path: Path, tmp_path: Path) -> None:
    path = tmp_path / "health.sock"
    path.write_text("mine")
    done = subprocess.run(
        [*SERVE, str(accumulator_path), f"--health-socket={path}"],
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == f"Error: health_socket: {path} is there already, and is no socket"
    assert path.read_text() == "mine"
