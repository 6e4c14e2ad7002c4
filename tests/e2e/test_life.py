"""A server's life, as its clients and its supervisor see it: warm up, serve, drain, stop."""

import contextlib
import json
import signal
import socket
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase

from gatestream.protos.gatestream.v1 import gatestream_pb2 as pb
from tests.support.process import ServerProcess, serving, start
from tests.support.wire import PATIENCE, Stream, channel, until

SERVICE = "gatestream.v1.Gatestream"
SERVING, NOT_SERVING = health_pb2.HealthCheckResponse.SERVING, health_pb2.HealthCheckResponse.NOT_SERVING
# Far beyond what a test waits for: a server that ends before it, has not waited for it.
NEVER = 10 * PATIENCE


@pytest.fixture
def draining(accumulator_path: Path) -> Iterator[tuple[ServerProcess, Stream]]:
    """A server that was told to stop while a stream held the sessions 0 and 1, each at position 1."""
    with serving(accumulator_path, drain_seconds=NEVER) as server, Stream(server.address) as stream:
        for handle in (0, 1):
            stream.opened(handle)
            stream.stepped(handle, [[1, 2]])
        server.popen.send_signal(signal.SIGTERM)
        assert stream.expect("going_away").deadline_ms == int(1000 * NEVER)
        yield server, stream


def health(address: str, service: str = "") -> int:
    with channel(address) as opened:
        request = health_pb2.HealthCheckRequest(service=service)
        stub: Any = health_pb2_grpc.HealthStub(opened)
        status: int = stub.Check(request, timeout=PATIENCE).status
        return status


def events(server: ServerProcess) -> list[str]:
    return [json.loads(line)["event"] for line in server.log.read_text().splitlines()]


# ---- Start ---------------------------------------------------------------------------------------


