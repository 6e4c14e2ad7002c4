"""One session by both doors: whichever ends it first, all is answered, and nothing is left that nobody can name."""

import contextlib
import queue
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gatestream.protos.gatestream.v1 import gatestream_pb2 as pb
from gatestream.protos.inference import open_inference_grpc_pb2 as oip
from gatestream.protos.inference import open_inference_grpc_pb2_grpc as oip_grpc
from tests.support.process import ServerProcess, serving
from tests.support.wire import PATIENCE, Stream, stub, until

NAMES = (7, 8)


@pytest.fixture(scope="module")
def own_server(accumulator_path: Path) -> Iterator[ServerProcess]:
    """A server that takes one step in a run, and holds nothing but what these tests leave."""
    with serving(accumulator_path, tick_steps=1) as running:
        yield running
        assert running.popen.poll() is None


class Other:
    """A ModelStreamInfer call."""

    def __init__(self, address: str):
        self.channel = grpc.insecure_channel(address, [("grpc.use_local_subchannel_pool", 1)])
        self._outgoing: queue.SimpleQueue[oip.ModelInferRequest | None] = queue.SimpleQueue()
        self.sent = 0
        self.call = oip_grpc.GRPCInferenceServiceStub(self.channel).ModelStreamInfer(
            iter(self._outgoing.get, None), timeout=PATIENCE
        )

    def step(self, name: int, chunk: Any, *, start: bool = False, end: bool = False) -> None:
        xs = np.asarray(chunk, np.float32)
        request = oip.ModelInferRequest(model_name="accumulator", id=str(self.sent))
        request.inputs.add(name="x", datatype="FP32", shape=[1, *xs.shape])
        request.raw_input_contents.append(xs.tobytes())
        request.parameters["sequence_id"].int64_param = name
        request.parameters["sequence_start"].bool_param = start
        request.parameters["sequence_end"].bool_param = end
        self.sent += 1
        self._outgoing.put(request)

    def read(self) -> list[list[float]]:
        """The next answer's sums."""
        answer = next(self.call)
        assert not answer.error_message, answer
        sums: list[list[float]] = (
            np.frombuffer(answer.infer_response.raw_output_contents[0], "<f4").reshape(-1, 2).tolist()
        )
        return sums

    def rest(self) -> list[oip.ModelStreamInferResponse]:
        """What comes until the end of the call, which ends well."""
        self._outgoing.put(None)
        answers = list(self.call)
        assert self.call.code() == grpc.StatusCode.OK
        self.channel.close()
        return answers


def there(server: ServerProcess) -> list[str]:
    """The sessions that there are, which are as many as the server counts."""
    return sorted(item.session_id for item in infos(server))


def infos(server: ServerProcess) -> list[pb.SessionInfo]:
    listed: list[pb.SessionInfo] = []
    with stub(server.address) as calls:

        def alike() -> bool:
            """What ends between the two calls is in one of them only."""
            listed[:] = calls.ListSessions(pb.ListSessionsRequest(page_size=1000), timeout=PATIENCE).sessions
            return len(listed) == calls.Describe(pb.DescribeRequest(), timeout=PATIENCE).models[0].sessions

        until(alike, "as many sessions were counted as listed")
    return listed


def test_a_sequence_that_ends_while_a_stream_has_steps_in_its_line(own_server: ServerProcess) -> None:
    for _ in range(3):
        other = Other(own_server.address)
        with Stream(own_server.address) as stream:
            stream.opened(0, "sequence:7")
            stream.steps({0: np.ones((1000, 2))})
            until(lambda: own_position(stream) > 0, "its steps were in line")
            other.step(7, [[1, 1]], end=True)
            # Its name is free now: this one is another session.
            other.step(7, [[5, 5]], start=True)
            until(lambda: not any(item.attached for item in infos(own_server)), "both requests had come")
            stream.close(0)
            assert len(stream.results({0: 1000}, 2)[0]) == 1000
            assert other.read() == [[1001, 1001]]
            closed = stream.expect("closed")
            assert (list(closed.handle), list(closed.position)) == ([0], [1001])
            assert other.read() == [[5, 5]]
            assert stream.opened(0).created
            assert len(there(own_server)) == 2
        other.step(7, [[1, 1]], end=True)
        assert other.read() == [[6, 6]]
        assert other.rest() == []
        until(lambda: there(own_server) == [], "no session was left")


