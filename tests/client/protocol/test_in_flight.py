"""The account of answers that come in parts, and of members that fail or are refused."""

from gatestream.client.errors import NotFiniteError, StepFailedError
from gatestream.protos.gatestream.v1 import gatestream_pb2 as pb
from tests.client.simulated import Pair, answers


def test_ragged_parts_of_a_group() -> None:
    pair = Pair()
    group = pair.open(3)
    work = pair.step(group, [[1, 1, 1], [2, 2, 2], [3, 3, 3]])
    pair.tell(pair.server.answer({1: 2}))
    pair.tell(pair.server.answer({2: 1, 0: 3}))
    pair.tell(pair.server.answer({2: 2, 1: 1}))
    assert list(answers(work)) == [[1, 2, 3], [2, 4, 6], [3, 6, 9]]


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


def test_only_the_refused_members_of_a_group_are_sent_again() -> None:
    pair = Pair()
    group = pair.open(3)
    work = pair.step(group, [[1, 1], [2, 2], [3, 3]])
    pair.tell(pair.server.answer({0: 2}))
    pair.tell(pair.server.answer({1: 1}))
    for handle in (1, 2):
        pair.tell(pair.server.refuse(handle, pb.REASON_ROWS_EXHAUSTED))
    pair.multiplexer.again(group)
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
    pair.multiplexer.again(group)
    pair.multiplexer.receive(pair.server.close(0, pb.CLOSE_REASON_IDLE).SerializeToString())
    assert work.refusal is None
    pair.flush()
    pair.settle()
    assert list(answers(work)) == [[1], [2]]
