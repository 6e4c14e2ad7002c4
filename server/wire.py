"""The bytes of the protobuf messages that are put together by hand, because each carries one session's numbers only.

https://protobuf.dev/programming-guides/encoding
"""

from collections.abc import Sequence
from functools import lru_cache
from typing import Final

import numpy as np

from gatestream.protos.gatestream.v1 import gatestream_pb2 as pb
from gatestream.server.slots import Array, Ints

_LENGTH_DELIMITED: Final = 2
_SHIFTS: Final = 7 * np.arange(10)
_RESULTS: Final = pb.ServerMessage.DESCRIPTOR.fields_by_name["results"].number
_HANDLE, _LENGTH, _FIRST, _OUTPUT, _GATE = (
    pb.Results.DESCRIPTOR.fields_by_name[name].number for name in ("handle", "length", "first", "output", "gate")
)


def varint(number: int) -> bytes:
    """A number of 0 or more, in base 128."""
    if number < 0x80:
        return bytes((number,))
    groups = []
    while number >= 0x80:
        groups.append(number & 0x7F | 0x80)
        number >>= 7
    groups.append(number)
    return bytes(groups)


@lru_cache(4096)
def head(field: int, size: int) -> bytes:
    """What stands before the contents of a field of bytes, or of a message, of this size."""
    return varint(field << 3 | _LENGTH_DELIMITED) + varint(size)


def results_of_one(handle: int, first: int, length: int, outputs: Sequence[bytes], gates: Sequence[bytes]) -> bytes:
    """A ServerMessage with the Results of one entry, as protobuf writes it, in a third of its time."""
    number, position = varint(handle), varint(first)
    parts = [head(_HANDLE, len(number)), number]
    if length > 1:
        steps = varint(length)
        parts += head(_LENGTH, len(steps)), steps
    parts += head(_FIRST, len(position)), position
    for column in outputs:
        parts += head(_OUTPUT, len(column)), column
    for column in gates:
        parts += head(_GATE, len(column)), column
    body = b"".join(parts)
    return head(_RESULTS, len(body)) + body


def varints(numbers: Ints) -> bytes:
    """Numbers of 0 or more, each in base 128, one after another."""
    most = len(varint(int(numbers.max())))
    groups = (numbers[:, None] >> _SHIFTS[:most]).astype(np.uint8)
    groups[:, :-1] |= 0x80
    groups[:, -1] &= 0x7F
    if int(numbers.min()) >> _SHIFTS[most - 1]:
        return bytes(groups)
    # Some are shorter.
    size = 1 + np.count_nonzero(numbers[:, None] >> _SHIFTS[1:most], axis=1)
    groups[np.arange(len(numbers)), size - 1] &= 0x7F
    return bytes(groups[np.arange(most) < size[:, None]])


def handles_and_lengths(handles: Ints, lengths: Ints | None) -> bytes:
    """The first two columns of Results, which are those of Steps too. No lengths: all are 1."""
    numbers = varints(handles)
    column = head(_HANDLE, len(numbers)) + numbers
    if lengths is None:
        return column
    numbers = varints(lengths)
    return column + head(_LENGTH, len(numbers)) + numbers


def results(begin: bytes, first: Ints, outputs: Sequence[Array], gates: Sequence[Array]) -> bytes:
    """A ServerMessage with Results, whose columns are copied once: protobuf would copy megabytes three times.

    Args:
        begin: as `handles_and_lengths` gives it.
        first: position of each entry's first step.
        outputs: the columns of the outputs, contiguous.
        gates: the columns of the gates, contiguous.
    """
    positions = varints(first)
    parts = [memoryview(part) for part in (begin, head(_FIRST, len(positions)), positions)]
    for field, columns in ((_OUTPUT, outputs), (_GATE, gates)):
        for column in columns:
            parts += memoryview(head(field, column.nbytes)), column.data
    return b"".join([head(_RESULTS, sum(part.nbytes for part in parts)), *parts])
