import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from gatestream.protos.gatestream.v1 import gatestream_pb2 as pb
from gatestream.server.steps import Entries, Same

columns = st.tuples(
    st.lists(st.integers(0, 3), min_size=1, max_size=4),
    st.lists(st.integers(1, 2), max_size=4),
    st.lists(st.integers(0, 200), max_size=4),
    st.lists(st.binary(max_size=3), max_size=2),
)


def message(handle: list[int], length: list[int], first: list[int], columns: list[bytes]) -> bytes:
    return pb.ClientMessage(
        steps=pb.Steps(handle=handle, length=length, first=first, input=columns)
    ).SerializeToString()


def same_as(data: bytes) -> Same | None:
    steps = pb.ClientMessage.FromString(data).steps
    handles = np.array(steps.handle, np.int64)
    nothing: object = None
    return Same.of(data, steps, Entries(handles, handles, handles, handles, 0, nothing))  # type: ignore[arg-type]


@given(st.lists(columns, min_size=1, max_size=2), st.lists(columns, min_size=1, max_size=3))
def test_a_message_that_is_known_again_steps_the_same_sessions_as_far(
    before: list[tuple[list[int], list[int], list[int], list[bytes]]],
    after: list[tuple[list[int], list[int], list[int], list[bytes]]],
) -> None:
    # Messages one after another are one to protobuf: what comes later is added to what came before.
    old, new = (b"".join(message(*part) for part in parts) for parts in (before, after))
    same = same_as(old)
    steps = pb.ClientMessage.FromString(new).steps
    if same is not None and same.begins(new, steps):
        known = pb.ClientMessage.FromString(old).steps
        assert (steps.handle, steps.length) == (known.handle, known.length)


@given(columns, st.lists(st.binary(max_size=3), max_size=2), st.lists(st.integers(0, 200), max_size=4))
def test_a_message_with_other_numbers_is_known_again(
    before: tuple[list[int], list[int], list[int], list[bytes]], inputs: list[bytes], first: list[int]
) -> None:
    old, new = message(*before), message(before[0], before[1], first, inputs)
    same = same_as(old)
    assert same is not None
    known = same.begins(new, pb.ClientMessage.FromString(new).steps)
    assert known == (len(new) == len(old))
