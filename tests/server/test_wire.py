from hypothesis import given
from hypothesis import strategies as st

from gatestream.protos.gatestream.v1 import gatestream_pb2 as pb
from gatestream.server.wire import head, results_of_one, varint

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


@given(st.binary(max_size=300))
def test_a_head_makes_a_field(data: bytes) -> None:
    assert list(pb.Results.FromString(head(4, len(data)) + data).output) == [data]
