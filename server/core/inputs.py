"""The inputs of a model, and what can be wrong with the steps that come for it."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

from gatestream.protos.dtypes import DTYPES
from gatestream.protos.gatestream.v1 import gatestream_pb2 as pb
from gatestream.server.arrays import Array, Ints
from gatestream.server.errors import InvalidRequest, OutOfStep, Refused

Fault = tuple[npt.NDArray[np.bool_], Callable[[int], Refused]]
"""Which entries of a message have it, and what to say of one of them."""


@dataclass(frozen=True, slots=True)
class Input:
    """One input of a model, out of its specification.

    Attributes:
        tokens: how many there are; 0: the input takes any finite number.
        row_bytes: of one step of one session.
    """

    name: str
    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    tokens: int
    row_bytes: int

    def rows(self, data: bytes | memoryview) -> Array:
        """The steps that lie in these bytes, [rows, *shape]."""
        return np.frombuffer(data, self.dtype).reshape(-1, *self.shape)

    def good(self, column: Array) -> npt.NDArray[np.bool_]:
        """For each number, whether the model takes it."""
        if self.tokens:
            # Below 0 is far above as an unsigned number.
            return column.view(np.uint64) < self.tokens
        return np.isfinite(column)

    def all_good(self, column: Array) -> bool:
        """Whether the model takes all of these numbers."""
        # On few numbers in a third of the time of ndarray.all().
        return int(np.count_nonzero(self.good(column))) == column.size


def inputs_of(spec: pb.ModelSpec) -> list[Input]:
    """The inputs of a model, in its order."""
    return [
        Input(
            item.name,
            DTYPES[item.dtype],
            tuple(item.shape),
            len(item.vocabulary) if item.dtype == pb.DATA_TYPE_INT64 else 0,
            math.prod(item.shape) * DTYPES[item.dtype].itemsize,
        )
        for item in spec.inputs
    ]


def faults(
    inputs: Sequence[Input], columns: Sequence[Array], lengths: Ints, offsets: Ints, accepted: Ints, meant: Ints
) -> list[Fault]:
    """What is wrong with which entries; each entry has one fault at most.

    Args:
        inputs: of the model.
        columns: in the same order, each [rows, *shape].
        lengths: [entries], steps of each.
        offsets: [entries], where in the columns each begins.
        accepted: [entries], where each session takes its next step.
        meant: [entries], the position that each is meant for.
    """
    found: list[Fault] = []
    bad = accepted != meant
    if meant is not accepted and bad.any():
        found.append((bad, lambda k: _out_of_step(int(meant[k]), int(accepted[k]))))
    for item, column in zip(inputs, columns, strict=True):
        if item.all_good(column):
            continue
        bad_rows = np.logical_not(item.good(column).reshape(len(column), -1).all(axis=1))
        before = np.concatenate(([0], np.cumsum(bad_rows)))
        new = (before[offsets + lengths] > before[offsets]) & ~bad
        if not new.any():
            continue
        found.append((new, partial(_bad_number, item, column, bad_rows, lengths, offsets)))
        bad = bad | new
    return found


def _out_of_step(meant: int, accepted: int) -> OutOfStep:
    return OutOfStep(f"first is {meant}; the session's next step is {accepted}", pb.REASON_POSITION_MISMATCH)


def _bad_number(
    item: Input, column: Array, bad_rows: npt.NDArray[np.bool_], lengths: Ints, offsets: Ints, entry: int
) -> InvalidRequest:
    begin = int(offsets[entry])
    step = int(bad_rows[begin : begin + int(lengths[entry])].argmax())
    if item.tokens:
        text = f"is {column[begin + step]} at step {step} of the entry; expected 0 to {item.tokens - 1}"
        return InvalidRequest(f"input {item.name!r} {text}", pb.REASON_TOKEN_OUT_OF_RANGE)
    text = f"holds NaN or infinity at step {step} of the entry; expected finite numbers"
    return InvalidRequest(f"input {item.name!r} {text}", pb.REASON_NOT_FINITE)
