"""The profile `cluster` of the compose file: what happens to its parts, and to fifty sessions meanwhile."""

import os
import queue
import re
import subprocess
import time
from collections.abc import Iterator

import grpc
import numpy as np
import pytest

from gatestream.client import connect
from gatestream.model.tasks import reber
from gatestream.protos.gatestream.v1 import gatestream_pb2 as pb
from gatestream.protos.gatestream.v1.gatestream_pb2_grpc import GatestreamStub
from tests.containers.engine import ARTIFACT, DOCKER, Stack, docker, free_port, inspect, printed, succeed
from tests.containers.streaming import SESSIONS, Streaming
from tests.support.readme import commands_with
from tests.support.reference import ROOT

REPLICAS = ("replica-1", "replica-2", "replica-3")

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


@pytest.fixture(scope="module")
def stack() -> Iterator[Stack]:
    """Replicas, store and balancer, built, started and healthy."""
    assert ARTIFACT.exists(), f"{ARTIFACT} is not there; `make test-containers` makes it first"
    stack = Stack(f"gatestream-cluster-{os.getpid()}", "GATESTREAM_CLUSTER_PORT", free_port())
    succeed("compose", "build", "replica-1", "store", "balancer")
    try:
        up(stack, "balancer")
        yield stack
    finally:
        stack.succeed("--profile=cluster", "down", "--volumes", "--remove-orphans", "--timeout=0")


@pytest.fixture
def cluster(stack: Stack) -> Stack:
    """All of it is there again, whatever a test before this one has left."""
    up(stack, "balancer")
    return stack


def up(stack: Stack, *arguments: str) -> None:
    """Start services, and wait until they are healthy."""
    done = stack.compose("up", "--detach", "--wait", "--wait-timeout=180", *arguments)
    assert done.returncode == 0, f"{done.stderr}\n{stack.compose('--profile=cluster', 'logs').stdout}"


def attached(stack: Stack, replica: str) -> int:
    """Sessions of a replica that streams hold, from its own page."""
    read = "import urllib.request as r; print(r.urlopen('http://127.0.0.1:9090/metrics').read().decode())"
    page = stack.succeed("exec", "-T", replica, "python", "-c", read)
    found = re.search(r'^gatestream_sessions\{model="reber",state="attached"\} (\S+)$', page, re.MULTILINE)
    assert found, page
    return int(float(found[1]))


def test_the_port_of_the_balancer_is_the_only_one(cluster: Stack) -> None:
    for service in (*REPLICAS, "store", "balancer"):
        container = inspect("container", cluster.container(service))
        published = [port for port, where in container["NetworkSettings"]["Ports"].items() if where]
        assert published == (["50051/tcp"] if service == "balancer" else [])
    assert inspect("network", f"{cluster.project}_store")["Internal"] is True
    networks = inspect("container", cluster.container("store"))["NetworkSettings"]["Networks"]
    assert list(networks) == [f"{cluster.project}_store"]


