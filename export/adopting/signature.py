"""What a foreign graph takes, gives and carries, with what is known of the axes."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx_ir as ir

from gatestream.export.adopting.states import Pair

Dim = int | str | None
"""An axis as the file has it: a size, a name, or nothing."""


@dataclass(slots=True)
class End:
    """An input or output of the graph; of a state, its input.

    Attributes:
        value: in the graph.
        dims: as the file has them.
        base: a shape with which one step of one session runs; empty before one was found.
        batch: which axis is the sessions'.
        time: which axis is time.
        dropped: an axis of size 1 that a row is not shown with, where there is no batch axis.
        limit: whole numbers from 0 to below this are taken; 0: any.
    """

    value: ir.Value
    dims: tuple[Dim, ...]
    base: tuple[int, ...] = ()
    batch: int | None = None
    time: int | None = None
    dropped: int | None = None
    limit: int = 0

    @classmethod
    def of(cls, value: ir.Value) -> "End":
        """That of a graph input or output, nothing known but what the file says."""
        return cls(value, dims_of(value))

    @property
    def name(self) -> str:
        """In the graph."""
        return self.value.name or ""

    @property
    def dtype(self) -> np.dtype[Any]:
        """Of its numbers."""
        assert self.value.dtype is not None  # of a graph's input or output
        return self.value.dtype.numpy()

    @property
    def rest(self) -> tuple[int, ...]:
        """The axes that are neither, in order."""
        return tuple(k for k in range(len(self.base)) if k not in (self.batch, self.time, self.dropped))

    @property
    def shape(self) -> tuple[int, ...]:
        """Of one step of one session."""
        return tuple(self.base[k] for k in self.rest)


@dataclass(slots=True)
class Carried:
    """A state, and its axes."""

    pair: Pair
    end: End


@dataclass(slots=True)
class Signature:
    """All of a graph.

    Attributes:
        inputs: of each step.
        outputs: of each step.
        states: of each session.
        batch: rows of several sessions can be run together.
        time: many steps can be run at once: every input and output has a time axis.
        many: the file takes many steps a run, whether the graph still does or has the context of one step alone.
    """

    inputs: list[End]
    outputs: list[End]
    states: list[Carried] = field(default_factory=list)
    batch: bool = False
    time: bool = False
    many: bool = False

    @property
    def fed(self) -> list[End]:
        """All that the graph takes."""
        return [*self.inputs, *(state.end for state in self.states)]

    def annotate(self) -> None:
        """Note the shape of all that the graph takes: symbols for sessions and steps, sizes for the rest."""
        for end in self.fed:
            end.value.shape = ir.Shape(
                ["batch" if k == end.batch else "time" if k == end.time else size for k, size in enumerate(end.base)]
            )


def dims_of(value: ir.Value) -> tuple[Dim, ...]:
    """The axes of a graph's input or output as the file has them; none where it says nothing of them."""
    found: list[Dim] = []
    for dim in value.shape or ():
        if isinstance(dim, int):
            found.append(dim if dim > 0 else None)
        else:
            found.append(dim.value or None)
    return tuple(found)


def written(dims: tuple[Dim, ...] | tuple[int, ...]) -> str:
    """Dimensions as an error or a table has them."""
    return "[" + ", ".join("?" if dim is None else str(dim) for dim in dims) + "]"
