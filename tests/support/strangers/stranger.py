"""A file that this project did not make, and what is to be found in it."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
Arrays = dict[str, Array]


@dataclass(frozen=True)
class Tensor:
    """An input or output, as it lies in the file.

    Attributes:
        batch: which axis is the rows'; None: there is none.
        time: which axis is time; None: the file takes one step a run.
        limit: of integers: they are below it.
    """

    name: str
    batch: int | None = 0
    time: int | None = 1
    limit: int = 4


@dataclass(frozen=True)
class State:
    """A state that the file exposes.

    Attributes:
        input: of the file.
        output: of the file.
        batch: which axis is the rows'; None: the file takes one row.
    """

    input: str
    output: str
    batch: int | None = 1


@dataclass(frozen=True)
class Stranger:
    """A file, what is to be found in it, and how it is run.

    Attributes:
        states: that it exposes.
        hidden: of each state that it does not expose, the shape for one session.
        fixed: inputs that have one value for good, which adopting is told.
        per_session: inputs that have one value for each session, [batch, ...].
        context: by input, how many samples of the window before the caller has to prepend.
        windows: by input whose last axis is dynamic and no time: the samples of a step, without context.
        ignored: inputs that change nothing.
        whole: the file takes a whole sequence in one run; else it is stepped.
        refused: what the error says, as a regular expression; empty: it is adopted.
        options: what adopting has to be told besides, as keyword arguments of `Options`.
        one_row: the graph itself takes the steps of one session a run, and no more.
        promises_rows: no row changes another's numbers.
    """

    name: str
    path: Path
    inputs: tuple[Tensor, ...] = (Tensor("x"),)
    outputs: tuple[Tensor, ...] = (Tensor("y"),)
    states: tuple[State, ...] = ()
    hidden: tuple[tuple[int, ...], ...] = ()
    fixed: Mapping[str, Array] = field(default_factory=dict)
    per_session: tuple[str, ...] = ()
    context: Mapping[str, int] = field(default_factory=dict)
    windows: Mapping[str, int] = field(default_factory=dict)
    ignored: tuple[str, ...] = ()
    whole: bool = True
    refused: str = ""
    options: Mapping[str, Any] = field(default_factory=dict)
    one_row: bool = False
    promises_rows: bool = True


def rate(value: int) -> Array:
    """A sample rate, as files take it."""
    return np.array(value, np.int64)
