import pytest
from hypothesis import given
from hypothesis import strategies as st

from gatestream.protos.gatestream.v1 import gatestream_pb2 as pb
from gatestream.server.errors import InvalidRequest, Malformed
from gatestream.server.transport.large_steps import large_steps
from gatestream.server.transport.wire import head, varint

numbers = st.lists(st.integers(0, 2**32 - 1), max_size=20)
# Pieces of Steps, in any order: a packed column, one number of a column, an input, what no reader knows.
pieces = st.lists(
    st.one_of(
        st.builds(lambda column: pb.Steps(handle=column).SerializeToString(), numbers),
        st.builds(lambda column: pb.Steps(length=column).SerializeToString(), numbers),
        st.builds(
            lambda column: pb.Steps(first=column).SerializeToString(), st.lists(st.integers(0, 2**63 - 1), max_size=20)
        ),
        st.builds(lambda column: pb.Steps(input=[column]).SerializeToString(), st.binary(max_size=200)),
        st.builds(lambda field, number: varint(field << 3) + varint(number), st.integers(1, 9), st.integers(0, 2**40)),
        st.sampled_from([b"\xfd\x07abcd", b"\xf9\x07abcdefgh", b"\xfa\x07\x03abc", b"\x0d\1\2\3\4", b"\x20\x05"]),
    ),
    max_size=12,
)


def message(steps: bytes) -> bytes:
    return head(2, len(steps)) + steps


def read(data: bytes, entries: int = 10_000) -> tuple[list[int], list[int], list[int], list[int], list[bytes]]:
    *columns, inputs = large_steps(data, entries)
    handles, lengths, first, acknowledged = (column.tolist() for column in columns)
    return handles, lengths, first, acknowledged, [bytes(item) for item in inputs]


def columns(steps: pb.Steps) -> tuple[list[int], list[int], list[int], list[int], list[bytes]]:
    return list(steps.handle), list(steps.length), list(steps.first), list(steps.acknowledged), list(steps.input)


@given(pieces)
def test_it_says_what_protobuf_reads(some: list[bytes]) -> None:
    data = message(b"".join(some))
    steps = pb.ClientMessage.FromString(data).steps
    assert read(data) == columns(steps)


@given(pieces, st.data())
def test_of_any_bytes_it_says_what_protobuf_reads_or_nothing(some: list[bytes], data: st.DataObject) -> None:
    whole = bytearray(message(b"".join(some)))
    for _ in range(data.draw(st.integers(1, 3))):
        whole[data.draw(st.integers(0, len(whole) - 1))] = data.draw(st.integers(0, 255))
    cut = bytes(whole[: data.draw(st.integers(1, len(whole)))])
    try:
        got = read(cut)
    except InvalidRequest:
        return
    steps = pb.ClientMessage.FromString(cut).steps
    assert got == columns(steps)


@pytest.mark.parametrize(
    ("steps", "says"),
    [
        (pb.Steps(handle=[1] * 101), "steps.handle has over 10 entries; expected at most 10, the sessions"),
        (pb.Steps(handle=[1], length=[1] * 101), "steps.length has over 10 entries"),
        (pb.Steps(handle=[1], first=[2**63 - 1] * 12), "steps.first has over 10 entries"),
        (pb.Steps(handle=[1], first=[2**63]), "steps.first holds a number that is not below 2^63"),
        (pb.Steps(handle=[1], input=[b""] * 256), "steps has over 256 fields; expected packed columns"),
    ],
)
def test_what_is_over_a_bound_is_refused_before_it_is_listed(steps: pb.Steps, says: str) -> None:
    with pytest.raises(InvalidRequest, match="^" + says.replace("^", r"\^")):
        read(pb.ClientMessage(steps=steps).SerializeToString(), entries=10)


def test_numbers_that_are_not_in_columns_are_refused_where_they_are_many() -> None:
    with pytest.raises(InvalidRequest, match="steps has over 256 fields; expected packed columns"):
        read(message(b"\x08\x01" * 2000))


@pytest.mark.parametrize("other", [pb.ClientMessage(open=pb.Open(session_id="a" * 99)), pb.ClientMessage()])
def test_no_other_message_is_large(other: pb.ClientMessage) -> None:
    data = other.SerializeToString() + b"\xfa\x07\x03abc"
    with pytest.raises(InvalidRequest, match=f"^a message of {len(data)} bytes is not one Steps message"):
        read(data)


@pytest.mark.parametrize(
    "steps", [b"\x0a\x01\x80\x0a\x01\x01", b"\x22\x05a", b"\x0b\x0c", b"\x80" * 12, b"\x08" + b"\x80" * 12, b"\x22"]
)
def test_what_is_no_message_is_told_from_what_may_not_be(steps: bytes) -> None:
    with pytest.raises(Malformed, match="what came is not a ClientMessage: its"):
        read(message(steps))
