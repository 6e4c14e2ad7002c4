"""The inputs of a model, and what can be wrong with the steps that come for it."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from gatestream.protos.gatestream.v1 import gatestream_pb2 as pb
from gatestream.server.errors import InvalidRequest, OutOfStep, Refused
from gatestream.server.runner import DTYPES
from gatestream.server.slots import Array, Ints


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
) -> list[tuple[Refused, npt.NDArray[np.bool_]]]:
    """What is wrong with which entries; each entry is in one fault at most.

    Args:
        inputs: of the model.
        columns: in the same order, each [rows, *shape].
        lengths: [entries], steps of each.
        offsets: [entries], where in the columns each begins.
        accepted: [entries], where each session takes its next step.
        meant: [entries], the position that each is meant for.
    """
    found: list[tuple[Refused, npt.NDArray[np.bool_]]] = []
    bad = accepted != meant
    if meant is not accepted and bad.any():
        k = int(bad.argmax())
        text = f"first is {meant[k]}; the session's next step is {accepted[k]}"
        found.append((OutOfStep(text, pb.REASON_POSITION_MISMATCH), bad))
    for item, column in zip(inputs, columns, strict=True):
        good = item.good(column)
        if int(np.count_nonzero(good)) == good.size:
            continue
        bad_rows = np.logical_not(good.reshape(len(column), -1).all(axis=1))
        before = np.concatenate(([0], np.cumsum(bad_rows)))
        new = (before[offsets + lengths] > before[offsets]) & ~bad
        if not new.any():
            continue
        k = int(new.argmax())
        step = int(bad_rows[offsets[k] : offsets[k] + lengths[k]].argmax())
        if item.tokens:
            token = column[offsets[k] + step]
            text = f"is {token} at step {step} of the entry; expected 0 to {item.tokens - 1}"
            fault = InvalidRequest(f"input {item.name!r} {text}", pb.REASON_TOKEN_OUT_OF_RANGE)
        else:
            text = f"holds NaN or infinity at step {step} of the entry; expected finite numbers"
            fault = InvalidRequest(f"input {item.name!r} {text}", pb.REASON_NOT_FINITE)
        found.append((fault, new))
        bad = bad | new
    return found
