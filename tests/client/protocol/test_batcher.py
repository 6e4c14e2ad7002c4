"""The self-clocking rule: what leaves when, and in which message."""

import pytest

from gatestream.client.protocol import batcher
from gatestream.client.protocol.requests import Kind
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


def test_many_leave_beside_one_message(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batcher, "MANY", 3)
    pair = Pair()
    pair.server.most_unheard = 2
    queues = [pair.open() for _ in range(9)]
    first, *second = (pair.step(each, [[1]]) for each in queues[:4])
    assert pair.server.unheard == {1: [0], 2: [1, 2, 3]}
    third = [pair.step(each, [[2]]) for each in queues[4:]]
    assert pair.server.messages == 2
    # Whichever of the two is answered, what has gathered leaves.
    pair.tell(pair.server.answer_message(2))
    assert all(work.done for work in second)
    assert pair.server.unheard == {1: [0], 3: [4, 5, 6, 7, 8]}
    late = [pair.step(each, [[3]]) for each in queues[1:3]]
    pair.tell(pair.server.answer_message(1))
    assert first.done
    # Two are few: they wait for the last answer.
    assert pair.server.unheard == {3: [4, 5, 6, 7, 8]}
    pair.tell(pair.server.answer({4: 1}))
    assert pair.server.unheard == {4: [1, 2]}
    pair.settle()
    assert [list(answers(each)) for each in (*third, *late)] == [*[[[2]]] * 5, *[[[4]]] * 2]


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
    session_queues = [pair.open() for _ in range(10)]
    pair.step(session_queues[0], [[0]])
    works = [pair.step(session_queue, [[1] * 5]) for session_queue in session_queues]
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
    session_queues = [pair.open() for _ in range(7)]
    pair.step(session_queues[0], [[0]])
    works = [pair.step(session_queue, [[1, 1]]) for session_queue in session_queues]
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
