"""Which shapes of a run give a row the same bits, on this machine and with this model: found out by running them.

Nothing is assumed of onnxruntime's kernels but that what they do to a row depends on the run's shape, on the row's
place in it and, where the model has it so, on the other rows: all three are varied here.
"""

from collections.abc import Mapping, Sequence
from typing import Final

import numpy as np

from gatestream.protos.gatestream.v1 import gatestream_pb2 as pb
from gatestream.protos.layout import Input, ModelLayout, State
from gatestream.server.arrays import Array, Ints
from gatestream.server.backend.runner import HostRunner
from gatestream.server.config import TickLimits
from gatestream.server.errors import ArtifactError

Shapes = Mapping[int, Sequence[int]]
"""By time steps, the batch sizes, ascending. Has 1 step, with sizes at least as large as any other's."""

# A tick is padded to the next of these: by a quarter at most.
_ROWS: Final = (
    *range(1, 9),
    *range(12, 33, 4),
    *range(40, 65, 8),
    *range(80, 129, 16),
    *range(160, 257, 32),
    *range(320, 513, 64),
)
# A chunk is cut into these, so that hardly a step is padded: 64, 32 and 1 for 97.
_STEPS: Final = (2, 4, 8, 16, 32, 64)
_CHUNK_ROWS: Final = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32)
# The sizes whose bits the others must have, best first. A kernel may treat the rows that are left over when it has cut
# a batch into blocks (of 4, 6, 8, 12, 16) in another way; and one row has most often a kernel of its own.
_FIRST: Final = (8, 48, 1)


def agreeing_shapes(runner: HostRunner, spec: pb.ModelSpec, limits: TickLimits) -> Shapes:
    """Find the shapes in which every row has the same bits as in one-step runs of one certain size.

    One row by itself is such a shape whatever the model does, so some shape is always found.

    Args:
        runner: of the model; its rows of state stay as they are.
        spec: of the model.
        limits: of a tick; no shape is larger.

    Raises:
        ArtifactError: the same row by itself gives other bits when it is run again.
    """
    sizes = sorted({size for size in _ROWS if size < limits.rows} | {min(limits.rows, _ROWS[-1])})
    # Twice as many rows as stand in any run: what stands beside a row changes.
    trial = _Trial(runner, spec, 2 * sizes[-1], 1)
    for first in dict.fromkeys(min(size, sizes[-1]) for size in _FIRST):
        trial.expect_as(first)
        if trial.agrees(first, 1):
            break
    else:
        raise ArtifactError(
            f"model {spec.name!r} cannot be served with deterministic: the same row gives other numbers when it is run "
            "again, by itself; does its graph draw random numbers?"
        )
    singles = tuple(size for size in sizes if size == first or trial.agrees(size, 1))
    shapes: dict[int, Sequence[int]] = {1: singles}
    candidates = [size for size in _CHUNK_ROWS if size in singles]
    lengths = [steps for steps in _STEPS if steps <= limits.steps]
    if candidates and lengths:
        trial = _Trial(runner, spec, candidates[-1], lengths[-1])
        trial.expect_as(candidates[-1])
        for steps in lengths:
            if agreeing := tuple(size for size in candidates if trial.agrees(size, steps)):
                shapes[steps] = agreeing
    return shapes


