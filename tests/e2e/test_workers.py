"""Several workers on one port: no session is in two of them, and none is lost without a word. Real processes."""

import signal
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import psutil
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase

from gatestream.protos.gatestream.v1 import gatestream_pb2 as pb
from gatestream.protos.inference import open_inference_grpc_pb2 as oip
from gatestream.protos.inference import open_inference_grpc_pb2_grpc as oip_grpc
from tests.support.process import ServerProcess, serving
from tests.support.wire import PATIENCE, Stream, call_refused, until
from tests.support.workers import (
    lines,
    listed,
    process_of,
    streams_on_both,
    streams_with_numbers,
    worker_in,
)

ELSEWHERE = (grpc.StatusCode.FAILED_PRECONDITION, pb.REASON_SESSION_ELSEWHERE)
MODES = [pb.OPEN_MODE_EITHER, pb.OPEN_MODE_CREATE, pb.OPEN_MODE_RESUME]


@pytest.fixture(scope="module")
def server(accumulator_path: Path) -> Iterator[ServerProcess]:
    with serving(accumulator_path, workers=2) as running:
        yield running
        assert running.popen.poll() is None


@pytest.fixture
def both(server: ServerProcess) -> Iterator[tuple[Stream, Stream]]:
    with streams_on_both(server) as streams:
        yield streams


# ---- One port ------------------------------------------------------------------------------------


def test_the_port_is_said_when_all_of_them_serve(accumulator_path: Path) -> None:
    with serving(accumulator_path, workers=3) as server:
        serves = lines(server, "serving")
        assert sorted(str(line["worker"]) for line in serves if "worker" in line) == ["1", "2", "3"]
        (whole,) = [line for line in serves if "worker" not in line]
        assert {line["address"] for line in serves} == {server.address}
        assert (whole["workers"], whole["models"], whole["threads"]) == (3, ["accumulator"], {"accumulator": 1})
        assert {line["worker"] for line in lines(server, "loaded")} == {1, 2, 3}
        assert len({process_of(server, worker) for worker in (1, 2, 3)}) == 3


def test_each_worker_has_health_and_reflection_and_the_other_door(both: tuple[Stream, Stream]) -> None:
    for stream in both:
        health: Any = health_pb2_grpc.HealthStub(stream.channel)
        answer = health.Check(health_pb2.HealthCheckRequest(), timeout=PATIENCE)
        assert answer.status == health_pb2.HealthCheckResponse.SERVING
        assert "gatestream.v1.Gatestream" in ProtoReflectionDescriptorDatabase(stream.channel).get_services()
        door = oip_grpc.GRPCInferenceServiceStub(stream.channel)
        assert door.ServerReady(oip.ServerReadyRequest(), timeout=PATIENCE).ready


@pytest.mark.parametrize(("first", "second"), [(2, 2), (2, 1), (1, 2)])
def test_no_other_server_joins_the_port(accumulator_path: Path, first: int, second: int) -> None:
    with serving(accumulator_path, workers=first) as server:
        command = [sys.executable, "-m", "gatestream.cli", "serve", str(accumulator_path), f"--listen={server.address}"]
        flags = ["--provider=cpu", f"--workers={second}"]
        done = subprocess.run([*command, *flags], capture_output=True, text=True, timeout=PATIENCE)
        assert done.returncode == 1
        error = done.stderr.splitlines()[-1]
        assert error.startswith(f"Error: listen is '{server.address}', which cannot be listened on: ")
        with Stream(server.address) as stream:
            stream.opened(0)


def test_servers_that_start_at_the_same_time_do_not_share_a_port(accumulator_path: Path) -> None:
    with serving(accumulator_path, workers=2) as server:
        address = server.address
        server.terminate()
    command = [sys.executable, "-m", "gatestream.cli", "serve", str(accumulator_path), "--provider=cpu", "--workers=2"]
    starting = [subprocess.Popen([*command, f"--listen={address}"], stderr=subprocess.PIPE) for _ in range(3)]
    try:
        until(lambda: sum(process.poll() is not None for process in starting) >= 2, "two of three had given up")
        assert sorted(str(process.poll()) for process in starting) == ["1", "1", "None"]
    finally:
        for process in starting:
            process.kill()
            process.communicate()


