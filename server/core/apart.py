"""Runs of several sessions that have failed, and the sessions that others are kept apart from.

A model may fail on some numbers and say no more. Whose they are is found by making the run again in halves, which may
fail too, until those whose own steps fail are alone: of n members in fewer than 2n runs. Between any two of these the
steps of others are made; and for a while those who failed share no run with others.
"""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import Final

import numpy as np
import numpy.typing as npt
import structlog

from gatestream.server.arrays import Ints
from gatestream.server.core.run import Run

_APART_SECONDS: Final = 10.0
# There may be thousands in a second.
_LOG_SECONDS: Final = 1.0

_log = structlog.get_logger(__name__)


class Apart:
    """What of one model's runs is to be made apart.

    Args:
        model: its name.
        sessions: how many there may be.
        clock: seconds, monotonic.
    """

    def __init__(self, model: str, sessions: int, clock: Callable[[], float]):
        self._model = model
        self._clock = clock
        self._left: deque[Run] = deque()
        # By session; a new one of the same number is as suspect, which costs it no more than a run of its own.
        self._failed_at = np.full(sessions, -np.inf)
        self._latest = -np.inf
        self._unsaid = 0
        self._said_at = -np.inf

    def __len__(self) -> int:
        return len(self._left)

    def __iter__(self) -> Iterator[Run]:
        return iter(self._left)

    def take(self) -> Run:
        """The next part of a run that has failed."""
        return self._left.popleft()

    def halve(self, run: Run) -> None:
        """Have a run that failed made again in halves. No row of state has changed."""
        self._left.extendleft(reversed(run.halves()))

    def failed(self, session: int, error: Exception) -> None:
        """Note that a session's own steps failed."""
        now = self._clock()
        self._failed_at[session] = self._latest = now
        self._unsaid += 1
        if now - self._said_at >= _LOG_SECONDS:
            _log.error("steps failed", model=self._model, sessions=self._unsaid, exc_info=error)
            self._unsaid, self._said_at = 0, now

    def mixes(self, sessions: Ints | Sequence[int]) -> bool:
        """Whether others among these are to be kept apart from some."""
        suspect = self._suspect(sessions)
        return suspect is not None and not suspect.all()

    def without_suspects(self, run: Run) -> Run:
        """Those of a queued run's members that may share one; the others' is to be made behind all that is left."""
        suspect = self._suspect(np.asarray(run.sessions))
        if suspect is None or suspect.all():
            return run
        self._left.append(run.part(suspect))
        return run.part(~suspect)

    def _suspect(self, sessions: Ints | Sequence[int]) -> npt.NDArray[np.bool_] | None:
        """Which of these have failed lately; None: none has."""
        if self._latest == -np.inf:
            return None
        since = self._clock() - _APART_SECONDS
        if self._latest < since:
            self._latest = -np.inf
            return None
        suspect: npt.NDArray[np.bool_] = self._failed_at[sessions] >= since
        return suspect if suspect.any() else None
