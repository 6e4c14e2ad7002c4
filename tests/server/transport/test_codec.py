"""Messages of our own protocol as records, and answers as bytes: what protobuf reads and writes, and never another."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
from google.protobuf.message import DecodeError
from hypothesis import given
from hypothesis import strategies as st

from gatestream.protos.gatestream.v1 import gatestream_pb2 as pb
from gatestream.protos.layout import Input, ModelLayout
from gatestream.server.core.reply_sink import CloseReason
from gatestream.server.core.sessions import Stands
from gatestream.server.errors import Exhausted, InvalidRequest, Malformed, OutOfStep, Reason
from gatestream.server.transport.codec import Codec, check_columns, input_arrays
from gatestream.server.transport.messages import Chunk, Close, Invalid, Open, Reset, Steps
from gatestream.server.transport.wire import head, packed, varint

MOST = 12
HANDLE, LENGTH, FIRST, INPUT = range(1, 5)
STEPS = 2

UINT32 = st.one_of(st.integers(0, 200), st.integers(0, 2**32 - 1))
POSITION = st.one_of(st.integers(0, 200), st.integers(100, 20_000), st.integers(0, 2**63 - 1))
Columns = tuple[list[int], list[int], list[int], list[bytes]]


@st.composite
def _columns(draw: st.DrawFn, most: int = MOST) -> Columns:
    """Of Steps that agree: handles, lengths or none, positions or none, inputs."""
    handle = draw(st.lists(UINT32, min_size=1, max_size=most))
    count = len(handle)
    length, first = (
        draw(st.one_of(st.just([]), st.lists(numbers, min_size=count, max_size=count)))
        for numbers in (st.one_of(st.just(1), UINT32), POSITION)
    )
    return handle, length, first, draw(st.lists(st.binary(max_size=200), max_size=2))


AGREEING = st.one_of(_columns(), _columns(most=1))


def message(handle: list[int], length: list[int], first: list[int], columns: list[bytes]) -> bytes:
    """As protobuf writes it."""
    steps = pb.Steps(handle=handle, length=length, first=first, input=columns)
    return pb.ClientMessage(steps=steps).SerializeToString()


# ---- Other ways to write the same, and almost the same ------------------------------------------


@st.composite
def _like(draw: st.DrawFn, columns: Columns) -> Columns:
    """Steps that differ from others in little: their positions, their numbers, now and then their sessions."""
    handle, length, first, inputs = columns
    if draw(st.integers(0, 9)) == 0:
        handle = [draw(UINT32), *handle[1:]]
    if draw(st.integers(0, 9)) == 0:
        length = draw(st.one_of(st.just([]), st.lists(UINT32, min_size=len(handle), max_size=len(handle))))
    near = [draw(st.integers(max(0, each - 200), min(2**63 - 1, each + 200))) for each in first]
    first = draw(st.one_of(st.just(near), st.just(near), st.just([]), st.lists(POSITION, max_size=len(handle))))
    sizes = st.one_of(st.just(inputs), st.lists(st.binary(max_size=200), max_size=2))
    return handle, length, first, [draw(st.binary(min_size=len(each), max_size=len(each))) for each in draw(sizes)]


UNKNOWN = st.sampled_from(
    [
        varint(9 << 3) + varint(300),
        packed(15, b"abc"),
        packed(100, b"abc"),
        varint(9 << 3 | 5) + b"abcd",
        varint(9 << 3 | 1) + b"abcdefgh",
        varint(9 << 3 | 3) + packed(HANDLE, b"\1") + varint(9 << 3 | 4),
        # Known numbers, of kinds that they do not have.
        varint(HANDLE << 3 | 5) + b"abcd",
        varint(INPUT << 3) + varint(7),
    ]
)


@st.composite
def _varint(draw: st.DrawFn, value: int) -> bytes:
    """A number, at times of more bytes than it needs."""
    data = bytearray(varint(value))
    for _ in range(draw(st.sampled_from([0, 0, 0, 0, 1, 2]))):
        if len(data) < 5:
            data[-1] |= 0x80
            data.append(0)
    return bytes(data)


@st.composite
def _field(draw: st.DrawFn, kind: int, data: bytes) -> bytes:
    return draw(_varint(kind << 3 | 2)) + draw(_varint(len(data))) + data


@st.composite
def _numbers(draw: st.DrawFn, kind: int, numbers: list[int]) -> list[bytes]:
    """A column of numbers: in one field, in two, or each in its own."""
    written = [draw(_varint(each)) for each in numbers]
    cut = draw(st.one_of(st.just(len(numbers)), st.integers(0, len(numbers))))
    if draw(st.integers(0, 3)) == 0:
        return [draw(_varint(kind << 3)) + each for each in written]
    return [draw(_field(kind, b"".join(part))) for part in (written[:cut], written[cut:]) if part]


@st.composite
def _written(draw: st.DrawFn, columns: Columns) -> bytes:
    """A ClientMessage with Steps, written in any way that protobuf reads."""
    *numbers, inputs = columns
    fields = [field for kind, column in enumerate(numbers, HANDLE) for field in draw(_numbers(kind, column))]
    fields += [draw(_field(INPUT, each)) for each in inputs]
    if draw(st.integers(0, 3)) == 0:
        fields = draw(st.permutations(fields))
    for _ in range(draw(st.sampled_from([0, 0, 0, 1]))):
        fields.insert(draw(st.integers(0, len(fields))), draw(UNKNOWN))
    cut = draw(st.one_of(st.just(len(fields)), st.integers(0, len(fields))))
    parts = [draw(_field(STEPS, b"".join(part))) for part in (fields[:cut], fields[cut:]) if part]
    others = st.sampled_from([b"", b"", b"", b"", packed(4, packed(HANDLE, b"\1")), packed(1, b""), packed(15, b"a")])
    return b"".join([*parts, draw(others)])


@st.composite
def _damaged(draw: st.DrawFn, columns: Columns) -> bytes:
    whole = bytearray(message(*columns))
    for _ in range(draw(st.integers(0, 3))):
        whole[draw(st.integers(0, len(whole) - 1))] = draw(st.integers(0, 255))
    end = draw(st.sampled_from([b"", b"", b"a", varint(9 << 3) + b"\1"]))
    return bytes(whole[: draw(st.one_of(st.just(len(whole)), st.integers(0, len(whole))))]) + end


# ---- What is compared -----------------------------------------------------------------------------


def listed(column: Any) -> list[Any]:
    return [] if column is None else [int(each) for each in column]


def said(decode: Callable[[bytes], Any], data: bytes) -> tuple[Any, ...]:
    """What was decoded, or raised, in plain values."""
    try:
        asked = decode(data)
    except InvalidRequest as raised:
        return type(raised), str(raised)
    match asked:
        case Chunk():
            return said(lambda _: asked.steps(), data)
        case Steps():
            columns = [bytes(each) for each in asked.columns]
            return Steps, listed(asked.handles), listed(asked.lengths), listed(asked.first), columns
        case Reset(handles) | Close(handles):
            return type(asked), handles.tolist()
        case Invalid(error, handles, first, lengths):
            return Invalid, str(error), listed(handles), listed(first), listed(lengths)
    return type(asked), asked


def read_by_protobuf(data: bytes) -> tuple[Any, ...]:
    """The same of protobuf's own reading, apart from what errors say."""
    try:
        asked = pb.ClientMessage.FromString(data)
    except DecodeError:
        return (Malformed,)
    kind = asked.WhichOneof("kind")
    if kind == "steps":
        steps = asked.steps
        count = len(steps.handle)
        agree = all(len(column) in (0, count) for column in (steps.length, steps.first))
        if not 1 <= count <= MOST or not agree or max(steps.first, default=0) >= 2**63:
            return (Invalid,)
        return Steps, list(steps.handle), list(steps.length), list(steps.first), list(steps.input)
    if kind in ("reset", "close"):
        handles = list(getattr(asked, kind).handle)
        return ({"reset": Reset, "close": Close}[kind], handles) if len(handles) <= MOST else (Invalid,)
    if kind == "open":
        each = asked.open
        if each.mode not in pb.OpenMode.values() or each.outputs not in pb.Outputs.values():
            return (Invalid,)
        create, resume = each.mode != pb.OPEN_MODE_RESUME, each.mode != pb.OPEN_MODE_CREATE
        outputs = each.outputs == pb.OUTPUTS_EVERY_STEP
        constants = tuple((constant.name, constant.value) for constant in each.constant)
        told = each.handle, each.session_id, each.model, each.version
        return Open, Open(*told, create, resume, outputs, each.gates, constants)
    return (Invalid,)


