"""Sessions that nobody uses end by themselves, counted from their last answer."""

import time
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest

from gatestream.protos.gatestream.v1 import gatestream_pb2 as pb
from tests.support.process import ServerProcess, serving
from tests.support.wire import PATIENCE, Stream, until

IDLE_SECONDS = 1.5


@pytest.fixture(scope="module")
def server(accumulator_path: Path) -> Iterator[ServerProcess]:
    with serving(accumulator_path, idle_timeout=IDLE_SECONDS, sessions=8) as running:
        yield running


def is_there(stream: Stream, session_id: str) -> bool:
    """By GetState, which is no answer to the session's owner and keeps it from nothing."""
    try:
        stream.calls.GetState(pb.GetStateRequest(session_id=session_id), timeout=PATIENCE)
    except grpc.RpcError:
        return False
    return True


def test_one_that_is_used_stays_and_the_others_end(server: ServerProcess) -> None:
    with Stream(server.address) as stream:
        opened = [stream.opened(handle, f"s{handle}") for handle in range(8)]
        assert {item.idle_timeout_s for item in opened} == {IDLE_SECONDS}
        # 0 is stepped all the time, 1 is reset; 2 was stepped last when a part of its time had passed; 3 to 7 never.
        began = time.monotonic()
        steps = 0
        # In which Closed message each was named.
        ended: dict[int, int] = {}
        messages = 0
        while ended.keys() != {2, 3, 4, 5, 6, 7}:
            if steps == 0 or (2 not in ended and time.monotonic() < began + IDLE_SECONDS / 2):
                assert stream.stepped(2, [[0, 0]]).tolist() == [[0, 0]]
            stream.steps({0: [[1, 1]]}, first=[steps])
            stream.reset(1)
            steps += 1
            heard: set[str | None] = set()
            while heard != {"results", "reset_done"}:
                message = stream.read()
                if message.HasField("closed"):
                    assert message.closed.reason == pb.CLOSE_REASON_IDLE
                    messages += 1
                    assert not ended.keys() & set(message.closed.handle)
                    ended |= dict.fromkeys(message.closed.handle, messages)
                else:
                    heard.add(message.WhichOneof("kind"))
        assert ended[2] == messages
        assert time.monotonic() - began > IDLE_SECONDS
        assert stream.stepped(0, [[0, 0]]).tolist() == [[steps, steps]]
        # Handles, ids and slots are free.
        stream.steps({3: [[1, 1]]})
        assert stream.refused().reason == pb.REASON_HANDLE_UNKNOWN
        for handle in range(2, 8):
            assert stream.opened(handle, f"s{handle}").created
            assert stream.stepped(handle, [[1, 2]]).tolist() == [[1, 2]]


def test_one_that_no_stream_holds(server: ServerProcess) -> None:
    with Stream(server.address) as stream:
        stream.opened(0, "original")
        stream.calls.Fork(pb.ForkRequest(session_id="original", new_session_id="twin"), timeout=PATIENCE)
        until(lambda: not is_there(stream, "twin"), "the session had expired")
        assert list(stream.expect("closed").position) == [0]


def test_a_stream_that_leaves_its_sessions_idle_goes_on(server: ServerProcess) -> None:
    with Stream(server.address) as stream:
        stream.opened(0)
        stream.stepped(0, [[1, 2]])
        closed = stream.expect("closed")
        assert closed == pb.Closed(handle=[0], position=[1], reason=pb.CLOSE_REASON_IDLE)
        assert stream.opened(0).created
        assert stream.stepped(0, [[3, 4]]).tolist() == [[3, 4]]


def test_never(accumulator_path: Path) -> None:
    with serving(accumulator_path, idle_timeout=0) as server, Stream(server.address) as stream:
        assert stream.opened(0, "s").idle_timeout_s == 0
        assert stream.calls.Describe(pb.DescribeRequest(), timeout=PATIENCE).limits.idle_timeout_s == 0
        until(lambda: idle(stream) > 0.3, "some time had passed")
        assert stream.stepped(0, [[1, 2]]).tolist() == [[1, 2]]


def idle(stream: Stream) -> float:
    (session,) = stream.calls.ListSessions(pb.ListSessionsRequest(), timeout=PATIENCE).sessions
    return session.idle_s