@pytest.mark.parametrize("service", ["replica-1", "store", "balancer"])
def test_a_part_has_no_rights_that_it_does_not_need(cluster: Stack, service: str) -> None:
    status = cluster.succeed("exec", "-T", service, "cat", "/proc/1/status")
    fields = dict(line.split(":\t", 1) for line in status.splitlines())
    assert {fields[name] for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")} == {"0" * 16}
    assert fields["NoNewPrivs"] == "1"
    assert set(fields["Uid"].split()) == {"10001"}
    assert "Read-only file system" in cluster.compose("exec", "-T", "--user=0", service, "touch", "/x").stderr


def test_a_replica_is_killed(cluster: Stack) -> None:
    with Streaming(cluster.address) as streaming:
        streaming.advance()
        held = {replica: attached(cluster, replica) for replica in REPLICAS}
        assert sum(held.values()) == SESSIONS
        assert min(held.values()) > 0
        cluster.succeed("kill", "replica-2")
        streaming.advance()
        up(cluster, "--no-deps", "replica-2")
        streaming.advance()
        assert sum(attached(cluster, replica) for replica in REPLICAS) == SESSIONS


def test_a_rolling_update(cluster: Stack) -> None:
    """Each replica is stopped with SIGTERM and replaced by a new container, one after another."""
    before = {replica: inspect("container", cluster.container(replica))["Id"] for replica in REPLICAS}
    with Streaming(cluster.address) as streaming:
        for replica in REPLICAS:
            streaming.advance()
            up(cluster, "--no-deps", "--force-recreate", replica)
        streaming.advance()
    after = {replica: inspect("container", cluster.container(replica))["Id"] for replica in REPLICAS}
    assert not set(before.values()) & set(after.values())


def test_a_stopped_replica_ends_by_itself(cluster: Stack) -> None:
    """It has nothing to wait for: what it has goes elsewhere, and it is not killed at the end of its grace."""
    with Streaming(cluster.address) as streaming:
        streaming.advance()
        assert attached(cluster, "replica-3") > 0
        cluster.succeed("stop", "replica-3")
        state = inspect("container", cluster.container("replica-3"))["State"]
        assert (state["Status"], state["ExitCode"]) == ("exited", 0)
        streaming.advance()
        up(cluster, "--no-deps", "replica-3")


@pytest.mark.parametrize("how", ["restart", "kill"])
def test_the_store_starts_anew(cluster: Stack, how: str) -> None:
    with Streaming(cluster.address) as streaming:
        streaming.advance()
        cluster.succeed(how, "store")
        up(cluster, "--no-deps", "store")
        streaming.advance()
        # And what it has kept is what sessions go on from.
        cluster.succeed("kill", "replica-1")
        streaming.advance()
        up(cluster, "--no-deps", "replica-1")


def test_the_store_is_out_of_reach_for_ten_seconds(cluster: Stack) -> None:
    with Streaming(cluster.address) as streaming:
        streaming.advance()
        cluster.succeed("pause", "store")
        try:
            time.sleep(10)
        finally:
            cluster.succeed("unpause", "store")
        streaming.advance()


def test_the_balancer_starts_anew(cluster: Stack) -> None:
    with Streaming(cluster.address) as streaming:
        streaming.advance()
        cluster.succeed("kill", "balancer")
        up(cluster, "--no-deps", "balancer")
        streaming.advance()


def test_a_session_outlives_everything_but_the_volume(cluster: Stack) -> None:
    """Its client is gone, and all containers are; by its id it goes on where it stood."""
    symbols = reber.Streams(1, 5).take(200)[0][0]
    requests: queue.SimpleQueue[pb.ClientMessage | None] = queue.SimpleQueue()
    with grpc.insecure_channel(cluster.address) as channel:
        answers = GatestreamStub(channel).Stream(iter(requests.get, None), timeout=60)
        opened = pb.Open(handle=0, session_id="lasting", model="reber", on_disconnect=pb.ON_DISCONNECT_PARK)
        requests.put(pb.ClientMessage(open=opened))
        after = next(answers).opened.sequence + 100
        requests.put(pb.ClientMessage(steps=pb.Steps(handle=[0], length=[100], input=[symbols[:100].tobytes()])))
        taken = 0
        while taken < 100:
            taken += sum(next(answers).results.length)
        requests.put(pb.ClientMessage(acknowledge=pb.Acknowledge(handle=[0], sequence=[after])))
        assert any(list(answer.durable.sequence) == [after] for answer in answers)
        answers.cancel()
        requests.put(None)
    cluster.succeed("--profile=cluster", "down", "--timeout=30")
    up(cluster, "balancer")
    with connect(cluster.address) as gs:
        with gs.session("reber", id="lasting", mode="resume") as session:
            assert session.position == 100
            found = session.run(symbols[100:])
        with gs.session("reber") as session:
            expected = session.run(symbols)[100:]
    np.testing.assert_array_equal(found, expected)


def test_the_demo_client_streams_through_the_end_of_each_replica(cluster: Stack) -> None:
    demo = [*DOCKER, "compose", f"--project-name={cluster.project}", "run", "--rm", "--no-deps", "cluster-demo"]
    with subprocess.Popen(demo, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as running:
        for replica in REPLICAS:
            cluster.succeed("kill", replica)
            up(cluster, "--no-deps", replica)
        assert running.poll() is None, "it was over before the last replica was back"
        out, errors = running.communicate(timeout=600)
    assert running.returncode == 0, errors
    assert re.search(r"streamed +[0-9,]+ symbols in one session", out)
    assert "illegal   0 predictions" in out


def test_the_commands_of_the_readme(stack: Stack) -> None:
    """In a project of their own; the demo client runs in the background, and is waited for before the end."""
    readers = Stack(f"{stack.project}-readme", "GATESTREAM_CLUSTER_PORT", free_port())
    environment = {"COMPOSE_PROJECT_NAME": readers.project, readers.variable: str(readers.port)}
    start, demo, kill, down = commands_with("docker compose up --detach --wait balancer")
    try:
        printed(docker(*start.split()[1:], **environment))
        assert demo.endswith(" &")
        with subprocess.Popen([*DOCKER, *demo.split()[1:-1]], cwd=ROOT, env=os.environ | environment) as running:
            while not any(attached(readers, replica) for replica in REPLICAS):
                assert running.poll() is None, "it streams nothing"
                time.sleep(0.2)
            printed(docker(*kill.split()[1:], **environment))
            assert running.wait() == 0
    finally:
        printed(docker(*down.split()[1:], **environment))
    assert docker("compose", "ps", "--all", "--quiet", **environment).stdout == ""


def test_a_replica_that_drains_gets_no_connection_and_loses_none(cluster: Stack) -> None:
    """A client that keeps nothing finishes where it is, in its time; whoever comes meanwhile is led elsewhere."""
    requests: queue.SimpleQueue[pb.ClientMessage | None] = queue.SimpleQueue()
    with grpc.insecure_channel(cluster.address) as channel:
        answers = GatestreamStub(channel).Stream(iter(requests.get, None), timeout=60)
        requests.put(pb.ClientMessage(open=pb.Open(handle=0, model="reber")))
        assert next(answers).opened.created
        (replica,) = (each for each in REPLICAS if attached(cluster, each))
        cluster.succeed("kill", "--signal=TERM", replica)
        assert next(answers).HasField("going_away")
        for _ in range(2 * len(REPLICAS)):
            with connect(cluster.address) as gs, gs.session("reber") as session:
                session.step(0)
        requests.put(pb.ClientMessage(steps=pb.Steps(handle=[0], input=[np.int64(0).tobytes()])))
        assert next(answers).results.first == [0]
        requests.put(pb.ClientMessage(close=pb.Close(handle=[0])))
        assert next(answers).closed.reason == pb.CLOSE_REASON_REQUESTED
        requests.put(None)
    succeed("wait", cluster.container(replica))
    assert inspect("container", cluster.container(replica))["State"]["ExitCode"] == 0
    up(cluster, "--no-deps", replica)
