"""A file with int8 weights against the equations that it says it is.

Such a file is not its network: how far it is from it says `accuracy`. It is proved to be what the weights that it holds
make of the equations, step by step; and that it does not matter how it is run.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate

import numpy as np
from numpy.typing import NDArray

from gatestream.export.proof import samples
from gatestream.export.proof.comparison import Figure, Pair, compare
from gatestream.export.proof.int8_oracle import Int8Oracle, Step
from gatestream.export.proof.parity import CHUNKS
from gatestream.export.proof.rounding import FACTOR, TOLERANCE
from gatestream.export.proof.runtime import Session
from gatestream.export.proof.walk import Track, walk
from gatestream.protos.gatestream.v1 import gatestream_pb2 as pb
from gatestream.protos.roles import Array

_ENCODED = 1 / 63
"""How far rows run otherwise may be from each other behind a linear encoder: its product depends in its last bits on
the rows beside, and a number between two may then be rounded the other way."""


@dataclass(frozen=True, slots=True)
class Int8Model:
    """A file that can be run, and the weights that it should hold.

    Attributes:
        session: runs the file.
        spec: of the file.
        weights: what they stand for, by the checkpoint's names.
    """

    session: Session
    spec: pb.ModelSpec
    weights: Mapping[str, Array]

    @property
    def tolerance(self) -> float:
        """Largest difference between runs of the same rows: whole numbers add up to the same in any order."""
        linear = any(name.startswith("encoder.") and name.endswith(".bias") for name in self.weights)
        return _ENCODED if linear else TOLERANCE

    def allowed(self, x: NDArray[np.generic], h: Array, c: Array) -> tuple[Mapping[str, NDArray[np.float64]], int]:
        """As `parity.Runnable`; it never parts, since sums of whole numbers are the same in any order."""
        bound = np.full((x.shape[1], 1, 1), self.tolerance)
        return dict.fromkeys("ifgohc", bound) | {"y": bound[:, 0] * self.unit}, x.shape[1]

    @property
    def unit(self) -> NDArray[np.float64]:
        """What an output is measured in, [outputs] or [1]."""
        return np.array(self.spec.outputs[0].scale or [1.0])


def carried(model: Int8Model, steps: int) -> list[Figure]:
    """New sessions, their state carried through many steps.

    Every step alone against NumPy, each layer started from the model's own states; then steps in chunks, one of each
    length, against those taken singly.

    Args:
        model: what to run.
        steps: how many.

    Raises:
        DifferenceError: a tensor is too far from the equations, or depends on how the model is run.
    """
    rows = 2
    x = samples.inputs(model.spec, rows, steps, np.random.default_rng(0))
    h, c = samples.zeros(model.spec, rows)
    singly = walk(model.session, x, h, c, np.ones((steps, rows), np.int64))
    chunks = [length for length, end in zip(CHUNKS, accumulate(CHUNKS), strict=True) if end <= steps]
    chunked = walk(model.session, x, h, c, np.repeat(np.array(chunks)[:, None], rows, axis=1))
    allowed, _ = model.allowed(x, h, c)
    pairs = [
        Pair(tensor, row, track.steps, track.values, singly[row][tensor].values[track.steps], allowed[tensor][:1])
        for row, tensors in enumerate(chunked)
        for tensor, track in tensors.items()
    ]
    return [*_each_step(model, singly, x, h, c), *compare("singly", "in chunks", pairs)]


def _each_step(
    model: Int8Model, tracks: Sequence[Mapping[str, Track]], x: NDArray[np.generic], h: Array, c: Array
) -> list[Figure]:
    exact, single = (Int8Oracle(model.weights, model.spec, dtype) for dtype in (np.float64, np.float32))
    pairs = []
    for row, tensors in enumerate(tracks):
        before = [
            np.concatenate([initial[row, None], tensors[state].values[:-1]]) for state, initial in (("h", h), ("c", c))
        ]
        start = x[row], before[0], before[1], tensors["h"].values
        truth = exact.step(*start)
        allowed = _allowed(model, truth, single.step(*start))
        pairs += [
            Pair(tensor, row, track.steps, track.values, truth.values[tensor], allowed[tensor])
            for tensor, track in tensors.items()
        ]
    return compare("numpy", "each step", pairs)


def _allowed(model: Int8Model, truth: Step, single: Step) -> Mapping[str, NDArray[np.float64]]:
    """As `rounding` has it, and what is in doubt."""
    allowed = {}
    for tensor, values in truth.values.items():
        unit = model.unit if tensor == "y" else np.ones(1)
        lost = float((np.abs(single.values[tensor] - values) / unit).max())
        bound = np.full(values.shape, max(TOLERANCE, FACTOR * lost)) * unit
        allowed[tensor] = bound + truth.doubt.get(tensor, 0.0)
    return allowed