def test_a_stream_closes_what_a_sequence_has_steps_in(own_server: ServerProcess) -> None:
    other = Other(own_server.address)
    with Stream(own_server.address) as stream:
        stream.opened(0, "sequence:8")
        other.step(8, np.ones((300, 2)))
        until(lambda: own_position(stream) > 0, "its steps were in line")
        stream.close(0)
        assert other.read()[-1] == [300, 300]
        assert list(stream.expect("closed").position) == [300]
        # It is gone for the other door too.
        other.step(8, [[1, 1]])
        (refused,) = other.rest()
        assert "sequence" in refused.error_message
    assert there(own_server) == []


def own_position(stream: Stream) -> int:
    listed = stream.calls.ListSessions(pb.ListSessionsRequest(), timeout=PATIENCE).sessions
    return max(int(item.position) for item in listed)


own = st.tuples(
    st.sampled_from(["open", "open", "steps", "steps", "steps", "reset", "close", "leave"]),
    st.integers(0, 1),
    st.integers(1, 30),
)
others = st.tuples(st.sampled_from(["go on", "start", "end", "start and end"]), st.integers(0, 1), st.integers(1, 30))


class Answers:
    """What came on a stream of the own wire, up to its end, which was a good one."""

    def __init__(self, stream: Stream):
        self.steps = 0
        self.opened: list[int] = []
        self.closed: list[int] = []
        for message in stream.call:
            self.steps += sum(message.results.length) or len(message.results.handle)
            self.steps += sum(message.error.length)
            self.closed += message.closed.handle
            if message.HasField("opened"):
                self.opened.append(message.opened.handle)
        assert stream.call.code() == grpc.StatusCode.OK


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.one_of(own, others, st.just("pause")), max_size=25))
def test_in_whatever_order_both_come(own_server: ServerProcess, script: list[Any]) -> None:
    other = Other(own_server.address)
    stream, sent, streams = Stream(own_server.address), 0, []
    for act in script:
        if act == "pause":
            there(own_server)
            continue
        what, which, length = act
        chunk = np.ones((length, 2))
        if what == "open":
            stream.open(which, f"sequence:{NAMES[which]}", model="accumulator")
        elif what == "steps":
            stream.steps({which: chunk})
            sent += length
        elif what == "reset":
            stream.reset(which)
        elif what == "close":
            stream.close(which)
        elif what == "leave":
            streams.append((stream, sent))
            stream.half_close()
            stream, sent = Stream(own_server.address), 0
        else:
            other.step(NAMES[which], chunk, start="start" in what, end="end" in what)
    stream.half_close()
    for each, steps in [*streams, (stream, sent)]:
        answers = Answers(each)
        assert answers.steps == steps
        assert sorted(answers.opened) == sorted(answers.closed)
        each.disconnect()
    got = other.rest()
    assert [answer.infer_response.id for answer in got] == [str(k) for k in range(other.sent)]
    # What is left can be named and ended, and then there is nothing.
    left = there(own_server)
    assert set(left) <= {f"sequence:{name}" for name in NAMES}
    with stub(own_server.address) as calls:
        for session_id in left:
            calls.CloseSession(pb.CloseSessionRequest(session_id=session_id), timeout=PATIENCE)
    assert there(own_server) == []


def test_clients_that_vanish_leave_nothing_but_sequences(own_server: ServerProcess) -> None:
    for k in range(10):
        other = Other(own_server.address)
        with Stream(own_server.address) as stream:
            stream.open(0, "sequence:7")
            stream.steps({0: np.ones((200, 2))})
            other.step(7, [[1, 1]], start=k % 2 == 0, end=k % 3 == 0)
            other.step(7, [[1, 1]], start=True)
            if k % 4:
                stream.close(0)
            stream.flush()
            with contextlib.suppress(grpc.RpcError):
                stream.read()
        other.call.cancel()
        other.channel.close()
    until(lambda: there(own_server) in ([], ["sequence:7"]), "no session of a stream was left")
    last = Other(own_server.address)
    last.step(7, [[1, 1]], start=True, end=True)
    assert last.read() == [[1, 1]]
    assert last.rest() == []
    until(lambda: there(own_server) == [], "no session was left")
