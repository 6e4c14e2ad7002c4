"""What each session must give, as if it were alone: NumPy, one session at a time."""

from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from tests.support.artifacts import accumulator, whole_numbers
from tests.support.lstm import Lstm

Rows = npt.NDArray[np.float32]


class Oracle(Protocol):
    """A model, and its numbers.

    Attributes:
        features, outputs, hidden: sizes; hidden 0 where there are no gates.
        tolerance: how far the server's numbers may be from these.
    """

    features: int
    outputs: int
    hidden: int
    tolerance: float

    def save(self, path: Path) -> Path:
        """Write the artifact."""

    def inputs(self, rng: np.random.Generator, steps: int) -> Rows:
        """[steps, features]."""

    def initial(self) -> Any:
        """A new session's state."""

    def run(self, xs: Rows, state: Any) -> tuple[Rows, list[Rows], Any]:
        """The outputs [steps, outputs], the gates in the spec's order, each [steps, hidden], and the next state."""


class Accumulator:
    """Sums of whole numbers: exact, and every one tells the session's whole past."""

    features, outputs, hidden, tolerance = 2, 2, 0, 0.0

    def save(self, path: Path) -> Path:
        return accumulator(path, self.features)

    def inputs(self, rng: np.random.Generator, steps: int) -> Rows:
        return whole_numbers(rng, steps, self.features)

    def initial(self) -> Rows:
        return np.zeros(self.features, np.float32)

    def run(self, xs: Rows, state: Rows) -> tuple[Rows, list[Rows], Rows]:
        ys = state + np.cumsum(xs, axis=0, dtype=np.float32)
        return ys, [], ys[-1]


class LstmWithGates:
    """The cell's equations."""

    tolerance = 1e-5

    def __init__(self, hidden: int = 4) -> None:
        self._lstm = Lstm.random(hidden=hidden)
        self.features, self.outputs, self.hidden = self._lstm.features, self._lstm.hidden, self._lstm.hidden

    def save(self, path: Path) -> Path:
        return self._lstm.save(path)

    def inputs(self, rng: np.random.Generator, steps: int) -> Rows:
        return rng.normal(0, 1, (steps, self.features)).astype(np.float32)

    def initial(self) -> tuple[Rows, Rows]:
        return np.zeros(self.hidden, np.float32), np.zeros(self.hidden, np.float32)

    def run(self, xs: Rows, state: tuple[Rows, Rows]) -> tuple[Rows, list[Rows], tuple[Rows, Rows]]:
        ys, gates, after = self._lstm.advance(xs, state)
        return ys, list(gates.values()), after
