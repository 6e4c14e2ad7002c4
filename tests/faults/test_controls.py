"""Reset and Close of many sessions: one answer for all that have the same answer, and nobody waits for them."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from gatestream.protos.gatestream.v1 import gatestream_pb2 as pb
from tests.client.artifacts import counter
from tests.support.artifacts import accumulator
from tests.support.process import ServerProcess, serving
from tests.support.wire import PATIENCE, Stream, stub, until

MANY = 3000


@pytest.fixture(scope="module")
def roomy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    folder: Path = tmp_path_factory.mktemp("controls")
    with serving(accumulator(folder / "accumulator.onnx"), counter(folder / "counter.onnx")) as running:
        yield running
        assert running.popen.poll() is None


def sessions(server: ServerProcess) -> list[int]:
    with stub(server.address) as calls:
        return [model.sessions for model in calls.Describe(pb.DescribeRequest(), timeout=PATIENCE).models]


@pytest.fixture
def stream(roomy: ServerProcess) -> Iterator[Stream]:
    """A stream of two accumulators (0, 1) and a counter (2); afterwards they are gone."""
    with Stream(roomy.address) as opened:
        for handle, model in enumerate(("accumulator", "accumulator", "counter")):
            opened.opened(handle, model=model)
        yield opened
    until(lambda: sessions(roomy) == [0, 0], "no session was left")


@pytest.mark.parametrize("kind", ["reset", "close"])
def test_ten_thousand_unknown_handles_are_one_error(stream: Stream, kind: str) -> None:
    getattr(stream, kind)(*range(3, 10_003))
    error = stream.refused()
    assert (error.reason, list(error.handle)) == (pb.REASON_HANDLE_UNKNOWN, list(range(3, 10_003)))
    assert error.message.startswith("handle 3 has no session on this stream")
    assert stream.stepped(0, [[1, 2]]).tolist() == [[1, 2]]


@pytest.mark.parametrize("kind", ["reset", "close"])
def test_a_handle_that_is_named_twice_is_refused_and_the_others_are_not(stream: Stream, kind: str) -> None:
    stream.stepped(0, [[1, 2]])
    stream.stepped(1, [[3, 4]])
    getattr(stream, kind)(*[0] * 5000, 1, 7, 7)
    unknown, repeated = stream.refused(), stream.refused()
    assert (unknown.reason, list(unknown.handle)) == (pb.REASON_HANDLE_UNKNOWN, [7, 7])
    assert (repeated.reason, list(repeated.handle)) == (pb.REASON_HANDLE_REPEATED, [0] * 5000)
    assert repeated.message == "handle 0 stands more than once in the message; name it once"
    done = stream.expect("reset_done" if kind == "reset" else "closed")
    assert (list(done.handle), list(done.position)) == ([1], [1])
    assert stream.stepped(0, [[1, 2]]).tolist() == [[2, 4]]


def test_one_message_may_name_sessions_of_several_models(stream: Stream) -> None:
    stream.stepped(0, [[1, 2]])
    stream.reset(2, 0, 1)
    done = [stream.expect("reset_done") for _ in range(2)]
    assert sorted((list(each.handle), list(each.position)) for each in done) == [([0, 1], [1, 0]), ([2], [0])]
    stream.close(2, 0, 1)
    closed = [stream.expect("closed") for _ in range(2)]
    assert sorted(list(each.handle) for each in closed) == [[0, 1], [2]]
    stream.opened(0, model="counter")


def test_a_message_that_names_nobody_is_no_matter(stream: Stream) -> None:
    stream.reset()
    stream.close()
    assert stream.stepped(0, [[1, 2]]).tolist() == [[1, 2]]


def test_of_many_sessions_each_is_reset_and_closed_in_its_order(roomy: ServerProcess) -> None:
    handles = range(MANY)
    with Stream(roomy.address) as stream:
        for handle in handles:
            stream.open(handle, model="accumulator")
        assert sorted(stream.expect("opened").handle for _ in handles) == list(handles)
        with roomy.paused():
            for value in (1, 2):
                stream.steps({handle: [[value, handle]] for handle in handles})
                stream.reset(*handles)
            stream.steps({handle: [[4, handle]] for handle in handles})
            stream.close(*handles)
            stream.flush()
        sums: dict[int, list[float]] = {handle: [] for handle in handles}
        resets, closed, messages = dict.fromkeys(handles, 0), set[int](), 0
        while len(closed) < MANY:
            message = stream.read()
            messages += 1
            kind = message.WhichOneof("kind")
            if kind == "results":
                rows = np.frombuffer(message.results.output[0], "<f4").reshape(-1, 2)
                for handle, (value, own) in zip(message.results.handle, rows.tolist(), strict=True):
                    assert own == handle
                    sums[handle].append(value)
            elif kind == "reset_done":
                for handle, position in zip(message.reset_done.handle, message.reset_done.position, strict=True):
                    resets[handle] += 1
                    assert position == len(sums[handle]) == resets[handle]
            else:
                assert (message.closed.reason, set(message.closed.position)) == (pb.CLOSE_REASON_REQUESTED, {3})
                assert closed.isdisjoint(message.closed.handle)
                closed |= set(message.closed.handle)
        assert set(map(tuple, sums.values())) == {(1, 2, 4)}
        assert set(resets.values()) == {2}
        # Not a message for each.
        assert messages < MANY / 10
        # The handles are free again, and so are the ids.
        assert stream.opened(0, model="accumulator").created


def test_resets_that_come_one_by_one_are_answered_together(stream: Stream, roomy: ServerProcess) -> None:
    for handle in range(3, 203):
        stream.opened(handle, model="accumulator")
    with roomy.paused():
        for handle in range(3, 203):
            stream.reset(handle)
        stream.flush()
    done: list[int] = []
    while len(done) < 200:
        done += stream.expect("reset_done").handle
    assert done == list(range(3, 203))


def test_a_half_close_ends_many_sessions(roomy: ServerProcess) -> None:
    with Stream(roomy.address) as stream:
        for handle in range(MANY):
            stream.open(handle, model="accumulator")
        for _ in range(MANY):
            stream.expect("opened")
        stream.steps({handle: [[1, 2]] for handle in range(MANY)})
        stream.half_close()
        steps, closed = 0, 0
        for message in stream.call:
            steps += len(message.results.handle)
            closed += len(message.closed.handle)
        assert (steps, closed) == (MANY, MANY)
    assert sessions(roomy) == [0, 0]


def test_many_sessions_end_with_their_client(roomy: ServerProcess) -> None:
    with Stream(roomy.address) as stream:
        for handle in range(MANY):
            stream.open(handle, f"s{handle}", model="accumulator")
        for _ in range(MANY):
            stream.expect("opened")
        stream.steps({handle: [[1, 2]] for handle in range(MANY)})
        stream.close(*range(100))
        stream.flush()
    until(lambda: sessions(roomy) == [0, 0], "no session was left")
    with Stream(roomy.address) as stream:
        assert stream.opened(0, "s0", model="accumulator").created
        assert stream.stepped(0, [[1, 2]]).tolist() == [[1, 2]]
