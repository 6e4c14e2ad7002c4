"""The model that is served to everyone, and where its neighbour's numbers come from."""

from pathlib import Path
from typing import Final

import numpy as np

from tests.support.lstm import Floats, Lstm

FEATURES: Final = 3
HIDDEN: Final = 16
NAME: Final = "lstm"
# Of float32 in two implementations; a number of another session is off by tenths.
TOLERANCE: Final = 1e-4


def lstm() -> Lstm:
    """The same one in every process."""
    return Lstm.random(FEATURES, HIDDEN)


def artifact(folder: Path) -> Path:
    return lstm().save(folder / "lstm.onnx", NAME)


class Reference:
    """One session in NumPy, a step at a time."""

    def __init__(self) -> None:
        self._lstm = lstm()
        self._state = np.zeros(HIDDEN, np.float32), np.zeros(HIDDEN, np.float32)

    def step(self, x: Floats) -> Floats:
        ys, _, self._state = self._lstm.advance(x[None], self._state)
        y: Floats = ys[0]
        return y