def check(codec: Codec, data: bytes) -> None:
    """A codec says of a message what one without templates says, and what protobuf reads."""
    found, parsed, expected = (
        said(codec.decode, data),
        said(Codec(MOST, templates=False).decode, data),
        read_by_protobuf(data),
    )
    assert found == parsed
    assert found[: len(expected)] == expected


def trained(columns: Columns) -> Codec:
    """A codec that has seen such messages."""
    codec = Codec(MOST)
    for _ in range(3):
        codec.decode(message(*columns))
    return codec


# ---- Requests ---------------------------------------------------------------------------------------


@given(AGREEING, st.data())
def test_a_message_like_others_says_what_protobuf_reads(columns: Columns, data: st.DataObject) -> None:
    codec = trained(columns)
    for _ in range(data.draw(st.integers(1, 4))):
        check(codec, message(*data.draw(_like(columns))))


@given(AGREEING, st.data())
def test_however_it_is_written_it_says_what_protobuf_reads(columns: Columns, data: st.DataObject) -> None:
    codec = trained(columns)
    for _ in range(data.draw(st.integers(1, 4))):
        check(codec, data.draw(_written(data.draw(_like(columns)))))


@given(AGREEING, st.data())
def test_of_any_bytes_it_says_what_protobuf_reads(columns: Columns, data: st.DataObject) -> None:
    codec = trained(columns)
    for _ in range(data.draw(st.integers(1, 4))):
        check(codec, data.draw(_damaged(columns)))


