"""What training asks of a task. A task is data: NumPy in and out, no torch."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from gatestream.model.config import NetworkConfig

Session = Callable[[NDArray[Any]], NDArray[np.float32]]
"""A network with its state: inputs [batch, time(, features)] to outputs [batch, time, outputs], state carried."""


class DataError(ValueError):
    """The user's data cannot be trained on; the message says where, what was expected and what to do."""


@dataclass(frozen=True, slots=True)
class Window:
    """The next steps of all streams.

    Attributes:
        inputs: token ids, int64 [streams, steps], or numbers in raw units, float32 [streams, steps, inputs].
        targets: what the outputs should be: the next token id, int64 [streams, steps], or numbers in raw
            units, float32 [streams, steps, outputs].
        fresh: streams whose session begins with this window, in the initial state: bool [streams].
    """

    inputs: NDArray[Any]
    targets: NDArray[Any]
    fresh: NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Evaluation:
    """How good a network is on what it was not trained on.

    Attributes:
        score: the lower the better, in the unit that the task's `score_label` names.
        summary: the same for a person to read.
        solved: no more training is needed; None: the task has no such end.
    """

    score: float
    summary: str
    solved: bool | None


class Task(Protocol):
    """A source of windows, and a judge of the network trained on them.

    Attributes:
        score_label: what `Evaluation.score` is, with its unit.
        identity: what sets this task's data apart from that of another run, as JSON can hold it.
    """

    score_label: str
    identity: dict[str, Any]

    def config(self, name: str, hidden: int, layers: int) -> NetworkConfig:
        """The network for this task, of the given name and size."""
        ...

    def window(self) -> Window:
        """Go on by one window."""
        ...

    def evaluate(self, sessions: Callable[[int], Session]) -> Evaluation:
        """Judge a network.

        Args:
            sessions: begins so many sessions side by side, in the initial state.
        """
        ...

    def state(self) -> dict[str, Any]:
        """Where the windows stand, as JSON can hold it."""
        ...

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from where `state` was taken."""
        ...


def fresh_rows(streams: int, generator: np.random.Generator) -> NDArray[np.bool_]:
    """Choose the streams in which a new session begins: bool [streams].

    Half of the streams are never broken, so that the network learns to go on for ever. In the other half a
    session begins now and then (a quarter of them at each window), since a served session, too, begins in
    the initial state, and a network that saw that state once only errs in its first steps.
    """
    fresh = generator.random(streams) < 0.25
    fresh[: streams // 2] = False
    return fresh
