"""Steps that fail: whose they are hears of it once and stays as it was, and whoever ran beside it is answered."""

from collections.abc import Iterator
from pathlib import Path

import grpc
import numpy as np
import pytest

from gatestream.protos.gatestream.v1 import gatestream_pb2 as pb
from tests.support.artifacts import POISON
from tests.support.process import ServerProcess, serving
from tests.support.wire import PATIENCE, Rows, Stream, call_refused, encode, stub

pytestmark = pytest.mark.usefixtures("neighbour")


@pytest.fixture
def stream(server: ServerProcess) -> Iterator[Stream]:
    """Sessions 0, 1 and 2, each at position 2 with the sums [4, 6]."""
    with Stream(server.address) as stream:
        for handle in range(3):
            stream.opened(handle, f"failing-{handle}", model="accumulator")
            stream.stepped(handle, [[1, 2], [3, 4]])
        yield stream


def state(server: ServerProcess, session_id: str) -> tuple[int, list[float]]:
    """A session's position and sums."""
    with stub(server.address) as calls:
        got = calls.GetState(pb.GetStateRequest(model="accumulator", session_id=session_id), timeout=PATIENCE)
    return got.position, np.frombuffer(got.state[0], "<f4").tolist()


def chunk(steps: int, poison_at: int) -> Rows:
    rows = np.ones((steps, 2), np.float32)
    rows[poison_at] = POISON
    return rows


def test_it_is_answered_once_and_stays_as_it_was_and_its_neighbour_goes_on(
    server: ServerProcess, stream: Stream
) -> None:
    stream.steps({0: [[1, 1]], 1: [[POISON, 0]]}, first=[2, 2])
    assert stream.results({0: 1}, 2)[0].tolist() == [[5, 7]]
    error = stream.refused()
    assert (list(error.handle), error.reason) == ([1], pb.REASON_STEP_FAILED)
    assert (list(error.position), list(error.first), list(error.length)) == ([2], [2], [1])
    assert "no state has changed" in error.message
    assert "Gather" in error.message  # onnxruntime's own words
    assert state(server, "failing-0") == (3, [5, 7])
    for handle in (1, 2):
        assert state(server, f"failing-{handle}") == (2, [4, 6])
    # The same step without the poison, at the same position: nothing more came in between.
    stream.steps({0: [[1, 1]], 1: [[2, 2]], 2: [[3, 3]]}, first=[3, 2, 2])
    got = stream.results({0: 1, 1: 1, 2: 1}, 2)
    assert {handle: y.tolist() for handle, y in got.items()} == {0: [[6, 8]], 1: [[6, 8]], 2: [[7, 9]]}


def test_what_stands_behind_a_failed_step_is_refused_in_order(server: ServerProcess, stream: Stream) -> None:
    with server.paused():
        # The chunk takes a run for each step: what follows is in line behind it when the one at 800 fails.
        stream.steps({0: chunk(1000, 800), 1: [[1, 1]]}, first=[2, 2])
        stream.steps({0: [[1, 1]], 1: [[1, 1]]}, first=[1002, 3])
        stream.reset(0)
        stream.steps({0: [[1, 1]] * 3}, first=[1003])
        stream.flush()
    answers: dict[int, list[tuple[str, int, int]]] = {0: [], 1: []}
    refused: list[pb.Error] = []
    while len(refused) < 4:
        message = stream.read()
        if message.HasField("error"):
            refused.append(message.error)
            continue
        results = message.results
        for handle, first, length in zip(
            results.handle, results.first, list(results.length) or [1] * len(results.handle), strict=True
        ):
            answers[handle].append(("results", first, length))
    # 800 steps were taken, each once; the rest of the chunk and all behind it were not.
    assert answers[0] == [("results", position, 1) for position in range(2, 802)]
    assert answers[1] == [("results", 2, 1), ("results", 3, 1)]
    assert [(e.reason, list(e.handle), list(e.position), list(e.first), list(e.length)) for e in refused] == [
        (pb.REASON_STEP_FAILED, [0], [802], [802], [200]),
        (pb.REASON_PRECEDING_FAILED, [0], [802], [1002], [1]),
        (pb.REASON_PRECEDING_FAILED, [0], [802], [], []),
        (pb.REASON_PRECEDING_FAILED, [0], [802], [1003], [3]),
    ]
    assert state(server, "failing-0") == (802, [804, 806])
    assert state(server, "failing-1") == (4, [6, 8])
    stream.steps({0: [[1, 1]]}, first=[802])
    assert stream.results({0: 1}, 2)[0].tolist() == [[805, 807]]


def test_chunks_of_others_go_on(server: ServerProcess, stream: Stream) -> None:
    with Stream(server.address) as other:
        other.opened(0, model="accumulator")
        with server.paused():
            stream.steps({0: chunk(60, 30), 1: chunk(40, 39)})
            # Neither waits for the other: different sessions, in any order.
            other.steps({0: np.ones((5, 2))})
            stream.flush()
            other.flush()
        assert other.results({0: 5}, 2)[0][-1].tolist() == [5, 5]
        assert other.stepped(0, [[1, 1]]).tolist() == [[6, 6]]


def test_a_close_behind_a_failed_step_still_closes(stream: Stream) -> None:
    stream.steps({0: chunk(20, 19)})
    stream.close(0)
    kinds = []
    while True:
        message = stream.read()
        kinds.append(message.WhichOneof("kind"))
        if kinds[-1] == "closed":
            break
    assert kinds == ["results"] * 19 + ["error", "closed"]
    assert list(message.closed.position) == [21]
    assert message.closed.reason == pb.CLOSE_REASON_REQUESTED


def test_a_call_behind_a_failed_step_says_so(server: ServerProcess, stream: Stream) -> None:
    with stub(server.address) as calls:
        calls.Describe(pb.DescribeRequest(), timeout=PATIENCE)
        with server.paused():
            stream.steps({0: chunk(4000, 3999)})
            stream.flush()
        stream.read()  # The first part of the chunk: the rest is in line.
        with call_refused(grpc.StatusCode.FAILED_PRECONDITION, pb.REASON_PRECEDING_FAILED):
            calls.GetState(pb.GetStateRequest(model="accumulator", session_id="failing-0"), timeout=PATIENCE)
    assert state(server, "failing-0") == (4001, [4003, 4005])


def test_one_failure_after_another_leaves_nothing_behind(accumulator_path: Path) -> None:
    rows = encode([[POISON, 0], [1, 1], [1, 1]])
    # Room for so few entries that it would be gone, if a failure kept any.
    limits = {"sessions": 3, "rows": 12, "rows_per_stream": 12, "chunk_length": 4}
    with serving(accumulator_path, **limits) as small, Stream(small.address) as stream:
        for handle in range(3):
            stream.opened(handle)
        for k in range(100):
            stream.send(pb.ClientMessage(steps=pb.Steps(handle=[0, 1, 2], first=[0, k, k], input=[rows])))
            messages = [stream.read(), stream.read()]
            (error,) = [each.error for each in messages if each.HasField("error")]
            (results,) = [each.results for each in messages if each.HasField("results")]
            assert (list(error.handle), error.reason) == ([0], pb.REASON_STEP_FAILED)
            assert (list(results.handle), list(results.first)) == ([1, 2], [k, k])
        stream.steps(dict.fromkeys(range(3), np.ones((4, 2))), first=[0, 100, 100])
        assert [y[-1].tolist() for y in stream.results(dict.fromkeys(range(3), 4), 2).values()] == [
            [4, 4],
            [104, 104],
            [104, 104],
        ]