# ---- One session, one worker ---------------------------------------------------------------------


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", ["chosen", ""])
def test_an_open_of_a_session_that_lives_elsewhere(both: tuple[Stream, Stream], name: str, mode: pb.OpenMode) -> None:
    here, there = both
    session_id = here.opened(0, name).session_id
    here.stepped(0, [[1, 2]])
    there.open(7, session_id, mode=mode)
    # Steps that were sent without waiting find no session.
    there.steps({7: [[9, 9]]})
    error = there.refused()
    assert (error.reason, list(error.handle)) == (pb.REASON_SESSION_ELSEWHERE, [7])
    for part in (f"session {session_id!r} lives in worker ", "connect again", "go on over the connection that has it"):
        assert part in error.message
    assert there.refused().reason == pb.REASON_HANDLE_UNKNOWN
    assert listed(there) == set()
    np.testing.assert_array_equal(here.stepped(0, [[10, 20]]), [[11, 22]])
    # The handle is free, and so is the slot.
    there.opened(7)


def test_calls_about_a_session_that_lives_elsewhere(both: tuple[Stream, Stream]) -> None:
    here, there = both
    here.opened(0, "mine")
    here.stepped(0, [[1, 2]])
    state = here.calls.GetState(pb.GetStateRequest(session_id="mine"), timeout=PATIENCE)
    for call in (
        lambda: there.calls.GetState(pb.GetStateRequest(session_id="mine")),
        lambda: there.calls.SetState(pb.SetStateRequest(session_id="mine", state=state)),
        lambda: there.calls.Fork(pb.ForkRequest(session_id="mine")),
        lambda: there.calls.CloseSession(pb.CloseSessionRequest(session_id="mine")),
    ):
        with call_refused(*ELSEWHERE, "session 'mine' lives in worker "):
            call()
    assert (listed(here), listed(there)) == ({"mine"}, set())


def test_a_fork_takes_no_name_that_lives_elsewhere(both: tuple[Stream, Stream]) -> None:
    here, there = both
    here.opened(0, "mine")
    there.opened(0, "theirs")
    there.stepped(0, [[1, 2]])
    with call_refused(*ELSEWHERE, "session 'mine'"):
        there.calls.Fork(pb.ForkRequest(session_id="theirs", new_session_id="mine"))
    twin = there.calls.Fork(pb.ForkRequest(session_id="theirs", new_session_id="twin"), timeout=PATIENCE)
    assert (twin.session_id, twin.position) == ("twin", 1)
    here.open(1, "twin")
    assert here.refused().reason == pb.REASON_SESSION_ELSEWHERE
    there.calls.CloseSession(pb.CloseSessionRequest(session_id="twin"), timeout=PATIENCE)
    assert here.opened(1, "twin").created


def test_a_session_that_is_nowhere_is_unknown(both: tuple[Stream, Stream]) -> None:
    for stream in both:
        stream.open(0, "nowhere", mode=pb.OPEN_MODE_RESUME)
        assert stream.refused().reason == pb.REASON_SESSION_UNKNOWN
        with call_refused(grpc.StatusCode.NOT_FOUND, pb.REASON_SESSION_UNKNOWN):
            stream.calls.GetState(pb.GetStateRequest(session_id="nowhere"))


def test_an_id_is_free_everywhere_once_its_session_has_ended(both: tuple[Stream, Stream]) -> None:
    here, there = both

    def closed() -> None:
        here.close(0)
        here.expect("closed")

    def administered() -> None:
        here.calls.CloseSession(pb.CloseSessionRequest(session_id="a"), timeout=PATIENCE)
        here.expect("closed")

    for end in (closed, administered):
        here.opened(0, "a")
        there.open(0, "a")
        assert there.refused().reason == pb.REASON_SESSION_ELSEWHERE
        end()
        assert there.opened(0, "a").created
        # And back.
        there.close(0)
        there.expect("closed")
    here.opened(0, "a")
    here.half_close()
    assert here.status()[0] == grpc.StatusCode.OK
    assert there.opened(0, "a").created


