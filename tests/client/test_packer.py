"""The self-clocking rule, and that no step is lost, repeated, misplaced or left without an answer."""

from typing import Any

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from gatestream.client.errors import (
    DeadlineExceededError,
    NotFiniteError,
    PrecedingFailedError,
    RowsExhaustedError,
    SessionClosedError,
    StepFailedError,
)
from gatestream.client.lane import Lane
from gatestream.client.work import Chunk, Control, Kind
from gatestream.protos.gatestream.v1 import gatestream_pb2 as pb
from tests.client.simulated import LIMITS, Pair, answers, layout


def test_idle_at_once_busy_together() -> None:
    pair = Pair()
    a, b, c = (pair.open() for _ in range(3))
    first = pair.step(a, [[1]])
    assert pair.server.messages == 1
    others = [pair.step(b, [[2]]), pair.step(c, [[3]]), pair.step(a, [[4]]), pair.step(b, [[5]])]
    assert pair.server.messages == 1
    pair.tell(pair.server.answer({0: 1}))
    assert first.done
    # What gathered left in one message, the two steps of b as one entry.
    assert pair.server.messages == 2
    assert pair.server.waiting() == {0: [4], 1: [2, 5], 2: [3]}
    pair.settle()
    assert [list(answers(each)) for each in others] == [[[2]], [[3]], [[5]], [[7]]]


def test_the_first_part_of_an_answer_opens_the_clock() -> None:
    pair = Pair()
    a, b = pair.open(), pair.open()
    long = pair.step(a, [[1, 1, 1, 1, 1]])
    short = pair.step(b, [[7]])
    assert pair.server.pending() == [0]
    pair.tell(pair.server.answer({0: 2}))
    assert pair.server.pending() == [0, 1]
    pair.tell(pair.server.answer({1: 1}))
    assert short.done
    assert not long.done
    pair.settle()
    assert list(answers(long)) == [[1, 2, 3, 4, 5]]


def test_a_long_chunk_leaves_in_pieces_and_lets_others_in_between() -> None:
    pair = Pair()
    a, b = pair.open(), pair.open()
    long = pair.step(a, [[1] * 12])
    short = pair.step(b, [[7]])
    pair.tell(pair.server.answer({0: LIMITS.chunk_length}))
    pair.tell(pair.server.answer({1: 1}))
    assert short.done
    pair.settle()
    assert list(answers(long)) == [list(range(1, 13))]
    assert long.first.tolist() == [0]


def test_controls_do_not_wait_for_the_model() -> None:
    pair = Pair()
    a, b = pair.open(), pair.open()
    pair.step(a, [[1]])
    reset = pair.control(b, Kind.RESET)
    assert pair.server.controlled() == [1]
    pair.tell(pair.server.obey(1))
    assert reset.done
    assert pair.server.pending() == [0]


def test_controls_keep_their_place_among_the_steps_of_their_session() -> None:
    pair = Pair()
    a = pair.open()
    before, reset, after = pair.step(a, [[5]]), pair.control(a, Kind.RESET), pair.step(a, [[2]])
    closing = pair.control(a, Kind.CLOSE)
    pair.settle()
    assert list(answers(before)) == [[5]]
    assert list(answers(after)) == [[2]]
    assert reset.error is closing.error is None
    assert after.first.tolist() == [1]


def test_rows_and_bytes_bound_what_is_on_its_way() -> None:
    pair = Pair()
    lanes = [pair.open() for _ in range(10)]
    pair.step(lanes[0], [[0]])
    works = [pair.step(lane, [[1] * 5]) for lane in lanes]
    pair.settle()
    assert pair.server.messages > 1 + 50 // LIMITS.rows_per_stream
    for work in works:
        assert list(answers(work)) == [[1, 2, 3, 4, 5]]


@pytest.mark.parametrize(("limit", "besides"), [("message_bytes", 64), ("reply_bytes_per_stream", 0)])
def test_bytes_bound_a_message(limit: str, besides: int) -> None:
    limits = pb.Limits()
    limits.CopyFrom(LIMITS)
    setattr(limits, limit, 3 * layout().request_bytes + besides)
    pair = Pair(limits=limits)
    lanes = [pair.open() for _ in range(7)]
    pair.step(lanes[0], [[0]])
    works = [pair.step(lane, [[1, 1]]) for lane in lanes]
    while pair.server.pending():
        assert pair.server.rows <= 3
        pair.tell(pair.server.answer({handle: len(xs) for handle, xs in pair.server.waiting().items()}))
    for work in works:
        assert list(answers(work)) == [[1, 2]]


