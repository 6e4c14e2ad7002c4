"""A large message, read where it lies: protobuf would copy its columns, and list numbers before they are counted."""

from typing import Final

import numpy as np

from gatestream.protos.gatestream.v1 import gatestream_pb2 as pb
from gatestream.server.arrays import Ints
from gatestream.server.errors import InvalidRequest
from gatestream.server.transport.parsing import malformed
from gatestream.server.transport.wire import field, numbers, varint_at

_STEPS: Final = pb.ClientMessage.DESCRIPTOR.fields_by_name["steps"].number
_HANDLE, _LENGTH, _FIRST, _INPUT, _ACKNOWLEDGED = (
    pb.Steps.DESCRIPTOR.fields_by_name[name].number for name in ("handle", "length", "first", "input", "acknowledged")
)
_NAMES: Final = {_HANDLE: "handle", _LENGTH: "length", _FIRST: "first", _ACKNOWLEDGED: "acknowledged"}
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
# Of a message that has its numbers in columns, as protobuf writes them, these are many.
_MOST_FIELDS: Final = 256
_LONGEST_VARINT: Final = 10
# A size has no more bytes either.
_LONGEST_TAG: Final = 5
# The first number that no field may have.
_NO_NUMBER: Final = 2**29


def large_steps(message: bytes, entries: int) -> tuple[Ints, Ints, Ints, Ints, list[memoryview]]:
    """The columns of a ClientMessage with Steps, as they were sent.

    Args:
        message: of some KiB at least.
        entries: that it may have.

    Returns:
        Handles, lengths, first positions, acknowledged sequences, each [entries] or empty; and the inputs, in the
        message.

    Raises:
        InvalidRequest: it has more entries, is no Steps, or is not written in columns.
        Malformed: it is no message.
    """
    number, at, stop = field(message, 0)
    if number != _STEPS or stop != len(message):
        raise InvalidRequest(f"a message of {len(message)} bytes is not one Steps message; no other is so large")
    whole = memoryview(message)
    columns: dict[int, list[memoryview]] = {_HANDLE: [], _LENGTH: [], _FIRST: [], _ACKNOWLEDGED: []}
    sizes = dict.fromkeys(columns, 0)
    inputs: list[memoryview] = []
    for _ in range(_MOST_FIELDS):
        if at == stop:
            break
        number, kind, start, at = _field(message, at)
        if kind == _BYTES and number == _INPUT:
            inputs.append(whole[start:at])
        elif kind in (_BYTES, _VARINT) and number in columns:
            if start < at and message[at - 1] >= 0x80:
                # A number ends in the column that it begins in.
                raise malformed(pb.ClientMessage, message)
            columns[number].append(whole[start:at])
            sizes[number] += at - start
            # Then there are more of them, however they are written.
            if sizes[number] > _LONGEST_VARINT * entries:
                raise InvalidRequest(
                    f"steps.{_NAMES[number]} has over {entries} entries; expected at most {entries}, "
                    "the sessions that one stream may hold"
                )
    else:
        raise InvalidRequest(
            f"steps has over {_MOST_FIELDS} fields; expected packed columns, as protobuf writes them, and one column "
            "for each of the inputs"
        )
    handles, lengths, first, acknowledged = (_numbers(number, b"".join(pieces)) for number, pieces in columns.items())
    # As protobuf reads what is too long for a uint32.
    return handles & 0xFFFFFFFF, lengths & 0xFFFFFFFF, first, acknowledged, inputs


def _field(message: bytes, at: int) -> tuple[int, int, int, int]:
    """The field that begins at some place: its number, its kind, and where its contents begin and end."""
    number = 0
    try:
        tag, at = varint_at(message, at, _LONGEST_TAG)
        number, kind = divmod(tag, 8)
        start = at
        if kind == _VARINT:
            _, at = varint_at(message, at)
        elif kind == _BYTES:
            size, start = varint_at(message, at, _LONGEST_TAG)
            at = start + size
        elif kind in (_FIXED32, _FIXED64):
            at += 4 if kind == _FIXED32 else 8
        else:
            at = len(message) + 1
    except (IndexError, ValueError):
        at = len(message) + 1
    if at > len(message) or not 0 < number < _NO_NUMBER:
        raise malformed(pb.ClientMessage, message)
    return number, kind, start, at


def _numbers(field_number: int, data: bytes) -> Ints:
    if not data:
        return np.empty(0, np.int64)
    column = numbers(data)
    if column is None:
        raise InvalidRequest(f"steps.{_NAMES[field_number]} holds a number that is not below 2^63")
    return column
