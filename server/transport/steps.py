"""What a Steps message says: which sessions, how far, and the columns of its inputs."""

from collections.abc import Sequence
from typing import Final, NamedTuple

import numpy as np

from gatestream.protos.gatestream.v1 import gatestream_pb2 as pb
from gatestream.protos.layout import Input
from gatestream.server.arrays import Array, Ints
from gatestream.server.core.batches import Entries
from gatestream.server.core.catalog import Model
from gatestream.server.core.engine import Engine
from gatestream.server.errors import InvalidRequest
from gatestream.server.transport.large_steps import LargeSteps
from gatestream.server.transport.wire import field, head, number, numbers, varint

_STEPS: Final = pb.ClientMessage.DESCRIPTOR.fields_by_name["steps"].number
_FIRST, _INPUT = (pb.Steps.DESCRIPTOR.fields_by_name[name].number for name in ("first", "input"))


class Same(NamedTuple):
    """A message, to know others by that step the same sessions as far, which most do that a client sends.

    Their columns are read where they lie: protobuf would copy them twice.

    Attributes:
        begin: the columns of the handles and lengths, with which the answer begins too.
        entries: what it is to step; nothing was wrong with any.
        model: of these sessions.
        changes: of the handles, by when this was so.
    """

    begin: bytes
    entries: Entries
    model: Model
    changes: int

    @classmethod
    def of(cls, steps: pb.Steps | LargeSteps, entries: Entries, model: Model, changes: int) -> "Same":
        """To know messages by that begin as this one does."""
        begin = pb.Steps(handle=_list(steps.handle), length=_list(steps.length)).SerializeToString()
        return cls(begin, entries, model, changes)

    def rest(self, message: bytes) -> tuple[Ints | None, list[memoryview]] | None:
        """What another message has besides: the positions, and the columns of its inputs.

        Returns:
            None where it steps other sessions, or otherwise far, or is not written as protobuf writes it.
        """
        number, at, stop = field(message, 0)
        if number != _STEPS or stop != len(message) or not message.startswith(self.begin, at):
            return None
        at += len(self.begin)
        whole = memoryview(message)
        first, columns = None, []
        while at < stop:
            number, start, at = field(message, at)
            if at > stop:
                return None
            if number == _INPUT:
                columns.append(whole[start:at])
            elif number == _FIRST and first is None and not columns:
                first = numbers(message[start:at])
                if first is None or len(first) != len(self.entries.handles):
                    return None
            else:
                return None
        return first, columns


class SameStep(NamedTuple):
    """A message of one step of one session, to know others by that differ in nothing but position and numbers.

    Attributes:
        begin: what stands before the position.
        between: what stands between the position and the numbers, which are the message's end.
        stop: where in a message the position ends.
        size: of a message.
        handle, slot, wants: as in `Engine.submit_one`.
        engine: that has the session.
        changes: of the handles, by when this was so.
    """

    begin: bytes
    between: bytes
    stop: int
    size: int
    handle: int
    slot: int
    wants: int
    engine: Engine
    changes: int

    @classmethod
    def of(cls, message: bytes, steps: pb.Steps, slot: int, engine: Engine, changes: int) -> "SameStep | None":
        """To know messages by that are like this one; None where it is not as protobuf writes it, or has more inputs.

        Args:
            message: as it came.
            steps: what it says, which was right.
            slot: of its session.
            engine: that has the session.
            changes: of the handles.
        """
        if len(steps.input) != 1 or pb.ClientMessage(steps=steps).SerializeToString() != message:
            return None
        (column,) = steps.input
        between = head(_INPUT, len(column))
        stop = len(message) - len(column) - len(between)
        start = stop - len(varint(steps.first[0])) if steps.first else stop
        handle, wants = steps.handle[0], int(engine.wants[slot])
        return cls(message[:start], between, stop, len(message), handle, slot, wants, engine, changes)

    def rest(self, message: bytes) -> tuple[int, bytes] | None:
        """What another message has besides: the position, -1 where none is sent, and the numbers.

        Returns:
            None where it steps another session, or otherwise far, or its position takes more bytes or fewer.
        """
        begin, between, stop, size, *_ = self
        if len(message) != size or not message.startswith(begin) or not message.startswith(between, stop):
            return None
        start = len(begin)
        first = number(message[start:stop]) if start < stop else -1
        return None if first is None else (first, message[stop + len(between) :])


def number_column(values: Sequence[int] | Ints, name: str, entries: int) -> Ints | None:
    """A column of numbers of 0 or more; None where it was not sent.

    Raises:
        InvalidRequest: it is not as long as there are entries, or a number does not fit.
    """
    if len(values) == 0:
        return None
    if len(values) != entries:
        raise InvalidRequest(f"{name} has {len(values)} elements, steps.handle {entries}; expected as many, or none")
    if isinstance(values, np.ndarray):
        return values
    if max(values) >= 2**63:
        raise InvalidRequest(f"{name} holds {max(values)}; expected less than 2^63")
    return np.fromiter(values, np.int64, entries)


def _list(values: Sequence[int] | Ints) -> Sequence[int]:
    return values.tolist() if isinstance(values, np.ndarray) else values


def input_columns(model: Model, columns: Sequence[bytes | memoryview], rows: int) -> list[Array]:
    """The model's inputs, in its order, each [rows, *shape].

    Raises:
        InvalidRequest: there are more or fewer, or one has another size.
    """
    inputs = model.layout.inputs
    if len(columns) != len(inputs):
        raise InvalidRequest(
            f"steps.input has {len(columns)} columns; model {model.spec.name!r} has {len(inputs)} inputs: "
            + ", ".join(item.name for item in inputs)
        )
    for item, column in zip(inputs, columns, strict=True):
        if len(column) != rows * item.row_bytes:
            raise InvalidRequest(
                f"steps.input {item.name!r} has {len(column)} bytes; expected {rows * item.row_bytes}: {rows} rows "
                f"(the sum of steps.length) of {item.row_bytes} bytes ({item.dtype.name} {list(item.shape)})"
            )
    return [_aligned(item, column) for item, column in zip(inputs, columns, strict=True)]


def _aligned(item: Input, column: bytes | memoryview) -> Array:
    rows = item.rows(column)
    return rows if rows.flags.aligned else item.rows(bytes(column))