def test_a_group_is_one_entry_each_in_one_message() -> None:
    pair = Pair()
    group = pair.open(4)
    work = pair.step(group, [[1], [2], [3], [4]])
    assert pair.server.pending() == [0, 1, 2, 3]
    # Answered in parts, in any order.
    pair.tell(pair.server.answer({2: 1}))
    pair.tell(pair.server.answer({3: 1, 0: 1}))
    assert not work.done
    pair.tell(pair.server.answer({1: 1}))
    assert list(answers(work)) == [[1], [2], [3], [4]]
    some = pair.step(group, [[10, 10], [20, 20]], members=[1, 3])
    pair.settle()
    assert list(answers(some)) == [[12, 22], [24, 44]]
    assert group.positions.tolist() == [1, 3, 1, 3]


def test_ragged_parts_of_a_group() -> None:
    pair = Pair()
    group = pair.open(3)
    work = pair.step(group, [[1, 1, 1], [2, 2, 2], [3, 3, 3]])
    pair.tell(pair.server.answer({1: 2}))
    pair.tell(pair.server.answer({2: 1, 0: 3}))
    pair.tell(pair.server.answer({2: 2, 1: 1}))
    assert list(answers(work)) == [[1, 2, 3], [2, 4, 6], [3, 6, 9]]


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


def test_a_failure_names_the_members_of_a_group() -> None:
    pair = Pair()
    group = pair.open(3)
    work = pair.step(group, [[1], [2], [3]])
    pair.tell(pair.server.answer({0: 1, 2: 1}))
    pair.tell(pair.server.refuse(1, pb.REASON_STEP_FAILED))
    assert isinstance(work.error, StepFailedError)
    assert work.error.members.tolist() == [1]
    assert group.positions.tolist() == [1, 0, 1]
    again = pair.step(group, [[1], [2], [3]])
    pair.settle()
    assert list(answers(again)) == [[2], [2], [6]]


def test_a_failure_brings_what_was_taken_all_the_same() -> None:
    pair = Pair()
    group = pair.open(3)
    work = pair.step(group, [[1] * 4, [2] * 4, [3] * 4])
    pair.tell(pair.server.answer({2: 4, 0: 2}))
    pair.tell(pair.server.refuse(1, pb.REASON_NOT_FINITE))
    pair.tell(pair.server.refuse(0, pb.REASON_STEP_FAILED))
    error = work.error
    assert isinstance(error, NotFiniteError)
    assert error.members.tolist() == [0, 1]
    assert {member: type(each) for member, each in error.failures.items()} == {0: StepFailedError, 1: NotFiniteError}
    assert work.taken is not None
    assert work.taken.tolist() == [2, 0, 4]
    assert work.results()[0].tolist() == [[1, 2, 0, 0], [0, 0, 0, 0], [3, 6, 9, 12]]
    assert group.positions.tolist() == [2, 0, 4]


def test_members_with_chunks_of_unlike_lengths() -> None:
    pair = Pair()
    group = pair.open(3)
    work = pair.step(group, [[1] * 9, [2] * 9, [3] * 9], lengths=[7, 2, 6])
    behind = pair.step(group, [[10]] * 3)
    # A message holds five steps of each; what takes part in the second is what is left.
    assert pair.server.waiting() == {0: [1] * 5, 1: [2] * 2, 2: [3] * 5}
    pair.tell(pair.server.answer_message())
    assert pair.server.waiting() == {0: [1] * 2, 2: [3]}
    pair.tell(pair.server.answer_message())
    pair.settle()
    assert list(answers(work)) == [[1, 2, 3, 4, 5, 6, 7, 0, 0], [2, 4, *[0] * 7], [3, 6, 9, 12, 15, 18, 0, 0, 0]]
    assert list(answers(behind)) == [[17], [14], [28]]
    assert work.first.tolist() == [0, 0, 0]
    assert group.positions.tolist() == [8, 3, 7]


