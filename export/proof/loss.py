"""How far two right runs of any recurrent model may be apart.

The model itself shows it: it is stepped several times, each time with other last bits in its inputs and in the states
between two steps, as another program has them inside; the largest difference is what its numbers lose. See `rounding`,
which does the same for gatestream's own network against its true numbers.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from gatestream.export.proof.rounding import FACTOR, PARTED, RUNS, TOLERANCE
from gatestream.export.proof.streamed import Array, Named, Streamed, cut

_BITS: Final = {2: float(np.finfo(np.float16).eps), 4: float(np.finfo(np.float32).eps)}
_LEAST: Final = 8
"""Last bits of a number that any two programs may differ by, where that is more than `TOLERANCE`."""


@dataclass(frozen=True, slots=True)
class Allowed:
    """The largest differences to accept.

    Attributes:
        by_tensor: of outputs, gates and states, [time, 1]: they never fall from step to step.
        parted: the first step at which the runs have parted, and there is nothing left to compare; `time`: never.
    """

    by_tensor: Mapping[str, NDArray[np.float64]]
    parted: int


def allowed(model: Streamed, inputs: Named, states: Named) -> Allowed:
    """Step through `inputs`, with other last bits each time.

    Args:
        model: to step.
        inputs: each [rows, time, *shape].
        states: before the first step, each [rows, *shape].
    """
    rng = np.random.default_rng(0)
    rows, time = next(iter(inputs.values())).shape[:2]
    inputs, states = _repeated(inputs), _repeated(states)
    worst: dict[str, list[float]] = {}
    size: dict[str, float] = {}
    for t in range(time):
        found, states = model.run(_all_nudged(cut(inputs, t, t + 1), rng), states)
        for name, values in {**found, **states}.items():
            apart, largest = _spread(values, rows)
            worst.setdefault(name, []).append(apart)
            size[name] = max(size.get(name, 1.0), largest)
        states = _all_nudged(states, rng)
    lost = {name: np.maximum.accumulate(np.array(each)) for name, each in worst.items()}
    parted = min(
        [time, *(int(t) for name, each in lost.items() for t in np.flatnonzero(each > PARTED * size[name])[:1])]
    )
    dtypes = {each.name: each.dtype for each in (*model.layout.outputs, *model.layout.gates, *model.layout.states)}
    return Allowed(
        {name: np.maximum(least(dtypes[name], size[name]), FACTOR * each)[:, None] for name, each in lost.items()},
        parted,
    )


def within_a_step(model: Streamed, inputs: Named, states: Named) -> dict[str, float]:
    """The largest differences to accept of one step, by output and state: with other last bits in all that it takes.

    Args:
        model: to step.
        inputs: each [rows, 1, *shape].
        states: before, each [rows, *shape].
    """
    rng = np.random.default_rng(0)
    rows = len(next(iter(inputs.values())))
    outputs, after = model.run(_all_nudged(_repeated(inputs), rng), _all_nudged(_repeated(states), rng))
    return {name: FACTOR * _spread(values, rows)[0] for name, values in {**outputs, **after}.items()}


def least(dtype: np.dtype[Any], size: float) -> float:
    """The difference that is always accepted between numbers of a type that are at most so large."""
    if dtype.kind != "f":
        return 0.5  # whole numbers are the same, or are not
    return max(TOLERANCE, _LEAST * _BITS.get(dtype.itemsize, 0.0)) * max(1.0, size)


def _repeated(tensors: Named) -> dict[str, Array]:
    return {name: np.repeat(array, RUNS, axis=0) for name, array in tensors.items()}


def _spread(values: Array, rows: int) -> tuple[float, float]:
    """How far the runs of a row are from its first, at most; and the largest number among them."""
    by_row = values.reshape(rows, RUNS, -1).astype(np.float64)
    with np.errstate(invalid="ignore"):  # infinities, which are compared bit for bit
        apart = np.abs(by_row - by_row[:, :1])
    return float(np.nanmax(apart, initial=0)), float(np.nanmax(np.abs(by_row), initial=0, where=np.isfinite(by_row)))


def _all_nudged(tensors: Named, rng: np.random.Generator) -> dict[str, Array]:
    return {name: _nudged(values, rng) for name, values in tensors.items()}


def _nudged(state: Array, rng: np.random.Generator) -> Array:
    """Each number one up or down, as if rounded otherwise; but in the first run of every row, which stays."""
    if state.dtype.kind != "f":
        return state
    towards = np.where(rng.random(state.shape) < 0.5, -np.inf, np.inf).astype(state.dtype)
    nudged: Array = np.nextafter(state, towards)
    nudged[::RUNS] = state[::RUNS]
    return nudged