def test_an_id_is_free_everywhere_when_its_client_has_vanished(both: tuple[Stream, Stream]) -> None:
    here, there = both
    for handle in range(100):
        here.open(handle, f"s{handle}")
    for _ in range(100):
        here.expect("opened")
    here.call.cancel()
    until(lambda: listed(here) == set(), "the sessions had ended")
    for handle in range(100):
        assert there.opened(handle, f"s{handle}").created


def test_an_idle_session_is_free_everywhere(accumulator_path: Path) -> None:
    with serving(accumulator_path, workers=2, idle_timeout=0.5) as server, streams_on_both(server) as (here, there):
        here.opened(0, "a")
        assert here.expect("closed").reason == pb.CLOSE_REASON_IDLE
        assert there.opened(0, "a").created


def test_a_session_may_come_back_to_its_own_worker(both: tuple[Stream, Stream]) -> None:
    here, _ = both
    here.opened(0, "a")
    here.stepped(0, [[1, 2]])
    here.open(1, "a", mode=pb.OPEN_MODE_RESUME)
    assert here.expect("closed").reason == pb.CLOSE_REASON_TAKEN_OVER
    assert here.expect("opened").position == 1
    assert here.stepped(1, [[10, 20]]).tolist() == [[11, 22]]


def test_of_many_that_want_the_same_sessions_one_gets_each(server: ServerProcess) -> None:
    names = [f"wanted-{k}" for k in range(60)]

    def open_all(_client: int) -> tuple[Stream, set[str], set[pb.Reason]]:
        stream = Stream(server.address)
        for handle, name in enumerate(names):
            stream.open(handle, name, mode=pb.OPEN_MODE_CREATE)
        got: set[str] = set()
        reasons: set[pb.Reason] = set()
        for _ in names:
            message = stream.read()
            if message.HasField("opened"):
                got.add(message.opened.session_id)
            else:
                reasons.add(message.error.reason)
        return stream, got, reasons

    with ThreadPoolExecutor(12) as pool:
        results = list(pool.map(open_all, range(12)))
    try:
        assert sorted(name for _, some, _ in results for name in some) == sorted(names)
        refusals = {reason for _, _, reasons in results for reason in reasons}
        assert refusals <= {pb.REASON_SESSION_ELSEWHERE, pb.REASON_SESSION_EXISTS}
    finally:
        for stream, _, _ in results:
            stream.disconnect()


# ---- The Open Inference Protocol -----------------------------------------------------------------


def infer(stream: Stream, sequence: str, values: Any, **parameters: bool) -> list[float]:
    request = oip.ModelInferRequest(model_name="accumulator")
    request.inputs.add(name="x", datatype="FP32", shape=[1, 2])
    request.raw_input_contents.append(np.asarray(values, "<f4").tobytes())
    if sequence:
        request.parameters["sequence_id"].string_param = sequence
    for name, value in parameters.items():
        request.parameters[name].bool_param = value
    response = oip_grpc.GRPCInferenceServiceStub(stream.channel).ModelInfer(request, timeout=PATIENCE)
    sums: list[float] = np.frombuffer(response.raw_output_contents[0], "<f4").tolist()
    return sums


def test_a_sequence_that_lives_elsewhere(both: tuple[Stream, Stream]) -> None:
    here, there = both
    assert infer(here, "a", [1, 2], sequence_start=True) == [1, 2]
    for start in (True, False):
        with call_refused(*ELSEWHERE, "sequence_id 'a'", "lives in worker "):
            infer(there, "a", [5, 5], sequence_start=start)
    assert infer(here, "a", [1, 2], sequence_end=True) == [2, 4]
    assert infer(there, "a", [5, 5], sequence_start=True, sequence_end=True) == [5, 5]
    assert infer(there, "", [7, 7]) == [7, 7]


# ---- The end -------------------------------------------------------------------------------------


def workers_of(server: ServerProcess) -> list[psutil.Process]:
    return psutil.Process(server.popen.pid).children(recursive=True)


def gone(processes: list[psutil.Process]) -> bool:
    return not any(process.is_running() and process.status() != psutil.STATUS_ZOMBIE for process in processes)