@given(st.lists(AGREEING, min_size=2, max_size=3), st.lists(st.integers(0, 2), max_size=8), st.data())
def test_messages_of_several_kinds_may_take_turns(kinds: list[Columns], turns: list[int], data: st.DataObject) -> None:
    codec = Codec(MOST)
    for turn in turns:
        check(codec, message(*data.draw(_like(kinds[turn % len(kinds)]))))


@pytest.mark.parametrize("columns", [([3], [], [7], [b"12"]), ([300], [1], [], [b""]), ([0], [5], [2**62], [b"123"])])
def test_the_third_chunk_of_a_session_is_recognised(columns: Columns) -> None:
    handle, length, first, inputs = columns
    codec = trained(columns)
    inputs = [bytes(len(each)) for each in inputs]
    chunk = codec.decode(message(*columns))
    assert codec.decode(message(handle, length, [each ^ 1 for each in first], inputs)) is chunk
    assert chunk == Chunk(handle[0], length[0] if length else None, first[0] ^ 1 if first else -1, tuple(inputs))


@pytest.mark.parametrize("length", [[], [1, 2, 3, 4, 5, 6, 7, 8]])
def test_steps_of_the_same_sessions_are_recognised(length: list[int]) -> None:
    handle = list(range(8))
    codec = trained((handle, length, [5] * 8, [b"1"]))
    some = [codec.decode(message(handle, length, first, inputs)) for first, inputs in (([9] * 8, [b"2"]), ([], []))]
    assert isinstance(some[0], Steps)
    assert isinstance(some[1], Steps)
    assert some[0].handles is some[1].handles
    assert some[0].lengths is some[1].lengths


