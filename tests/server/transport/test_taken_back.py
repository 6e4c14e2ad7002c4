"""Messages without what they tell of some sessions."""

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from gatestream.protos.gatestream.v1 import gatestream_pb2 as pb
from gatestream.server.transport.taken_back import without

ENTRIES = st.lists(st.tuples(st.integers(0, 9), st.integers(0, 2**40), st.integers(1, 4)), max_size=8).map(
    lambda entries: list({handle: (handle, first, length) for handle, first, length in entries}.values())
)


def row(handle: int, step: int, column: int) -> bytes:
    return bytes([handle, step, column]) * (column + 1)


def results(entries: list[tuple[int, int, int]], columns: int, gates: int, *, singles: bool) -> pb.ServerMessage:
    lengths = [1 if singles else length for _, _, length in entries]
    data = [
        b"".join(row(handle, step, k) for (handle, _, _), n in zip(entries, lengths, strict=True) for step in range(n))
        for k in range(columns + gates)
    ]
    said = pb.Results(
        handle=[handle for handle, _, _ in entries],
        first=[first for _, first, _ in entries],
        length=[] if singles else lengths,
        output=data[:columns],
        gate=data[columns:],
    )
    return pb.ServerMessage(results=said)


@given(ENTRIES, st.sets(st.integers(0, 9)), st.integers(0, 2), st.integers(0, 2), st.booleans())
def test_results_are_those_of_the_others(
    entries: list[tuple[int, int, int]], gone: set[int], columns: int, gates: int, singles: bool
) -> None:
    whole = results(entries, columns, gates, singles=singles).SerializeToString()
    stay = [each for each in entries if each[0] not in gone]
    said = [pb.ServerMessage.FromString(each) for each in without(whole, [each[0] in gone for each in entries])]
    if len(stay) == len(entries):
        assert [each.SerializeToString() for each in said] == [whole]
        return
    *rest, instead = said
    assert rest == ([results(stay, columns, gates, singles=singles)] if stay else [])
    refused = instead.error
    assert refused.reason == pb.REASON_SESSION_CLOSED
    assert list(zip(refused.handle, refused.first, refused.length, strict=True)) == [
        (handle, first, 1 if singles else length) for handle, first, length in entries if handle in gone
    ]


def test_what_tells_of_no_steps_stays() -> None:
    for message in (
        pb.ServerMessage(opened=pb.Opened(handle=1, position=3)),
        pb.ServerMessage(closed=pb.Closed(handle=[1, 2], position=[3, 4])),
        pb.ServerMessage(durable=pb.Durable(handle=[1], sequence=[3])),
        pb.ServerMessage(error=pb.Error(reason=pb.REASON_SESSION_CLOSED, handle=[2], position=[3])),
        pb.ServerMessage(going_away=pb.GoingAway(deadline_ms=5)),
    ):
        data = message.SerializeToString()
        assert without(data, [False, False]) == [data]


def refusal(reason: pb.Reason, message: str, **columns: Any) -> pb.ServerMessage:
    return pb.ServerMessage(error=pb.Error(reason=reason, message=message, **columns))


def test_what_was_refused_stays_refused_and_says_no_more_where() -> None:
    said = refusal(pb.REASON_SESSION_CLOSED, "no", handle=[1, 2], position=[3, 4], first=[3, 4], length=[1, 1])
    assert [pb.ServerMessage.FromString(each) for each in without(said.SerializeToString(), [True, False])] == [
        refusal(pb.REASON_SESSION_CLOSED, "no", handle=[2], position=[4], first=[4], length=[1]),
        refusal(pb.REASON_SESSION_CLOSED, "no", handle=[1], first=[3], length=[1]),
    ]


def test_a_number_is_told_as_it_came_whatever_it_is() -> None:
    said = refusal(pb.REASON_MALFORMED, "no", handle=[1, 2], first=[2**64 - 1, 2**63], length=[1, 1])
    assert [pb.ServerMessage.FromString(each) for each in without(said.SerializeToString(), [True, False])] == [
        refusal(pb.REASON_MALFORMED, "no", handle=[2], first=[2**63], length=[1]),
        refusal(pb.REASON_MALFORMED, "no", handle=[1], first=[2**64 - 1], length=[1]),
    ]


def test_an_epoch_is_told_still() -> None:
    said = refusal(pb.REASON_EPOCH_STALE, "no", handle=[1], epoch=7).SerializeToString()
    assert without(said, [True]) == [said]


def test_a_reset_and_a_position_are_taken_back() -> None:
    why = "the session was let go of before this was stored"
    reset = pb.ServerMessage(reset_done=pb.ResetDone(handle=[1, 2], position=[3, 4]))
    assert [pb.ServerMessage.FromString(each) for each in without(reset.SerializeToString(), [True, False])] == [
        pb.ServerMessage(reset_done=pb.ResetDone(handle=[2], position=[4])),
        refusal(pb.REASON_SESSION_CLOSED, why, handle=[1]),
    ]
    error = refusal(
        pb.REASON_POSITION_MISMATCH, "no", handle=[1, 2], position=[3, 4], first=[5, 6], length=[1, 1]
    ).SerializeToString()
    assert [pb.ServerMessage.FromString(each) for each in without(error, [False, True])] == [
        refusal(pb.REASON_POSITION_MISMATCH, "no", handle=[1], position=[3], first=[5], length=[1]),
        refusal(pb.REASON_SESSION_CLOSED, why, handle=[2], first=[6], length=[1]),
    ]
    assert len(without(error, [True, True])) == 1
