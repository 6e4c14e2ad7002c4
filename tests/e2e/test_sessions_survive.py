"""Sessions whose server is killed or stopped, and that go on from its store: SQLite, real servers, raw messages."""

import sqlite3
import time
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest

from gatestream.protos.gatestream.v1 import gatestream_pb2 as pb
from gatestream.protos.inference import open_inference_grpc_pb2 as oip
from gatestream.protos.inference import open_inference_grpc_pb2_grpc as oip_grpc
from tests.e2e.test_kept_sessions import X, opened, sums, take
from tests.support.open_inference import request
from tests.support.open_inference import sums as oip_sums
from tests.support.process import ServerProcess, serving
from tests.support.scrape import HTTP, scrape
from tests.support.wire import PATIENCE, Stream, channel, stub, until

Door = oip_grpc.GRPCInferenceServiceStub
WHOLE = np.cumsum(X[:, 0]).tolist()


@pytest.mark.parametrize("durability", ["behind", "before-answer"])
def test_a_killed_servers_sessions_go_on_elsewhere(accumulator_path: Path, tmp_path: Path, durability: str) -> None:
    settings: dict[str, Any] = {"store": f"sqlite:{tmp_path}/sessions.db", "durability": durability}
    with serving(accumulator_path, **settings) as first, Stream(first.address) as stream:
        assert opened(stream, "s").epoch == 1
        assert sums(stream, X[:20], first=0, acknowledged=5) == WHOLE[:20]
        first.kill()
    with serving(accumulator_path, **settings) as second, Stream(second.address) as stream:
        got = opened(stream, "s", epoch=2, acknowledged=20)
        assert (got.epoch, got.created, got.position) == (2, False, got.sequence)
        if durability == "before-answer":
            assert got.sequence == 20, "what was answered is stored"
        assert sums(stream, X[got.sequence :], first=got.position) == WHOLE[got.sequence :]


def test_a_stopped_server_lets_go_of_its_sessions_at_once(accumulator_path: Path, tmp_path: Path) -> None:
    settings: dict[str, Any] = {"store": f"sqlite:{tmp_path}/sessions.db", "drain_seconds": 20}
    with serving(accumulator_path, **settings) as first, serving(accumulator_path, **settings) as second:
        with Stream(first.address) as stream:
            opened(stream, "s")
            assert sums(stream, X[:20], first=0) == WHOLE[:20]
            first.popen.terminate()
            take(stream, "going_away")
            closed = take(stream, "closed")
            assert (closed.reason, list(closed.position)) == (pb.CLOSE_REASON_PARKED, [20])
        assert first.popen.wait(15) == 0
        with stub(second.address) as calls:
            page = calls.ListSessions(pb.ListSessionsRequest(page_size=1))
            assert [(each.session_id, each.position, each.parked) for each in page.sessions] == [("s", 20, True)]
            last = calls.ListSessions(pb.ListSessionsRequest(page_size=1, page_token=page.next_page_token))
            assert not last.sessions
            assert not last.next_page_token
            assert calls.GetState(pb.GetStateRequest(session_id="s")).position == 20
        with Stream(second.address) as stream:
            got = opened(stream, "s", epoch=2, acknowledged=20)
            assert (got.position, got.durable) == (20, got.durable)
            assert sums(stream, X[20:], first=20) == WHOLE[20:]


def test_a_living_server_hands_a_session_over(accumulator_path: Path, tmp_path: Path) -> None:
    settings: dict[str, Any] = {"store": f"sqlite:{tmp_path}/sessions.db"}
    with (
        serving(accumulator_path, **settings) as one,
        serving(accumulator_path, **settings) as two,
        Stream(one.address) as before,
        Stream(two.address) as after,
    ):
        opened(before, "s")
        assert sums(before, X[:20], first=0) == WHOLE[:20]
        with stub(two.address) as calls, pytest.raises(grpc.RpcError) as caught:
            calls.GetState(pb.GetStateRequest(session_id="s"))
        error: Any = caught.value
        assert error.code() == grpc.StatusCode.FAILED_PRECONDITION, "a unary call takes nothing away"
        assert sums(before, X[20:22], first=20) == WHOLE[20:22]
        got = opened(after, "s", epoch=2, acknowledged=22)
        assert sums(after, X[got.sequence :], first=got.position) == WHOLE[got.sequence :]
        assert take(before, "closed").reason == pb.CLOSE_REASON_PARKED


def test_a_sequence_of_the_other_protocol_goes_on_after_a_kill(accumulator_path: Path, tmp_path: Path) -> None:
    settings: dict[str, Any] = {"store": f"sqlite:{tmp_path}/sessions.db", "durability": "before-answer"}
    for k in range(3):
        with serving(accumulator_path, **settings) as server, channel(server.address) as connection:
            door = oip_grpc.GRPCInferenceServiceStub(connection)
            got = door.ModelInfer(request(X[k : k + 1], 7, start=k == 0), timeout=PATIENCE)
            assert oip_sums(got)[0][0] == WHOLE[k]
            server.kill()


