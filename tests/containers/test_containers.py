"""The images and the compose file, built and run for real: `make test-containers`.

Without a container engine these tests fail; they are not part of `make test`.
"""

import json
import os
import queue
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import numpy as np
import onnxruntime
import pytest
from click.testing import CliRunner

from gatestream.cli.health import command as health
from gatestream.client import connect
from gatestream.model.tasks import reber
from gatestream.protos.gatestream.v1 import gatestream_pb2 as pb
from gatestream.protos.gatestream.v1.gatestream_pb2_grpc import GatestreamStub
from tests.containers.engine import ARTIFACT, Done, Stack, docker, free_port, inspect, succeed
from tests.support.readme import commands_with
from tests.support.strangers import generators, layers
from tests.support.tls import Files

GRACE_SECONDS = 15

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]


@pytest.fixture(scope="module", params=["cpu", "cuda"])
def image(request: pytest.FixtureRequest) -> str:
    """One of the two images, built."""
    name = f"gatestream:{request.param}"
    succeed("build", f"--target={request.param}", f"--tag={name}", ".")
    return name


@pytest.fixture(scope="module")
def stack() -> Iterator[Stack]:
    """The server, built, started and healthy."""
    assert ARTIFACT.exists(), f"{ARTIFACT} is not there; `make test-containers` makes it first"
    stack = Stack(f"gatestream-test-{os.getpid()}", "GATESTREAM_PORT", free_port())
    # What is there from an earlier run is not what is to be tested, and the commands of the README do not build.
    succeed("compose", "build", "server", "demo")
    try:
        done = stack.compose("up", "--detach", "--wait", "--wait-timeout=120", "server")
        assert done.returncode == 0, f"{done.stdout}\n{done.stderr}\n{stack.compose('logs', 'server').stdout}"
        yield stack
    finally:
        down = stack.compose("--profile=demo", "down", "--volumes", "--remove-orphans", "--timeout=0")
        assert down.returncode == 0, down.stderr


def inside(image: str, *command: str) -> Done:
    return docker("run", "--rm", "--network=none", f"--entrypoint={command[0]}", image, *command[1:])


def test_an_image_runs_as_nobody_in_particular(image: str) -> None:
    assert inspect("image", image)["Config"]["User"] == "10001:10001"
    done = inside(image, "sh", "-c", "id -u && touch /opt/gatestream/x")
    assert done.stdout == "10001\n"
    assert "Permission denied" in done.stderr


@pytest.mark.parametrize("tool", ["cc", "gcc", "g++", "clang", "ld", "make", "nvcc"])
def test_an_image_has_no_compiler(image: str, tool: str) -> None:
    done = inside(image, "sh", "-c", f"command -v {tool}")
    assert (done.returncode, done.stdout) == (127, "")


@pytest.mark.parametrize("module", ["torch", "matplotlib", "pytest", "grpc_tools", "pip"])
def test_an_image_has_no_more_than_serving_needs(image: str, module: str) -> None:
    done = inside(image, "python", "-c", f"import {module}")
    assert done.returncode == 1
    assert f"No module named '{module}'" in done.stderr


def test_an_image_asks_its_server_for_its_health(image: str) -> None:
    question = inspect("image", image)["Config"]["Healthcheck"]["Test"]
    assert question[0] == "CMD"
    done = inside(image, *question[1:])
    assert done.returncode == 1
    assert "UNAVAILABLE" in done.stderr
    assert done.stderr.count("\n") == 1


def test_an_image_that_wants_certificates_and_tokens_is_healthy(image: str, tmp_path: Path) -> None:
    """On a root that cannot be written to, with workers, and with nothing set for the check."""
    if image != "gatestream:cpu":
        pytest.skip("the same check in both; the other image needs a GPU to serve")
    files = Files(tmp_path)
    files.issue("server")
    (tmp_path / "tokens.toml").write_text('"token-of-acme-0123456789" = "acme"\n')
    for path in tmp_path.iterdir():
        path.chmod(0o444)
    tmp_path.chmod(0o755)
    settings = {"TLS_CERT": "server.pem", "TLS_KEY": "server.key", "TLS_CLIENT_CA": "ca.pem", "TOKENS": "tokens.toml"}
    name = f"gatestream-test-{os.getpid()}-tls"
    succeed(
        *("run", "--detach", f"--name={name}", "--read-only", "--cap-drop=ALL", "--env=GATESTREAM_WORKERS=2"),
        *(f"--volume={ARTIFACT.parent}:/artifacts:ro", f"--volume={tmp_path}:/secrets:ro"),
        *(f"--env=GATESTREAM_{setting}=/secrets/{file}" for setting, file in settings.items()),
        *(image, "serve", "/artifacts/reber.gates.onnx"),
    )
    try:
        deadline = time.monotonic() + 90
        while (state := inspect("container", name)["State"])["Health"]["Status"] != "healthy":
            assert time.monotonic() < deadline, state
            assert state["Running"], docker("logs", name).stderr
            time.sleep(0.5)
    finally:
        docker("rm", "--force", name)


