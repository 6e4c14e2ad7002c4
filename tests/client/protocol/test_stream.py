"""Handles, and what a server may not say."""

from typing import Any

import numpy as np
import pytest

from gatestream.client.errors import (
    ConnectionLostError,
    DrainingError,
    GatestreamError,
    MalformedError,
    PositionMismatchError,
    ProtocolError,
    SessionClosedError,
    SessionExistsError,
    SessionsExhaustedError,
)
from gatestream.client.models import opens
from gatestream.client.protocol.log import Budget
from gatestream.client.protocol.requests import Kind
from gatestream.client.protocol.stream import Multiplexer
from gatestream.protos.gatestream.v1 import gatestream_pb2 as pb
from tests.client.simulated import LIMITS, SPEC, Pair, answers, layout


def test_a_handle_is_used_again_when_its_session_is_closed() -> None:
    pair = Pair()
    for _ in range(3 * LIMITS.sessions_per_stream):
        session_queue = pair.open()
        pair.control(session_queue, Kind.CLOSE)
        pair.settle()
    # As many as a stream may hold still fit.
    assert len({int(pair.open().handles[0]) for _ in range(LIMITS.sessions_per_stream)}) == LIMITS.sessions_per_stream


def test_no_more_sessions_than_a_stream_may_hold() -> None:
    pair = Pair()
    for _ in range(LIMITS.sessions_per_stream):
        pair.open()
    with pytest.raises(SessionsExhaustedError, match="allows 12 on one, and 0 are free: connect once more"):
        pair.opening()


def test_a_group_that_no_message_can_carry() -> None:
    pair = Pair()
    pair.layout.request_bytes = 100
    with pytest.raises(SessionsExhaustedError, match="a group of 12 sessions: the server takes steps of 6 at once"):
        pair.opening(12)
    # Nothing is held by the refused one.
    for _ in range(LIMITS.sessions_per_stream):
        pair.open()


def test_a_session_that_cannot_be_opened_gives_its_handle_back() -> None:
    pair = Pair()
    for _ in range(3 * LIMITS.sessions_per_stream):
        session_queue, work = pair.opening()
        pair.tell(pair.server.refuse_open(pb.REASON_SESSION_EXISTS))
        assert isinstance(work.error, SessionExistsError)
        assert isinstance(pair.step(session_queue, [[1]]).error, SessionClosedError)
    pair.open()


def test_a_group_of_which_one_cannot_be_opened_is_closed_again() -> None:
    pair = Pair()
    _, work = pair.opening(3)
    pair.tell(pair.server.open())
    pair.tell(pair.server.refuse_open(pb.REASON_SESSION_EXISTS))
    assert not work.done
    pair.tell(pair.server.open())
    assert isinstance(work.error, SessionExistsError)
    assert work.error.members.tolist() == [1]
    assert len(pair.server.controlled()) == 2
    pair.settle()
    assert pair.server.sessions == {}


def test_an_opening_that_nobody_waits_for_is_closed_when_it_comes() -> None:
    pair = Pair()
    session_queue, work = pair.opening()
    pair.multiplexer.withdraw(session_queue, work, GatestreamError("late"))
    pair.flush()
    pair.settle()
    assert pair.server.sessions == {}
    pair.open()


def test_an_opening_whose_caller_left_when_it_was_answered_is_closed() -> None:
    pair = Pair()
    session_queue, work = pair.opening()
    pair.tell(pair.server.open())
    assert work.done
    pair.multiplexer.withdraw(session_queue, work, GatestreamError("cancelled"))
    pair.flush()
    pair.settle()
    assert pair.server.sessions == {}


def test_an_opening_refused_for_lack_of_room_may_be_tried_again() -> None:
    pair = Pair()
    session_queue, work = pair.opening()
    pair.tell(pair.server.refuse_open(pb.REASON_SESSIONS_EXHAUSTED))
    assert not work.done
    assert work.refusal is not None
    pair.multiplexer.again(session_queue)
    pair.flush()
    pair.tell(pair.server.open())
    assert work.done
    assert session_queue.ids == ["session-1"]


def test_an_opening_given_up_while_there_is_no_room_gives_its_handle_back() -> None:
    pair = Pair()
    for _ in range(3 * LIMITS.sessions_per_stream):
        session_queue, work = pair.opening()
        pair.tell(pair.server.refuse_open(pb.REASON_SESSIONS_EXHAUSTED))
        assert work.refusal is not None
        pair.multiplexer.withdraw(session_queue, work, work.refusal)
    pair.open()


