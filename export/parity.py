"""The same numbers, however a model is run: step by step, in chunks, beside others, in rows that end early."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import accumulate, cycle, takewhile

import numpy as np
from numpy.typing import NDArray

from gatestream.export import samples
from gatestream.export.comparison import Figure, Pair, compare
from gatestream.export.roles import Array
from gatestream.export.runtime import Session
from gatestream.protos.gatestream.v1 import gatestream_pb2 as pb

STEPS = 1024
"""Carried steps in a comparison with torch and the oracle."""

Reference = Callable[[NDArray[np.generic], Array, Array], Mapping[str, NDArray[np.floating]]]
"""x, h and c in; y, h, c, i, f, g, o of every step out, each [batch, time, ...]."""

_CHUNKS = (1, 2, 3, 5, 8, 13, 21, 64)


@dataclass(frozen=True, slots=True)
class Model:
    """What there is to know of a model to run it.

    Attributes:
        session: runs it.
        spec: says what its tensors mean.
        tokens: how many token ids there are; not used where inputs are numbers.
    """

    session: Session
    spec: pb.ModelSpec
    tokens: int


def carried(model: Model, references: Mapping[str, Reference], steps: int = STEPS) -> list[Figure]:
    """New sessions taken through many steps, their state carried, singly and in chunks, against references.

    Raises:
        DifferenceError: a tensor is too far from a reference.
    """
    rows = 2
    x = samples.inputs(model.spec, model.tokens, rows, steps, np.random.default_rng(0))
    h, c = samples.zeros(model.spec, rows)
    bounds = [*takewhile(lambda bound: bound < steps, accumulate(cycle(_CHUNKS))), steps]
    ways = {"singly": [1] * steps, "in chunks": np.diff([0, *bounds]).tolist()}
    walks = {case: _walk(model, x, h, c, np.repeat(np.array(way)[:, None], rows, 1)) for case, way in ways.items()}
    figures = []
    for name, reference in references.items():
        expected = reference(x, h, c)
        for case, tracks in walks.items():
            pairs = [
                Pair(tensor, track.values[None], expected[tensor][row][None, track.steps], track.steps, row)
                for row, row_tracks in enumerate(tracks)
                for tensor, track in row_tracks.items()
            ]
            figures += compare(name, case, pairs, model.spec)
    return figures


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
    x = samples.inputs(model.spec, model.tokens, rows, int(lengths.sum(axis=0).max()), rng)
    h, c = samples.states(model.spec, rows, rng)
    pairs = []
    for row, tracks in enumerate(_walk(model, x, h, c, lengths)):
        (alone,) = _walk(model, x[row, None], h[row, None], c[row, None], lengths[:, row, None])
        pairs += [
            Pair(tensor, track.values[None], alone[tensor].values[None], track.steps, row)
            for tensor, track in tracks.items()
        ]
    return compare("alone", case, pairs, model.spec)


@dataclass(frozen=True, slots=True)
class _Track:
    """One tensor of one row: values [steps, ...] and the number of each step."""

    values: Array
    steps: NDArray[np.integer]


def _walk(
    model: Model, x: NDArray[np.generic], h: Array, c: Array, lengths: NDArray[np.integer]
) -> list[dict[str, _Track]]:
    """Run round after round, each row at its own pace, and collect what belongs to each row.

    Args:
        model: what to run.
        x: [rows, time] or [rows, time, features].
        h: hidden states to start from.
        c: cell states to start from.
        lengths: real steps of each row in each round, [rounds, rows].
    """
    rows, time = x.shape[:2]
    done = np.zeros(rows, np.int64)
    parts: list[dict[str, list[tuple[Array, NDArray[np.integer]]]]] = [{} for _ in range(rows)]
    for length in lengths:
        # Past its length a row is filled with steps that it has not taken yet: they must not be taken.
        at = np.minimum(done[:, None] + np.arange(length.max()), time - 1)
        found = model.session.run(x[np.arange(rows)[:, None], at], h, c, length.astype(np.int32))
        h, c = found["h"], found["c"]
        for row, count in enumerate(length):
            for tensor, values in found.items():
                state = tensor in ("h", "c")
                part = values[row, None] if state else values[row, :count]
                parts[row].setdefault(tensor, []).append((part, at[row, count - 1 if state else 0 : count]))
        done += length
    return [
        {
            tensor: _Track(np.concatenate([v for v, _ in pieces]), np.concatenate([s for _, s in pieces]))
            for tensor, pieces in row.items()
        }
        for row in parts
    ]
