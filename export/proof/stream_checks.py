"""The checks that a recurrent model can be stepped: by itself, in batches, in chunks, and against its source."""

import time
from collections.abc import Collection, Sequence
from itertools import accumulate, cycle, pairwise, takewhile
from typing import Final

import numpy as np

from gatestream.export.artifact import Artifact
from gatestream.export.errors import ParityError
from gatestream.export.proof.comparison import DifferenceError, Figure, Pair, compare, summary
from gatestream.export.proof.loss import allowed, least, within_a_step
from gatestream.export.proof.needed import Needs
from gatestream.export.proof.parity import CHUNKS
from gatestream.export.proof.reference import Reference
from gatestream.export.proof.report import Checks
from gatestream.export.proof.streamed import (
    Array,
    Named,
    Streamed,
    cut,
    rows_of,
    sample_constants,
    sample_inputs,
)

MOST_STEPS: Final = 1024
LEAST_STEPS: Final = 64
_SECONDS: Final = 4.0
"""That the carried steps take, about: a model whose step is dear is carried through fewer."""

_ROWS: Final = 2
_LOUD: Final = 1000
"""How many times as large a neighbour's inputs are: a model that rounds all rows by one range shows it."""


class StreamChecks(Checks):
    """The checks of any recurrent model; each goes on from those before it.

    Args:
        artifact: the file.
        reference: its source; None: there is none.
        rows_may_differ: an operator in it rounds all rows and steps of a run by one range.
        given: inputs of states that somebody named as such; None: nobody can.

    Attributes:
        independent: a row's numbers do not depend on the rows beside it.
        bit_equal: run again, it gives the same bits.
        unheard: states that were given, and that changed nothing when they were lost.
    """

    def __init__(
        self, artifact: Artifact, reference: Reference | None, rows_may_differ: bool, given: Collection[str] | None
    ) -> None:
        super().__init__()
        self.artifact = artifact
        self.independent = True
        self.bit_equal = False
        self.unheard: Sequence[str] = ()
        self._given = given
        self._reference = reference
        self._may_differ = rows_may_differ
        self._rng = np.random.default_rng(0)

    # ---- The checks ---------------------------------------------------------------------------

    def replay(self) -> str:
        """The walk that the other checks start from, and whether it comes out the same twice."""
        self._model = Streamed(self.artifact.path, self.artifact.spec)
        self._model.by_row = self._may_differ
        self._layout = self._model.layout
        self._steps = self._affordable()
        self._constants = sample_constants(self._layout, _ROWS, self._rng)
        self._inputs = sample_inputs(self.artifact.spec, _ROWS, self._steps, self._rng)
        self._start = self._model.start(_ROWS, self._constants)
        self._outputs, self._carried = self._model.walk(self._inputs, self._start)
        for name, values in {**self._outputs, **self._carried}.items():
            if values.dtype.kind == "f" and not np.isfinite(values).all():
                where = int(np.argwhere(~np.isfinite(values))[0][1])
                blame = f"; there is NaN in {', '.join(none)}" if (none := self._not_numbers()) else ""
                raise ParityError(f"'{name}' is not a number from step {where} on, of inputs that are{blame}")
        steps = min(self._steps, LEAST_STEPS)
        again, _ = self._model.walk(cut(self._inputs, 0, steps), self._start)
        self.bit_equal = all(np.array_equal(again[name], self._outputs[name][:, :steps]) for name in again)
        return f"{steps} steps from the start, again: " + ("the same bits" if self.bit_equal else "other last bits")

    def together(self) -> str:
        """Seven rows in one batch, one of them loud, against each alone."""
        rows, steps = 7, min(16, self._steps // 2)
        at = self._rng.integers(self._steps - steps, size=rows)
        which = np.arange(rows) % _ROWS
        inputs = {
            name: np.stack([values[r, t : t + steps] for r, t in zip(which, at, strict=True)])
            for name, values in self._inputs.items()
        }
        states = {name: values[which, at] for name, values in self._carried.items()}
        self._batch = inputs, states
        found, after = self._model.run_together(_louder(inputs, rows - 1), states)
        figures, worst = [], 0.0
        for row in range(rows - 1):
            alone, alone_after = self._model.run(rows_of(inputs, [row]), rows_of(states, [row]))
            bounds = allowed(self._model, rows_of(inputs, [row]), rows_of(states, [row]))
            pairs = [
                _pair(name, row, found[name][row][: bounds.parted], alone[name][0], bounds.by_tensor[name])
                for name in alone
            ]
            if bounds.parted == steps:
                pairs += [
                    _pair(name, row, after[name][row, None], alone_after[name], bounds.by_tensor[name][-1:], steps - 1)
                    for name in alone_after
                ]
            try:
                figures += compare("alone", "rows together", pairs)
            except DifferenceError as error:
                if not self._may_differ:
                    raise
                self.independent = False
                worst = max(worst, abs(error.difference.found - error.difference.expected))
        self.figures += figures
        if not self.independent:
            return f"a row depends on the rows beside it, by {worst:.2g} where one is {_LOUD:,} times as loud"
        return f"{rows} rows, one {_LOUD:,} times as loud, against each alone: {summary(figures)}"

    def carried(self) -> str:
        """Single steps against the source: the whole way, and each from the model's own state."""
        bounds = allowed(self._model, self._inputs, self._start)
        self._bounds = bounds
        if self._reference is None:
            return f"{self._steps} steps; there is no source to compare them with"
        name, figures = self._reference.name, []
        expected = self._reference.whole(self._inputs, self._constants)
        _same_names(name, expected, self._outputs)
        steps = min(values.shape[1] for values in expected.values())
        if steps < min(self._steps, LEAST_STEPS):
            raise ParityError(f"the {name} gives {steps} steps of {self._steps}, too few to compare")
        till = min(bounds.parted, steps)
        pairs = [
            _pair(tensor, row, self._outputs[tensor][row, :till], values[row], bounds.by_tensor[tensor])
            for tensor, values in expected.items()
            for row in range(_ROWS)
        ]
        figures += compare(name, "singly", pairs)
        figures += self._each_step(name)
        self.figures += figures
        return summary(figures)

    def _each_step(self, name: str) -> list[Figure]:
        """Every step alone, as the rows of a batch, from the state that the model itself has there."""
        assert self._reference is not None
        inputs = {each: values.reshape(-1, 1, *values.shape[2:]) for each, values in self._inputs.items()}
        before = {each: values[:, :-1].reshape(-1, *values.shape[2:]) for each, values in self._carried.items()}
        step = self._reference.step(inputs, before)
        if step is None:
            return []
        expected = {**{k: v.reshape(_ROWS, self._steps, *v.shape[2:]) for k, v in step[0].items()}}
        expected |= {k: v.reshape(_ROWS, self._steps, *v.shape[1:]) for k, v in step[1].items()}
        found = {**self._outputs, **{k: v[:, 1:] for k, v in self._carried.items()}}
        lost = within_a_step(self._model, inputs, before)
        pairs = []
        for tensor, values in expected.items():
            most = max(least(values.dtype, float(np.abs(values).max(initial=0))), lost.get(tensor, 0.0))
            bound = np.full((self._steps, 1), most)
            pairs += [_pair(tensor, row, found[tensor][row], values[row], bound) for row in range(_ROWS)]
        return compare(name, "each step", pairs)

    def chunks(self) -> str:
        """Chunks of unlike lengths, each from the state that single steps came to, against those steps."""
        ends = [*takewhile(lambda end: end < self._steps, accumulate(cycle(CHUNKS))), self._steps]
        starts: dict[int, list[int]] = {}
        for begin, end in pairwise([0, *ends]):
            starts.setdefault(end - begin, []).append(begin)
        figures, worst = [], 0.0
        for length, begins in starts.items():
            places = [(row, begin) for row in range(_ROWS) for begin in begins]
            inputs = {k: np.stack([v[r, b : b + length] for r, b in places]) for k, v in self._inputs.items()}
            states = {k: np.stack([v[r, b] for r, b in places]) for k, v in self._carried.items()}
            try:
                figures += self._chunks_of(length, places, inputs, states)
            except DifferenceError as error:
                if not self._may_differ:
                    raise
                worst = max(worst, abs(error.difference.found - error.difference.expected))
        self.figures += figures
        if worst:
            return f"a chunk's steps depend on each other's size, by {worst:.2g} from single steps"
        return f"of {', '.join(map(str, sorted(starts)))} steps: {summary(figures)}"

    def _chunks_of(self, length: int, places: Sequence[tuple[int, int]], inputs: Named, states: Named) -> list[Figure]:
        bounds = allowed(self._model, inputs, states)
        found, after = self._model.run(inputs, states)
        pairs = []
        for tensor, values in found.items():
            for k, (row, begin) in enumerate(places):
                stop = min(bounds.parted, length)
                expected = self._outputs[tensor][row, begin : begin + stop]
                pairs.append(_pair(tensor, row, values[k, :stop], expected, bounds.by_tensor[tensor], begin))
        if bounds.parted >= length:
            for tensor, values in after.items():
                for k, (row, begin) in enumerate(places):
                    last = begin + length - 1
                    expected = self._carried[tensor][row, last + 1][None]
                    pairs.append(_pair(tensor, row, values[k][None], expected, bounds.by_tensor[tensor][-1:], last))
        return compare("steps", "in chunks", pairs)

    def ragged(self) -> str:
        """Rows that end early in one batch, against each alone in its own length."""
        if not self._layout.length:
            return "the model takes rows of one length; a server makes its runs so"
        inputs, states = self._batch
        steps = next(iter(inputs.values())).shape[1]
        rows = len(next(iter(inputs.values())))
        lengths = np.concatenate([[1, steps], self._rng.integers(1, steps + 1, rows - 2)]).astype(np.int32)
        found, after = self._model.run(inputs, states, lengths)
        figures = []
        for row, length in enumerate(lengths.tolist()):
            own, start = cut(rows_of(inputs, [row]), 0, length), rows_of(states, [row])
            alone, alone_after = self._model.run(own, start)
            bounds = allowed(self._model, own, start)
            if bounds.parted < length:
                continue
            pairs = [_pair(k, row, found[k][row, :length], v[0], bounds.by_tensor[k]) for k, v in alone.items()]
            pairs += [
                _pair(k, row, after[k][row, None], v, bounds.by_tensor[k][-1:], length - 1)
                for k, v in alone_after.items()
            ]
            figures += compare("alone", "rows of unlike length", pairs)
        self.figures += figures
        return f"{rows} rows of 1 to {steps} steps: {summary(figures)}"

    def states(self) -> str:
        """Each state changes something when it is lost, and when it is exchanged for another of its shape."""
        needs = Needs(self._model, self.artifact.spec, self._inputs, self._start, self._given)
        said = needs.check()
        self.unheard = needs.unheard
        return said

    # ---- What they are made of ----------------------------------------------------------------

    def _not_numbers(self) -> list[str]:
        """The weights that have a NaN in them."""
        return [
            f"'{name}'"
            for name, value in self.artifact.model.graph.initializers.items()
            if value.const_value is not None
            and value.const_value.dtype.is_floating_point()
            and np.isnan(value.const_value.numpy()).any()
        ]

    def _affordable(self) -> int:
        """How many steps the carried ones are: as many as there is time for."""
        rng, steps = np.random.default_rng(1), 4
        inputs = sample_inputs(self.artifact.spec, _ROWS, steps, rng)
        start = self._model.start(_ROWS, sample_constants(self._layout, _ROWS, rng))
        allowed(self._model, cut(inputs, 0, 1), start)
        began = time.perf_counter()
        allowed(self._model, inputs, start)
        seconds = (time.perf_counter() - began) / steps
        return int(np.clip(_SECONDS / max(seconds, 1e-6) / 3, LEAST_STEPS, MOST_STEPS))


def _pair(tensor: str, row: int, found: Array, expected: Array, bound: Array, first: int = 0) -> Pair:
    """A tensor of one row; `found` and `expected` are [steps, *shape], `bound` [steps or more, 1]."""
    steps = len(found)
    flat = (steps, -1) if found.size else (steps, 0)
    return Pair(
        tensor,
        row,
        first + np.arange(steps),
        found.reshape(flat),
        expected[:steps].reshape(flat),
        bound[:steps],
    )


def _louder(inputs: Named, row: int) -> dict[str, Array]:
    """The same inputs, those of one row that are floats `_LOUD` times as large."""
    found = {name: values.copy() for name, values in inputs.items()}
    for values in found.values():
        if values.dtype.kind == "f":
            values[row] *= min(_LOUD, float(np.finfo(values.dtype).max) / (1 + float(np.abs(values[row]).max())) / 2)
    return found


def _same_names(name: str, expected: Named, found: Named) -> None:
    if not expected or not expected.keys() <= found.keys():
        raise ParityError(f"the {name} gives {sorted(expected)}, the file {sorted(found)}")
