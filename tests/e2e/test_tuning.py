"""A server is right without any of what is done to it and to gRPC for speed, and says what is. Real processes."""

import json
import signal
from collections.abc import Iterator
from pathlib import Path

import grpc
import numpy as np
import pytest

from gatestream.protos.gatestream.v1 import gatestream_pb2 as pb
from gatestream.protos.inference import open_inference_grpc_pb2 as oip
from gatestream.protos.inference import open_inference_grpc_pb2_grpc as oip_grpc
from gatestream.server.config import TUNINGS
from tests.support.artifacts import whole_numbers
from tests.support.open_inference import request, sums
from tests.support.process import ServerProcess, serving
from tests.support.wire import PATIENCE, Stream
from tests.support.workers import lines, streams_on_both

ROWS = 2**18
STREAMS, STEPS = 32, 20


# Without any, and the event loop with one half of what is done to it.
@pytest.fixture(scope="module", params=["none", "-grpc-reader", "-busy-poll"])
def server(request: pytest.FixtureRequest, accumulator_path: Path) -> Iterator[ServerProcess]:
    room = {"chunk_length": ROWS, "rows_per_stream": ROWS}
    with serving(accumulator_path, tuning=request.param, **room) as running:
        yield running
        assert running.terminate() == 0
        assert {line["level"] for line in map(json.loads, running.log.read_text().splitlines())} == {"info"}


def test_a_session_of_the_own_protocol(server: ServerProcess) -> None:
    with Stream(server.address) as stream:
        stream.opened(0, "a")
        assert stream.stepped(0, [[1, 2], [3, 4]]).tolist() == [[1, 2], [4, 6]]
        state = stream.calls.GetState(pb.GetStateRequest(session_id="a"), timeout=PATIENCE)
        stream.calls.Fork(pb.ForkRequest(session_id="a", new_session_id="b"), timeout=PATIENCE)
        stream.reset(0)
        stream.expect("reset_done")
        assert stream.stepped(0, [[5, 5]]).tolist() == [[5, 5]]
        assert stream.opened(1, "b", mode=pb.OPEN_MODE_RESUME).position == state.position == 2
        assert stream.stepped(1, [[1, 1]]).tolist() == [[5, 7]]
        stream.calls.SetState(pb.SetStateRequest(session_id="b", state=state), timeout=PATIENCE)
        assert stream.stepped(1, [[1, 1]]).tolist() == [[5, 7]]
        stream.steps({7: [[1, 1]]})
        assert stream.refused().reason == pb.REASON_HANDLE_UNKNOWN
        stream.close(0, 1)
        closed = stream.expect("closed")
        assert (closed.reason, sorted(closed.handle)) == (pb.CLOSE_REASON_REQUESTED, [0, 1])


def test_sequences_of_the_open_inference_protocol(server: ServerProcess) -> None:
    with grpc.insecure_channel(server.address) as channel:
        door = oip_grpc.GRPCInferenceServiceStub(channel)
        assert door.ServerReady(oip.ServerReadyRequest(), timeout=PATIENCE).ready
        assert sums(door.ModelInfer(request([[1, 2]], 7, start=True), timeout=PATIENCE)) == [[1, 2]]
        assert sums(door.ModelInfer(request([[1, 1]], 7, end=True), timeout=PATIENCE)) == [[2, 3]]
        asked = [request([[1, 1]], "s", start=not k, end=k == 99) for k in range(100)]
        answers = list(door.ModelStreamInfer(iter(asked), timeout=PATIENCE))
        assert [sums(answer.infer_response) for answer in answers] == [[[k, k]] for k in range(1, 101)]


def test_a_large_message(server: ServerProcess) -> None:
    sessions = 16
    chunks = {handle: np.full((ROWS // sessions, 2), handle % 3) for handle in range(sessions)}
    with Stream(server.address, options=[("grpc.max_receive_message_length", -1)]) as stream:
        for handle in chunks:
            stream.opened(handle)
        stream.steps(chunks)
        for handle, rows in stream.results({handle: len(chunk) for handle, chunk in chunks.items()}, 2).items():
            np.testing.assert_array_equal(rows, np.cumsum(chunks[handle], axis=0))


def test_many_streams_at_once(server: ServerProcess) -> None:
    rng = np.random.default_rng(0)
    streams = [Stream(server.address) for _ in range(STREAMS)]
    rows = [whole_numbers(rng, STEPS) for _ in streams]
    for stream in streams:
        stream.open(0)
    for k in range(STEPS):
        for stream, its_rows in zip(streams, rows, strict=True):
            stream.steps({0: its_rows[k]})
    for stream, its_rows in zip(streams, rows, strict=True):
        stream.expect("opened")
        np.testing.assert_array_equal(stream.results({0: STEPS}, 2)[0], np.cumsum(its_rows, axis=0))
        stream.disconnect()


def test_a_drain(accumulator_path: Path) -> None:
    with serving(accumulator_path, tuning="none", drain_seconds=10 * PATIENCE) as server:
        with Stream(server.address) as stream:
            stream.opened(0)
            server.popen.send_signal(signal.SIGTERM)
            stream.expect("going_away")
            assert stream.stepped(0, [[1, 2]]).tolist() == [[1, 2]]
            stream.close(0)
            assert stream.expect("closed").reason == pb.CLOSE_REASON_REQUESTED
            assert stream.status()[0] == grpc.StatusCode.UNAVAILABLE
        assert server.popen.wait(PATIENCE) == 0


def test_workers_and_what_each_says(accumulator_path: Path) -> None:
    with serving(accumulator_path, tuning="none", workers=2) as server:
        with streams_on_both(server) as both:
            for stream in both:
                stream.opened(1)
                assert stream.stepped(1, [[1, 2]]).tolist() == [[1, 2]]
        said = lines(server, "tuning")
        assert {line["worker"] for line in said} == {1, 2}
        assert [line["active"] for line in said] == [[], []]
        assert [line["inactive"] for line in said] == 2 * [dict.fromkeys(TUNINGS, "--tuning leaves it out")]
        assert server.terminate() == 0


def test_what_is_done_is_said_at_the_start(accumulator_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("GRPC_EXPERIMENTS", raising=False)
    monkeypatch.delenv("GRPC_VERBOSITY", raising=False)
    guards = {"grpc-paths": True, "grpc-lines": True}
    without = "--tuning leaves it out"
    # Workers tell gRPC by themselves, before they import it.
    assert said(accumulator_path, 2, "-busy-poll") == ({"busy-poll": without}, guards)
    assert said(accumulator_path, 1, "-garbage,-busy-poll") == ({"garbage": without, "busy-poll": without}, guards)
    monkeypatch.setenv("GRPC_EXPERIMENTS", "")
    monkeypatch.setenv("GRPC_VERBOSITY", "ERROR")
    chosen = {"grpc-poller": "GRPC_EXPERIMENTS is '', which has the last word", "busy-poll": without}
    assert said(accumulator_path, 1, "-busy-poll") == (chosen, guards | {"grpc-lines": False})


def said(artifact: Path, workers: int, tuning: str) -> tuple[object, object]:
    """What each process says that is not done, and what guards; all else is done."""
    with serving(artifact, tuning=tuning, workers=workers) as server:
        found = lines(server, "tuning")
    assert len(found) == workers
    inactive, guards = found[0]["inactive"], found[0]["guards"]
    assert isinstance(inactive, dict)
    for line in found:
        assert line["active"] == [name for name in TUNINGS if name not in inactive]
        assert (line["inactive"], line["guards"]) == (inactive, guards)
    return inactive, guards
