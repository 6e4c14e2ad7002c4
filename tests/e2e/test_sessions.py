"""The unary calls: what they tell and do, between the steps that were accepted before them and those after."""

import time
from collections.abc import Iterator

import grpc
import numpy as np
import pytest

from gatestream.protos.gatestream.v1 import gatestream_pb2 as pb
from tests.support.artifacts import ACCUMULATOR_FINGERPRINT
from tests.support.process import ServerProcess
from tests.support.wire import PATIENCE, Stream, call_refused, encode, until


@pytest.fixture
def stream(server: ServerProcess) -> Iterator[Stream]:
    """With the session "a" at position 2, its sums [4, 6]."""
    with Stream(server.address) as stream:
        stream.opened(0, "a")
        stream.stepped(0, [[1, 2], [3, 4]])
        yield stream
    with Stream(server.address) as other:
        until(lambda: not listed(other), "no session was left")


def listed(stream: Stream) -> dict[str, pb.SessionInfo]:
    page = stream.calls.ListSessions(pb.ListSessionsRequest(page_size=1000), timeout=PATIENCE)
    return {item.session_id: item for item in page.sessions}


def state(stream: Stream, session_id: str) -> pb.SessionState:
    return stream.calls.GetState(pb.GetStateRequest(session_id=session_id), timeout=PATIENCE)


def behind_a_long_chunk(stream: Stream, steps: int = 2000) -> None:
    """Have a chunk of ones running in session 0; what is asked now, must wait for the rest of it."""
    stream.steps({0: np.ones((steps, 2))})
    stream.expect("results")


def drain(stream: Stream, steps: int = 1999) -> None:
    stream.results({0: steps}, 2)


def test_the_only_model_in_another_version(server: ServerProcess) -> None:
    with Stream(server.address) as stream:
        stream.open(0, version="7")
        error = stream.refused()
        assert (error.reason, list(error.handle)) == (pb.REASON_MODEL_UNKNOWN, [0])
        assert "'accumulator' is here in version '1', not '7'" in error.message
        assert stream.opened(0, version="1").version == "1"


# ---- GetState ------------------------------------------------------------------------------------


def test_get_state(stream: Stream) -> None:
    expected = pb.SessionState(
        model="accumulator", weights_fingerprint=ACCUMULATOR_FINGERPRINT, position=2, state=[encode([4, 6])]
    )
    assert state(stream, "a") == expected
    # It is a copy: the session goes on.
    assert stream.stepped(0, [[1, 1]]).tolist() == [[5, 7]]


def test_get_state_of_a_session_that_took_no_step(stream: Stream) -> None:
    stream.opened(1, "fresh")
    assert (state(stream, "fresh").position, state(stream, "fresh").state[0]) == (0, encode([0, 0]))
    stream.reset(0)
    stream.expect("reset_done")
    assert (state(stream, "a").position, state(stream, "a").state[0]) == (2, encode([0, 0]))


def test_get_state_waits_for_the_steps_before_it(stream: Stream) -> None:
    behind_a_long_chunk(stream)
    got = state(stream, "a")
    assert (got.position, got.state[0]) == (2002, encode([2004, 2006]))
    drain(stream)


# ---- SetState ------------------------------------------------------------------------------------


def test_set_state_takes_a_session_to_another_server_or_time(stream: Stream) -> None:
    saved = state(stream, "a")
    stream.stepped(0, [[100, 100]])
    stream.opened(1, "b")
    for handle, session_id in enumerate("ab"):
        answer = stream.calls.SetState(pb.SetStateRequest(session_id=session_id, state=saved), timeout=PATIENCE)
        assert answer.position == 2
        stream.steps({handle: [[1, 1]]}, first=[2])
        assert stream.results({handle: 1}, 2)[handle].tolist() == [[5, 7]]


