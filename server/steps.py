"""What a Steps message says: which sessions, how far, and the columns of its inputs."""

from collections.abc import Sequence
from typing import Final, NamedTuple

import numpy as np

from gatestream.protos.gatestream.v1 import gatestream_pb2 as pb
from gatestream.server.errors import InvalidRequest
from gatestream.server.models import Model
from gatestream.server.slots import Array, Ints
from gatestream.server.wire import head

_STEPS: Final = pb.ClientMessage.DESCRIPTOR.fields_by_name["steps"].number


class Entries(NamedTuple):
    """What a message is to step, one element of each array for each entry.

    Attributes:
        rows: of each input, in all.
    """

    handles: Ints
    slots: Ints
    lengths: Ints
    offsets: Ints
    rows: int
    model: Model


class Same(NamedTuple):
    """A message, to know others by that step the same sessions as far, which most do that a client sends.

    Attributes:
        begin: its bytes up to the end of its handles and lengths.
        columns: the handles and lengths of these bytes; an answer has the same.
        lengths: how many it gave.
        entries: what it is to step; nothing was wrong with any.
    """

    begin: bytes
    columns: bytes
    lengths: int
    entries: Entries

    @classmethod
    def of(cls, message: bytes, steps: pb.Steps, entries: Entries) -> "Same | None":
        """None where the client does not write protobuf as protobuf does."""
        columns = pb.Steps(handle=steps.handle, length=steps.length).SerializeToString()
        begin = head(_STEPS, steps.ByteSize()) + columns
        return cls(begin, columns, len(steps.length), entries) if message.startswith(begin) else None

    def begins(self, message: bytes, steps: pb.Steps) -> bool:
        """Whether a message begins as this one, and has no more of what may come again further on."""
        same = len(steps.handle) == len(self.entries.handles) and len(steps.length) == self.lengths
        return same and message.startswith(self.begin)


def number_column(values: Sequence[int], name: str, entries: int) -> Ints | None:
    """A column of numbers of 0 or more; None where it was not sent.

    Raises:
        InvalidRequest: it is not as long as there are entries, or a number does not fit.
    """
    if not values:
        return None
    if len(values) != entries:
        raise InvalidRequest(f"{name} has {len(values)} elements, steps.handle {entries}; expected as many, or none")
    if max(values) >= 2**63:
        raise InvalidRequest(f"{name} holds {max(values)}; expected less than 2^63")
    return np.fromiter(values, np.int64, entries)


def input_columns(model: Model, columns: Sequence[bytes], rows: int) -> list[Array]:
    """The model's inputs, in its order, each [rows, *shape].

    Raises:
        InvalidRequest: there are more or fewer, or one has another size.
    """
    inputs = model.engine.inputs
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
    return [item.rows(column) for item, column in zip(inputs, columns, strict=True)]
