"""What is asked beside the stream about a session that outlives it, and what becomes of it when the answer is lost."""

import numpy as np
import pytest

from gatestream.client import paused, unary
from gatestream.client.errors import (
    ConnectionLostError,
    DeadlineExceededError,
    EpochStaleError,
    ExhaustedError,
    GatestreamError,
    PositionMismatchError,
    RefusedError,
    SessionClosedError,
    SessionElsewhereError,
    StateMismatchError,
    StoreUnavailableError,
)
from gatestream.client.protocol.log import Budget, Log
from gatestream.client.protocol.queue import SessionQueue
from gatestream.protos.gatestream.v1 import gatestream_pb2 as pb
from tests.client.simulated import LIMITS, layout


@pytest.fixture
def queue() -> SessionQueue:
    """Of one session, at sequence 7 and position 4."""
    made = SessionQueue(layout(), np.array([0]), LIMITS.chunk_length)
    made.log = Log(Budget(1 << 20), [pb.Open(epoch=3)])
    made.stands(0, 7, 4)
    return made


def set_state() -> unary.Call[int]:
    return unary.Call("SetState", pb.SetStateRequest(), lambda answer: int(answer.position))


def stands(queue: SessionQueue) -> tuple[int, int]:
    assert queue.offsets is not None
    return int(queue.positions[0] + queue.offsets[0]), int(queue.positions[0])


def test_a_state_is_meant_for_where_the_session_stands(queue: SessionQueue) -> None:
    call = set_state()
    paused.aim(call.request, queue)
    assert call.request == pb.SetStateRequest(sequence=7, epoch=3)
    # Until the answer is known.
    assert queue.sequences(queue.members) is None
    paused.was_set(queue, 50)
    assert stands(queue) == (8, 50)
    assert queue.sequences(queue.members) is not None


def test_a_state_that_a_stream_has_told_of_counts_once(queue: SessionQueue) -> None:
    paused.aim(set_state().request, queue)
    # By `Opened`.
    queue.stands(0, 8, 50)
    paused.was_set(queue, 50)
    assert stands(queue) == (8, 50)


@pytest.mark.parametrize(
    "error",
    [EpochStaleError("", 4), SessionClosedError(""), SessionElsewhereError("")],
    ids=lambda error: type(error).__name__,
)
def test_a_session_that_is_not_as_its_client_had_it_is_asked_for_again(
    queue: SessionQueue, error: GatestreamError
) -> None:
    assert paused.asks_again(queue, set_state(), error)
    assert paused.asks_again(queue, set_state(), ConnectionLostError(""))
    queue.log = None
    assert not paused.asks_again(queue, set_state(), error)


def test_a_session_that_stays_elsewhere_is_not_waited_for(queue: SessionQueue) -> None:
    call, attempts = set_state(), 0
    while paused.asks_again(queue, call, SessionElsewhereError("")):
        call, attempts = call.once_more(), attempts + 1
    assert 3 < attempts < 10


def test_who_was_not_heard_does_not_know(queue: SessionQueue) -> None:
    call = set_state()
    assert paused.aim(call.request, queue)
    assert paused.refused(queue, StateMismatchError(""))
    for error in (DeadlineExceededError(""), RefusedError(""), StoreUnavailableError("", 0.0), KeyboardInterrupt()):
        assert not paused.refused(queue, error)
    # Another attempt may be on its way that fills the room, or has moved the session.
    for refusal in (ExhaustedError("", 0.0), PositionMismatchError("")):
        assert not paused.may_be_done(queue, call, refusal)
        assert paused.may_be_done(queue, call.once_more(), refusal)
    assert not paused.asks_again(queue, call, PositionMismatchError(""))
    assert paused.asks_again(queue, call.once_more(), PositionMismatchError(""))


def test_nothing_is_asked_of_a_session_that_is_away(queue: SessionQueue) -> None:
    call = set_state()
    queue.away = {0}
    assert not paused.aim(call.request, queue)
    assert queue.log is not None
    assert not queue.log.unsettled
    # Its next Opened says what became of an attempt before.
    assert not paused.refused(queue, StateMismatchError(""))
