"""Medians, spreads and paired ratios."""

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

Figures = Mapping[str, float]
"""What one window measured, by name: "steps_per_s", "p50_us", ..."""


@dataclass(frozen=True, slots=True)
class Spread:
    """The middle of some repeats, and how far they lie apart.

    Attributes:
        median: of all repeats.
        low, high: the least and the greatest of them.
    """

    median: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.median:.2f} ({self.low:.2f} to {self.high:.2f})"

    @classmethod
    def of(cls, values: Sequence[float]) -> "Spread":
        """Summarise repeats.

        Raises:
            ValueError: there are none, or one is no number.
        """
        if not values or not all(math.isfinite(value) for value in values):
            raise ValueError(f"{list(values)!r} cannot be summarised; expected at least one finite number")
        return cls(statistics.median(values), min(values), max(values))


def column(windows: Sequence[Figures], figure: str) -> list[float]:
    """One figure of each repeat."""
    return [window[figure] for window in windows]


def summarise(windows: Sequence[Figures]) -> dict[str, Spread]:
    """Every figure that all repeats have."""
    names = [name for name in windows[0] if all(name in window for window in windows)]
    return {name: Spread.of(column(windows, name)) for name in names}


def ratios(above: Sequence[float], below: Sequence[float]) -> Spread:
    """Repeat by repeat, since what disturbs a machine disturbs the windows that lie beside each other.

    Raises:
        ValueError: not as many on both sides.
    """
    return Spread.of([a / b for a, b in zip(above, below, strict=True)])