def test_health_says_nothing_before_the_models_are_warm(accumulator_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        address = f"127.0.0.1:{free.getsockname()[1]}"
    with ThreadPoolExecutor(1) as pool:
        starting = pool.submit(start, accumulator_path, listen=address)
        said = None
        while said is None:
            with contextlib.suppress(grpc.RpcError):
                said = health(address)
        with contextlib.closing(starting.result()) as server:
            assert said == SERVING
            # "loaded" is what it logs of a model that is warm.
            assert events(server).index("loaded") < events(server).index("serving")


@pytest.mark.parametrize("service", ["", SERVICE])
def test_health_says_serving_and_then_not(accumulator_path: Path, service: str) -> None:
    with (
        serving(accumulator_path, drain_seconds=NEVER) as server,
        Stream(server.address) as stream,
        channel(server.address) as opened,
    ):
        stream.opened(0)
        stub: Any = health_pb2_grpc.HealthStub(opened)
        watch = stub.Watch(health_pb2.HealthCheckRequest(service=service), timeout=PATIENCE)
        assert next(watch).status == SERVING
        server.popen.send_signal(signal.SIGTERM)
        assert next(watch).status == NOT_SERVING
        # With the session still at work.
        assert health(server.address, service) == NOT_SERVING
        stream.expect("going_away")
        assert stream.stepped(0, [[1, 2]]).tolist() == [[1, 2]]


def test_reflection_lists_the_services(server: ServerProcess) -> None:
    with channel(server.address) as opened:
        database = ProtoReflectionDescriptorDatabase(opened)
        services = set(database.get_services())
        file = database.FindFileContainingSymbol(SERVICE)
    assert {SERVICE, "grpc.health.v1.Health", "grpc.reflection.v1alpha.ServerReflection"} <= services
    # A client made from reflection alone has the whole wire.
    assert {method.name for method in file.service[0].method} == {
        method.name for method in pb.DESCRIPTOR.services_by_name["Gatestream"].methods
    }


# ---- Drain ---------------------------------------------------------------------------------------


def test_a_server_with_nothing_to_do_stops_at_once(accumulator_path: Path) -> None:
    with serving(accumulator_path, drain_seconds=NEVER) as server:
        assert server.terminate(PATIENCE) == 0


def test_streams_without_sessions_hold_nothing_up(accumulator_path: Path) -> None:
    with serving(accumulator_path, drain_seconds=NEVER) as server, Stream(server.address) as stream:
        stream.opened(0)
        stream.close(0)
        stream.expect("closed")
        server.popen.send_signal(signal.SIGTERM)
        stream.expect("going_away")
        assert stream.status()[0] == grpc.StatusCode.UNAVAILABLE
        assert server.popen.wait(PATIENCE) == 0


def test_what_is_open_may_finish(draining: tuple[ServerProcess, Stream]) -> None:
    server, stream = draining
    assert stream.stepped(0, np.ones((500, 2)))[-1].tolist() == [501, 502]
    stream.reset(1)
    stream.expect("reset_done")
    assert stream.calls.GetState(
        pb.GetStateRequest(session_id=next(iter(sessions(stream)))), timeout=PATIENCE
    ).weights_fingerprint
    stream.close(0)
    stream.expect("closed")
    assert server.popen.poll() is None
    stream.close(1)
    # Nobody says that the stream is done but the server, whose last session this was.
    assert stream.expect("closed").reason == pb.CLOSE_REASON_REQUESTED
    assert stream.status()[0] == grpc.StatusCode.UNAVAILABLE
    assert server.popen.wait(PATIENCE) == 0


def sessions(stream: Stream) -> set[str]:
    listed = stream.calls.ListSessions(pb.ListSessionsRequest(), timeout=PATIENCE)
    return {item.session_id for item in listed.sessions}


def test_nothing_new_is_opened(draining: tuple[ServerProcess, Stream]) -> None:
    server, stream = draining
    stream.open(2)
    error = stream.refused()
    assert (error.reason, list(error.handle)) == (pb.REASON_DRAINING, [2])
    with Stream(server.address) as late:
        assert late.status()[0] == grpc.StatusCode.UNAVAILABLE
        assert dict(late.call.trailing_metadata())["gatestream-reason"] == "REASON_DRAINING"
    assert stream.stepped(0, [[1, 1]]).tolist() == [[2, 3]]


def test_a_client_that_vanishes_holds_nothing_up(draining: tuple[ServerProcess, Stream]) -> None:
    server, stream = draining
    stream.disconnect()
    assert server.popen.wait(PATIENCE) == 0


def test_at_the_deadline_sessions_are_closed(accumulator_path: Path) -> None:
    with serving(accumulator_path, drain_seconds=0.3) as server, Stream(server.address) as stream:
        for handle in (0, 1):
            stream.opened(handle)
        stream.stepped(1, [[1, 2]] * 3)
        stream.calls.Fork(pb.ForkRequest(session_id=next(iter(sessions(stream)))), timeout=PATIENCE)
        server.popen.send_signal(signal.SIGTERM)
        assert stream.expect("going_away").deadline_ms == 300
        closed = stream.expect("closed")
        assert closed.reason == pb.CLOSE_REASON_DRAINED
        assert dict(zip(closed.handle, closed.position, strict=True)) == {0: 0, 1: 3}
        assert stream.status()[0] == grpc.StatusCode.UNAVAILABLE
        assert server.popen.wait(PATIENCE) == 0


def test_what_was_accepted_is_answered_whatever_the_deadline(accumulator_path: Path) -> None:
    with serving(accumulator_path, drain_seconds=0.1, tick_steps=1) as server, Stream(server.address) as stream:
        for handle in range(4):
            stream.opened(handle)
        with server.paused():
            stream.steps({handle: np.ones((16_000, 2)) for handle in range(4)})
            stream.flush()
            server.popen.send_signal(signal.SIGTERM)
        taken = dict.fromkeys(range(4), 0)
        refused = dict.fromkeys(range(4), 0)
        closed: dict[int, int] = {}
        with contextlib.suppress(grpc.RpcError):
            for message in stream.call:
                for handle, first in zip(message.results.handle, message.results.first, strict=True):
                    assert first == taken[handle]
                    taken[handle] += 1
                if message.HasField("error"):
                    assert message.error.reason in (pb.REASON_SESSION_CLOSED, pb.REASON_DRAINING)
                    for handle, length in zip(message.error.handle, message.error.length, strict=True):
                        refused[handle] += length
                closed |= zip(message.closed.handle, message.closed.position, strict=True)
        assert stream.call.code() == grpc.StatusCode.UNAVAILABLE
        # Each step was taken or not, and the client knows which.
        assert {taken[handle] + refused[handle] for handle in range(4)} == {16_000}
        assert closed == taken
        assert server.popen.wait(PATIENCE) == 0


@pytest.mark.parametrize("second", [signal.SIGTERM, signal.SIGINT])
def test_a_second_signal_ends_it_at_once(draining: tuple[ServerProcess, Stream], second: signal.Signals) -> None:
    server, stream = draining
    server.popen.send_signal(second)
    closed = stream.expect("closed")
    assert closed.reason == pb.CLOSE_REASON_DRAINED
    assert server.popen.wait(PATIENCE) == 0


def test_a_client_that_does_not_read_holds_nothing_up(accumulator_path: Path) -> None:
    with serving(accumulator_path, drain_seconds=0.3) as server, Stream(server.address) as stream:
        stream.opened(0)
        stream.send(*[pb.ClientMessage(steps=pb.Steps(handle=[9]))] * 100_000)
        stream.steps({0: np.ones((10_000, 2))})
        until(lambda: stream.taken > 500, "the server was busy")
        assert server.terminate(PATIENCE) == 0


# ---- Death ---------------------------------------------------------------------------------------


def test_a_killed_server_is_unavailable(accumulator_path: Path) -> None:
    with serving(accumulator_path) as server, Stream(server.address) as stream:
        stream.opened(0)
        stream.steps({0: np.ones((10_000, 2))})
        stream.expect("results")
        killer = threading.Timer(0.0, server.kill)
        killer.start()
        assert stream.status()[0] == grpc.StatusCode.UNAVAILABLE
        killer.join()
        with pytest.raises(grpc.RpcError) as caught:
            stream.calls.Describe(pb.DescribeRequest(), timeout=PATIENCE)
        assert isinstance(caught.value, grpc.Call)
        assert caught.value.code() == grpc.StatusCode.UNAVAILABLE
