"""What the death of a worker, and of the supervisor, does to everybody else. Real processes, really killed."""

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import grpc
import numpy as np
import psutil
import pytest

from gatestream.protos.gatestream.v1 import gatestream_pb2 as pb
from tests.support.artifacts import accumulator
from tests.support.process import ServerProcess, serving, start
from tests.support.wire import PATIENCE, Rows, Stream, until
from tests.support.workers import lines, process_of, started, streams_with_numbers


def test_a_killed_worker_takes_its_own_sessions_only(accumulator_path: Path) -> None:
    with serving(accumulator_path, workers=2) as server, streams_with_numbers(server) as streams:
        for number, stream in streams.items():
            stream.opened(0, f"of-{number}")
            stream.stepped(0, [[1, 2]])
        # Both are at work when it happens.
        for stream in streams.values():
            stream.steps({0: np.ones((16_000, 2))})
            stream.expect("results")
        dead = process_of(server, 1)
        os.kill(dead, signal.SIGKILL)
        assert streams[1].status()[0] == grpc.StatusCode.UNAVAILABLE
        got = np.concatenate(list(rest(streams[2], 16_000 - 64)))
        assert got[-1].tolist() == [16_001, 16_002]
        # Its id is free, before another worker stands in its place.
        assert streams[2].opened(1, "of-1").created
        started(server, 1, times=2)
        assert process_of(server, 1) != dead
        (died,) = lines(server, "worker died")
        assert (died["worker"], died["pid"], died["how"]) == (1, dead, "killed by SIGKILL")
        with streams_with_numbers(server) as again:
            # The new one knows what the others have, and serves.
            again[1].open(0, "of-2")
            assert "lives in worker 2 " in again[1].refused().message
            assert again[1].opened(0, "new").created
            assert again[1].stepped(0, [[3, 4]]).tolist() == [[3, 4]]
        assert streams[2].stepped(0, [[1, 1]]).tolist() == [[16_002, 16_003]]
        assert server.terminate(PATIENCE) == 0


def rest(stream: Stream, steps: int) -> list[Rows]:
    parts: list[Rows] = []
    while sum(map(len, parts)) < steps:
        parts.append(np.frombuffer(stream.expect("results").output[0], "<f4").reshape(-1, 2))
    return parts


def test_a_stopped_worker_holds_the_others_up_in_nothing(accumulator_path: Path) -> None:
    """It keeps its sessions: whoever is only slow has lost nothing."""
    with serving(accumulator_path, workers=2) as server, streams_with_numbers(server) as streams:
        streams[1].opened(0, "kept")
        os.kill(process_of(server, 1), signal.SIGSTOP)
        try:
            streams[2].open(0, "kept")
            assert streams[2].refused().reason == pb.REASON_SESSION_ELSEWHERE
            streams[2].opened(0, "other")
            assert streams[2].stepped(0, [[1, 2]]).tolist() == [[1, 2]]
        finally:
            os.kill(process_of(server, 1), signal.SIGCONT)
        assert streams[1].stepped(0, [[1, 2]]).tolist() == [[1, 2]]


def test_a_worker_that_does_not_end_is_killed(accumulator_path: Path) -> None:
    with serving(accumulator_path, workers=2, drain_seconds=0) as server, streams_with_numbers(server) as streams:
        streams[1].opened(0)
        os.kill(process_of(server, 1), signal.SIGSTOP)
        assert server.terminate(PATIENCE) == 1
        assert "Error: worker 1 did not end in order: killed by SIGKILL" in server.log.read_text()
        assert not psutil.pid_exists(process_of(server, 1))


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGUSR1])
def test_workers_end_with_their_supervisor(accumulator_path: Path, number: signal.Signals) -> None:
    with serving(accumulator_path, workers=2) as server, streams_with_numbers(server) as streams:
        processes = psutil.Process(server.popen.pid).children(recursive=True)
        assert len(processes) == 2
        for stream in streams.values():
            stream.opened(0)
        server.popen.send_signal(number)
        # They tell their clients.
        for stream in streams.values():
            stream.expect("going_away")
            assert stream.expect("closed").reason == pb.CLOSE_REASON_DRAINED
            assert stream.status()[0] == grpc.StatusCode.UNAVAILABLE
        assert psutil.wait_procs(processes, PATIENCE)[1] == []
        # The port is free.
        with socket.create_server(("127.0.0.1", server.port)):
            pass


def test_a_worker_that_dies_early_again_and_again_ends_the_server(accumulator_path: Path) -> None:
    with serving(accumulator_path, workers=2) as server, streams_with_numbers(server) as streams:
        streams[2].opened(0)
        streams[2].stepped(0, [[1, 2]])
        kill_whenever_it_serves(server, 1)
        streams[2].expect("going_away")
        # The others may finish.
        streams[2].close(0)
        streams[2].expect("closed")
        assert server.popen.wait(PATIENCE) == 1
        last = server.log.read_text().splitlines()[-1]
        assert last == "Error: worker 1 died 3 times within 1 s of its start: killed by SIGKILL"


def kill_whenever_it_serves(server: ServerProcess, worker: int) -> None:
    """Until the server gives up and drains."""
    killed: set[int] = set()
    while not lines(server, "draining"):
        pid = process_of(server, worker)
        if pid not in killed:
            os.kill(pid, signal.SIGKILL)
            killed.add(pid)
        time.sleep(0.01)
    assert len(killed) >= 3


def test_an_artifact_that_was_spoilt_meanwhile_ends_the_server(tmp_path: Path) -> None:
    path = accumulator(tmp_path / "model.onnx")
    with serving(path, workers=2) as server:
        path.write_text("not a model")
        os.kill(process_of(server, 2), signal.SIGKILL)
        assert server.popen.wait(PATIENCE) == 1
        last = server.log.read_text().splitlines()[-1]
        assert last.startswith("Error: worker 2 died 3 times within 1 s of its start: ")
        assert str(path) in last


def test_an_artifact_that_became_another_meanwhile_ends_the_server(tmp_path: Path) -> None:
    """Its new sessions would step another model than those of the other workers."""
    path = accumulator(tmp_path / "model.onnx")
    with serving(path, workers=2) as server:
        other = accumulator(tmp_path / "other.onnx", name="other")
        shutil.move(other, path)
        os.kill(process_of(server, 2), signal.SIGKILL)
        assert server.popen.wait(PATIENCE) == 1
        assert "worker 2 has found other models" in server.log.read_text().splitlines()[-1]


def test_a_worker_that_is_killed_before_it_serves_ends_the_server(accumulator_path: Path) -> None:
    command = [sys.executable, "-m", "gatestream.cli", "serve", str(accumulator_path), "--workers=2"]
    flags = ["--listen=127.0.0.1:0", "--provider=cpu", "--drain-seconds=0"]
    with subprocess.Popen([*command, *flags], stderr=subprocess.PIPE, text=True) as starting:
        until(lambda: len(psutil.Process(starting.pid).children()) == 2, "its workers were there")
        processes = psutil.Process(starting.pid).children()
        processes[0].kill()
        _, said = starting.communicate(timeout=PATIENCE)
        assert starting.returncode == 1
        assert re.search(r"Error: worker [12] did not start: killed by SIGKILL$", said)
        assert psutil.wait_procs(processes, PATIENCE)[1] == []


def test_a_server_of_workers_that_cannot_start_says_why_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError) as caught:
        start(tmp_path / "none.onnx", workers=3)
    said = str(caught.value)
    assert said.splitlines()[-1].startswith(f"Error: {tmp_path / 'none.onnx'}: cannot be read")
    assert "Traceback" not in said