def standing(refused: grpc.RpcError) -> int:
    """The position that a refusal tells."""
    error: Any = refused
    trailing = dict(error.trailing_metadata())
    assert (error.code(), trailing["gatestream-reason"]) == (
        grpc.StatusCode.FAILED_PRECONDITION,
        "REASON_POSITION_MISMATCH",
    )
    return int(trailing["gatestream-position"])


def kill_soon(server: ServerProcess, door: Door, asked: oip.ModelInferRequest, seconds: float) -> None:
    """Kill a server so long after it was sent a request."""
    pending = door.ModelInfer.future(asked, timeout=PATIENCE)
    time.sleep(seconds)
    server.kill()
    # Either came first.
    pending.exception()


def kill_when_answered(server: ServerProcess, door: Door, asked: oip.ModelInferRequest) -> None:
    """Kill a server whose answer nobody heeds."""
    door.ModelInfer(asked, timeout=PATIENCE)
    server.kill()


def kill_when_computed(server: ServerProcess, door: Door, asked: oip.ModelInferRequest, path: Path) -> None:
    """Kill a server that has taken the steps of a request, and can store nothing of them."""
    before = asked.parameters["gatestream_first"].int64_param
    # So that it has the sequence from the store.
    with pytest.raises(grpc.RpcError) as early:
        door.ModelInfer(request(X[:1], 7, first=2**40), timeout=PATIENCE)
    assert standing(early.value) == before
    other = sqlite3.connect(path)
    other.execute("BEGIN IMMEDIATE")
    pending = door.ModelInfer.future(asked, timeout=PATIENCE)
    # Its metrics alone do not wait until that is stored.
    until(lambda: scrape(server)["gatestream_steps_total", "accumulator"] == 2, "the steps were taken")
    server.kill()
    assert isinstance(pending.exception(), grpc.RpcError)
    other.close()


def taken(door: Door, asked: oip.ModelInferRequest) -> oip.ModelInferResponse | int:
    """The answer to a request, or the position that it is told instead."""
    try:
        answer: oip.ModelInferResponse = door.ModelInfer(asked, timeout=PATIENCE)
    except grpc.RpcError as error:
        return standing(error)
    return answer


def test_a_request_that_was_killed_is_sent_again_and_taken_once(accumulator_path: Path, tmp_path: Path) -> None:
    path = tmp_path / "sessions.db"
    settings: dict[str, Any] = {"store": f"sqlite:{path}", "durability": "before-answer", **HTTP}
    position = 0
    for when in (0.0, 0.002, 0.005, "computed", "answered"):
        asked = request(X[position : position + 2], 7, start=position == 0, first=position)
        with serving(accumulator_path, **settings) as server, channel(server.address) as connection:
            door = oip_grpc.GRPCInferenceServiceStub(connection)
            if when == "computed":
                kill_when_computed(server, door, asked, path)
            elif when == "answered":
                kill_when_answered(server, door, asked)
            else:
                kill_soon(server, door, asked, float(when))
        with serving(accumulator_path, **settings) as server, channel(server.address) as connection:
            door = oip_grpc.GRPCInferenceServiceStub(connection)
            got = taken(door, asked)
            if isinstance(got, int):
                assert (got, when != "computed") == (position + 2, True)
            else:
                assert when != "answered"
                assert got.parameters["gatestream_position"].int64_param == position + 2
                assert [row[0] for row in oip_sums(got)] == WHOLE[position : position + 2]
            position += 2
            assert taken(door, asked) == position, "once more, late"
            got = taken(door, request(X[position : position + 1], 7, first=position))
            assert not isinstance(got, int)
            assert oip_sums(got)[0][0] == WHOLE[position]
            position += 1


def test_without_a_store_a_session_ends_with_its_stream_and_says_so(accumulator_path: Path) -> None:
    with serving(accumulator_path, durability="off") as server:
        with stub(server.address) as calls:
            limits = calls.Describe(pb.DescribeRequest()).limits
        assert (limits.durability, limits.store) == (pb.DURABILITY_OFF, "")
        with Stream(server.address) as stream:
            opened(stream, "s")
            sums(stream, X[:3])
        with Stream(server.address) as stream:
            stream.open(0, "s", mode=pb.OPEN_MODE_RESUME, on_disconnect=pb.ON_DISCONNECT_PARK, epoch=2)
            assert take(stream, "error").reason == pb.REASON_SESSION_UNKNOWN