def test_a_chunk_of_many_bytes_is_not_kept() -> None:
    data = message([1], [9], [3], [bytes(2**15)])
    codec = trained(([1], [9], [3], [bytes(2**15)]))
    assert codec.decode(data) is not codec.decode(data)
    check(codec, data)


def test_a_chunk_of_more_bytes_is_read_where_it_lies() -> None:
    data = message([1], [9], [3], [bytes(2**16)])
    for codec in (Codec(MOST), trained(([1], [9], [3], [bytes(2**16)]))):
        steps = codec.decode(data)
        assert isinstance(steps, Steps)
        check(codec, data)


def test_a_longer_chunk_in_between_is_not_remembered_instead() -> None:
    one, two = message([3], [], [300], [b"12"]), message([3], [2], [301], [b"1234"])
    codec = trained(([3], [], [300], [b"12"]))
    chunk = codec.decode(one)
    assert codec.decode(two) is not chunk
    assert codec.decode(one) is chunk


def steps_of(count: int) -> Columns:
    return list(range(count)), [], [300] * count, [b"12"]


def other_forms(count: int) -> dict[str, bytes]:
    """Messages of as many entries that are almost as protobuf writes them, by what is different."""
    handles, _, first, (column,) = steps_of(count)
    numbers = b"".join(map(varint, first))
    handle, position, inputs = packed(HANDLE, bytes(handles)), packed(FIRST, numbers), packed(INPUT, column)
    reset = pb.ClientMessage(reset=pb.Reset(handle=[1])).SerializeToString()
    plain = packed(STEPS, handle + position + inputs)
    return {
        "nothing": plain,
        "behind it a field that nobody knows": plain + packed(15, b""),
        "in its end a field that nobody knows": packed(STEPS, handle + position + inputs + packed(15, b"")),
        "in it a field that nobody knows": packed(STEPS, handle + packed(15, b"") + position + inputs),
        "in place of the inputs a field that nobody knows": packed(STEPS, handle + position + packed(15, column)),
        "the inputs begin as their field does": packed(
            STEPS, handle + position + packed(INPUT, head(INPUT, 4) + b"12") + packed(15, b"")
        ),
        "the same without positions": packed(STEPS, handle + packed(INPUT, head(INPUT, 4) + b"12") + packed(15, b"")),
        "behind it a reset": plain + reset,
        "before it a reset": reset + plain,
        "twice": plain + plain,
        "in two parts": packed(STEPS, handle) + packed(STEPS, position + inputs),
        "order": packed(STEPS, position + handle + inputs),
        "inputs first": packed(STEPS, inputs + handle + position),
        "positions behind the inputs": packed(STEPS, handle + inputs + position),
        "positions twice": packed(STEPS, handle + position + position + inputs),
        "one position more": packed(STEPS, handle + packed(FIRST, numbers + b"\1") + inputs),
        "twice as many positions in as many bytes": packed(
            STEPS, handle + packed(FIRST, b"\1" * len(numbers)) + inputs
        ),
        "no end of a position": packed(STEPS, handle + packed(FIRST, numbers[:-1] + b"\x80") + inputs),
        "positions in two fields": packed(
            STEPS, handle + packed(FIRST, numbers[:2]) + packed(FIRST, numbers[2:]) + inputs
        ),
        "positions one by one": packed(STEPS, handle + b"".join(b"\x18" + varint(each) for each in first) + inputs),
        "longer positions": packed(STEPS, handle + packed(FIRST, b"\x81\x80\x00" * count) + inputs),
        "a longer size": b"\x12" + padded(len(handle + position + inputs)) + handle + position + inputs,
        "a longer size of the handles": packed(STEPS, b"\x0a" + padded(count) + bytes(handles) + position + inputs),
        "a longer size of the inputs": packed(STEPS, handle + position + b"\x22" + padded(2) + column),
        "a longer tag": b"\x92\x00" + plain[1:],
        "a longer handle": packed(STEPS, packed(HANDLE, padded(0) + bytes(handles[1:])) + position + inputs),
        "lengths": packed(STEPS, handle + packed(LENGTH, b"\1" * count) + position + inputs),
        "one more handle": packed(STEPS, handle + b"\x08\x09" + position + inputs),
        "two inputs": packed(STEPS, handle + position + inputs + inputs),
        "no inputs": packed(STEPS, handle + position),
        "cut": plain[:-1],
        "inputs that are cut": packed(STEPS, (handle + position + inputs)[:-1]),
    }


