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
    if len(values) == 1:
        return varint(values.item(0))
    if (values == values[0]).all():
        return varint(int(values[0])) * len(values)
    return b"".join(map(varint, values.tolist()))


def head(handles: bytes, lengths: bytes, firsts: bytes) -> bytes:
    """What a message of steps and its results begin with; no lengths: every entry has 1."""
    length = [_LENGTH, varint(len(lengths)), lengths] if lengths else []
    return b"".join([_HANDLE, varint(len(handles)), handles, *length, _FIRST, varint(len(firsts)), firsts])


class Frame:
    """What stands around the numbers of a message of steps and of its results, apart from the head.

    Attributes:
        inputs: what stands before each input.
        outputs: of each column of results, outputs, then gates: what stands before it, and the column.
        sent: bytes of a message of steps besides the head, its inputs included.
        answered: bytes of its results besides the head.
    """

    def __init__(self, layout: Layout, rows: int) -> None:
        self.rows = rows
        self.inputs = [_INPUT + varint(rows * each.column.row_bytes) for each in layout.inputs]
        columns = [(_OUTPUT, column) for column in layout.outputs] + [(_GATE, column) for column in layout.gates]
        self.outputs = [(tag + varint(rows * column.row_bytes), column) for tag, column in columns]
        self.sent = sum([len(before) for before in self.inputs])
        self.sent += sum([rows * each.column.row_bytes for each in layout.inputs])
        self.answered = sum([len(before) + rows * column.row_bytes for before, column in self.outputs])


frame = lru_cache(256)(Frame)
"""The frame of a message of so many rows; most have as many as one before."""


def message(head: bytes, inputs: Sequence[Sequence[Array]], frame: Frame) -> bytes:
    """A `ClientMessage` of steps.

    Args:
        head: what `head` has made.
        inputs: per input, the rows of all entries, in contiguous pieces.
        frame: for as many rows.
    """
    # Bytes, and arrays, which are joined as the bytes that they are in memory.
    parts: list[Any] = [_STEPS, varint(len(head) + frame.sent), head]
    for before, pieces in zip(frame.inputs, inputs, strict=True):
        parts.append(before)
        parts += pieces
    return b"".join(parts)


class Whole:
    """How the answer to a message of steps looks that answers all of them, in the order sent."""

    def __init__(self, head: bytes, frame: Frame) -> None:
        """Foresee it.

        Args:
            head: of the message.
            frame: of the message.
        """
        self._frame = frame
        self._begin = _RESULTS + varint(len(head) + frame.answered) + head
        self._size = len(self._begin) + frame.answered

    def read(self, data: bytes) -> list[Array] | None:
        """Outputs, then gates, each [rows, *shape], read-only; None: this is something else."""
        if len(data) != self._size or not data.startswith(self._begin):
            return None
        rows = self._frame.rows
        at = len(self._begin)
        arrays: list[Array] = []
        for before, column in self._frame.outputs:
            if not data.startswith(before, at):
                return None
            at += len(before)
            arrays.append(np.ndarray((rows, *column.shape), column.dtype, data, at))
            at += rows * column.row_bytes
        return arrays