def test_set_state_right_after_open_and_reset(stream: Stream) -> None:
    # Both have an initial state to write, which must not be written over what is set.
    saved = state(stream, "a")
    stream.opened(1, "b")
    stream.calls.SetState(pb.SetStateRequest(session_id="b", state=saved), timeout=PATIENCE)
    assert stream.stepped(1, [[1, 1]]).tolist() == [[5, 7]]
    stream.reset(1)
    stream.expect("reset_done")
    stream.calls.SetState(pb.SetStateRequest(session_id="b", state=saved), timeout=PATIENCE)
    assert stream.stepped(1, [[1, 1]]).tolist() == [[5, 7]]


def test_set_state_stands_between_the_steps_before_and_after_it(stream: Stream) -> None:
    behind_a_long_chunk(stream)
    new = pb.SessionState(weights_fingerprint=ACCUMULATOR_FINGERPRINT, position=50, state=[encode([-1, -2])])
    setting = stream.calls.SetState.future(pb.SetStateRequest(session_id="a", state=new), timeout=PATIENCE)
    stream.calls.Describe(pb.DescribeRequest(), timeout=PATIENCE)  # Answered behind the call before it.
    stream.steps({0: [[10, 20]]}, first=[50])
    first: list[int] = []
    while len(first) < 2000:
        results = stream.expect("results")
        first += results.first
    assert first == [*range(3, 2002), 50]
    assert results.output[0] == encode([9, 18])
    assert setting.result().position == 50


# ---- Fork ----------------------------------------------------------------------------------------


def test_fork_copies_state_and_position(stream: Stream) -> None:
    answer = stream.calls.Fork(pb.ForkRequest(session_id="a", new_session_id="twin"), timeout=PATIENCE)
    assert (answer.session_id, answer.position) == ("twin", 2)
    assert not listed(stream)["twin"].attached
    # Each goes its own way.
    assert stream.stepped(0, [[1, 1]]).tolist() == [[5, 7]]
    opened = stream.opened(1, "twin", mode=pb.OPEN_MODE_RESUME)
    assert (opened.position, opened.created) == (2, False)
    assert stream.stepped(1, [[10, 10]]).tolist() == [[14, 16]]
    assert stream.stepped(0, [[1, 1]]).tolist() == [[6, 8]]


def test_fork_makes_an_id(stream: Stream) -> None:
    answer = stream.calls.Fork(pb.ForkRequest(session_id="a"), timeout=PATIENCE)
    assert len(answer.session_id) == 22
    assert answer.session_id in listed(stream)
    stream.calls.CloseSession(pb.CloseSessionRequest(session_id=answer.session_id), timeout=PATIENCE)


def test_fork_waits_for_the_steps_before_it(stream: Stream) -> None:
    behind_a_long_chunk(stream)
    answer = stream.calls.Fork(pb.ForkRequest(session_id="a", new_session_id="twin"), timeout=PATIENCE)
    assert answer.position == 2002
    assert state(stream, "twin").state[0] == encode([2004, 2006])
    drain(stream)
    stream.calls.CloseSession(pb.CloseSessionRequest(session_id="twin"), timeout=PATIENCE)


def test_a_fork_outlives_the_stream_of_its_original(server: ServerProcess, stream: Stream) -> None:
    with Stream(server.address) as other:
        other.opened(0, "original")
        other.stepped(0, [[5, 5]])
        other.calls.Fork(pb.ForkRequest(session_id="original", new_session_id="twin"), timeout=PATIENCE)
    until(lambda: "original" not in listed(stream), "the session had ended")
    assert not stream.opened(1, "twin").created
    assert stream.stepped(1, [[1, 1]]).tolist() == [[6, 6]]


# ---- CloseSession --------------------------------------------------------------------------------


def test_close_session_tells_the_owner(stream: Stream) -> None:
    answer = stream.calls.CloseSession(pb.CloseSessionRequest(session_id="a"), timeout=PATIENCE)
    assert answer.position == 2
    assert stream.expect("closed") == pb.Closed(handle=[0], position=[2], reason=pb.CLOSE_REASON_ADMINISTERED)
    with call_refused(grpc.StatusCode.NOT_FOUND, pb.REASON_SESSION_UNKNOWN):
        state(stream, "a")
    # Handle and id are free.
    assert stream.opened(0, "a").created
    assert stream.stepped(0, [[1, 1]]).tolist() == [[1, 1]]


