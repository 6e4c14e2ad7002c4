"""The order of a queue: what becomes of what waits behind work that failed, was refused, withdrawn or closed."""

import numpy as np

from gatestream.client.errors import (
    DeadlineExceededError,
    PrecedingFailedError,
    RowsExhaustedError,
    SessionClosedError,
    StepFailedError,
)
from gatestream.client.protocol.requests import Kind
from gatestream.protos.gatestream.v1 import gatestream_pb2 as pb
from tests.client.simulated import Pair, answers


def test_what_is_behind_a_failed_step_is_not_sent() -> None:
    pair = Pair()
    a, b = pair.open(), pair.open()
    failing = pair.step(a, [[1, 1]])
    behind = [pair.step(a, [[2]]), pair.step(a, [[3]])]
    other = pair.step(b, [[4]])
    reset = pair.control(a, Kind.RESET)
    fine = pair.step(a, [[5]])
    pair.tell(pair.server.answer({0: 1}))
    pair.tell(pair.server.refuse(0, pb.REASON_STEP_FAILED))
    assert isinstance(failing.error, StepFailedError)
    assert failing.error.members.tolist() == [0]
    assert [type(each.error) for each in behind] == [PrecedingFailedError] * 2
    assert a.positions.tolist() == [1]
    pair.settle()
    assert reset.error is None
    assert list(answers(other)) == [[4]]
    assert list(answers(fine)) == [[5]]


def test_of_steps_that_left_together_the_first_not_taken_failed_and_those_behind_were_preceded() -> None:
    pair = Pair()
    a = pair.open()
    pair.step(a, [[0]])
    works = [pair.step(a, [[k]]) for k in (1, 2, 3)]
    pair.tell(pair.server.answer({0: 1}))
    pair.tell(pair.server.answer({0: 1}))
    pair.tell(pair.server.refuse(0, pb.REASON_STEP_FAILED))
    assert list(answers(works[0])) == [[1]]
    assert [type(each.error) for each in works[1:]] == [StepFailedError, PrecedingFailedError]


def test_a_refusal_waits_for_its_caller_and_holds_what_is_behind() -> None:
    pair = Pair()
    a, b = pair.open(), pair.open()
    work = pair.step(a, [[1]])
    behind = pair.step(a, [[2]])
    pair.tell(pair.server.refuse(0, pb.REASON_ROWS_EXHAUSTED))
    assert not work.done
    assert isinstance(work.refusal, RowsExhaustedError)
    assert work.refusal.retry_after == 0.005
    assert not pair.server.pending()
    other = pair.step(b, [[3]])
    assert pair.server.pending() == [1]
    pair.multiplexer.again(a)
    pair.settle()
    assert [list(answers(each)) for each in (work, behind, other)] == [[[1]], [[3]], [[3]]]


def test_without_retry_a_refusal_is_an_error() -> None:
    pair = Pair(retry=False)
    work = pair.step(pair.open(), [[1]])
    pair.tell(pair.server.refuse(0, pb.REASON_ROWS_EXHAUSTED))
    assert isinstance(work.error, RowsExhaustedError)


def test_withdrawn_before_it_left_it_never_leaves() -> None:
    pair = Pair()
    a = pair.open()
    first, second, third = (pair.step(a, [[k]]) for k in (1, 2, 3))
    pair.multiplexer.withdraw(a, second, DeadlineExceededError("late"))
    assert isinstance(second.error, DeadlineExceededError)
    assert isinstance(third.error, PrecedingFailedError)
    pair.settle()
    assert list(answers(first)) == [[1]]
    assert a.positions.tolist() == [1]


def test_withdrawn_on_its_way_it_is_accounted_for() -> None:
    pair = Pair()
    a = pair.open()
    first = pair.step(a, [[1] * 8])
    pair.multiplexer.withdraw(a, first, DeadlineExceededError("late"))
    after = pair.step(a, [[10]])
    assert pair.server.pending() == [0]
    pair.settle()
    # Five steps had left, the other three never did.
    assert a.positions.tolist() == [6]
    assert list(answers(after)) == [[15]]
    assert isinstance(first.error, DeadlineExceededError)


def test_withdrawn_while_refused_it_fails_what_is_behind() -> None:
    pair = Pair()
    a = pair.open()
    work, behind = pair.step(a, [[1]]), pair.step(a, [[2]])
    pair.tell(pair.server.refuse(0, pb.REASON_ROWS_EXHAUSTED))
    assert work.refusal is not None
    pair.multiplexer.withdraw(a, work, work.refusal)
    assert isinstance(behind.error, PrecedingFailedError)
    after = pair.step(a, [[3]])
    pair.settle()
    assert list(answers(after)) == [[3]]


def test_closed_sessions_fail_what_waits_for_them() -> None:
    pair = Pair()
    group = pair.open(2)
    work = pair.step(group, [[1], [2]])
    behind = pair.step(group, [[1], [2]])
    pair.tell(pair.server.answer({0: 1, 1: 1}))
    assert list(answers(work)) == [[1], [2]]
    # Closed while the second message is on its way; the server refuses that message when it comes.
    session = pair.server.sessions[1]
    pair.tell(pair.server.close(1, pb.CLOSE_REASON_IDLE))
    assert session.entry is not None
    pair.tell(
        pb.ServerMessage(error=pb.Error(handle=[1], first=[1], reason=pb.REASON_HANDLE_UNKNOWN, message="no such"))
    )
    pair.tell(pair.server.answer({0: 1}))
    assert isinstance(behind.error, SessionClosedError)
    assert behind.error.close_reason == pb.CLOSE_REASON_IDLE
    assert behind.error.members.tolist() == [1]
    refused = pair.step(group, [[1], [2]])
    assert isinstance(refused.error, SessionClosedError)
    assert np.array_equal(refused.error.members, [1])
    alone = pair.step(group, [[5]], members=[0])
    pair.settle()
    assert list(answers(alone)) == [[7]]
    closing = pair.control(group, Kind.CLOSE)
    assert pair.server.controlled() == [0]
    pair.settle()
    assert closing.done
    assert closing.error is None