def test_an_answer_to_the_whole_message() -> None:
    pair = Pair()
    a, b, group = pair.open(), pair.open(), pair.open(2)
    held = pair.step(a, [[0]])
    works = [pair.step(b, [[1]]), pair.step(a, [[2]]), pair.step(group, [[3], [4]]), pair.step(b, [[5]])]
    for _ in range(2):
        pair.tell(pair.server.answer_message())
    assert not pair.server.pending()
    assert [list(answers(each)) for each in (held, *works)] == [[[0]], [[1]], [[2]], [[3], [4]], [[6]]]
    assert [each.first.tolist() for each in works] == [[0], [1], [0, 0], [1]]


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
    pair.conversation.again(a)
    pair.settle()
    assert [list(answers(each)) for each in (work, behind, other)] == [[[1]], [[3]], [[3]]]


def test_only_the_refused_members_of_a_group_are_sent_again() -> None:
    pair = Pair()
    group = pair.open(3)
    work = pair.step(group, [[1, 1], [2, 2], [3, 3]])
    pair.tell(pair.server.answer({0: 2}))
    pair.tell(pair.server.answer({1: 1}))
    for handle in (1, 2):
        pair.tell(pair.server.refuse(handle, pb.REASON_ROWS_EXHAUSTED))
    pair.conversation.again(group)
    pair.flush()
    assert pair.server.waiting() == {1: [2], 2: [3, 3]}
    pair.settle()
    assert list(answers(work)) == [[1, 2], [2, 4], [3, 6]]


def test_what_is_to_be_sent_again_is_not_refused_once_more_before_it_was() -> None:
    pair = Pair()
    group = pair.open(2)
    work = pair.step(group, [[1], [2]])
    pair.tell(pair.server.answer({0: 1}))
    pair.tell(pair.server.refuse(1, pb.REASON_ROWS_EXHAUSTED))
    pair.conversation.again(group)
    pair.conversation.receive(pair.server.close(0, pb.CLOSE_REASON_IDLE).SerializeToString())
    assert work.refusal is None
    pair.flush()
    pair.settle()
    assert list(answers(work)) == [[1], [2]]


def test_without_retry_a_refusal_is_an_error() -> None:
    pair = Pair(retry=False)
    work = pair.step(pair.open(), [[1]])
    pair.tell(pair.server.refuse(0, pb.REASON_ROWS_EXHAUSTED))
    assert isinstance(work.error, RowsExhaustedError)


def test_withdrawn_before_it_left_it_never_leaves() -> None:
    pair = Pair()
    a = pair.open()
    first, second, third = (pair.step(a, [[k]]) for k in (1, 2, 3))
    pair.conversation.withdraw(a, second, DeadlineExceededError("late"))
    assert isinstance(second.error, DeadlineExceededError)
    assert isinstance(third.error, PrecedingFailedError)
    pair.settle()
    assert list(answers(first)) == [[1]]
    assert a.positions.tolist() == [1]


def test_withdrawn_on_its_way_it_is_accounted_for() -> None:
    pair = Pair()
    a = pair.open()
    first = pair.step(a, [[1] * 8])
    pair.conversation.withdraw(a, first, DeadlineExceededError("late"))
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
    pair.conversation.withdraw(a, work, work.refusal)
    assert isinstance(behind.error, PrecedingFailedError)
    after = pair.step(a, [[3]])
    pair.settle()
    assert list(answers(after)) == [[3]]


