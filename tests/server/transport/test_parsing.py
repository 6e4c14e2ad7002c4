from typing import Any

import pytest
from google.protobuf.message import DecodeError, Message
from hypothesis import given, settings
from hypothesis import strategies as st

from gatestream.protos.gatestream.v1 import gatestream_pb2 as pb
from gatestream.protos.inference import open_inference_grpc_pb2 as oip
from gatestream.server.errors import InvalidRequest
from gatestream.server.transport.parsing import parse
from gatestream.server.transport.wire import head

# An unknown field of bytes: with it the message is not a small one, whose fields are not counted.
PADDING = b"\xfa\x07\x88\x27" + bytes(5000)
MOST = 2000

texts = st.text(max_size=5)
numbers = st.lists(st.integers(0, 2**32 - 1), max_size=20)
columns = st.lists(st.binary(max_size=10), max_size=20)

steps = st.builds(
    pb.Steps,
    handle=numbers,
    length=numbers,
    first=st.lists(st.integers(0, 2**64 - 1), max_size=20),
    input=columns,
)
client_messages = st.one_of(
    st.builds(pb.ClientMessage, steps=steps),
    st.builds(pb.ClientMessage, close=st.builds(pb.Close, handle=numbers)),
    st.builds(
        pb.ClientMessage, open=st.builds(pb.Open, handle=st.integers(0, 9), session_id=texts, gates=st.booleans())
    ),
)
parameters = st.dictionaries(
    texts,
    st.one_of(
        st.builds(oip.InferParameter, bool_param=st.booleans()),
        st.builds(oip.InferParameter, string_param=texts),
        st.builds(oip.InferParameter, double_param=st.floats(allow_nan=False)),
    ),
    max_size=3,
)
contents = st.builds(
    oip.InferTensorContents,
    int64_contents=st.lists(st.integers(-9, 9), max_size=5),
    fp32_contents=st.lists(st.floats(width=32, allow_nan=False), max_size=5),
    bytes_contents=columns,
)
tensors = st.builds(
    oip.ModelInferRequest.InferInputTensor,
    name=texts,
    shape=st.lists(st.integers(-9, 9), max_size=3),
    parameters=parameters,
    contents=st.one_of(st.none(), contents),
)
requests = st.builds(
    oip.ModelInferRequest,
    model_name=texts,
    parameters=parameters,
    inputs=st.lists(tensors, max_size=3),
    raw_input_contents=columns,
)
messages = st.one_of(client_messages, requests)


def count(message: Message) -> int:
    """The fields of a message as protobuf writes it."""
    total = 0
    for field, value in message.ListFields():
        entries: Any = value
        if field.message_type is None:
            total += len(entries) if field.is_repeated and not field.is_packed else 1
        elif field.message_type.GetOptions().map_entry:
            # Key and value are written, whatever they are.
            inner = field.message_type.fields_by_name["value"].message_type
            total += sum(3 + (count(item) if inner else 0) for item in (entries[key] for key in entries))
        else:
            total += sum(1 + count(item) for item in (entries if field.is_repeated else [entries]))
    return total


@settings(max_examples=50)
@given(messages)
def test_what_protobuf_writes_is_read_up_to_its_number_of_fields(message: Message) -> None:
    data = PADDING + message.SerializeToString()
    fields = 1 + count(message)
    assert parse(type(message), data, fields=fields) == type(message).FromString(data)
    with pytest.raises(InvalidRequest, match=rf"^the {message.DESCRIPTOR.name} has too many fields; expected at most "):
        parse(type(message), data, fields=fields - 1)


@settings(max_examples=150)
@given(messages, st.data())
def test_bytes_that_are_no_message_are_refused_and_no_others(message: Message, data: st.DataObject) -> None:
    whole = bytearray(PADDING + message.SerializeToString())
    for _ in range(data.draw(st.integers(1, 3))):
        kind = data.draw(st.sampled_from(["change", "insert", "cut"]))
        at = data.draw(st.integers(0, len(whole) - len(PADDING))) + len(PADDING)
        some = data.draw(
            st.one_of(st.binary(min_size=1, max_size=12), st.sampled_from([b"\x0b", b"\x0c", b"\x80" * 9]))
        )
        if kind == "cut":
            del whole[at:]
        else:
            whole[at : at + len(some) * (kind == "change")] = some
    try:
        expected = type(message).FromString(bytes(whole))
    except DecodeError:
        with pytest.raises(InvalidRequest, match=rf"^what came is not a {message.DESCRIPTOR.name}: "):
            parse(type(message), bytes(whole), fields=MOST)
    else:
        # As bytes: NaN is not equal to itself.
        read = parse(type(message), bytes(whole), fields=MOST)
        assert read.SerializeToString(deterministic=True) == expected.SerializeToString(deterministic=True)


@pytest.mark.parametrize("unit", [b"\x22\x00", b"\x08\x01", b"\xf8\x07\x01", b"\xfb\x07\xfc\x07", b"\xfd\x07abcd"])
def test_fields_of_every_kind_are_counted(unit: bytes) -> None:
    steps = unit * 3000
    data = head(2, len(steps)) + steps
    fields = 1 + 3000 * (2 if len(unit) == 4 else 1)
    parse(pb.ClientMessage, data, fields=fields)
    with pytest.raises(InvalidRequest, match="too many fields"):
        parse(pb.ClientMessage, data, fields=fields - 1)


def test_a_packed_column_is_one_field() -> None:
    message = pb.ClientMessage(close=pb.Close(handle=range(10_000)))
    assert parse(pb.ClientMessage, message.SerializeToString(), fields=2) == message


@pytest.mark.parametrize("depth", [90, 101, 3000])
def test_groups_in_groups_end_somewhere(depth: int) -> None:
    data = PADDING + b"\xfb\x07" * depth + b"\xfc\x07" * depth
    if depth < 100:
        parse(pb.ClientMessage, data, fields=MOST)
    else:
        with pytest.raises(InvalidRequest, match="what came is not a ClientMessage"):
            parse(pb.ClientMessage, data, fields=10 * MOST)


def test_a_varint_that_does_not_end_is_not_followed() -> None:
    with pytest.raises(InvalidRequest, match="what came is not a ClientMessage"):
        parse(pb.ClientMessage, PADDING + b"\xf8\x07" + b"\x80" * 2**20, fields=MOST)


def test_a_small_message_of_many_fields_is_read() -> None:
    message = pb.ClientMessage(steps=pb.Steps(input=[b""] * 1000))
    assert parse(pb.ClientMessage, message.SerializeToString(), fields=10) == message
