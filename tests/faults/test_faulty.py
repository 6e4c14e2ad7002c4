"""Faults of the server's own, in the middle of a call: INTERNAL for whom it was for, and nobody else notices."""

import json
import queue
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest

from gatestream.protos.gatestream.v1 import gatestream_pb2 as pb
from gatestream.protos.inference import open_inference_grpc_pb2 as oip
from gatestream.protos.inference import open_inference_grpc_pb2_grpc as oip_grpc
from tests.support.artifacts import ACCUMULATOR_FINGERPRINT
from tests.support.faulty import FAULTY, UNANSWERABLE, UNCOUNTED, UNSPEAKABLE
from tests.support.open_inference import request, sums
from tests.support.process import ServerProcess, start_under
from tests.support.wire import PATIENCE, Stream, until

STATE = pb.SessionState(weights_fingerprint=ACCUMULATOR_FINGERPRINT, state=[bytes(8)])
SAID = "the server failed at this call; its log says how"


@pytest.fixture(scope="module")
def faulty(accumulator_path: Path) -> Iterator[ServerProcess]:
    server = start_under(FAULTY, accumulator_path)
    try:
        yield server
        assert server.terminate() == 0
    finally:
        server.close()


@pytest.fixture
def other(faulty: ServerProcess) -> Iterator[Stream]:
    """Another client's session, which goes on whatever happens."""
    with Stream(faulty.address) as stream:
        stream.opened(0)
        yield stream
        np.testing.assert_array_equal(stream.stepped(0, [[1, 2]]), [[1, 2]])


def failures(server: ServerProcess, event: str) -> list[dict[str, Any]]:
    lines = map(json.loads, server.log.read_text().splitlines())
    return [line for line in lines if line["event"] == event]


@pytest.mark.parametrize(
    ("method", "asked"),
    [
        ("GetState", pb.GetStateRequest(session_id=UNSPEAKABLE)),
        ("SetState", pb.SetStateRequest(session_id=UNSPEAKABLE, state=STATE)),
        ("Fork", pb.ForkRequest(session_id=UNSPEAKABLE)),
        ("CloseSession", pb.CloseSessionRequest(session_id=UNSPEAKABLE)),
        ("ModelInfer", request([[1, 2]], UNSPEAKABLE)),
        ("ModelInfer", request([[UNANSWERABLE, 2]], 5, start=True)),
    ],
)
def test_a_unary_call_ends_internal(faulty: ServerProcess, other: Stream, method: str, asked: Any) -> None:
    stub: Any = oip_grpc.GRPCInferenceServiceStub(other.channel) if method == "ModelInfer" else other.calls
    before = len(failures(faulty, "a call failed"))
    with pytest.raises(grpc.RpcError) as ended:
        getattr(stub, method)(asked, timeout=PATIENCE)
    assert (ended.value.code(), ended.value.details()) == (grpc.StatusCode.INTERNAL, SAID)
    assert len(failures(faulty, "a call failed")) + len(failures(faulty, "a stream failed")) > before


def test_what_does_not_add_up_is_said_once(accumulator_path: Path) -> None:
    server = start_under(FAULTY, accumulator_path)
    try:
        with Stream(server.address) as stream:
            stream.opened(0)
            stream.opened(1, session_id=UNCOUNTED)
            stream.stepped(0, [[1, 2]])
            assert failures(server, "what must add up does not") == []
            stream.calls.CloseSession(pb.CloseSessionRequest(session_id=UNCOUNTED), timeout=PATIENCE)
            stream.expect("closed")
            until(lambda: bool(failures(server, "what must add up does not")), "it was seen")
            # It goes on serving, and says no more of the same.
            np.testing.assert_array_equal(stream.stepped(0, [[1, 2]]), [[2, 4]])
            time.sleep(2.5)
        (said,) = failures(server, "what must add up does not")
        assert (said["level"], said["differences"]) == (
            "error",
            ["model 'accumulator': 1 rows are pending, none are queued", "tenants have 0 rows pending, models 1"],
        )
    finally:
        server.close()


def listed(stream: Stream) -> list[str]:
    answer = stream.calls.ListSessions(pb.ListSessionsRequest(), timeout=PATIENCE)
    return [session.session_id for session in answer.sessions]


@pytest.mark.usefixtures("other")
def test_an_answer_that_cannot_be_made_ends_its_stream(faulty: ServerProcess) -> None:
    with Stream(faulty.address) as third:
        third.opened(0)
        with Stream(faulty.address) as mine:
            mine.opened(0, session_id="mine")
            # Of one tick: both came while the server was held still.
            with faulty.paused():
                mine.steps({0: [[UNANSWERABLE, 0]]})
                third.steps({0: [[3, 4]]})
                mine.flush()
                third.flush()
            assert mine.status() == (grpc.StatusCode.INTERNAL, SAID)
        assert third.expect("results").output[0] == np.array([3, 4], "<f4").tobytes()
        # Its sessions end with it, a moment after its client hears so.
        until(lambda: "mine" not in listed(third), "its session had ended")
        assert third.opened(1, session_id="mine").created


def test_so_it_does_at_the_other_door(other: Stream) -> None:
    door = oip_grpc.GRPCInferenceServiceStub(other.channel)
    asked: queue.SimpleQueue[oip.ModelInferRequest | None] = queue.SimpleQueue()
    call: Any = door.ModelStreamInfer(iter(asked.get, None), timeout=PATIENCE)
    asked.put(request([[1, 2]], 7, start=True))
    assert sums(next(call).infer_response) == [[1, 2]]
    asked.put(request([[UNANSWERABLE - 1, 2]], 7))
    with pytest.raises(grpc.RpcError) as ended:
        next(call)
    asked.put(None)
    assert (ended.value.code(), ended.value.details()) == (grpc.StatusCode.INTERNAL, SAID)
    # A sequence belongs to no stream. Its step was taken.
    assert sums(door.ModelInfer(request([[1, 2]], 7, end=True), timeout=PATIENCE)) == [[UNANSWERABLE + 1, 6]]
