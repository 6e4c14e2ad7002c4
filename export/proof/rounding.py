"""How far a faithful float32 model may be from the true numbers.

A bound of 1e-5 holds as long as float32 can hold it. Over a thousand carried steps it cannot always: a cell state of
17 has no bits left below 1e-6, and a network may amplify what it loses. How much is lost depends on the weights, not
on who computes, and the oracle shows it: it is run in float64, and several times in float32, each time with other last
bits in the states between two steps, as another program has them; the largest difference is the loss.

A chaotic network amplifies what it loses until nothing is left: its float32 runs part from the true one, each its own
way, and from there on there is nothing to compare. Each step alone, from a given state, can always be compared.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from gatestream.export.proof.oracle import Oracle
from gatestream.protos.gatestream.v1 import gatestream_pb2 as pb
from gatestream.protos.roles import Array

TOLERANCE = 1e-5
"""Largest absolute difference wherever float32 loses less. For an output that the graph denormalises: in normalised
units."""

FACTOR = 16
"""How many times what the oracle loses in float32 another program may lose: four bits. It adds in another order and has
its own tanh; on trained and on random networks up to 6 times were seen."""

RUNS = 8
"""In float32. The loss of one alone may by chance be a twentieth of another's. On 88 chaotic networks torch lost at
most 1.7 times what the worst of eight did."""

PARTED = 1e-3
"""Lost by float32, in units of what is lost of, so much that its runs have parted from the true one."""

Steps = Mapping[str, NDArray[np.floating]]
"""y, h, c, i, f, g and o of every step, each [rows, time, ...]."""


@dataclass(frozen=True, slots=True)
class Truth:
    """What a network computes, and how far a float32 model of it may be from that.

    Attributes:
        steps: the true numbers, float64.
        allowed: the largest absolute differences to accept: by tensor, [time, 1, 1]; for y, [time, outputs] or
            [time, 1]. They never fall from step to step: what was lost may come back.
        parted: the first step at which float32 has parted from the true numbers; `time` where it never does. From
            there on there is nothing to compare.
    """

    steps: Steps
    allowed: Mapping[str, NDArray[np.float64]]
    parted: int


class Rounding:
    """The true numbers of a network, and its tolerances.

    Args:
        weights: by the checkpoint's names.
        spec: of the network.
    """

    def __init__(self, weights: Mapping[str, Array], spec: pb.ModelSpec) -> None:
        self._exact = Oracle(weights, spec, np.float64)
        self._single = Oracle(weights, spec, np.float32)
        self._scale = np.array(spec.outputs[0].scale or [1.0])

    def truth(self, x: NDArray[np.generic], h: Array, c: Array) -> Truth:
        """Go through `x`.

        Args:
            x: [rows, time] or [rows, time, features].
            h: hidden states to start from, [rows, layers, hidden].
            c: cell states to start from, [rows, layers, hidden].
        """
        exact = self._exact.run(x, h, c)
        lost = self._lost(x, h, c, exact)
        allowed = {}
        parted = x.shape[1]
        for tensor, values in exact.items():
            unit = self._scale if tensor == "y" else np.ones((1, 1))
            worst = np.maximum.accumulate(lost[tensor])
            bound = np.maximum(TOLERANCE, FACTOR * worst)
            allowed[tensor] = np.expand_dims(bound, tuple(range(1, values.ndim - 1))) * unit
            # A cell state may be large, and what is lost of it no more than its last bits.
            size = np.maximum(1, np.abs(values).max(axis=_but_time(values))) if tensor == "c" else np.ones(1)
            parted = min([parted, *np.flatnonzero(worst > PARTED * size)])
        return Truth(exact, allowed, int(parted))

    def _lost(self, x: NDArray[np.generic], h: Array, c: Array, exact: Steps) -> dict[str, NDArray[np.float64]]:
        """The most that a float32 run is off at each step: by tensor, [time]; of y in normalised units."""
        rng = np.random.default_rng(0)
        runs = RUNS if x.shape[1] > 1 else 1  # Between the steps they become different.
        x, h, c = (np.repeat(array, runs, axis=0) for array in (x, h, c))
        lost: dict[str, list[float]] = {tensor: [] for tensor in exact}
        for t in range(x.shape[1]):
            step = self._single.run(x[:, t, None], h, c)
            for tensor, values in exact.items():
                unit = self._scale if tensor == "y" else np.ones(1)
                apart = np.abs(step[tensor][:, 0] - np.repeat(values[:, t], runs, axis=0)) / unit
                lost[tensor].append(float(apart.max()))
            h, c = (_nudged(step[state][:, 0], rng) for state in ("h", "c"))
        return {tensor: np.array(worst) for tensor, worst in lost.items()}


def _nudged(state: NDArray[np.floating], rng: np.random.Generator) -> Array:
    """Each number one up or down, as if rounded otherwise; but in the first of every `RUNS` rows, which stays."""
    towards = np.where(rng.random(state.shape) < 0.5, np.float32(-np.inf), np.float32(np.inf))
    nudged: Array = np.nextafter(state, towards, dtype=np.float32)
    nudged[::RUNS] = state[::RUNS]
    return nudged


def _but_time(values: NDArray[np.floating]) -> tuple[int, ...]:
    return tuple(axis for axis in range(values.ndim) if axis != 1)
