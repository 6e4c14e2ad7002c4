"""The same numbers, however a model is run: step by step, in chunks, beside others, in rows that end early."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import accumulate, cycle, takewhile

import numpy as np
from numpy.typing import NDArray

from gatestream.export import samples
from gatestream.export.comparison import Figure, Pair, compare
from gatestream.export.roles import Array
from gatestream.export.rounding import Allowed, Rounding
from gatestream.export.runtime import Session
from gatestream.export.walk import Track, walk
from gatestream.protos.gatestream.v1 import gatestream_pb2 as pb

STEPS = 1024
"""Carried steps in a comparison with torch and the oracle."""

Reference = Callable[[NDArray[np.generic], Array, Array], Mapping[str, NDArray[np.floating]]]
"""x, h and c in; y, h, c, i, f, g, o of every step out, each [batch, time, ...]."""

_CHUNKS = (1, 2, 3, 5, 8, 13, 21, 64)


@dataclass(frozen=True, slots=True)
class Model:
    """A file that can be run, and the network that it should be.

    Attributes:
        session: runs the file.
        spec: of the file.
        weights: of the network, by the checkpoint's names.
        rounding: how far the file's numbers may be from the network's.
    """

    session: Session
    spec: pb.ModelSpec
    weights: Mapping[str, Array]
    rounding: Rounding


def carried(model: Model, references: Mapping[str, Reference], steps: int = STEPS) -> list[Figure]:
    """New sessions, their state carried through many steps, against references.

    Three comparisons: each step alone, the reference starting it from the model's own state, so that nothing adds up;
    and the whole way, steps taken singly and in chunks, the reference carrying its own state.

    Raises:
        DifferenceError: a tensor is too far from a reference.
    """
    rows = 2
    x = samples.inputs(model.spec, model.weights, rows, steps, np.random.default_rng(0))
    h, c = samples.zeros(model.spec, rows)
    singly = walk(model.session, x, h, c, np.ones((steps, rows), np.int64))
    bounds = [*takewhile(lambda bound: bound < steps, accumulate(cycle(_CHUNKS))), steps]
    chunked = walk(model.session, x, h, c, np.repeat(np.diff([0, *bounds])[:, None], rows, axis=1))
    allowed = model.rounding.allowed(x, h, c)
    figures = []
    for name, reference in references.items():
        figures += compare(name, "each step", _each_step(model, reference, singly, x, h, c))
        expected = reference(x, h, c)
        for case, tracks in (("singly", singly), ("in chunks", chunked)):
            figures += compare(
                name,
                case,
                [
                    Pair(tensor, row, track.steps, track.values, expected[tensor][row, track.steps], bound)
                    for row, tensors in enumerate(tracks)
                    for tensor, track in tensors.items()
                    for bound in [allowed[tensor][track.steps]]
                ],
            )
    return figures


def _each_step(
    model: Model,
    reference: Reference,
    tracks: list[Mapping[str, Track]],
    x: NDArray[np.generic],
    h: Array,
    c: Array,
) -> list[Pair]:
    pairs = []
    for row, tensors in enumerate(tracks):
        before = [
            np.concatenate([initial[row, None], tensors[name].values[:-1]]) for name, initial in (("h", h), ("c", c))
        ]
        single = x[row][:, None], before[0], before[1]  # the steps are the rows of a batch, each one step long
        expected, allowed = reference(*single), model.rounding.allowed(*single)
        pairs += [
            Pair(tensor, row, track.steps, track.values, expected[tensor][:, 0], allowed[tensor])
            for tensor, track in tensors.items()
        ]
    return pairs


def together(model: Model) -> list[Figure]:
    """Rows in one batch against each of them alone.

    Raises:
        DifferenceError: a row's numbers depend on the rows beside it.
    """
    return _alone(model, "rows together", np.full((3, 7), 16))


def ragged(model: Model) -> list[Figure]:
    """Rows of unlike length in one batch, their state carried to the next, against each of them alone.

    Raises:
        DifferenceError: a row goes on when it has ended, or ends too early.
    """
    lengths = np.random.default_rng(2).integers(1, 12, size=(6, 5))
    lengths[0, :2] = 1, 12
    return _alone(model, "rows of unlike length", lengths)


def _alone(model: Model, case: str, lengths: NDArray[np.integer]) -> list[Figure]:
    """Rows together against the same rows alone; `lengths` is [rounds, rows]."""
    rng = np.random.default_rng(1)
    rows = lengths.shape[1]
    x = samples.inputs(model.spec, model.weights, rows, int(lengths.sum(axis=0).max()), rng)
    h, c = samples.states(model.spec, rows, rng)
    allowed: Allowed = model.rounding.allowed(x, h, c)
    pairs = []
    for row, tensors in enumerate(walk(model.session, x, h, c, lengths)):
        (alone,) = walk(model.session, x[row, None], h[row, None], c[row, None], lengths[:, row, None])
        pairs += [
            Pair(tensor, row, track.steps, track.values, alone[tensor].values, allowed[tensor][track.steps])
            for tensor, track in tensors.items()
        ]
    return compare("alone", case, pairs)
