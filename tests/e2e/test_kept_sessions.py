"""Sessions that outlive their stream, on the wire of a real server."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest

from gatestream.protos.gatestream.v1 import gatestream_pb2 as pb
from tests.support.process import ServerProcess, serving
from tests.support.wire import Stream, call_refused, stub, until

PARK: dict[str, Any] = {"on_disconnect": pb.ON_DISCONNECT_PARK}
X = np.arange(1, 41, dtype=np.float32).repeat(2).reshape(-1, 2)


@pytest.fixture(scope="module")
def server(accumulator_path: Path) -> Iterator[ServerProcess]:
    with serving(accumulator_path) as server:
        yield server


def take(stream: Stream, kind: str) -> Any:
    """The next message of a kind; Durable may come at any time."""
    while True:
        message = stream.read()
        if message.WhichOneof("kind") != "durable" or kind == "durable":
            assert message.WhichOneof("kind") == kind, message
            return getattr(message, kind)


def opened(stream: Stream, session_id: str, handle: int = 0, **fields: Any) -> pb.Opened:
    stream.open(handle, session_id, **PARK, **fields)
    got: pb.Opened = take(stream, "opened")
    return got


def sums(stream: Stream, rows: Any, first: int | None = None, acknowledged: int | None = None) -> list[float]:
    """Take steps, each in a message of its own, and read what comes back."""
    for k, row in enumerate(rows):
        steps = pb.Steps(handle=[0], input=[np.ascontiguousarray(row, "<f4").tobytes()])
        if first is not None:
            steps.first.append(first + k)
        if acknowledged is not None:
            steps.acknowledged.append(acknowledged)
        stream.send(pb.ClientMessage(steps=steps))
    got: list[float] = []
    while len(got) < len(rows):
        got += np.frombuffer(take(stream, "results").output[0], "<f4")[::2].tolist()
    return got


def test_what_the_server_says_of_it(server: ServerProcess) -> None:
    with stub(server.address) as calls:
        limits = calls.Describe(pb.DescribeRequest()).limits
    assert (limits.park_timeout_s, limits.durability, limits.store) == (3600, pb.DURABILITY_BEHIND, "memory")


def test_a_session_goes_on_over_another_connection(server: ServerProcess) -> None:
    whole = np.cumsum(X[:, 0]).tolist()
    with Stream(server.address) as stream:
        assert opened(stream, "on").epoch == 1
        assert sums(stream, X[:10], first=0) == whole[:10]
    with Stream(server.address) as stream:
        got = opened(stream, "on", epoch=2, acknowledged=10)
        assert (got.position, got.sequence, got.epoch, got.created) == (10, 10, 2, False)
        assert sums(stream, X[10:], first=10) == whole[10:]


def test_what_a_client_lacks_it_sends_again(server: ServerProcess) -> None:
    whole = np.cumsum(X[:, 0]).tolist()
    with Stream(server.address) as stream:
        opened(stream, "again")
        sums(stream, X[:20], first=0, acknowledged=7)
    with Stream(server.address) as stream:
        got = opened(stream, "again", epoch=2, acknowledged=7)
        assert got.sequence <= 7
        assert sums(stream, X[got.sequence :], first=got.position) == whole[got.sequence :]


def test_checkpoints_come_behind_the_steps(server: ServerProcess) -> None:
    with Stream(server.address) as stream:
        opened(stream, "behind")
        position, durable = 0, 0
        while durable < 10:
            stream.steps({0: X[:1]}, first=[position])
            message = stream.read()
            while message.WhichOneof("kind") == "durable":
                assert durable < message.durable.sequence[0] <= position
                durable = message.durable.sequence[0]
                message = stream.read()
            assert message.results.first == [position]
            position += 1


def test_a_client_that_has_all_may_forget_all(server: ServerProcess) -> None:
    with Stream(server.address) as stream:
        opened(stream, "all")
        sums(stream, X[:9], first=0, acknowledged=0)
        stream.send(pb.ClientMessage(acknowledge=pb.Acknowledge(handle=[0], sequence=[9])))
        while list(take(stream, "durable").sequence) != [9]:
            pass


def test_a_state_is_set_where_it_is_meant_for(server: ServerProcess) -> None:
    with Stream(server.address) as stream, stub(server.address) as calls:
        opened(stream, "meant")
        sums(stream, X[:3])
        state = calls.GetState(pb.GetStateRequest(session_id="meant"))
        for meant, reason in (
            ({"sequence": 2}, pb.REASON_POSITION_MISMATCH),
            ({"epoch": 2}, pb.REASON_EPOCH_STALE),
        ):
            with call_refused(grpc.StatusCode.FAILED_PRECONDITION, reason):
                calls.SetState(pb.SetStateRequest(session_id="meant", state=state, **meant))
        calls.SetState(pb.SetStateRequest(session_id="meant", state=state, sequence=3, epoch=1))
        assert sums(stream, X[3:5], first=3) == [10, 15]


def test_an_older_epoch_is_told_the_newer_one(server: ServerProcess) -> None:
    with Stream(server.address) as stream, Stream(server.address) as late:
        opened(stream, "epochs", epoch=7)
        late.open(0, "epochs", epoch=7, **PARK)
        error = take(late, "error")
        assert (error.reason, error.epoch) == (pb.REASON_EPOCH_STALE, 7)
        assert sums(stream, X[:2]) == [1, 3], "it noticed nothing"
        assert opened(late, "epochs", epoch=8).position == 2
        closed = take(stream, "closed")
        assert (closed.reason, list(closed.position)) == (pb.CLOSE_REASON_TAKEN_OVER, [2])
        stream.steps({0: X[:1]})
        assert take(stream, "error").reason == pb.REASON_HANDLE_UNKNOWN


def test_a_stream_that_ends_well_leaves_its_sessions(server: ServerProcess) -> None:
    with Stream(server.address) as stream:
        opened(stream, "well")
        sums(stream, X[:3])
        stream.half_close()
        closed = take(stream, "closed")
        assert (closed.reason, list(closed.position)) == (pb.CLOSE_REASON_PARKED, [3])
    with Stream(server.address) as stream:
        assert opened(stream, "well").position == 3
        stream.close(0)
        assert take(stream, "closed").reason == pb.CLOSE_REASON_REQUESTED
        stream.open(0, "well", mode=pb.OPEN_MODE_RESUME, **PARK)
        assert take(stream, "error").reason == pb.REASON_SESSION_UNKNOWN


def test_one_that_does_not_park_ends_with_its_stream(server: ServerProcess) -> None:
    with Stream(server.address) as stream:
        stream.opened(0, "ends")
    with stub(server.address) as calls:

        def ended() -> bool:
            sessions = calls.ListSessions(pb.ListSessionsRequest(page_size=1000)).sessions
            return "ends" not in {each.session_id for each in sessions}

        until(ended, "it ended")


def test_one_that_is_closed_by_name_is_not_there_any_more(server: ServerProcess) -> None:
    with Stream(server.address) as stream, stub(server.address) as calls:
        for _ in range(30):
            assert opened(stream, "closed").created
            assert sums(stream, X[:2]) == [1, 3]
            assert calls.CloseSession(pb.CloseSessionRequest(session_id="closed")).position == 2
            closed = take(stream, "closed")
            assert (closed.reason, list(closed.position)) == (pb.CLOSE_REASON_ADMINISTERED, [2])