def padded(value: int) -> bytes:
    """A number in one byte more than it needs."""
    data = varint(value)
    return data[:-1] + bytes([data[-1] | 0x80, 0])


@pytest.mark.parametrize("count", [1, 8])
@pytest.mark.parametrize("form", other_forms(1))
def test_almost_the_same_is_never_taken_for_the_same(count: int, form: str) -> None:
    data = other_forms(count)[form]
    check(trained(steps_of(count)), data)
    codec = Codec(MOST)
    for _ in range(4):
        check(codec, data)
    check(codec, message(*steps_of(count)))


def test_a_large_open_is_read_where_its_constants_are_few() -> None:
    codec = Codec(MOST)
    value = bytes(200_000)
    asked = pb.ClientMessage(open=pb.Open(handle=3, constant=[pb.Constant(name="a", value=value)] * 2))
    decoded = codec.decode(asked.SerializeToString())
    assert isinstance(decoded, Open)
    assert (decoded.handle, decoded.constants) == (3, (("a", value), ("a", value)))
    many = pb.ClientMessage(open=pb.Open(constant=[pb.Constant(name="a", value=bytes(20))] * 10_000))
    refused = codec.decode(many.SerializeToString())
    assert isinstance(refused, Invalid)
    assert "too many fields" in str(refused.error)
    # Of two kinds protobuf takes the last, whose numbers nobody has counted.
    hidden = asked.SerializeToString() + pb.ClientMessage(steps=pb.Steps(handle=[0] * 200_000)).SerializeToString()
    refused = codec.decode(hidden)
    assert isinstance(refused, Invalid)
    assert "is not one Steps message" in str(refused.error)


@given(
    st.builds(
        pb.Open,
        handle=UINT32,
        session_id=st.text(max_size=5),
        model=st.text(max_size=5),
        version=st.text(max_size=5),
        mode=st.integers(0, 4),
        outputs=st.integers(0, 3),
        gates=st.booleans(),
    )
)
def test_an_open(asked: pb.Open) -> None:
    check(Codec(MOST), pb.ClientMessage(open=asked).SerializeToString())


@given(st.sampled_from([pb.Reset, pb.Close]), st.lists(UINT32, max_size=MOST + 2))
def test_a_reset_and_a_close(kind: Any, handles: list[int]) -> None:
    named = "reset" if kind is pb.Reset else "close"
    check(Codec(MOST), pb.ClientMessage(**{named: kind(handle=handles)}).SerializeToString())


@pytest.mark.parametrize(
    ("asked", "says", "handles"),
    [
        (pb.ClientMessage(), "the message is empty; expected open, steps, reset, close or acknowledge", []),
        (
            pb.ClientMessage(open=pb.Open(handle=7, mode=9)),  # type: ignore[arg-type]
            "open.mode is 9; expected one of OPEN_MODE_EITHER, OPEN_MODE_CREATE, OPEN_MODE_RESUME",
            [7],
        ),
        (
            pb.ClientMessage(reset=pb.Reset(handle=[0] * 13)),
            "reset.handle has 13 entries; expected at most 12, the sessions that one stream may hold",
            [],
        ),
        (
            pb.ClientMessage(steps=pb.Steps(handle=[0] * 13, length=[1] * 13)),
            "steps.handle has 13 entries; expected at most 12, the sessions that one stream may hold",
            [],
        ),
        (pb.ClientMessage(steps=pb.Steps()), "steps.handle is empty; expected at least one entry", []),
        (
            pb.ClientMessage(steps=pb.Steps(handle=[1, 2], length=[1])),
            "steps.length has 1 elements, steps.handle 2; expected as many, or none",
            [1, 2],
        ),
        (
            pb.ClientMessage(steps=pb.Steps(handle=[1], first=[2**63])),
            "steps.first holds 9223372036854775808; expected less than 2^63",
            [1],
        ),
    ],
)
def test_a_message_that_contradicts_itself(asked: pb.ClientMessage, says: str, handles: list[int]) -> None:
    found = Codec(MOST).decode(asked.SerializeToString())
    assert isinstance(found, Invalid)
    assert (str(found.error), list(found.handles)) == (says, handles)
    assert list(found.first) == (list(asked.steps.first) if handles else [])