def test_close_session_waits_for_the_steps_before_it_and_refuses_those_behind(stream: Stream) -> None:
    behind_a_long_chunk(stream)
    closing = stream.calls.CloseSession.future(pb.CloseSessionRequest(session_id="a"), timeout=PATIENCE)
    stream.calls.Describe(pb.DescribeRequest(), timeout=PATIENCE)  # Answered behind the call before it.
    stream.steps({0: [[1, 1]] * 3})
    drain(stream)
    error = stream.refused()
    assert (error.reason, list(error.handle)) == (pb.REASON_SESSION_CLOSED, [0])
    assert (list(error.first), list(error.length)) == ([2002], [3])
    assert stream.expect("closed") == pb.Closed(handle=[0], position=[2002], reason=pb.CLOSE_REASON_ADMINISTERED)
    assert closing.result().position == 2002


# ---- ListSessions --------------------------------------------------------------------------------


def test_list_sessions_tells_of_each(stream: Stream) -> None:
    before = time.monotonic()
    stream.stepped(0, [[1, 1]])
    stream.calls.Fork(pb.ForkRequest(session_id="a", new_session_id="twin"), timeout=PATIENCE)
    got = listed(stream)
    assert got.keys() == {"a", "twin"}
    for item in got.values():
        assert (item.model, item.position) == ("accumulator", 3)
        assert 0 <= item.idle_s <= time.monotonic() - before
    assert (got["a"].attached, got["twin"].attached) == (True, False)
    stream.calls.CloseSession(pb.CloseSessionRequest(session_id="twin"), timeout=PATIENCE)


@pytest.mark.parametrize("size", [1, 7, 100, 249, 250, 251, 0, 5000])
def test_pages_hold_every_session_once(stream: Stream, size: int) -> None:
    for handle in range(1, 250):
        stream.open(handle, f"s{handle}")
    for _ in range(249):
        stream.expect("opened")
    # Holes, where slots have come free.
    stream.close(*range(10, 200, 3))
    closed = 0
    while closed < len(range(10, 200, 3)):
        closed += len(stream.expect("closed").handle)
    expected = {"a", *(f"s{k}" for k in range(1, 250))} - {f"s{k}" for k in range(10, 200, 3)}
    got: list[str] = []
    token = ""
    pages = 0
    while token or not pages:
        request = pb.ListSessionsRequest(page_size=size, page_token=token)
        page = stream.calls.ListSessions(request, timeout=PATIENCE)
        assert len(page.sessions) <= min(size or 100, 1000)
        got += [item.session_id for item in page.sessions]
        token, pages = page.next_page_token, pages + 1
    assert sorted(got) == sorted(expected)


def test_a_page_beside_opening_and_closing(stream: Stream) -> None:
    """Sessions that are there all the time are listed, whatever comes and goes between two pages."""
    for handle in range(1, 40):
        stream.opened(handle, f"stays{handle}" if handle % 2 else f"goes{handle}")
    first = stream.calls.ListSessions(pb.ListSessionsRequest(page_size=20), timeout=PATIENCE)
    stream.close(*range(2, 40, 2))
    assert list(stream.expect("closed").handle) == list(range(2, 40, 2))
    for handle in range(40, 60):
        stream.opened(handle, f"comes{handle}")
    rest = stream.calls.ListSessions(
        pb.ListSessionsRequest(page_size=1000, page_token=first.next_page_token), timeout=PATIENCE
    )
    got = [item.session_id for page in (first, rest) for item in page.sessions]
    assert {item for item in got if item.startswith("stays")} == {f"stays{k}" for k in range(1, 40, 2)}
    assert len(set(got)) == len(got)
