"""What a call of a session gives."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class Answer:
    """All that came back for one call of `step` or `run`.

    Attributes:
        position: of the first step answered: the steps that the session had consumed before it; of a group,
            [members] int64.
        outputs: by name. One step of a session: [*shape] of the spec; a chunk: [time, *shape]; of a group,
            with [members] in front.
        gates: activations by gate name ("input", "forget", "candidate", "output"), [layers, hidden] float32
            for one step, with the same axes in front; empty unless the session was opened with `gates=True`.
    """

    position: Any
    outputs: Mapping[str, NDArray[Any]]
    gates: Mapping[str, NDArray[Any]]

    @property
    def y(self) -> NDArray[Any]:
        """The model's first output; of no size where the session was opened with `outputs=False`."""
        return next(iter(self.outputs.values()), np.empty(0, np.float32))

    @property
    def returned(self) -> Any:
        """What the call itself gave: the model's output, or, where it has several, each under its name."""
        return dict(self.outputs) if len(self.outputs) > 1 else self.y

    def at(self, step: int) -> "Answer":
        """One step of a chunk's answer, of a session."""
        return Answer(
            self.position + step,
            {name: array[step] for name, array in self.outputs.items()},
            {name: array[step] for name, array in self.gates.items()},
        )
