"""Where each stream stands in a recording: what a task with a file of its own trains on."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from gatestream.model.tasks.task import fresh_rows


class Walk:
    """Streams that each run along one recording, with sessions that begin at random places.

    Args:
        length: steps in the recording.
        streams: streams side by side, at first evenly spread.
        steps: steps in a window.
        ahead: further steps after a window that its targets reach into.
        seed: of the places where sessions begin.
    """

    def __init__(self, length: int, streams: int, steps: int, ahead: int, seed: int) -> None:
        self._steps = steps
        self._last = length - steps - ahead  # the last place at which a window fits
        self._position = np.arange(streams) * (self._last + 1) // streams
        self._generator = np.random.default_rng((seed, 1))

    def window(self) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
        """Go on by one window.

        Returns:
            The index of each step in the recording, int64 [streams, steps], and the streams in which a
            session begins, bool [streams]: chosen ones, and those that have come to the end.
        """
        fresh = fresh_rows(len(self._position), self._generator) | (self._position > self._last)
        self._position[fresh] = self._generator.integers(self._last + 1, size=np.count_nonzero(fresh))
        indices = self._position[:, None] + np.arange(self._steps)
        self._position = self._position + self._steps
        return indices, fresh

    def state(self) -> dict[str, Any]:
        """Where the streams stand, as JSON can hold it."""
        return {"position": self._position.tolist(), "generator": self._generator.bit_generator.state}

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from where `state` was taken."""
        self._position = np.array(state["position"], dtype=np.int64)
        self._generator.bit_generator.state = state["generator"]