def test_an_image_adopts_a_file_of_somebody_else(image: str, tmp_path: Path) -> None:
    generators.ADOPTED["lstm_absent"](tmp_path)
    tmp_path.chmod(0o755)
    done = docker(
        *("run", "--rm", "--network=none", "--read-only", "--tmpfs=/tmp", "--cap-drop=ALL"),
        *(f"--volume={tmp_path}:/theirs:ro", "--entrypoint=gatestream", image),
        *("adopt", "/theirs/lstm_absent.onnx", "-o", "/tmp/ours.onnx"),
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines()[-1] == "/tmp/ours.onnx is /theirs/lstm_absent.onnx: proved"


def test_a_server_in_a_container_takes_a_file_of_somebody_else(tmp_path: Path) -> None:
    stranger = generators.ADOPTED["lstm_absent"](tmp_path)
    tmp_path.chmod(0o755)
    name, port = f"gatestream-test-theirs-{os.getpid()}", free_port()
    hardened = ("--read-only", "--tmpfs=/tmp", "--cap-drop=ALL", "--security-opt=no-new-privileges:true")
    place = (f"--publish=127.0.0.1:{port}:50051", f"--volume={tmp_path}:/theirs:ro")
    succeed(
        "run",
        "--detach",
        f"--name={name}",
        *hardened,
        *place,
        "gatestream:cpu",
        "serve",
        f"/theirs/{stranger.path.name}",
    )
    try:
        deadline = time.monotonic() + 120
        while docker("exec", name, "gatestream", "health", "127.0.0.1:50051").returncode:
            assert time.monotonic() < deadline, docker("logs", name).stderr
            time.sleep(0.5)
        x = np.random.default_rng(0).standard_normal((6, layers.F)).astype(np.float32)
        with connect(f"127.0.0.1:{port}") as gs, gs.session(stranger.path.stem) as session:
            found = np.concatenate([[session.step(each) for each in x[:3]], session.run(x[3:])])
    finally:
        docker("rm", "--force", name)
    original = onnxruntime.InferenceSession(stranger.path, providers=["CPUExecutionProvider"])
    (expected,) = original.run(None, {"x": x[:, None]})
    np.testing.assert_allclose(found, expected[:, 0], rtol=0, atol=1e-6)


def test_an_image_without_artifacts_says_so(image: str) -> None:
    done = docker("run", "--rm", "--network=none", image)
    assert done.returncode == 2
    assert done.stderr.startswith("Error: artifacts: none given")
    assert done.stderr.count("\n") == 1


def test_cuda_without_a_gpu_is_an_error_and_not_the_cpu() -> None:
    succeed("build", "--target=cuda", "--tag=gatestream:cuda", ".")
    artifacts = f"--volume={ARTIFACT.parent}:/artifacts:ro"
    done = docker("run", "--rm", "--network=none", artifacts, "gatestream:cuda", "serve", "/artifacts/reber.gates.onnx")
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert done.stderr.splitlines()[-1].startswith("Error: CUDAExecutionProvider could not be started")


def test_the_cuda_profile_asks_for_a_gpu() -> None:
    cuda = json.loads(succeed("compose", "--profile=cuda", "config", "--format=json"))["services"]["cuda"]
    assert cuda["build"]["target"] == "cuda"
    assert cuda["deploy"]["resources"]["reservations"]["devices"][0]["capabilities"] == ["gpu"]


def test_the_server_serves_the_reference_model_on_the_cpu(stack: Stack) -> None:
    assert inspect("container", stack.container("server"))["State"]["Health"]["Status"] == "healthy"
    with connect(stack.address) as gs:
        (model,) = gs.describe().models
    assert model.spec.name == "reber"
    assert model.execution_provider == "CPUExecutionProvider"


def test_the_server_has_no_rights_that_it_does_not_need(stack: Stack) -> None:
    status = succeed("exec", stack.container("server"), "cat", "/proc/1/status")
    fields = dict(line.split(":\t", 1) for line in status.splitlines())
    assert {fields[name] for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")} == {"0" * 16}
    assert fields["NoNewPrivs"] == "1"
    assert set(fields["Uid"].split()) == {"10001"}
    for path in ("/x", "/opt/gatestream/x", "/artifacts/x"):
        assert "Read-only file system" in docker("exec", "--user=0", stack.container("server"), "touch", path).stderr


def test_a_client_outside_streams(stack: Stack) -> None:
    symbols, _, legal = reber.Streams(1, 5).take(300)
    with connect(stack.address) as gs, gs.session("reber", gates=True) as session:
        scores = session.run(symbols[0])
        assert session.gates["forget"].shape[0] == 300
    assert reber.illegal(scores, legal[0]) == 0


def test_the_demo_container_streams_through_the_server_container(stack: Stack) -> None:
    done = stack.compose("run", "--rm", "demo")
    assert done.returncode == 0, done.stderr
    assert "streamed  5,000 symbols" in done.stdout
    assert "illegal   0 predictions" in done.stdout


def test_the_demo_container_fails_without_a_server(stack: Stack) -> None:
    done = stack.compose("run", "--rm", "--no-deps", "demo", "demo", "--address=server:1")
    assert done.returncode == 1
    assert "server:1" in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr


def test_the_commands_of_the_readme(stack: Stack) -> None:
    """In a project of their own; should one fail, what is left is taken down all the same."""
    environment = {"COMPOSE_PROJECT_NAME": f"{stack.project}-readme", "GATESTREAM_PORT": str(free_port())}
    lines = [line for line in commands_with("docker compose up --detach --wait server") if line.startswith("docker")]
    assert [line.split()[2] for line in lines] == ["up", "run", "down"]
    try:
        for line in lines:
            done = docker(*line.split()[1:], **environment)
            assert done.returncode == 0, f"{line}:\n{done.stdout}\n{done.stderr}"
        assert docker("compose", "ps", "--all", "--quiet", **environment).stdout == ""
    finally:
        docker("compose", "down", "--timeout=0", **environment)


def test_a_stopped_server_drains(stack: Stack) -> None:
    """NOT_SERVING at once; the session that is open goes on; with its end the server ends, by itself and with 0."""
    requests: queue.SimpleQueue[pb.ClientMessage | None] = queue.SimpleQueue()
    with ThreadPoolExecutor(1) as pool, grpc.insecure_channel(stack.address) as channel:
        answers = GatestreamStub(channel).Stream(iter(requests.get, None), timeout=60)
        requests.put(pb.ClientMessage(open=pb.Open(handle=0, model="reber")))
        assert next(answers).opened.created
        began = time.monotonic()
        stop = pool.submit(stack.compose, "stop", "server")
        assert next(answers).HasField("going_away")
        asked = CliRunner().invoke(health, [stack.address])
        assert (asked.exit_code, asked.output) == (1, f"Error: {stack.address}: NOT_SERVING\n")
        requests.put(pb.ClientMessage(steps=pb.Steps(handle=[0], input=[np.int64(0).tobytes()])))
        assert next(answers).results.first == [0]
        requests.put(pb.ClientMessage(close=pb.Close(handle=[0])))
        assert next(answers).closed.reason == pb.CLOSE_REASON_REQUESTED
        # The client has not said that it sends no more, and hears that the server takes no more.
        with pytest.raises(grpc.RpcError) as ended:
            next(answers)
        assert ended.value.code() == grpc.StatusCode.UNAVAILABLE
        requests.put(None)
        assert stop.result().returncode == 0
    state = inspect("container", stack.container("server"))["State"]
    assert (state["Status"], state["ExitCode"], state["OOMKilled"]) == ("exited", 0, False)
    assert time.monotonic() - began < GRACE_SECONDS
