"""Multi-step forecast of the columns of a table."""

import hashlib
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gatestream.model.config import NetworkConfig
from gatestream.model.tasks.task import DataError, Evaluation, Session, Window
from gatestream.model.tasks.walk import Walk


class Series:
    """A table as a task: after each row, forecast the next `horizon` rows. The last fifth is held out.

    Args:
        columns: their names.
        values: the numbers, float32 [rows, columns], oldest row first.
        streams: streams to train on, side by side.
        steps: rows in a window.
        seed: of the places where sessions begin.
        horizon: rows to forecast.
    """

    score_label = "held-out error (standard deviations)"

    def __init__(
        self,
        columns: Sequence[str],
        values: NDArray[np.float32],
        *,
        streams: int,
        steps: int,
        seed: int,
        horizon: int,
    ) -> None:
        """Take the table.

        Raises:
            DataError: it is too short.
        """
        rows = len(values)
        needed = max(-(-5 * (steps + horizon) // 4), 5 * (horizon + 1))
        if rows < needed:
            raise DataError(
                f"{rows} rows, expected at least {needed} for windows of {steps} steps and a horizon of {horizon}"
            )
        self._columns = tuple(columns)
        self.identity: dict[str, Any] = {
            "task": "series",
            "streams": streams,
            "steps": steps,
            "horizon": horizon,
            "sha256": hashlib.sha256(values.tobytes()).hexdigest(),
        }
        cut = rows * 4 // 5
        self._values, self._held_out = values[:cut], values[cut:]
        self._horizon = horizon
        self._walk = Walk(cut, streams, steps, ahead=horizon, seed=seed)
        spread = self._values.std(axis=0, dtype=np.float64)
        self._mean = self._values.mean(axis=0, dtype=np.float64)
        self._scale = np.where(spread > 0, spread, 1.0)  # a column that never changes has no spread

    def config(self, name: str, hidden: int, layers: int) -> NetworkConfig:
        """Rows in their own units in, `horizon` rows in their own units out, nearest first."""
        columns = self._columns
        mean, scale = tuple(self._mean.tolist()), tuple(self._scale.tolist())
        return NetworkConfig(
            name=name,
            task="series",
            encoder="none",
            inputs=len(columns),
            hidden=hidden,
            layers=layers,
            outputs=self._horizon * len(columns),
            columns=columns,
            output_columns=tuple(f"{c}+{ahead}" for ahead in range(1, self._horizon + 1) for c in columns),
            input_mean=mean,
            input_scale=scale,
            output_mean=mean * self._horizon,
            output_scale=scale * self._horizon,
        )

    def window(self) -> Window:
        """Go on by one window."""
        indices, fresh = self._walk.window()
        return Window(self._values[indices], self._following(self._values, indices), fresh)

    def evaluate(self, sessions: Callable[[int], Session]) -> Evaluation:
        """Forecast at every row of the held-out part, in one session, beside repeating the last row."""
        indices = np.arange(len(self._held_out) - self._horizon)[None]  # [1, time]
        inputs = self._held_out[indices]  # [1, time, columns]
        targets = self._following(self._held_out, indices)
        scale = np.tile(self._scale, self._horizon)

        def error(forecast: NDArray[np.float32]) -> float:
            return float(np.sqrt(np.mean(((forecast - targets) / scale) ** 2)))

        score, repeating = error(sessions(1)(inputs)), error(np.tile(inputs, self._horizon))
        return Evaluation(
            score=score,
            summary=f"held-out error {score:.3f} standard deviations (repeating the last row: {repeating:.3f})",
            solved=None,
        )

    def state(self) -> dict[str, Any]:
        """Where the windows stand."""
        return self._walk.state()

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from where `state` was taken."""
        self._walk.restore(state)

    def _following(self, values: NDArray[np.float32], indices: NDArray[np.int64]) -> NDArray[np.float32]:
        """The `horizon` rows after each index, side by side: float32 [*indices.shape, horizon * columns]."""
        ahead = indices[..., None] + np.arange(1, self._horizon + 1)
        following: NDArray[np.float32] = values[ahead].reshape(*indices.shape, -1)
        return following
