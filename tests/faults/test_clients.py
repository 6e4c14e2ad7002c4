"""Clients that cancel, vanish or are killed: their sessions end, and their slots are there for others."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import grpc
import numpy as np
import pytest

from gatestream.protos.gatestream.v1 import gatestream_pb2 as pb
from tests.support.lstm import Lstm
from tests.support.process import ServerProcess, serving
from tests.support.wire import PATIENCE, Stream, call_refused, steps, stub, until

SESSIONS = 50

CLIENT = """
import sys
import grpc
from gatestream.protos.gatestream.v1 import gatestream_pb2 as pb
from gatestream.protos.gatestream.v1 import gatestream_pb2_grpc as pb_grpc
from queue import SimpleQueue

outgoing = SimpleQueue()
answers = pb_grpc.GatestreamStub(grpc.insecure_channel(sys.argv[1])).Stream(iter(outgoing.get, None))
for handle in range(int(sys.argv[2])):
    outgoing.put(pb.ClientMessage(open=pb.Open(handle=handle, session_id=f"doomed-{handle}")))
    next(answers)
outgoing.put(pb.ClientMessage(steps=pb.Steps(handle=[0], length=[10_000], input=[bytes(80_000)])))
next(answers)
print("holding", flush=True)
for _ in answers:
    pass
"""


@pytest.fixture(scope="module")
def full_server(accumulator_path: Path) -> Iterator[ServerProcess]:
    """A server with room for one session more than a test's client takes, and slow chunks."""
    with serving(accumulator_path, sessions=SESSIONS + 1, tick_steps=1) as running:
        yield running


@pytest.fixture
def full(full_server: ServerProcess) -> Iterator[ServerProcess]:
    """A neighbour goes on as if alone; and when the test's client has gone, all its slots can be taken again."""
    full = full_server
    with Stream(full.address) as neighbour:
        neighbour.opened(0)
        neighbour.stepped(0, [[1, 2]])
        yield full
        until(lambda: sessions(full) == 1, "the sessions had ended")
        np.testing.assert_array_equal(neighbour.stepped(0, [[10, 20]]), [[11, 22]])
        with Stream(full.address) as heir:
            for handle in range(SESSIONS):
                assert heir.opened(handle, f"doomed-{handle}").created
            assert heir.stepped(SESSIONS - 1, [[3, 4]]).tolist() == [[3, 4]]
            heir.open(SESSIONS)
            assert heir.refused().reason == pb.REASON_SESSIONS_EXHAUSTED
    until(lambda: sessions(full) == 0, "the sessions had ended")


def sessions(server: ServerProcess) -> int:
    with stub(server.address) as calls:
        return calls.Describe(pb.DescribeRequest(), timeout=PATIENCE).models[0].sessions


def fill(server: ServerProcess) -> Stream:
    stream = Stream(server.address)
    for handle in range(SESSIONS):
        stream.open(handle, f"doomed-{handle}")
    for _ in range(SESSIONS):
        stream.expect("opened")
    return stream


def long_chunks(count: int, length: int = 1000) -> dict[int, object]:
    return {handle: np.ones((length, 2)) for handle in range(count)}


def has_lost(stream: Stream, handle: int) -> bool:
    """Whether another stream has asked for the session, by the error that steps for it get."""
    stream.steps({handle: [[1, 1]]}, first=[2**60])
    while not (message := stream.read()).HasField("error"):
        pass
    assert message.error.reason in (pb.REASON_POSITION_MISMATCH, pb.REASON_HANDLE_UNKNOWN)
    return message.error.reason == pb.REASON_HANDLE_UNKNOWN


def test_killed_with_steps_in_flight(full: ServerProcess) -> None:
    arguments = [sys.executable, "-c", CLIENT, full.address, str(SESSIONS)]
    with subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True) as client:
        assert client.stdout is not None
        assert client.stdout.readline() == "holding\n"
        assert sessions(full) == SESSIONS + 1
        client.kill()


def test_cancelled_with_steps_in_flight(full: ServerProcess) -> None:
    with fill(full) as stream:
        stream.steps(long_chunks(SESSIONS))
        stream.expect("results")
        stream.call.cancel()
        assert stream.status()[0] == grpc.StatusCode.CANCELLED


def test_cancelled_without_reading_any_answer(full: ServerProcess) -> None:
    with fill(full) as stream:
        stream.steps(long_chunks(SESSIONS))
        stream.flush()


def test_cancelled_with_a_close_and_a_reset_in_line(full: ServerProcess) -> None:
    with fill(full) as stream:
        stream.steps(long_chunks(SESSIONS))
        stream.close(*range(0, SESSIONS, 2))
        stream.reset(*range(1, SESSIONS, 2))
        stream.flush()
        stream.expect("results")


def test_half_closed_and_then_cancelled(full: ServerProcess) -> None:
    with fill(full) as stream:
        stream.steps(long_chunks(SESSIONS))
        stream.half_close()
        stream.expect("results")
        stream.call.cancel()


def test_past_its_deadline(full: ServerProcess) -> None:
    with Stream(full.address, seconds=0.5) as stream:
        stream.opened(0, "late")
        assert stream.status()[0] == grpc.StatusCode.DEADLINE_EXCEEDED


