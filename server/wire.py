"""The bytes of the protobuf messages that are put together by hand, because each carries one session's numbers only.

https://protobuf.dev/programming-guides/encoding
"""

from collections.abc import Sequence
from functools import lru_cache
from typing import Final

from gatestream.protos.gatestream.v1 import gatestream_pb2 as pb
from gatestream.server.slots import Array

_LENGTH_DELIMITED: Final = 2
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


def results(entries: pb.Results, outputs: Sequence[Array], gates: Sequence[Array]) -> bytes:
    """A ServerMessage with Results, whose columns are copied once: protobuf would copy megabytes three times.

    Args:
        entries: all but the columns.
        outputs: the columns of the outputs, contiguous.
        gates: the columns of the gates, contiguous.
    """
    parts = [memoryview(entries.SerializeToString())]
    for field, columns in ((_OUTPUT, outputs), (_GATE, gates)):
        for column in columns:
            parts += memoryview(head(field, column.nbytes)), column.data
    return b"".join([head(_RESULTS, sum(part.nbytes for part in parts)), *parts])
