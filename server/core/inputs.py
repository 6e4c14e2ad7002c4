"""What can be wrong with the steps that come for a model."""

from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
import numpy.typing as npt

from gatestream.protos.layout import Input
from gatestream.server.arrays import Array, Ints
from gatestream.server.errors import InvalidRequest, OutOfStep, Reason, Refused

Fault = tuple[npt.NDArray[np.bool_], Callable[[int], Refused]]
"""Which entries of a message have it, and what to say of one of them."""


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
    return OutOfStep(f"first is {meant}; the session's next step is {accepted}", Reason.POSITION_MISMATCH)


def _bad_number(
    item: Input, column: Array, bad_rows: npt.NDArray[np.bool_], lengths: Ints, offsets: Ints, entry: int
) -> InvalidRequest:
    begin = int(offsets[entry])
    step = int(bad_rows[begin : begin + int(lengths[entry])].argmax())
    if item.vocabulary:
        text = f"is {column[begin + step]} at step {step} of the entry; expected 0 to {len(item.vocabulary) - 1}"
        return InvalidRequest(f"input {item.name!r} {text}", Reason.TOKEN_OUT_OF_RANGE)
    text = f"holds NaN or infinity at step {step} of the entry; expected finite numbers"
    return InvalidRequest(f"input {item.name!r} {text}", Reason.NOT_FINITE)
