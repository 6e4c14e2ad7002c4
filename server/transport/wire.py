"""The bytes of the protobuf messages that are written and read by hand: those that carry steps and their answers.

https://protobuf.dev/programming-guides/encoding
"""

from collections.abc import Sequence
from functools import lru_cache
from typing import Any, Final

import numpy as np

from gatestream.protos.gatestream.v1 import gatestream_pb2 as pb
from gatestream.server.arrays import Array, Ints

_LENGTH_DELIMITED: Final = 2
_FEW: Final = 64
_SHIFTS: Final = 7 * np.arange(10)
_KINDS: Final[dict[Any, int]] = {item.message_type: item.number for item in pb.ServerMessage.DESCRIPTOR.fields}
_RESULTS: Final = _KINDS[pb.Results.DESCRIPTOR]
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


def varint_at(data: bytes, at: int, longest: int = 10) -> tuple[int, int]:
    """The number that begins at some place, and where it ends.

    Args:
        data: the message.
        at: where it begins.
        longest: bytes that it may have; tags and sizes may have 5.

    Raises:
        IndexError, ValueError: there is none.
    """
    value = 0
    for shift in range(0, 7 * longest, 7):
        octet = data[at]
        at += 1
        value |= (octet & 0x7F) << shift
        if octet < 0x80:
            return value, at
    raise ValueError(f"a number of over {longest} bytes")


def field(message: bytes, at: int) -> tuple[int, int, int]:
    """The field of bytes that begins at some place: its number, and where its contents begin and end.

    Returns:
        Number 0 where there is no such field, or its number is over 15. It may end behind the message.
    """
    tag = message[at]
    at += 1
    size = shift = 0
    for octet in message[at : at + 5]:
        at += 1
        size |= (octet & 0x7F) << shift
        if octet < 0x80:
            return tag >> 3 if tag < 0x80 and tag & 7 == _LENGTH_DELIMITED else 0, at, at + size
        shift += 7
    return 0, at, at


def number(data: bytes) -> int | None:
    """The one number that these bytes are, of up to 63 bits; None where they are not one."""
    if not data or len(data) > 9 or data[-1] >= 0x80:
        return None
    value = data[-1]
    for octet in data[-2::-1]:
        if octet < 0x80:
            return None
        value = value << 7 | octet & 0x7F
    return value


