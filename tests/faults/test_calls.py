"""What the unary calls refuse: the exact status and reason, and nothing changed."""

from collections.abc import Iterator
from typing import Any

import grpc
import numpy as np
import pytest

from gatestream.protos.gatestream.v1 import gatestream_pb2 as pb
from gatestream.protos.gatestream.v1 import gatestream_pb2_grpc as pb_grpc
from tests.support.artifacts import ACCUMULATOR_FINGERPRINT
from tests.support.process import ServerProcess
from tests.support.wire import PATIENCE, Stream, call_refused, encode, stub

pytestmark = pytest.mark.usefixtures("neighbour")

INVALID, MISSING, EXISTS = (
    grpc.StatusCode.INVALID_ARGUMENT,
    grpc.StatusCode.NOT_FOUND,
    grpc.StatusCode.ALREADY_EXISTS,
)


@pytest.fixture
def calls(server: ServerProcess) -> Iterator[pb_grpc.GatestreamStub]:
    """With the session "mine" at position 1, which no refused call changes."""
    with stub(server.address) as calls, Stream(server.address) as stream:
        stream.opened(0, "mine", model="accumulator")
        stream.stepped(0, [[1, 2]])
        yield calls
        stream.steps({0: [[10, 20]]}, first=[1])
        np.testing.assert_array_equal(stream.results({0: 1}, 2)[0], [[11, 22]])


def good_state() -> pb.SessionState:
    return pb.SessionState(
        model="accumulator", weights_fingerprint=ACCUMULATOR_FINGERPRINT, position=7, state=[encode([5, 6])]
    )


@pytest.mark.parametrize("call", ["GetState", "CloseSession", "Fork"])
@pytest.mark.parametrize("session_id", ["nobody", "", "a/b", "x" * 4000])
def test_a_session_that_is_not_there(calls: pb_grpc.GatestreamStub, call: str, session_id: str) -> None:
    request = getattr(pb, f"{call}Request")(model="accumulator", session_id=session_id)
    with call_refused(MISSING, pb.REASON_SESSION_UNKNOWN, f"'{session_id[:100]}"):
        getattr(calls, call)(request, timeout=PATIENCE)


@pytest.mark.parametrize("call", ["Describe", "ListSessions", "GetState", "CloseSession", "Fork"])
def test_a_model_that_is_not_there(calls: pb_grpc.GatestreamStub, call: str) -> None:
    with call_refused(MISSING, pb.REASON_MODEL_UNKNOWN, "'none'", "accumulator, counter"):
        getattr(calls, call)(getattr(pb, f"{call}Request")(model="none"), timeout=PATIENCE)


@pytest.mark.parametrize("call", ["GetState", "CloseSession", "Fork"])
def test_no_model_where_there_are_several(calls: pb_grpc.GatestreamStub, call: str) -> None:
    with call_refused(INVALID, pb.REASON_MODEL_UNKNOWN, "model is empty", "accumulator, counter"):
        getattr(calls, call)(getattr(pb, f"{call}Request")(session_id="mine"), timeout=PATIENCE)


def set_state(calls: pb_grpc.GatestreamStub, session_id: str = "mine", **fields: Any) -> None:
    state = good_state()
    for name, value in fields.items():
        state.ClearField(name)
        state.MergeFrom(pb.SessionState(**{name: value}))
    calls.SetState(pb.SetStateRequest(session_id=session_id, state=state), timeout=PATIENCE)


def test_a_state_for_a_session_that_is_not_there(calls: pb_grpc.GatestreamStub) -> None:
    with call_refused(MISSING, pb.REASON_SESSION_UNKNOWN, "'nobody'"):
        set_state(calls, "nobody")


@pytest.mark.parametrize("fingerprint", ["", "counter"])
def test_a_state_of_other_weights(calls: pb_grpc.GatestreamStub, fingerprint: str) -> None:
    with call_refused(INVALID, pb.REASON_STATE_MISMATCH, "state.weights_fingerprint", f"'{fingerprint}'"):
        set_state(calls, weights_fingerprint=fingerprint)


@pytest.mark.parametrize("sizes", [[], [7], [9], [8, 8], [4, 4]])
def test_a_state_of_another_shape(calls: pb_grpc.GatestreamStub, sizes: list[int]) -> None:
    with call_refused(INVALID, pb.REASON_STATE_MISMATCH, f"state.state has columns of {sizes}", "expected [8]"):
        set_state(calls, state=[bytes(size) for size in sizes])


@pytest.mark.parametrize("number", [float("nan"), float("inf")])
def test_a_state_that_is_no_number(calls: pb_grpc.GatestreamStub, number: float) -> None:
    with call_refused(INVALID, pb.REASON_NOT_FINITE, "state.state"):
        set_state(calls, state=[encode([1, number])])


@pytest.mark.parametrize("position", [2**52, 2**63 - 1, 2**63, 2**64 - 1])
def test_a_position_past_which_a_session_could_not_step(calls: pb_grpc.GatestreamStub, position: int) -> None:
    with call_refused(INVALID, pb.REASON_MALFORMED, f"state.position is {position}", "less than 2^52"):
        set_state(calls, position=position)


def test_the_last_position_that_a_state_may_have(server: ServerProcess, calls: pb_grpc.GatestreamStub) -> None:
    with Stream(server.address) as stream:
        stream.opened(0, "far", model="accumulator")
        set_state(calls, "far", position=2**52 - 1)
        stream.steps({0: [[1, 1]] * 2}, first=[2**52 - 1])
        np.testing.assert_array_equal(stream.results({0: 2}, 2)[0], [[6, 7], [7, 8]])
        stream.steps({0: [[1, 1]]}, first=[2**52 + 1])
        np.testing.assert_array_equal(stream.results({0: 1}, 2)[0], [[8, 9]])


def test_a_fork_to_an_id_that_is_taken(calls: pb_grpc.GatestreamStub) -> None:
    with call_refused(EXISTS, pb.REASON_SESSION_EXISTS, "'mine'"):
        calls.Fork(pb.ForkRequest(model="accumulator", session_id="mine", new_session_id="mine"), timeout=PATIENCE)


def test_a_fork_to_an_id_that_no_session_may_have(calls: pb_grpc.GatestreamStub) -> None:
    with call_refused(INVALID, pb.REASON_SESSION_ID_INVALID, "session_id is 'a b'"):
        calls.Fork(pb.ForkRequest(model="accumulator", session_id="mine", new_session_id="a b"), timeout=PATIENCE)


@pytest.mark.parametrize("token", ["x", "1", "1:", "-1:0", "1:2:3", "9999999999:0", "0:0\n", "\u0660:\u0665"])
def test_a_page_token_that_no_page_gave(calls: pb_grpc.GatestreamStub, token: str) -> None:
    with call_refused(INVALID, pb.REASON_MALFORMED, "page_token is "):
        calls.ListSessions(pb.ListSessionsRequest(page_token=token), timeout=PATIENCE)


@pytest.mark.parametrize("token", ["0:999999999", "999999999:0", "1:999999999"])
def test_a_page_token_beyond_the_last_page(calls: pb_grpc.GatestreamStub, token: str) -> None:
    assert calls.ListSessions(pb.ListSessionsRequest(page_token=token), timeout=PATIENCE) == pb.ListSessionsResponse()