@pytest.mark.parametrize("handle", [[1], list(range(8))])
def test_behind_messages_that_are_recognised_an_empty_one_is_empty(handle: list[int]) -> None:
    check(trained((handle, [], [], [b"1"])), b"")


def test_what_is_no_message_is_raised() -> None:
    with pytest.raises(Malformed, match="what came is not a ClientMessage: its 2 bytes cannot be parsed"):
        Codec(MOST).decode(b"\x12\x05")
    with pytest.raises(Malformed, match="what came is not a ClientMessage"):
        Codec(MOST).decode(packed(STEPS, packed(INPUT, bytes(2**17)) + b"\x22\x05"))


@given(st.lists(st.integers(0, 2**32 - 1), min_size=1, max_size=MOST), st.data())
def test_a_message_of_many_bytes(handle: list[int], data: st.DataObject) -> None:
    count = len(handle)
    length = data.draw(st.one_of(st.just([]), st.lists(UINT32, min_size=count, max_size=count)))
    first = data.draw(st.one_of(st.just([]), st.lists(POSITION, min_size=count - 1, max_size=count)))
    codec = Codec(MOST)
    for _ in range(3):
        check(codec, message(handle, length, first, [bytes(2**16), b"abc"]))


# ---- Columns ----------------------------------------------------------------------------------------

LAYOUT = ModelLayout(
    "name", "", (Input("x", np.dtype("<f4"), (2,)), Input("token", np.dtype("<i8"), ())), outputs=(), states=()
)


def test_inputs_lie_where_they_came() -> None:
    whole = np.arange(16, dtype="<f4").tobytes()
    tokens = memoryview(b"?" + np.arange(4, dtype="<i8").tobytes())[1:]
    x, token = input_arrays(LAYOUT, [memoryview(whole)[:32], tokens], 4)
    assert (x.tolist(), x.shape, token.tolist()) == (
        *([[0, 1], [2, 3], [4, 5], [6, 7]], (4, 2)),
        [0, 1, 2, 3],
    )
    assert np.shares_memory(x, np.frombuffer(whole, np.uint8))
    assert token.flags.aligned


@pytest.mark.parametrize(
    ("columns", "says"),
    [
        ([bytes(8)], "steps.input has 1 columns; model 'name' has 2 inputs: x, token"),
        ([bytes(8), bytes(8), b""], "steps.input has 3 columns; model 'name' has 2 inputs: x, token"),
        (
            [bytes(9), bytes(8)],
            "steps.input 'x' has 9 bytes; expected 8: 1 rows (the sum of steps.length) of 8 bytes (float32 [2])",
        ),
        (
            [bytes(8), bytes(16)],
            "steps.input 'token' has 16 bytes; expected 8: 1 rows (the sum of steps.length) of 8 bytes (int64 [])",
        ),
    ],
)
def test_columns_are_those_of_the_model(columns: list[bytes], says: str) -> None:
    for checked in (check_columns, input_arrays):
        with pytest.raises(InvalidRequest) as raised:
            checked(LAYOUT, columns, 1)
        assert str(raised.value) == says


# ---- Answers ----------------------------------------------------------------------------------------


