"""The same numbers, however a model is run: step by step, in chunks, beside others, in rows that end early."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate, cycle, pairwise, takewhile
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from gatestream.export.proof import samples
from gatestream.export.proof.comparison import Figure, Pair, compare
from gatestream.export.proof.rounding import Rounding, Steps, Truth
from gatestream.export.proof.runtime import Session
from gatestream.export.proof.walk import Track, walk
from gatestream.protos.gatestream.v1 import gatestream_pb2 as pb
from gatestream.protos.roles import Array

STEPS = 1024
"""Carried steps in a comparison with torch and the oracle."""

Reference = Callable[[NDArray[np.generic], Array, Array], Steps]
"""x, h and c in, what they give out."""

CHUNKS = (1, 2, 3, 5, 8, 13, 21, 64)
"""Lengths of the chunks that carried steps are taken in, over and over."""


class Runnable(Protocol):
    """A file that can be run, and how far apart two runs of the same rows may be."""

    @property
    def session(self) -> Session:
        """Runs the file."""

    @property
    def spec(self) -> pb.ModelSpec:
        """Of the file."""

    def allowed(self, x: NDArray[np.generic], h: Array, c: Array) -> tuple[Mapping[str, NDArray[np.float64]], int]:
        """`Truth.allowed` and `Truth.parted` for these inputs and states to start from."""


@dataclass(frozen=True, slots=True)
class Model:
    """A file that can be run, and the network that it should be.

    Attributes:
        session: runs the file.
        spec: of the file.
        rounding: the network's true numbers, and how far the file's may be from them.
    """

    session: Session
    spec: pb.ModelSpec
    rounding: Rounding

    def allowed(self, x: NDArray[np.generic], h: Array, c: Array) -> tuple[Mapping[str, NDArray[np.float64]], int]:
        """As `Runnable`."""
        truth = self.rounding.truth(x, h, c)
        return truth.allowed, truth.parted


def carried(model: Model, torch: Reference | None = None, steps: int = STEPS) -> list[Figure]:
    """New sessions, their state carried through many steps, against torch and against NumPy.

    Every step alone and every chunk alone, started from the model's own state, so that nothing adds up; and the whole
    way, steps taken singly and in chunks, the reference carrying its own state, until float32 itself has parted from
    the true numbers (`Truth.parted`).

    Args:
        model: what to run.
        torch: the network itself, where there is one.
        steps: how many.

    Raises:
        DifferenceError: a tensor is too far from a reference.
    """
    rows = 2
    x = samples.inputs(model.spec, rows, steps, np.random.default_rng(0))
    h, c = samples.zeros(model.spec, rows)
    singly = walk(model.session, x, h, c, np.ones((steps, rows), np.int64))
    bounds = [*takewhile(lambda bound: bound < steps, accumulate(cycle(CHUNKS))), steps]
    chunked = walk(model.session, x, h, c, np.repeat(np.diff([0, *bounds])[:, None], rows, axis=1))
    figures = _each_step(model, torch, singly, x, h, c) + _each_chunk(model, singly, x, h, c, [0, *bounds])
    truth = model.rounding.truth(x, h, c)
    for name, expected in _references(torch, truth, x, h, c).items():
        for case, tracks in (("singly", singly), ("in chunks", chunked)):
            pairs = []
            for row, tensors in enumerate(tracks):
                for tensor, track in tensors.items():
                    values, at = track.before(truth.parted)
                    bound = truth.allowed[tensor][at]
                    pairs.append(Pair(tensor, row, at, values, expected[tensor][row, at], bound))
            figures += compare(name, case, pairs)
    return figures


def _references(torch: Reference | None, truth: Truth, x: NDArray[np.generic], h: Array, c: Array) -> dict[str, Steps]:
    return ({"torch": torch(x, h, c)} if torch is not None else {}) | {"numpy": truth.steps}


def _each_step(
    model: Model,
    torch: Reference | None,
    tracks: Sequence[Mapping[str, Track]],
    x: NDArray[np.generic],
    h: Array,
    c: Array,
) -> list[Figure]:
    pairs: dict[str, list[Pair]] = {}
    for row, tensors in enumerate(tracks):
        # The steps become the rows of a batch, each one step long.
        before = [
            np.concatenate([initial[row, None], tensors[state].values[:-1]]) for state, initial in (("h", h), ("c", c))
        ]
        start = x[row][:, None], before[0], before[1]
        truth = model.rounding.truth(*start)
        for name, expected in _references(torch, truth, *start).items():
            pairs.setdefault(name, []).extend(
                Pair(tensor, row, track.steps, track.values, expected[tensor][:, 0], truth.allowed[tensor])
                for tensor, track in tensors.items()
            )
    return [figure for name, found in pairs.items() for figure in compare(name, "each step", found)]


def _each_chunk(
    model: Model,
    tracks: Sequence[Mapping[str, Track]],
    x: NDArray[np.generic],
    h: Array,
    c: Array,
    bounds: Sequence[int],
) -> list[Figure]:
    """The chunks between the bounds, each of which starts from the state that the steps before it came to singly."""
    pairs: list[Pair] = []
    starts = {length: [a for a, b in pairwise(bounds) if b - a == length] for length in np.diff(bounds).tolist()}
    for length, begins in starts.items():
        rows = [(row, begin) for row in range(len(tracks)) for begin in begins]
        chunk = np.stack([x[row, begin : begin + length] for row, begin in rows])
        h0, c0 = (
            np.stack([initial[row] if begin == 0 else tracks[row][name].values[begin - 1] for row, begin in rows])
            for name, initial in (("h", h), ("c", c))
        )
        truth = model.rounding.truth(chunk, h0, c0)
        found = walk(model.session, chunk, h0, c0, np.full((1, len(rows)), length))
        for k, ((row, begin), tensors) in enumerate(zip(rows, found, strict=True)):
            for tensor, track in tensors.items():
                values, at = track.before(truth.parted)
                pairs.append(
                    Pair(tensor, row, begin + at, values, truth.steps[tensor][k, at], truth.allowed[tensor][at])
                )
    return compare("numpy", "each chunk", pairs)


def together(model: Runnable) -> list[Figure]:
    """Rows in one batch against each of them alone.

    Raises:
        DifferenceError: a row's numbers depend on the rows beside it.
    """
    return _alone(model, "rows together", np.full((3, 7), 16))


def ragged(model: Runnable) -> list[Figure]:
    """Rows of unlike length in one batch, their state carried to the next, against each of them alone.

    Raises:
        DifferenceError: a row goes on when it has ended, or ends too early.
    """
    lengths = np.random.default_rng(2).integers(1, 12, size=(6, 5))
    lengths[0, :2] = 1, 12
    return _alone(model, "rows of unlike length", lengths)


def _alone(model: Runnable, case: str, lengths: NDArray[np.integer]) -> list[Figure]:
    """Rows together against the same rows alone; `lengths` is [rounds, rows]."""
    rng = np.random.default_rng(1)
    rows = lengths.shape[1]
    x = samples.inputs(model.spec, rows, int(lengths.sum(axis=0).max()), rng)
    h, c = samples.states(model.spec, rows, rng)
    allowed, parted = model.allowed(x, h, c)
    pairs = []
    for row, tensors in enumerate(walk(model.session, x, h, c, lengths)):
        (alone,) = walk(model.session, x[row, None], h[row, None], c[row, None], lengths[:, row, None])
        for tensor, track in tensors.items():
            values, at = track.before(parted)
            pairs.append(Pair(tensor, row, at, values, alone[tensor].before(parted)[0], allowed[tensor][at]))
    return compare("alone", case, pairs)
