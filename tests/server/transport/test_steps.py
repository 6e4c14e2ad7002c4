from types import SimpleNamespace
from typing import Any
from unittest.mock import sentinel

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from gatestream.protos.gatestream.v1 import gatestream_pb2 as pb
from gatestream.server.arrays import Ints
from gatestream.server.core.batches import Entries
from gatestream.server.transport.steps import Same, SameStep

columns = st.tuples(
    st.lists(st.integers(0, 3), min_size=1, max_size=4),
    st.lists(st.integers(1, 2), max_size=4),
    st.lists(st.one_of(st.integers(0, 200), st.integers(0, 2**64 - 1)), max_size=4),
    st.lists(st.binary(max_size=3), max_size=2),
)


def message(handle: list[int], length: list[int], first: list[int], columns: list[bytes]) -> bytes:
    return pb.ClientMessage(
        steps=pb.Steps(handle=handle, length=length, first=first, input=columns)
    ).SerializeToString()


def same_as(data: bytes) -> Same:
    steps = pb.ClientMessage.FromString(data).steps
    handles = np.array(steps.handle, np.int64)
    return Same.of(steps, Entries(handles, handles, handles, handles, 0, 0, []), sentinel.model, 0)


def read(rest: tuple[Ints | None, list[memoryview]]) -> tuple[list[int], list[bytes]]:
    first, inputs = rest
    return [] if first is None else first.tolist(), [bytes(column) for column in inputs]


@given(st.lists(columns, min_size=1, max_size=2), st.lists(columns, min_size=1, max_size=3))
def test_a_message_that_is_known_again_says_what_protobuf_reads(
    before: list[tuple[list[int], list[int], list[int], list[bytes]]],
    after: list[tuple[list[int], list[int], list[int], list[bytes]]],
) -> None:
    # Messages one after another are one to protobuf: what comes later is added to what came before.
    old, new = (b"".join(message(*part) for part in parts) for parts in (before, after))
    rest = same_as(old).rest(new)
    if rest is not None:
        known, steps = (pb.ClientMessage.FromString(data).steps for data in (old, new))
        assert (steps.handle, steps.length) == (known.handle, known.length)
        assert read(rest) == (list(steps.first), list(steps.input))


@given(columns, st.lists(st.binary(max_size=300), max_size=2), st.data())
def test_a_message_with_other_numbers_is_known_again(
    before: tuple[list[int], list[int], list[int], list[bytes]], inputs: list[bytes], data: st.DataObject
) -> None:
    count = len(before[0])
    first = data.draw(
        st.one_of(st.just([]), st.lists(st.integers(0, 2**63 - 1), min_size=count, max_size=count)), "first"
    )
    rest = same_as(message(*before)).rest(message(before[0], before[1], first, inputs))
    assert rest is not None
    assert read(rest) == (first, inputs)


@given(columns, columns, st.data())
def test_bytes_that_are_no_message_are_left_to_protobuf(
    before: tuple[list[int], list[int], list[int], list[bytes]],
    after: tuple[list[int], list[int], list[int], list[bytes]],
    data: st.DataObject,
) -> None:
    whole = bytearray(message(before[0], before[1], after[2], after[3]))
    for _ in range(data.draw(st.integers(1, 3))):
        whole[data.draw(st.integers(0, len(whole) - 1))] = data.draw(st.integers(0, 255))
    cut = bytes(whole[: data.draw(st.integers(1, len(whole)))])
    rest = same_as(message(*before)).rest(cut)
    if rest is not None:
        steps = pb.ClientMessage.FromString(cut).steps
        assert (list(steps.handle), list(steps.length)) == (before[0], before[1])
        assert read(rest) == (list(steps.first), list(steps.input))


one_step = st.tuples(
    st.integers(0, 2**32 - 1),
    st.sampled_from([[], [1]]),
    st.one_of(st.just([]), st.integers(0, 2**63 - 1).map(lambda first: [first])),
    st.binary(min_size=1, max_size=300),
)


def same_step_as(data: bytes) -> SameStep:
    engine: Any = SimpleNamespace(wants={7: 3})
    same = SameStep.of(data, pb.ClientMessage.FromString(data).steps, 7, engine, 5)
    assert same is not None
    assert (same.slot, same.wants, same.changes) == (7, 3, 5)
    return same


@given(one_step, st.data())
def test_another_step_of_the_same_session_is_known_again(
    before: tuple[int, list[int], list[int], bytes], data: st.DataObject
) -> None:
    handle, length, first, column = before
    same = same_step_as(message([handle], length, first, [column]))
    assert same.handle == handle
    position = first and [data.draw(st.integers(max(0, first[0] - 200), min(2**63 - 1, first[0] + 200)), "first")]
    numbers = data.draw(st.binary(min_size=len(column), max_size=len(column)), "column")
    other = message([handle], length, position, [numbers])
    rest = same.rest(other)
    if rest is None:
        assert len(other) != same.size
    else:
        assert rest == (position[0] if position else -1, numbers)


@given(one_step, st.data())
def test_of_any_bytes_one_step_says_what_protobuf_reads(
    before: tuple[int, list[int], list[int], bytes], data: st.DataObject
) -> None:
    handle, length, first, column = before
    whole = bytearray(message([handle], length, first, [column]))
    same = same_step_as(bytes(whole))
    for _ in range(data.draw(st.integers(1, 3))):
        whole[data.draw(st.integers(0, len(whole) - 1))] = data.draw(st.integers(0, 255))
    rest = same.rest(bytes(whole))
    if rest is not None:
        steps = pb.ClientMessage.FromString(bytes(whole)).steps
        assert (list(steps.handle), list(steps.length)) == ([handle], length)
        assert (list(steps.first) or [-1], list(steps.input)) == ([rest[0]], [rest[1]])


def test_what_is_no_single_step_is_not_remembered() -> None:
    engine: Any = SimpleNamespace(wants={7: 3})
    two_inputs = message([1], [], [0], [b"a", b"b"])
    # protobuf reads fields in any order; it writes them in theirs.
    steps = pb.Steps(input=[b"a"]).SerializeToString() + pb.Steps(handle=[1]).SerializeToString()
    another_order = bytes((0x12, len(steps))) + steps
    for data in (two_inputs, another_order):
        assert SameStep.of(data, pb.ClientMessage.FromString(data).steps, 7, engine, 0) is None
