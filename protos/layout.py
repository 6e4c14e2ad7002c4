"""What a model takes, gives and carries: read once from its spec, for all who cut its bytes or make room for them.

A row is what one step of one session has of a column; of a state, what one session has.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Self

import numpy as np
import numpy.typing as npt

from gatestream.protos.dtypes import DTYPES
from gatestream.protos.gatestream.v1 import gatestream_pb2 as pb

Array = npt.NDArray[Any]

_REAL: Final = "fd"
_UNSIGNED: Final = {size: np.dtype(f"<u{size}") for size in (1, 2, 4, 8)}


class LayoutError(ValueError):
    """The spec has a data type that this version does not know."""


@dataclass(frozen=True, slots=True)
class Column:
    """An output, or a constant of a session.

    Attributes:
        name: in the graph.
        dtype: of its numbers, little-endian.
        shape: of a row.
        size: numbers in a row.
        row_bytes: bytes of a row.
    """

    name: str
    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    size: int = field(init=False)
    row_bytes: int = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "size", math.prod(self.shape))
        object.__setattr__(self, "row_bytes", self.dtype.itemsize * self.size)

    def rows(self, data: bytes | memoryview) -> Array:
        """The rows that lie in these bytes, [rows, *shape], read-only where the bytes are.

        Raises:
            ValueError: they are not whole rows.
        """
        return np.frombuffer(data, self.dtype).reshape(-1, *self.shape)

    def good(self, column: Array) -> npt.NDArray[np.bool_]:
        """For each number, whether it is one that the model takes."""
        if self.dtype.kind == "f":
            return np.isfinite(column)
        if self.dtype.kind == "b":
            # What came as bytes may be more than 0 and 1.
            return column.view(np.uint8) < 2
        return np.ones(column.shape, np.bool_)

    def below(self, limit: int, column: Array) -> npt.NDArray[np.bool_]:
        """For each whole number, whether it is from 0 to below a limit."""
        # Below 0 is far above as an unsigned number.
        found: npt.NDArray[np.bool_] = column.view(_UNSIGNED[self.dtype.itemsize]) < limit
        return found

    def all_good(self, column: Array) -> bool:
        """Whether the model takes all of these numbers."""
        # As fast as anything on many numbers, and twice as fast on few.
        return b"\0" not in self.good(column).tobytes()


@dataclass(frozen=True, slots=True)
class Input(Column):
    """An input of which every step has a row.

    Attributes:
        vocabulary: the tokens, by id; empty: they have no names.
        columns: names of the numbers of a row; empty: they have none.
        limit: whole numbers from 0 to below this are taken; 0: all.
    """

    vocabulary: tuple[str, ...] = ()
    columns: tuple[str, ...] = ()
    limit: int = 0

    def good(self, column: Array) -> npt.NDArray[np.bool_]:
        """As `Column`."""
        return self.below(self.limit, column) if self.limit else Column.good(self, column)

    def takes(self, row: bytes) -> bool:
        """Whether the model takes all numbers of one row: `all_good`, in less time where they are few."""
        size = self.dtype.itemsize
        if self.dtype.char in _REAL:
            # What is not finite has an exponent of ones, of which seven are in the last byte.
            # https://en.wikipedia.org/wiki/IEEE_754#Basic_and_interchange_formats
            leading = row[size - 1 :: size]
            if leading.find(b"\x7f") < 0 and leading.find(b"\xff") < 0:
                return True
        elif self.limit and len(row) == size:
            # Below 0 is far above here too.
            return int.from_bytes(row, "little") < self.limit
        return self.all_good(self.rows(row))


@dataclass(frozen=True, slots=True)
class Gate(Column):
    """A gate's activations.

    Attributes:
        gate: which one: `input`, `forget`, `candidate` or `output`.
    """

    gate: str = ""


@dataclass(frozen=True, slots=True)
class State(Column):
    """What a session carries from step to step; its name is that of the graph's input.

    Attributes:
        after: the graph's output that has it after the step.
        initial: what each number of a new session's is, where they are all the same.
        initial_row: a new session's, as bytes, where they are not; else empty.
        role: what it is to the model.
        required: it is a constant that every session must be given.
        limit: whole numbers from 0 to below this are taken; 0: all.
    """

    after: str = ""
    initial: float = 0.0
    initial_row: bytes = field(default=b"", repr=False)
    role: pb.StateRole = pb.STATE_ROLE_UNSPECIFIED
    required: bool = False
    limit: int = 0

    @property
    def constant(self) -> bool:
        """Whether it is set when a session opens, and stays."""
        return self.role == pb.STATE_ROLE_CONSTANT

    def good(self, column: Array) -> npt.NDArray[np.bool_]:
        """As `Column`."""
        return self.below(self.limit, column) if self.limit else Column.good(self, column)

    def first(self) -> Array:
        """That of a new session, [*shape]."""
        if self.initial_row:
            return np.frombuffer(self.initial_row, self.dtype).reshape(self.shape)
        return np.full(self.shape, self.initial, self.dtype)


@dataclass(frozen=True, slots=True)
class ModelLayout:
    """The columns of a model, each in the spec's order.

    Attributes:
        name: of the model.
        fingerprint: of the weights: a state has a meaning for these alone.
        inputs: of each step.
        outputs: of each step.
        states: of each session; constants are among them.
        gates: of each step.
        length: the graph's input for how many steps of a row are real; empty: it has none.
    """

    name: str
    fingerprint: str
    inputs: tuple[Input, ...]
    outputs: tuple[Column, ...]
    states: tuple[State, ...]
    gates: tuple[Gate, ...] = ()
    length: str = ""

    @property
    def constants(self) -> tuple[State, ...]:
        """What is set when a session opens, and stays."""
        return tuple(each for each in self.states if each.constant)

    @property
    def input_bytes(self) -> int:
        """Of a step."""
        return _bytes(self.inputs)

    @property
    def output_bytes(self) -> int:
        """Of a step."""
        return _bytes(self.outputs)

    @property
    def gate_bytes(self) -> int:
        """Of a step."""
        return _bytes(self.gates)

    @property
    def state_bytes(self) -> int:
        """Of a session."""
        return _bytes(self.states)

    @classmethod
    def of(cls, spec: pb.ModelSpec) -> Self:
        """The layout of the model that a spec describes.

        Raises:
            LayoutError: it has a data type that this version does not know.
        """
        return cls(
            spec.name,
            spec.weights_fingerprint,
            tuple(_input(each) for each in spec.inputs),
            tuple(Column(each.name, _dtype(each.name, each.dtype), tuple(each.shape)) for each in spec.outputs),
            tuple(
                State(
                    each.input,
                    _dtype(each.input, each.dtype),
                    tuple(each.shape),
                    each.output,
                    each.initial,
                    each.initial_values,
                    each.role,
                    each.required,
                    each.limit,
                )
                for each in spec.states
            ),
            tuple(
                Gate(
                    each.output,
                    DTYPES[pb.DATA_TYPE_FLOAT32],
                    tuple(each.shape) or (spec.layers, spec.hidden),
                    each.name,
                )
                for each in spec.gates
            ),
            length=spec.length_input,
        )


def _input(spec: pb.TensorSpec) -> Input:
    dtype = _dtype(spec.name, spec.dtype)
    # Logits have a vocabulary too, and are no ids.
    vocabulary = tuple(spec.vocabulary) if dtype.kind in "iu" else ()
    return Input(spec.name, dtype, tuple(spec.shape), vocabulary, tuple(spec.columns), len(vocabulary) or spec.limit)


def _bytes(columns: Sequence[Column]) -> int:
    return sum(each.row_bytes for each in columns)


def _dtype(name: str, dtype: pb.DataType) -> np.dtype[Any]:
    if dtype not in DTYPES:
        raise LayoutError(f"'{name}' is of data type {dtype}, which this version does not know: install a newer one")
    return DTYPES[dtype]
