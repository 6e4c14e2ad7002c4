"""How long runs of the model take, as the latest ones did."""

from typing import Final

SHORT_SECONDS: Final = 3e-3
"""A run that is expected to be shorter is made on the event loop: the way to another thread and back costs a good part
of it, and the loop can do without the time."""

# By so much the expectation rises from run to run, at most. One that was held up says little of the next.
_RISE: Final = 1.05


class RunTime:
    """Seconds of a run, by its batch and its steps, each to the next power of two."""

    def __init__(self) -> None:
        self._seconds: dict[tuple[int, int], float] = {}

    def expected(self, batch: int, steps: int) -> float:
        """Seconds; infinite as long as there was no such run."""
        return self._seconds.get((batch.bit_length(), steps.bit_length()), float("inf"))

    def note(self, batch: int, steps: int, seconds: float) -> None:
        """A run took so long."""
        size = (batch.bit_length(), steps.bit_length())
        self._seconds[size] = min(seconds, self._seconds.get(size, seconds) * _RISE)
