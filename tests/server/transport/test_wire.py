import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from gatestream.protos.gatestream.v1 import gatestream_pb2 as pb
from gatestream.server.transport.wire import (
    field,
    handles_and_lengths,
    head,
    number,
    numbers,
    results,
    results_of_one,
    varint,
    varints,
    with_columns,
)

columns = st.lists(st.binary(max_size=300), max_size=3)


@given(st.integers(0, 2**32 - 1), st.integers(0, 2**63 - 1), st.integers(1, 2**32 - 1), columns, columns)
def test_results_are_the_bytes_that_protobuf_writes(
    handle: int, first: int, length: int, outputs: list[bytes], gates: list[bytes]
) -> None:
    results = pb.Results(handle=[handle], first=[first], output=outputs, gate=gates)
    if length > 1:
        results.length.append(length)
    message = pb.ServerMessage(results=results)
    assert results_of_one(handle, first, length, outputs, gates) == message.SerializeToString()


@given(st.integers(0, 2**64 - 1))
def test_a_varint_is_read_back(number: int) -> None:
    message = b"\x18" + varint(number)  # Results.first, as one element
    assert list(pb.Results.FromString(message).first) == [number]


@given(st.one_of(st.binary(max_size=11), st.integers(0, 2**64 - 1).map(varint)))
def test_one_number_is_what_protobuf_reads(data: bytes) -> None:
    value = number(data)
    if value is not None:
        assert list(pb.Results.FromString(head(3, len(data)) + data).first) == [value]
        assert value < 2**63
    else:
        ends = [octet < 0x80 for octet in data]
        assert ends.count(True) != 1 or not ends[-1] or len(data) > 9


@given(st.binary(max_size=300))
def test_a_head_makes_a_field(data: bytes) -> None:
    assert list(pb.Results.FromString(head(4, len(data)) + data).output) == [data]


@given(st.lists(st.one_of(st.integers(0, 2**63 - 1), st.integers(0, 300)), min_size=1, max_size=40))
def test_varints_are_those_of_each_number(numbers: list[int]) -> None:
    assert varints(np.array(numbers, np.int64)) == b"".join(map(varint, numbers))


@given(
    st.lists(st.tuples(st.integers(0, 10_000), st.integers(1, 300), st.integers(0, 2**40)), min_size=1, max_size=40),
    st.booleans(),
    st.integers(0, 2),
    st.integers(0, 2),
)
def test_results_of_many_are_the_bytes_that_protobuf_writes(
    entries: list[tuple[int, int, int]], ones: bool, outputs: int, gates: int
) -> None:
    handles, lengths, first = np.array(entries, np.int64).T
    columns = [np.full((len(entries), k + 1), k, np.float32) for k in range(outputs + gates)]
    message = pb.ServerMessage(
        results=pb.Results(
            handle=handles.tolist(),
            length=[] if ones else lengths.tolist(),
            first=first.tolist(),
            output=[column.tobytes() for column in columns[:outputs]],
            gate=[column.tobytes() for column in columns[outputs:]],
        )
    )
    begin = handles_and_lengths(handles, None if ones else lengths)
    assert results(begin, first, columns[:outputs], columns[outputs:]) == message.SerializeToString()


@given(st.lists(st.one_of(st.integers(0, 2**64 - 1), st.integers(0, 300), st.integers(128, 16_383)), max_size=40))
def test_numbers_are_those_that_protobuf_reads(given: list[int]) -> None:
    data = b"".join(map(varint, given))
    read = numbers(data)
    if given and max(given) < 2**63:
        assert read is not None
        assert read.tolist() == given
        assert read.dtype == np.int64
    else:
        assert read is None


@given(st.binary(max_size=20))
def test_numbers_are_read_as_protobuf_reads_them_or_not_at_all(data: bytes) -> None:
    read = numbers(data)
    if read is not None:
        assert list(pb.Results.FromString(b"\x1a" + bytes([len(data)]) + data).first) == read.tolist()


@given(st.integers(1, 15), st.binary(max_size=300), st.binary(max_size=5))
def test_a_field_is_found_where_its_head_says(number: int, data: bytes, behind: bytes) -> None:
    before = head(number, len(data))
    assert field(b"?" + before + data + behind, 1) == (number, 1 + len(before), 1 + len(before) + len(data))


@given(st.binary(min_size=1, max_size=8))
def test_what_is_no_field_of_bytes_has_no_number(data: bytes) -> None:
    number, begin, end = field(data, 0)
    if number == 0:
        return
    assert data[0] == number << 3 | 2
    # Protobuf finds it too, or says that it goes on behind the end.
    if end <= len(data):
        assert begin + len(data[begin:end]) == end


small = st.lists(st.integers(0, 2**32 - 1), max_size=100)
large = st.lists(st.integers(0, 2**63 - 1), max_size=100)


@given(small, large, small)
def test_a_message_with_columns_is_the_one_that_protobuf_writes(
    handle: list[int], position: list[int], length: list[int]
) -> None:
    said = pb.Error(reason=pb.REASON_NOT_FINITE, message="text", retry_after_ms=7)
    columns = [np.array(column, np.int64) for column in (handle, position, length)]
    data = with_columns(said, handle=columns[0], position=columns[1], length=columns[2])
    told = pb.Error(handle=handle, position=position, length=length)
    told.MergeFrom(pb.Error(reason=pb.REASON_NOT_FINITE, message="text", retry_after_ms=7))
    assert pb.ServerMessage.FromString(data) == pb.ServerMessage(error=told)
    done = pb.ServerMessage(reset_done=pb.ResetDone(handle=handle))
    assert with_columns(pb.ResetDone(), handle=columns[0]) == done.SerializeToString()