class Sessions(RuleBasedStateMachine):
    """Clients and server do what they may, in any order; the server objects to any wrong step by itself."""

    def __init__(self) -> None:
        super().__init__()
        self.pair = Pair()
        self.lanes: list[Lane] = []
        self.works: list[tuple[Lane, Chunk, set[int]]] = []
        self.controls: list[Control] = []
        self.asked = 0

    @initialize(sizes=st.lists(st.integers(1, 3), min_size=2, max_size=4))
    def begin(self, sizes: list[int]) -> None:
        self.lanes = [self.pair.open(size) for size in sizes]
        self.all_sessions = dict(self.pair.server.sessions)
        self.names = {name: k for k, name in enumerate(name for lane in self.lanes for name in lane.ids)}

    @rule(data=st.data(), length=st.integers(1, 12), ragged=st.booleans())
    def ask(self, data: st.DataObject, length: int, ragged: bool) -> None:
        lane = data.draw(st.sampled_from(self.lanes))
        members = sorted(data.draw(st.sets(st.sampled_from(lane.members.tolist()), min_size=1)))
        xs = [[self.asked + k * length + t for t in range(length)] for k in range(len(members))]
        self.asked += length * len(members)
        lengths = [data.draw(st.integers(1, length)) for _ in members] if ragged else None
        self.works.append((lane, self.pair.step(lane, xs, members, lengths), set(members)))

    @precondition(lambda self: self.pair.server.unanswered)
    @rule()
    def answer_whole(self) -> None:
        self.pair.tell(self.pair.server.answer_message())

    @rule(data=st.data())
    def reset(self, data: st.DataObject) -> None:
        self.controls.append(self.pair.control(data.draw(st.sampled_from(self.lanes)), Kind.RESET))

    @precondition(lambda self: self.pair.server.pending())
    @rule(data=st.data())
    def answer(self, data: st.DataObject) -> None:
        server = self.pair.server
        chosen = data.draw(st.lists(st.sampled_from(server.pending()), min_size=1, unique=True))
        parts = {}
        for handle in chosen:
            entry = server.sessions[handle].entry
            assert entry is not None
            parts[handle] = data.draw(st.integers(1, len(entry.xs)))
        self.pair.tell(server.answer(parts))

    @precondition(lambda self: self.pair.server.pending())
    @rule(data=st.data(), reason=st.sampled_from([pb.REASON_STEP_FAILED, pb.REASON_ROWS_EXHAUSTED]))
    def refuse(self, data: st.DataObject, reason: Any) -> None:
        self.pair.tell(self.pair.server.refuse(data.draw(st.sampled_from(self.pair.server.pending())), reason))

    @precondition(lambda self: self.pair.server.controlled())
    @rule(data=st.data())
    def obey(self, data: st.DataObject) -> None:
        self.pair.tell(self.pair.server.obey(data.draw(st.sampled_from(self.pair.server.controlled()))))

    @precondition(lambda self: any(not work.done for _, work, _ in self.works))
    @rule(data=st.data())
    def withdraw(self, data: st.DataObject) -> None:
        lane, work, _ = data.draw(st.sampled_from([each for each in self.works if not each[1].done]))
        self.pair.conversation.withdraw(lane, work, DeadlineExceededError("late"))
        self.pair.flush()

    @rule()
    def try_again(self) -> None:
        for lane in self.lanes:
            if any(work.refusal for each, work, _ in self.works if each is lane and not work.done):
                self.pair.conversation.again(lane)
        self.pair.flush()

    @invariant()
    def positions_are_what_was_answered(self) -> None:
        for lane in self.lanes:
            for handle, position in zip(lane.handles.tolist(), lane.positions.tolist(), strict=True):
                assert self.all_sessions[handle].position == position

    def teardown(self) -> None:
        for _ in range(100):
            self.pair.settle()
            for lane in self.lanes:
                self.pair.conversation.again(lane)
            self.pair.flush()
            if not self.pair.server.pending() and not self.pair.server.controlled():
                break
        assert all(control.done and control.error is None for control in self.controls)
        for lane, work, members in self.works:
            assert work.done
            time = work.columns[0].shape[1]
            asked = [time] * len(members) if work.lengths is None else work.lengths.tolist()
            if work.error is not None and work.taken is None:
                continue
            taken = asked if work.taken is None else work.taken.tolist()
            assert (taken == asked) == (work.error is None)
            if not work.parts:
                assert not any(taken)
                continue
            results = work.results()[0]
            for row, member in enumerate(sorted(members)):
                session = self.all_sessions[int(lane.handles[member])]
                expected = [session.answers[int(work.first[row]) + t] for t in range(taken[row])]
                assert results[row].tolist() == expected + [0] * (results.shape[1] - taken[row])


TestSessions = Sessions.TestCase
TestSessions.settings = settings(max_examples=80, stateful_step_count=40, deadline=None)


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