@pytest.mark.parametrize("kind", [Kind.RESET, Kind.CLOSE])
def test_a_control_that_crosses_the_end_of_its_session(kind: Kind) -> None:
    pair = Pair()
    session_queue = pair.open()
    work = pair.control(session_queue, kind)
    pair.tell(pair.server.close(0, pb.CLOSE_REASON_IDLE))
    assert work.done
    assert (type(work.error) is SessionClosedError) == (kind is Kind.RESET)
    # The handle may not be used before the server has refused what crossed.
    others = [pair.open() for _ in range(LIMITS.sessions_per_stream - 1)]
    with pytest.raises(SessionsExhaustedError):
        pair.opening()
    pair.tell(pb.ServerMessage(error=pb.Error(handle=[0], reason=pb.REASON_HANDLE_UNKNOWN, message="no such")))
    assert int(pair.open().handles[0]) == 0
    assert all(not other.closed for other in others)


def test_steps_of_a_session_that_is_being_taken_over() -> None:
    pair = Pair()
    session_queue = pair.open()
    work = pair.step(session_queue, [[1]])
    # The server has given the session away, refuses its steps, and says so only when its work is done.
    pair.tell(pair.server.refuse(0, pb.REASON_HANDLE_UNKNOWN))
    assert isinstance(work.error, SessionClosedError)
    closing = pair.control(session_queue, Kind.CLOSE)
    pair.tell(pair.server.refuse(0, pb.REASON_HANDLE_UNKNOWN))
    assert closing.done
    assert closing.error is None
    pair.tell(pair.server.close(0, pb.CLOSE_REASON_TAKEN_OVER))
    error = pair.step(session_queue, [[1]]).error
    assert isinstance(error, SessionClosedError)
    assert error.close_reason == pb.CLOSE_REASON_TAKEN_OVER
    assert str(error) == "session 'session-1' was closed since another stream opened it"
    assert int(pair.open().handles[0]) == 0


def test_a_session_that_somebody_else_moved() -> None:
    pair = Pair()
    session_queue = pair.open()
    work = pair.step(session_queue, [[1]])
    pair.server.sessions[0].position = 7
    pair.tell(pair.server.refuse(0, pb.REASON_POSITION_MISMATCH))
    assert isinstance(work.error, PositionMismatchError)
    assert session_queue.positions.tolist() == [7]
    after = pair.step(session_queue, [[1]])
    pair.settle()
    assert list(answers(after)) == [[1]]


def test_going_away_opens_nothing_and_goes_on_stepping() -> None:
    pair = Pair()
    session_queue = pair.open()
    assert pair.multiplexer.usable
    pair.tell(pb.ServerMessage(going_away=pb.GoingAway(deadline_ms=100)))
    assert not pair.multiplexer.usable
    assert not pair.multiplexer.lost
    with pytest.raises(DrainingError):
        pair.opening()
    work = pair.step(session_queue, [[1]])
    pair.settle()
    assert list(answers(work)) == [[1]]


def test_the_end_answers_all_and_whoever_comes_after() -> None:
    pair = Pair()
    a, b = pair.open(), pair.open(2)
    works: list[Any] = [pair.step(a, [[1]]), pair.step(a, [[1]]), pair.step(b, [[1], [1]]), pair.opening()[1]]
    pair.multiplexer.end(lambda: ConnectionLostError("gone"))
    assert [type(work.error) for work in works] == [ConnectionLostError] * 4
    assert len({id(work.error) for work in works}) == 4
    assert isinstance(pair.step(a, [[1]]).error, ConnectionLostError)
    # What the connection held is closed with it.
    assert pair.control(a, Kind.CLOSE).error is None


def test_a_pause_holds_the_queue() -> None:
    pair = Pair()
    session_queue = pair.open()
    before, pause, after = (
        pair.step(session_queue, [[1]]),
        pair.control(session_queue, Kind.PAUSE),
        pair.step(session_queue, [[2]]),
    )
    assert not pause.done
    pair.tell(pair.server.answer({0: 1}))
    assert before.done
    assert pause.done
    assert pair.server.pending() == []
    pair.multiplexer.resume(session_queue)
    pair.flush()
    pair.settle()
    assert list(answers(after)) == [[3]]


def test_a_pause_whose_caller_left_ends() -> None:
    pair = Pair()
    session_queue = pair.open()
    pause, after = pair.control(session_queue, Kind.PAUSE), pair.step(session_queue, [[2]])
    assert pause.done
    pair.multiplexer.withdraw(session_queue, pause, GatestreamError("cancelled"))
    pair.flush()
    pair.settle()
    assert list(answers(after)) == [[2]]


def test_a_message_of_a_later_protocol_is_not_minded() -> None:
    pair = Pair()
    pair.tell(pb.ServerMessage())
    assert pair.multiplexer.usable