def test_results_begin_as_the_steps_did() -> None:
    handle, length = list(range(300, 308)), [1, 2, 3, 4, 5, 6, 7, 8]
    for lengths in ([], length):
        codec = trained((handle, lengths, [], [b"1"]))
        steps = codec.decode(message(handle, lengths, [5] * 8, [b"2"]))
        assert isinstance(steps, Steps)
        first, taken = np.arange(8) + 100, np.array(lengths or [1] * 8)
        y = np.arange(taken.sum(), dtype=np.float32)
        for answered in (taken, np.ones(8, np.int64)):
            # All of them; or of each the first step.
            rows = int(answered.sum())
            data = codec.results(steps.handles, first, answered, rows, [y[:rows]], [y[:rows], y[:rows]])
            assert pb.ServerMessage.FromString(data).results == pb.Results(
                handle=handle,
                length=[] if rows == 8 else answered.tolist(),
                first=first.tolist(),
                output=[y[:rows].tobytes()],
                gate=[y[:rows].tobytes()] * 2,
            )


ENTRIES = st.lists(st.tuples(UINT32, POSITION, POSITION, UINT32), max_size=80)


@given(ENTRIES, st.sampled_from(CloseReason))
def test_what_becomes_of_sessions(entries: list[tuple[int, int, int, int]], reason: CloseReason) -> None:
    handles, positions = (np.array([entry[k] for entry in entries], np.int64) for k in (0, 1))
    columns = {"handle": handles.tolist(), "position": positions.tolist()}
    closed = pb.Closed(reason=reason.value, **columns)
    assert pb.ServerMessage.FromString(Codec.closed(handles, positions, reason)) == pb.ServerMessage(closed=closed)
    done = pb.ServerMessage(reset_done=pb.ResetDone(**columns))
    assert pb.ServerMessage.FromString(Codec.reset_done(handles, positions)) == done


@given(ENTRIES, st.booleans())
def test_an_error(entries: list[tuple[int, int, int, int]], arrays: bool) -> None:
    columns: list[list[int]] = [[entry[k] for entry in entries] for k in range(4)]
    handles, positions, first, lengths = (np.array(column, np.int64) for column in columns)
    error = Exhausted("too much is pending", Reason.ROWS_EXHAUSTED, retry_after=0.0123)
    expected = pb.Error(
        handle=columns[0],
        position=columns[1],
        first=columns[2],
        length=columns[3],
        reason=pb.REASON_ROWS_EXHAUSTED,
        message="too much is pending",
        retry_after_ms=13,
    )
    sent: Sequence[Any] = (handles, first, lengths) if arrays else (columns[0], columns[2], columns[3])
    data = Codec.error(error, sent[0], positions, sent[1], sent[2])
    assert pb.ServerMessage.FromString(data) == pb.ServerMessage(error=expected)


def test_an_error_says_at_which_sequences() -> None:
    ints = np.array([4, 9])
    data = Codec.error(OutOfStep("no"), ints, ints, ints, ints, ints + 1)
    assert list(pb.ServerMessage.FromString(data).error.sequence) == [5, 10]


def test_an_error_repeats_positions_of_64_bits() -> None:
    data = Codec.error(InvalidRequest("no"), [1], first=[2**64 - 1])
    assert pb.ServerMessage.FromString(data).error.first == [2**64 - 1]


def test_what_is_said_of_a_session_and_of_the_server() -> None:
    data = Codec.opened(
        3, "mine", model="m", version="1", stands=Stands(2**40, 3, 2**41, 5), idle_timeout=1.5, created=True
    )
    opened = pb.Opened(
        handle=3,
        session_id="mine",
        model="m",
        version="1",
        position=2**40,
        idle_timeout_s=1.5,
        created=True,
        epoch=3,
        sequence=2**41,
        durable=5,
    )
    assert pb.ServerMessage.FromString(data) == pb.ServerMessage(opened=opened)
    going = pb.ServerMessage(going_away=pb.GoingAway(deadline_ms=2500))
    assert pb.ServerMessage.FromString(Codec.going_away(2.5)) == going