def numbers(data: bytes) -> Ints | None:
    """The numbers of a packed field; None where one is 2^63 or more, or there is none, or no end."""
    size = next((size for size, octet in enumerate(data[:9], 1) if octet < 0x80), 0)
    if size == 0:
        return None
    if data == data[:size] * (len(data) // size):
        # Sessions that are stepped together are mostly at the same position.
        value = sum((octet & 0x7F) << 7 * place for place, octet in enumerate(data[:size]))
        return np.full(len(data) // size, value, np.int64)
    octets = np.frombuffer(data, np.uint8)
    ends = np.flatnonzero(octets < 0x80)
    if ends[-1] != len(octets) - 1:
        return None
    if size * len(ends) == len(octets) and np.count_nonzero(octets[size - 1 :: size] < 0x80) == len(ends):
        # All are as long, as those of long sessions mostly are.
        read = octets[size - 1 :: size].astype(np.int64)
        for place in range(size - 2, -1, -1):
            read = read << 7 | octets[place::size] & 0x7F
        return read
    begins = np.concatenate(([0], ends[:-1] + 1))
    sizes = ends - begins + 1
    if sizes.max() > 9:
        return None
    places = np.arange(len(octets)) - np.repeat(begins, sizes)
    whole: Ints = np.add.reduceat((octets & 0x7F).astype(np.int64) << 7 * places, begins)
    return whole


@lru_cache(4096)
def head(field: int, size: int) -> bytes:
    """What stands before the contents of a field of bytes, or of a message, of this size."""
    return varint(field << 3 | _LENGTH_DELIMITED) + varint(size)


def packed(field: int, data: bytes) -> bytes:
    """A field of bytes, or of numbers in one column."""
    return head(field, len(data)) + data


def results_of_one(handle: int, first: int, length: int, outputs: Sequence[bytes], gates: Sequence[bytes]) -> bytes:
    """A ServerMessage with the Results of one entry, as protobuf writes it, in a third of its time."""
    position = varint(first)
    if len(outputs) == 1 and not gates:
        prefix, infix = _around_position(handle, length, len(position), len(outputs[0]))
        return b"".join((prefix, position, infix, outputs[0]))
    parts = [_entry(handle, length), head(_FIRST, len(position)), position]
    for column in outputs:
        parts += head(_OUTPUT, len(column)), column
    for column in gates:
        parts += head(_GATE, len(column)), column
    return packed(_RESULTS, b"".join(parts))


@lru_cache(4096)
def _entry(handle: int, length: int) -> bytes:
    """The first two columns of Results of one entry."""
    column = packed(_HANDLE, varint(handle))
    return column + packed(_LENGTH, varint(length)) if length > 1 else column


@lru_cache(4096)
def _around_position(handle: int, length: int, position: int, output: int) -> tuple[bytes, bytes]:
    """What stands before and behind the position in Results of one entry whose only column is an output.

    Args:
        handle: of the entry.
        length: of the entry.
        position: how many bytes it has.
        output: how many bytes it has.
    """
    prefix, infix = _entry(handle, length) + head(_FIRST, position), head(_OUTPUT, output)
    return head(_RESULTS, len(prefix) + position + len(infix) + output) + prefix, infix


def varints(numbers: Ints) -> bytes:
    """Numbers of 0 or more, each in base 128, one after another."""
    least, greatest = int(numbers.min()), int(numbers.max())
    if least == greatest:
        return varint(least) * len(numbers)
    groups = numbers[:, None] >> _SHIFTS[: len(varint(greatest)) + 1]
    # What is left behind each group of bits: another one follows, if it is not 0.
    follows = groups[:, 1:] != 0
    octets = (groups[:, :-1] & 0x7F).astype(np.uint8) | follows.view(np.uint8) << 7
    if least >> _SHIFTS[octets.shape[1] - 1]:
        return bytes(octets)
    exists = np.ones(octets.shape, np.bool_)
    exists[:, 1:] = follows[:, :-1]
    return bytes(octets[exists])


def with_columns(message: pb.Error | pb.ResetDone | pb.Closed | pb.Durable, **columns: Ints) -> bytes:
    """A ServerMessage with a message and columns of it, whose numbers protobuf takes one by one: that pays for few.

    Args:
        message: without the columns, which it may have afterwards.
        columns: numbers of 0 or more, by the names of their fields. One of no numbers is left out.
    """
    fields = message.DESCRIPTOR.fields_by_name
    body = b""
    for name, numbers in columns.items():
        if len(numbers) < _FEW:
            getattr(message, name).extend(numbers.tolist())
        else:
            body += packed(fields[name].number, varints(numbers))
    body += message.SerializeToString()
    return packed(_KINDS[message.DESCRIPTOR], body)


def handles_and_lengths(handles: Ints, lengths: Ints | None) -> bytes:
    """The first two columns of Results, which are those of Steps too. No lengths: all are 1."""
    column = packed(_HANDLE, varints(handles))
    return column if lengths is None else column + packed(_LENGTH, varints(lengths))


def results(prefix: bytes, first: Ints, outputs: Sequence[Array], gates: Sequence[Array]) -> bytes:
    """A ServerMessage with Results, whose columns are copied once: protobuf would copy megabytes three times.

    Args:
        prefix: as `handles_and_lengths` gives it.
        first: position of each entry's first step.
        outputs: the columns of the outputs, contiguous.
        gates: the columns of the gates, contiguous.
    """
    positions = varints(first)
    parts = [memoryview(part) for part in (prefix, head(_FIRST, len(positions)), positions)]
    for field, columns in ((_OUTPUT, outputs), (_GATE, gates)):
        for column in columns:
            parts += memoryview(head(field, column.nbytes)), column.data
    return b"".join([head(_RESULTS, sum(part.nbytes for part in parts)), *parts])
