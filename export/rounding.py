"""How far a faithful float32 model may be from the true numbers.

A bound of 1e-5 holds as long as float32 can hold it. Over a thousand carried steps it cannot always: a cell state of
17 has no bits left below 1e-6, and a network may amplify what it loses. How much is lost depends on the weights, not
on who computes, and the oracle shows it: it is run in float32 and in float64, and the difference is the loss.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from gatestream.export.oracle import Oracle
from gatestream.protos.gatestream.v1 import gatestream_pb2 as pb
from gatestream.protos.roles import Array

TOLERANCE = 1e-5
"""Largest absolute difference wherever float32 loses less. For an output that the graph denormalises: in normalised
units."""

FACTOR = 16
"""How many times what the oracle loses in float32 another program may lose: four bits. It adds in another order and has
its own tanh; on trained and on random networks up to 6 times were seen."""

Steps = Mapping[str, NDArray[np.floating]]
"""y, h, c, i, f, g and o of every step, each [rows, time, ...]."""


@dataclass(frozen=True, slots=True)
class Truth:
    """What a network computes, and how far a float32 model of it may be from that.

    Attributes:
        steps: the true numbers, float64.
        allowed: the largest absolute differences to accept: by tensor, [time, 1, 1]; for y, [time, outputs] or
            [time, 1]. They never fall from step to step: what was lost may come back.
    """

    steps: Steps
    allowed: Mapping[str, NDArray[np.float64]]


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
        exact, single = self._exact.run(x, h, c), self._single.run(x, h, c)
        allowed = {}
        for tensor, values in exact.items():
            unit = self._scale if tensor == "y" else np.ones((1, 1))
            lost = np.abs(single[tensor] - values) / unit
            worst = lost.max(axis=tuple(k for k in range(lost.ndim) if k != 1))
            bound = np.maximum(TOLERANCE, FACTOR * np.maximum.accumulate(worst))
            allowed[tensor] = np.expand_dims(bound, tuple(range(1, lost.ndim - 1))) * unit
        return Truth(exact, allowed)