@pytest.mark.parametrize("first", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_the_first_signal_drains_every_worker(accumulator_path: Path, first: signal.Signals) -> None:
    with (
        serving(accumulator_path, workers=2, drain_seconds=10 * PATIENCE) as server,
        streams_on_both(server) as streams,
    ):
        processes = workers_of(server)
        for stream in streams:
            stream.opened(0)
        server.popen.send_signal(first)
        for stream in streams:
            stream.expect("going_away")
            assert stream.stepped(0, [[1, 2]]).tolist() == [[1, 2]]
        for stream in streams:
            stream.close(0)
            assert stream.expect("closed").reason == pb.CLOSE_REASON_REQUESTED
            assert stream.status()[0] == grpc.StatusCode.UNAVAILABLE
        assert server.popen.wait(PATIENCE) == 0
        assert gone(processes)


def test_a_second_signal_ends_every_worker_at_once(accumulator_path: Path) -> None:
    with (
        serving(accumulator_path, workers=2, drain_seconds=10 * PATIENCE) as server,
        streams_on_both(server) as streams,
    ):
        for stream in streams:
            stream.opened(0)
        server.popen.send_signal(signal.SIGTERM)
        for stream in streams:
            stream.expect("going_away")
        server.popen.send_signal(signal.SIGINT)
        for stream in streams:
            assert stream.expect("closed").reason == pb.CLOSE_REASON_DRAINED
        assert server.popen.wait(PATIENCE) == 0


def test_at_the_deadline_sessions_of_every_worker_are_closed(accumulator_path: Path) -> None:
    with serving(accumulator_path, workers=2, drain_seconds=0.3) as server, streams_on_both(server) as streams:
        for stream in streams:
            stream.opened(0)
        server.popen.send_signal(signal.SIGTERM)
        for stream in streams:
            stream.expect("going_away")
            assert stream.expect("closed").reason == pb.CLOSE_REASON_DRAINED
        assert server.popen.wait(PATIENCE) == 0


def test_a_signal_to_every_process_is_one_signal(accumulator_path: Path) -> None:
    """As a terminal's interrupt and a service manager's stop come."""
    with (
        serving(accumulator_path, workers=2, drain_seconds=10 * PATIENCE) as server,
        streams_on_both(server) as streams,
    ):
        for stream in streams:
            stream.opened(0)
        for process in [*workers_of(server), psutil.Process(server.popen.pid)]:
            process.send_signal(signal.SIGINT)
        for stream in streams:
            stream.expect("going_away")
            assert stream.stepped(0, [[1, 2]]).tolist() == [[1, 2]]
            stream.close(0)
            stream.expect("closed")
        assert server.popen.wait(PATIENCE) == 0
        assert lines(server, "worker died") == []


def test_a_server_that_is_told_to_stop_while_it_starts(accumulator_path: Path) -> None:
    command = [sys.executable, "-m", "gatestream.cli", "serve", str(accumulator_path), "--provider=cpu", "--workers=2"]
    with subprocess.Popen([*command, "--listen=127.0.0.1:0"], stderr=subprocess.DEVNULL) as starting:
        until(lambda: len(psutil.Process(starting.pid).children()) == 2, "its workers were there")
        processes = psutil.Process(starting.pid).children()
        starting.send_signal(signal.SIGTERM)
        assert starting.wait(PATIENCE) == 0
        assert gone(processes)


def test_settings_reach_every_worker(accumulator_path: Path) -> None:
    with serving(accumulator_path, workers=2, sessions=3, threads=8) as server:
        with streams_with_numbers(server) as streams:
            for stream in streams.values():
                assert stream.calls.Describe(pb.DescribeRequest(), timeout=PATIENCE).limits.sessions == 3
                # The limit is of each worker.
                for handle in range(3):
                    stream.opened(handle)
                stream.open(3)
                assert stream.refused().reason == pb.REASON_SESSIONS_EXHAUSTED
        assert [line["threads"] for line in lines(server, "loaded")] == [4, 4]


def test_a_worker_is_named_by_its_number(server: ServerProcess) -> None:
    with streams_with_numbers(server) as streams:
        for number, stream in streams.items():
            name = f"of-{number}"
            stream.opened(0, name)
            streams[3 - number].open(1, name)
            assert worker_in(streams[3 - number].refused().message) == number