def test_gone_while_another_stream_takes_its_session_over(full: ServerProcess) -> None:
    with Stream(full.address) as heir:
        with fill(full) as stream:
            stream.steps(long_chunks(1, 6_000))
            stream.expect("results")
            # In line behind the chunk when its owner goes.
            heir.open(0, "doomed-0", mode=pb.OPEN_MODE_RESUME)
            heir.steps({0: [[1, 1]]})
            until(lambda: has_lost(stream, 0), "the takeover stood in line")
        opened = heir.expect("opened")
        assert not opened.created
        # What its owner had sent was accepted, and is taken before the session changes hands.
        assert opened.position == 6_000
        assert heir.results({0: 1}, 2)[0].tolist() == [[6_001, 6_001]]


def test_a_half_close_lets_everything_finish(full: ServerProcess) -> None:
    with fill(full) as stream:
        stream.steps({handle: np.ones((20, 2)) for handle in range(SESSIONS)})
        stream.half_close()
        got = stream.results(dict.fromkeys(range(SESSIONS), 20), 2)
        assert all(rows[-1].tolist() == [20, 20] for rows in got.values())
        closed: dict[int, int] = {}
        while len(closed) < SESSIONS:
            some = stream.expect("closed")
            assert some.reason == pb.CLOSE_REASON_REQUESTED
            closed |= zip(some.handle, some.position, strict=True)
        assert closed == dict.fromkeys(range(SESSIONS), 20)
        assert stream.status()[0] == grpc.StatusCode.OK


def test_a_call_that_is_given_up_while_it_waits_in_line(full: ServerProcess) -> None:
    with fill(full) as stream, stub(full.address) as calls:
        stream.steps(long_chunks(1, 4000))
        stream.expect("results")
        waiting = calls.GetState.future(pb.GetStateRequest(session_id="doomed-0"), timeout=PATIENCE)
        calls.Describe(pb.DescribeRequest(), timeout=PATIENCE)  # Answered behind the call before it.
        waiting.cancel()
        assert stream.results({0: 3999}, 2)[0][-1].tolist() == [4000, 4000]


def test_a_call_whose_session_ends_while_it_waits_in_line(full: ServerProcess) -> None:
    with stub(full.address) as calls:
        with fill(full) as stream:
            stream.steps(long_chunks(1, 6_000))
            stream.expect("results")
            waiting = calls.GetState.future(pb.GetStateRequest(session_id="doomed-0"), timeout=PATIENCE)
            calls.Describe(pb.DescribeRequest(), timeout=PATIENCE)  # Answered behind the call before it.
        with call_refused(grpc.StatusCode.FAILED_PRECONDITION, pb.REASON_SESSION_CLOSED):
            waiting.result()


def test_what_a_client_had_in_line_goes_with_it(tmp_path: Path) -> None:
    """The server does not work for those who are gone: this would take it minutes."""
    model = Lstm.random(hidden=512).save(tmp_path / "lstm.onnx")
    with serving(model, tick_steps=1, tick_rows=1, reply_bytes_per_stream=2**30, reply_bytes=2**32) as server:
        for half_close_first in (False, True):
            streams = [Stream(server.address) for _ in range(3)]
            for stream in streams:
                for handle in range(4):
                    stream.opened(handle)
                stream.send(steps({handle: np.ones((16_000, 3)) for handle in range(4)}))
                stream.expect("results")
            for stream in streams:
                if half_close_first:
                    stream.half_close()
                stream.disconnect()
            until(lambda: sessions(server) == 0, "the sessions had ended")


def test_many_in_line_go_at_once(accumulator_path: Path) -> None:
    """More than a stack is deep, where one run takes one session."""
    count = 1500
    with serving(accumulator_path, tick_rows=1, sessions=count) as server:
        for _ in range(2):
            with Stream(server.address) as stream:
                for handle in range(count):
                    stream.open(handle)
                for _ in range(count):
                    stream.expect("opened")
                stream.steps({handle: [[1, 1]] for handle in range(count)})
                stream.expect("results")
            until(lambda: sessions(server) == 0, "the sessions had ended")
        with Stream(server.address) as stream:
            stream.opened(0)
            assert stream.stepped(0, [[1, 2]]).tolist() == [[1, 2]]


def test_one_after_another_leaves_nothing_behind(accumulator_path: Path) -> None:
    # Room for so few entries that it would be gone, if one who vanished kept any.
    limits = {"sessions": 4, "rows": 64, "rows_per_stream": 64, "chunk_length": 16, "tick_steps": 1}
    with serving(accumulator_path, **limits) as server:
        for _ in range(50):
            with Stream(server.address) as stream:
                for handle in range(4):
                    stream.opened(handle)
                stream.steps({handle: np.ones((16, 2)) for handle in range(4)})
                stream.expect("results")
            until(lambda: sessions(server) == 0, "the sessions had ended")
        with Stream(server.address) as stream:
            for handle in range(4):
                stream.opened(handle)
            stream.steps({handle: np.ones((16, 2)) for handle in range(4)})
            assert stream.results(dict.fromkeys(range(4), 16), 2)[3][-1].tolist() == [16, 16]
