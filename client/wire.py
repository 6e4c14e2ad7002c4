"""Steps messages as bytes, and the answers that are their mirror image, without protobuf in between.

A message of steps and the results of all of them begin with the same columns: handles, lengths, positions. So the
usual answer is recognised by comparing bytes, and its numbers are read where they lie. Any other answer is left to
protobuf: this module reads nothing else, and what it writes is a `ClientMessage` like any other.
"""

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np

from gatestream.client.columns import Array, Layout
from gatestream.protos.gatestream.v1 import gatestream_pb2 as pb


def _tag(number: int) -> bytes:
    """Of a field whose value has a length."""
    return bytes([number << 3 | 2])


_STEPS = _tag(pb.ClientMessage.STEPS_FIELD_NUMBER)
_HANDLE = _tag(pb.Steps.HANDLE_FIELD_NUMBER)
_LENGTH = _tag(pb.Steps.LENGTH_FIELD_NUMBER)
_FIRST = _tag(pb.Steps.FIRST_FIELD_NUMBER)
_INPUT = _tag(pb.Steps.INPUT_FIELD_NUMBER)
_RESULTS = _tag(pb.ServerMessage.RESULTS_FIELD_NUMBER)
_OUTPUT = _tag(pb.Results.OUTPUT_FIELD_NUMBER)
_GATE = _tag(pb.Results.GATE_FIELD_NUMBER)


@lru_cache(4096)
def varint(value: int) -> bytes:
    """A number that is not negative, as protobuf writes it."""
    octets = bytearray()
    while value >= 0x80:
        octets.append(value & 0x7F | 0x80)
        value >>= 7
    octets.append(value)
    return bytes(octets)


def varints(values: Array) -> bytes:
    """Numbers that are not negative, one after another, as a packed field holds them."""
    if len(values) == 1 or (values == values[0]).all():
        return varint(int(values[0])) * len(values)
    return b"".join(map(varint, values.tolist()))


def head(handles: bytes, lengths: bytes, firsts: bytes) -> bytes:
    """What a message of steps and its results begin with; no lengths: every entry has 1."""
    length = [_LENGTH, varint(len(lengths)), lengths] if lengths else []
    return b"".join([_HANDLE, varint(len(handles)), handles, *length, _FIRST, varint(len(firsts)), firsts])


def message(head: bytes, inputs: Sequence[Sequence[Array]], sizes: Sequence[int]) -> bytes:
    """A `ClientMessage` of steps.

    Args:
        head: what `head` has made.
        inputs: per input, the rows of all entries, in contiguous pieces.
        sizes: bytes of each input.
    """
    # Bytes, and arrays, which are joined as the bytes that they are in memory.
    body: list[Any] = [head]
    length = len(head)
    for pieces, size in zip(inputs, sizes, strict=True):
        before = _INPUT + varint(size)
        length += len(before) + size
        body.append(before)
        body += pieces
    return b"".join([_STEPS, varint(length), *body])


class Whole:
    """How the answer to a message of steps looks that answers all of them, in the order sent."""

    def __init__(self, layout: Layout, head: bytes, rows: int) -> None:
        """Foresee it.

        Args:
            layout: of every session in the message.
            head: of the message.
            rows: that it carries.
        """
        self._rows = rows
        columns = [(_OUTPUT, column) for column in layout.outputs] + [(_GATE, column) for column in layout.gates]
        self._columns = [(tag + varint(rows * column.row_bytes), column) for tag, column in columns]
        size = len(head) + sum([len(before) + rows * column.row_bytes for before, column in self._columns])
        self._begin = _RESULTS + varint(size) + head
        self._size = 1 + len(varint(size)) + size

    def read(self, data: bytes) -> list[Array] | None:
        """Outputs, then gates, each [rows, *shape], read-only; None: this is something else."""
        if len(data) != self._size or not data.startswith(self._begin):
            return None
        at = len(self._begin)
        arrays: list[Array] = []
        for before, column in self._columns:
            if not data.startswith(before, at):
                return None
            at += len(before)
            numbers = np.frombuffer(data, column.dtype, self._rows * column.size, at)
            arrays.append(numbers.reshape(self._rows, *column.shape))
            at += numbers.nbytes
        return arrays