class _Trial:
    """Random rows, and the bits that runs of them must have."""

    def __init__(self, runner: HostRunner, spec: pb.ModelSpec, rows: int, steps: int):
        self._runner = runner
        self._gates = (False, True) if spec.gates else (False,)
        self._even = not spec.length_input
        self._rng = np.random.default_rng(0)
        layout = ModelLayout.of(spec)
        self._inputs = [
            self._input(item, tensor, rows, steps) for item, tensor in zip(layout.inputs, spec.inputs, strict=True)
        ]
        self._states = [self._state(item, rows) for item in layout.states]
        self._rows, self._steps = rows, steps
        # Outputs and gates, and the states after each step: each [rows, steps, *shape].
        self._expected: tuple[list[Array], list[Array]] = [], []

    def _spread(self, rows: int, *shape: int) -> Array:
        # Of unlike size: beside a row of large numbers, a row of small ones shows whether it is treated by itself.
        scale = 10.0 ** self._rng.uniform(-2, 1, (rows, *(1 for _ in shape)))
        return scale * self._rng.standard_normal((rows, *shape))

    def _input(self, item: Input, spec: pb.TensorSpec, rows: int, steps: int) -> Array:
        """What the model takes, [rows, steps, *shape]."""
        kind, shape = item.dtype.kind, (rows, steps, *item.shape)
        if kind == "b":
            return self._rng.random(shape) < 0.5
        if kind == "f":
            values = self._spread(*shape)
            if spec.scale:
                values = values * np.reshape(spec.scale, item.shape) + np.reshape(spec.mean, item.shape)
            return values.astype(item.dtype)
        info = np.iinfo(item.dtype)
        if item.limit:
            return self._rng.integers(0, min(item.limit - 1, info.max), shape, endpoint=True).astype(item.dtype)
        # Loud and quiet, as samples are.
        least, most = max(info.min, -(2**31)), min(info.max, 2**31 - 1)
        return (self._spread(*shape) * min(info.max, 2**15) / 8).clip(least, most).astype(item.dtype)

    def _state(self, item: State, rows: int) -> Array:
        """States that a session may come to, [rows, *shape]: whole numbers may be places in a table, and stay."""
        first = np.repeat(item.first()[None], rows, axis=0)
        if item.dtype.kind != "f":
            return first
        return (first + self._spread(rows, *item.shape)).astype(item.dtype)

    def expect_as(self, size: int) -> None:
        """Take for right what one-step runs of `size` rows give."""
        parts = [self._stepped(np.arange(at, at + size) % self._rows) for at in range(0, self._rows, size)]
        shown, states = (
            [np.concatenate(columns)[: self._rows] for columns in zip(*which, strict=True)]
            for which in zip(*parts, strict=True)
        )
        self._expected = shown, states

    def _stepped(self, rows: Ints) -> tuple[list[Array], list[Array]]:
        states = [state[rows] for state in self._states]
        shown: list[list[Array]] = []
        after: list[list[Array]] = []
        one = np.ones(len(rows), np.int32)
        for step in range(self._steps):
            inputs = [column[rows, step : step + 1] for column in self._inputs]
            outputs, states, gates = self._runner.compute(inputs, one, states, self._gates[-1])
            shown.append([*outputs, *gates])
            after.append([state[:, None] for state in states])
        joined = [[np.concatenate(columns, axis=1) for columns in zip(*which, strict=True)] for which in (shown, after)]
        return joined[0], joined[1]

    def agrees(self, size: int, steps: int) -> bool:
        """Whether runs of this shape, with rows in random places, give the right bits; with the gates and without."""
        # Small runs twice: each of their few places is to be seen with several rows.
        for gates in self._gates * (1 + (size * steps < 64)):
            rows = self._rng.permutation(self._rows)[:size]
            lengths = self._rng.integers(1, steps + 1, size).astype(np.int32)
            lengths[slice(None) if self._even else self._rng.integers(size)] = steps
            outputs, states, shown = self._runner.compute(
                [column[rows, :steps] for column in self._inputs],
                lengths,
                [state[rows] for state in self._states],
                gates,
            )
            real = np.arange(steps) < lengths[:, None]
            results = (*outputs, *shown)
            right = [column[rows, :steps][real] for column in self._expected[0][: len(results)]]
            right += [column[rows, lengths - 1] for column in self._expected[1]]
            found = [*(column[real] for column in results), *states]
            if any(a.tobytes() != b.tobytes() for a, b in zip(found, right, strict=True)):
                return False
        return True