def results(**fields: Any) -> pb.ServerMessage:
    column = np.zeros(4, "<i8").tobytes()
    return pb.ServerMessage(results=pb.Results(**{"handle": [0], "first": [0], "output": [column[:8]], **fields}))


@pytest.mark.parametrize(
    ("message", "text"),
    [
        (results(handle=[5]), "an answer came for handles"),
        (results(handle=[4_000_000_000]), "an answer came for handles"),
        (results(handle=[1]), "steps that were not sent"),
        (results(first=[2]), r"steps were answered from positions \[2\].* \[1\] come next"),
        (results(first=[1], length=[3], output=[bytes(24)]), r"as many as \[3\]"),
        (results(first=[]), "results of 1 sessions came with 0 positions"),
        (results(output=[bytes(7)]), "holds 7 bytes"),
        (results(output=[]), "0 output and 0 gate columns"),
        (results(handle=[3, 3], first=[0, 0], output=[bytes(16)]), "answered a session twice"),
        (pb.ServerMessage(opened=pb.Opened(handle=0)), "kind OPEN that was not sent"),
        (pb.ServerMessage(reset_done=pb.ResetDone(handle=[0], position=[0])), "kind RESET that was not sent"),
        (pb.ServerMessage(error=pb.Error(handle=[1], reason=pb.REASON_STEP_FAILED)), "refused what was not sent"),
    ],
)
def test_what_no_server_may_say(message: pb.ServerMessage, text: str) -> None:
    pair = Pair()
    stepping, _, group = pair.open(), pair.open(), pair.open(2)
    pair.step(stepping, [[1, 1, 1]])
    pair.step(group, [[1], [1]])
    pair.tell(pair.server.answer({0: 1}))
    with pytest.raises(ProtocolError, match=text):
        pair.tell(message)


def test_bytes_that_are_no_message() -> None:
    with pytest.raises(ProtocolError, match=r"^2 bytes came that are no message: "):
        Pair().multiplexer.receive(b"\xff\xff")


def test_a_whole_answer_to_other_steps() -> None:
    pair = Pair()
    pair.step(pair.open(), [[1]])
    with pytest.raises(ProtocolError, match=r"from positions \[3\].* those from \[0\] come next"):
        pair.tell(results(first=[3]))


def test_an_error_about_no_session_is_an_error_of_the_stream() -> None:
    with pytest.raises(MalformedError, match="nothing was asked"):
        Pair().tell(pb.ServerMessage(error=pb.Error(reason=pb.REASON_MALFORMED, message="nothing was asked")))


def test_unlike_columns_in_one_message() -> None:
    pair = Pair()
    a = pair.open()
    pair.layout = type(pair.layout)(SPEC, outputs=False, gates=False)
    b, work = pair.multiplexer.open(pair.layout, opens(SPEC, [""], "create", outputs=False, gates=False))
    pair.multiplexer.add(b, work)
    pair.flush()
    pair.tell(pair.server.open())
    for session_queue in (a, b, a):
        pair.step(session_queue, [[1]])
    pair.tell(pair.server.answer({0: 1}))
    assert pair.server.pending() == [0, 1]
    with pytest.raises(ProtocolError, match="unlike columns"):
        pair.tell(pair.server.answer({0: 1, 1: 1}))


def test_a_session_whose_opening_ends_it_again_and_again_uses_up_no_handles() -> None:
    limits = pb.Limits()
    limits.CopyFrom(LIMITS)
    limits.sessions_per_stream, limits.durability, limits.store = 3, pb.DURABILITY_BEHIND, "sqlite"
    multiplexer = Multiplexer(limits, retry=True, budget=Budget(1 << 20))

    def opens_by() -> int:
        (sent,) = multiplexer.take()
        return pb.ClientMessage.FromString(sent).open.handle

    def say(**kind: Any) -> None:
        multiplexer.receive(pb.ServerMessage(**kind).SerializeToString())

    session_queue, work = multiplexer.open(layout(), [pb.Open(model="sum")])
    multiplexer.add(session_queue, work)
    first = opens_by()
    say(opened=pb.Opened(handle=first, session_id="s", epoch=1))
    assert session_queue.log is not None
    session_queue.log.unsettled.add(0)
    assert multiplexer.settle(session_queue)
    handle = opens_by()
    assert handle != first
    say(closed=pb.Closed(handle=[first], position=[0], reason=pb.CLOSE_REASON_TAKEN_OVER))
    for _ in range(10):
        say(closed=pb.Closed(handle=[handle], position=[0], reason=pb.CLOSE_REASON_FENCED))
        handle = opens_by()
    say(opened=pb.Opened(handle=handle, session_id="s", epoch=20))
    assert not session_queue.away
