"""A request is taken apart by the places of its fields: as protobuf reads it, whatever stands in it."""

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gatestream.protos.inference import open_inference_grpc_pb2 as oip
from gatestream.server.errors import InvalidRequest
from gatestream.server.transport.oip_request import Message
from gatestream.server.transport.wire import head, varint

RAW = 7


def delimited(number: int, contents: bytes) -> bytes:
    return head(number, len(contents)) + contents


def tensor(name: str) -> bytes:
    inputs = oip.ModelInferRequest.InferInputTensor(name=name, datatype="FP32", shape=[1, 300, 2])
    return delimited(5, inputs.SerializeToString())


FIELDS = st.one_of(
    st.text(max_size=5).map(lambda text: delimited(1, text.encode())),
    st.text(max_size=5).map(lambda text: delimited(3, text.encode())),
    st.text(max_size=5).map(tensor),
    st.text(max_size=5).map(lambda text: delimited(6, delimited(1, text.encode()))),
    st.text(max_size=5).map(lambda text: delimited(4, delimited(1, text.encode()))),
    # Unknown fields, of all kinds; and a known number with another kind.
    st.binary(max_size=300).map(lambda contents: delimited(15, contents)),
    st.binary(max_size=9).map(lambda contents: delimited(100, contents)),
    st.integers(0, 2**63).map(lambda number: varint(9 << 3) + varint(number)),
    st.integers(0, 2**63).map(lambda number: varint(RAW << 3) + varint(number)),
    st.binary(min_size=8, max_size=8).map(lambda contents: varint(9 << 3 | 1) + contents),
    st.binary(min_size=4, max_size=4).map(lambda contents: varint(9 << 3 | 5) + contents),
    st.just(varint(9 << 3 | 3) + delimited(RAW, b"within a group") + varint(9 << 3 | 4)),
)
CONTENTS = st.binary(max_size=300)
RAWS = CONTENTS.map(lambda contents: delimited(RAW, contents))
# The same tag, written longer than it need be.
LONG_RAWS = CONTENTS.map(lambda contents: b"\xba\x00" + delimited(RAW, contents)[1:])


@given(st.lists(st.one_of(FIELDS, RAWS, LONG_RAWS), max_size=8), st.lists(RAWS, max_size=2))
def test_as_protobuf_reads_it(fields: Sequence[bytes], last: Sequence[bytes]) -> None:
    data = b"".join([*fields, *last])
    read = Message.read(data)
    whole = oip.ModelInferRequest.FromString(data)
    assert list(read.raw) == list(whole.raw_input_contents)
    known, expected = oip.ModelInferRequest(), oip.ModelInferRequest()
    known.CopyFrom(read.head)
    expected.CopyFrom(whole)
    for message in (known, expected):
        message.ClearField("raw_input_contents")
    assert known == expected
    if read.prefix is not None:
        # Whatever numbers stand in the place of these are read as numbers, and change nothing else.
        other = bytes(byte ^ 0xFF for byte in read.raw[0])
        again = Message.read(read.prefix + other)
        assert (list(again.raw), again.head, again.prefix) == ([other], read.head, read.prefix)


@given(st.binary(max_size=200))
def test_no_bytes_are_more_than_refused(data: bytes) -> None:
    try:
        oip.ModelInferRequest.FromString(data)
    except Exception:
        with pytest.raises(InvalidRequest, match="what came is not a ModelInferRequest"):
            Message.read(data)
    else:
        Message.read(data)


def test_what_is_recognised_ends_with_its_only_numbers() -> None:
    raw = delimited(RAW, bytes(1000))
    before = tensor("x") + delimited(1, b"m")
    assert Message.read(before + raw).prefix == (before + raw)[:-1000]
    for message in (raw + before, before + raw + raw, before + delimited(RAW, b""), before):
        assert Message.read(message).prefix is None
