"""What can stand in a session's line: chunks of steps, and controls."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from gatestream.server.errors import Refused
from gatestream.server.owner import Owner
from gatestream.server.slots import Ints

Array = npt.NDArray[Any]


@dataclass(slots=True)
class Chunks:
    """The accepted entries of one message that want the same kind of answer.

    Attributes:
        owner: who sent them and gets the answers.
        handles: [entries], the owner's names for their sessions.
        inputs: in the spec's order, the rows of the whole message, each [rows, *shape].
        outputs, gates: whether these are wanted.
        unfinished: entries not yet answered in full.
    """

    owner: Owner
    handles: Ints
    inputs: Sequence[Array]
    outputs: bool
    gates: bool
    unfinished: int


@dataclass(frozen=True, slots=True)
class Control:
    """Something to do to one session between two runs. It counts as one row.

    Attributes:
        run: does it.
        fail: answers whoever asked, when it will not be done.
        owner: who asked, if the row is one of an owner's.
        must: done even when what stood before it in the line failed.
    """

    run: Callable[[], None]
    fail: Callable[[Refused], None]
    owner: Owner | None = None
    must: bool = False


def gather(column: Array, offsets: Ints, steps: int, out: Array) -> None:
    """Copy `steps` rows from each offset on; past the column's end its last row is repeated.

    Args:
        column: [rows, *shape].
        offsets: [batch].
        steps: time steps.
        out: [batch, steps, *shape].
    """
    rows = offsets[:, None] + np.arange(steps)
    # Rows past an entry's length belong to its neighbour: the model ignores them.
    column.take(rows, axis=0, mode="clip", out=out)


def compact(column: Array, offsets: Ints, lengths: Ints) -> Array:
    """A copy of some entries' rows, one entry after another.

    Args:
        column: [rows, *shape].
        offsets: [entries], where in the column each entry begins.
        lengths: [entries], its rows.
    """
    begins = np.cumsum(lengths) - lengths
    return column[np.repeat(offsets - begins, lengths) + np.arange(int(lengths.sum()))]


def flatten(batch: Array, lengths: Ints) -> bytes:
    """The real rows of a ragged batch, one after another.

    Args:
        batch: [batch, time, *shape].
        lengths: [batch].
    """
    steps = batch.shape[1]
    if steps == 1 or bool((lengths == steps).all()):
        return batch.tobytes()
    return batch[np.arange(steps) < lengths[:, None]].tobytes()
