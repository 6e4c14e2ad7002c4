"""Taking a model through many runs, its state carried, and collecting what belongs to each row."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from gatestream.export.proof.runtime import Session
from gatestream.protos.roles import Array


@dataclass(frozen=True, slots=True)
class Track:
    """One tensor of one row.

    Attributes:
        values: [steps, layers, hidden]; for y, [steps, outputs].
        steps: the number of each step; of a state, only those that a run ended with are known.
    """

    values: Array
    steps: NDArray[np.integer]

    def before(self, step: int) -> tuple[Array, NDArray[np.integer]]:
        """What comes before a step: values and steps."""
        early = self.steps < step
        return self.values[early], self.steps[early]


def walk(
    session: Session, x: NDArray[np.generic], h: Array, c: Array, lengths: NDArray[np.integer]
) -> list[Mapping[str, Track]]:
    """Run round after round, each row at its own pace.

    Args:
        session: the model.
        x: [rows, time] or [rows, time, features].
        h: hidden states to start from, [rows, layers, hidden].
        c: cell states to start from.
        lengths: how many steps each row takes in each round, [rounds, rows].

    Returns:
        For each row, what was computed, by tensor.
    """
    rows, time = x.shape[:2]
    done = np.zeros(rows, np.int64)
    parts: list[dict[str, list[Track]]] = [{} for _ in range(rows)]
    for length in lengths:
        # Past its length a row is filled with steps that it has not taken yet: they must not be taken.
        at = np.minimum(done[:, None] + np.arange(length.max()), time - 1)
        found = session.run(x[np.arange(rows)[:, None], at], h, c, length.astype(np.int32))
        h, c = found["h"], found["c"]
        for row, count in enumerate(length):
            for tensor, values in found.items():
                part = (
                    Track(values[row, None], at[row, count - 1, None])
                    if tensor in ("h", "c")
                    else Track(values[row, :count], at[row, :count])
                )
                parts[row].setdefault(tensor, []).append(part)
        done += length
    return [{tensor: _joined(pieces) for tensor, pieces in row.items()} for row in parts]


def _joined(pieces: list[Track]) -> Track:
    return Track(np.concatenate([p.values for p in pieces]), np.concatenate([p.steps for p in pieces]))
