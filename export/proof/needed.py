"""Whether a model needs its states: losing one, or exchanging two of one shape, changes what comes out."""

import time
from collections.abc import Collection, Iterator, Sequence
from itertools import combinations
from typing import Final

import numpy as np

from gatestream.export.errors import ParityError
from gatestream.export.proof.loss import least
from gatestream.export.proof.streamed import Array, Named, Streamed, changing, cut, sample_inputs
from gatestream.protos.gatestream.v1 import gatestream_pb2 as pb
from gatestream.protos.layout import State

_FIRST: Final = 4
_STEPS: Final = 48
"""Within which most states are heard of; those that are not get more, doubled while there is time."""

_MOST_STEPS: Final = 1 << 15
_SECONDS: Final = 4.0
"""For the steps behind the first `_STEPS`, of all states together."""

_CLEAR_STEPS: Final = 16
_CLEAR: Final = 100
"""Within which, and by how many times what rows may differ by, most states are heard of."""

_TOGETHER: Final = 64
"""Trials in one batch."""

_MOST_EXCHANGES: Final = 500
_LISTED: Final = 16
"""States of which it is said by how much losing them changes what comes out."""


_Trial = tuple[str, str]
"""A state that is lost, and ""; or two that are exchanged."""


class Needs:
    """A model, and a walk through it from new sessions.

    Args:
        model: to step.
        spec: of it.
        inputs: of the walk, each [rows, time, *shape].
        start: the states before it, each [rows, *shape].
        given: inputs of states that somebody named as such: they are taken even where nothing is heard of them; None:
            nobody can.

    Attributes:
        unheard: those of `given` of which nothing was heard.
    """

    def __init__(
        self, model: Streamed, spec: pb.ModelSpec, inputs: Named, start: Named, given: Collection[str] | None
    ) -> None:
        self.unheard: list[str] = []
        self._model, self._spec, self._start, self._given = model, spec, start, given
        self._inputs, self._states = inputs, start
        self._right: list[Named] = []
        self._rng = np.random.default_rng(2)
        self._seconds = _SECONDS

    def check(self) -> str:
        """Lose and exchange them all.

        Returns:
            What was found, for a person.

        Raises:
            ParityError: nothing is heard of a state, or of a constant.
        """
        layout = self._model.layout
        moving = changing(layout)
        details, silent = [], []
        for state, clear in zip(moving, self._clearly([(state.name, "") for state in moving]), strict=True):
            steps, apart = (_CLEAR_STEPS, clear) if clear else self._heard((state.name, ""), _MOST_STEPS)
            if apart:
                details.append((apart, state.name))
            elif state.name in (self._given or ()):
                self.unheard.append(state.name)
                silent.append(f"losing '{state.name}' changes nothing in {steps:,} steps, it is taken as it was given")
            else:
                taken = f"; where it is one all the same, --state {state.name}={state.after}"
                raise ParityError(
                    f"state '{state.name}': losing it after every step changes no output within {steps:,} steps; it "
                    f"is no state of this model, or it is paired with the wrong output"
                    + ("" if self._given is None else taken)
                )
        alike = []
        pairs, left = _exchanges(moving)
        for (a, b), clear in zip(pairs, self._clearly([(a.name, b.name) for a, b in pairs]), strict=True):
            if not clear and not self._heard((a.name, b.name), _STEPS)[1]:
                alike.append(f"'{a.name}' and '{b.name}' cannot be told apart")
        if left:
            alike.append(f"each exchanged with the next of its shape, {left} other pairs not tried")
        self._check_constants(layout.constants)
        return "; ".join([_summary(details, len(moving)), *silent, *alike])

    def _check_constants(self, constants: Sequence[State]) -> None:
        inputs = cut(self._inputs, 0, _STEPS)
        right, _ = self._model.walk(inputs, self._start)
        for constant in constants:
            if constant.dtype.kind == "f":
                other = {**self._start, constant.name: self._start[constant.name] + 1}
                found, _ = self._model.walk(inputs, other)
                if all(np.array_equal(found[name], values) for name, values in right.items()):
                    raise ParityError(f"constant '{constant.name}': another value changes no output")

    def _clearly(self, trials: Sequence[_Trial]) -> list[float]:
        """How far the outputs of each are from the right ones, many in one batch; 0: by no more than rows may be."""
        apart: list[float] = []
        rows = len(next(iter(self._start.values()), ()))
        for at in range(0, len(trials), _TOGETHER):
            part = trials[at : at + _TOGETHER]
            states: Named = {name: np.concatenate([values] * len(part)) for name, values in self._start.items()}
            worst = np.zeros(len(part))
            for t in range(_CLEAR_STEPS):
                right, inputs = self._rightly(t), cut(self._inputs, t, t + 1)
                found, after = self._model.run(
                    {name: np.concatenate([values] * len(part)) for name, values in inputs.items()}, states
                )
                states = {name: values.copy() for name, values in after.items()}
                for k, trial in enumerate(part):
                    _meddle(states, trial, self._start, slice(k * rows, (k + 1) * rows))
                for name, values in right.items():
                    most = _by_trial(found[name].reshape(len(part), *values.shape), values)
                    bound = _CLEAR * least(values.dtype, float(np.abs(values).max(initial=0)))
                    worst = np.maximum(worst, np.where(most > bound, most, 0))
            apart += worst.tolist()
        return apart

    def _heard(self, trial: _Trial, most: int) -> tuple[int, float]:
        """To the last bit, and as long as there is time.

        Returns:
            The steps taken, and how far the outputs were from the right ones in them; 0: they were the same.
        """
        states, apart, done = self._start, 0.0, 0
        for steps in self._stretches(most):
            for t in range(done, steps):
                right = self._rightly(t)
                found, after = self._model.run(cut(self._inputs, t, t + 1), states)
                states = {name: values.copy() for name, values in after.items()}
                _meddle(states, trial, self._start, slice(None))
                apart = max(apart, *(float(_by_trial(found[name][None], right[name])[0]) for name in right))
            done = steps
            if apart:
                break
        return done, apart

    def _stretches(self, most: int) -> Iterator[int]:
        """To how many steps to go, one after another: at first so many, then twice as many while there is time."""
        steps = _FIRST
        while steps <= min(_STEPS, most):
            yield steps
            steps = min(2 * steps, _STEPS) if steps < _STEPS else _STEPS + 1
        steps = 2 * _STEPS
        while steps <= most and self._seconds > 0:
            began = time.perf_counter()
            yield steps
            self._seconds -= time.perf_counter() - began
            steps *= 2

    def _rightly(self, t: int) -> Named:
        """The outputs of a step where nothing is done, and what it needs to be made."""
        if t == next(iter(self._inputs.values())).shape[1]:
            more = sample_inputs(self._spec, len(next(iter(self._start.values()))), t, self._rng)
            self._inputs = {name: np.concatenate([values, more[name]], axis=1) for name, values in self._inputs.items()}
        if t == len(self._right):
            found, self._states = self._model.run(cut(self._inputs, t, t + 1), self._states)
            self._right.append(found)
        return self._right[t]


def _summary(details: Sequence[tuple[float, str]], moving: int) -> str:
    if not moving:
        return "it has none"
    if not details:
        return "none is heard of"
    listed = ", ".join(f"{name} {apart:.2g}" for apart, name in details[:_LISTED])
    more = f", and {len(details) - _LISTED} more" if len(details) > _LISTED else ""
    return f"losing any of them changes what comes out: {listed}{more}"


def _exchanges(states: Sequence[State]) -> tuple[list[tuple[State, State]], int]:
    """The pairs of one shape to exchange, and how many are left out: all pairs of hundreds of states take an hour."""
    pairs = [(a, b) for a, b in combinations(states, 2) if (a.dtype, a.shape) == (b.dtype, b.shape)]
    if len(pairs) <= _MOST_EXCHANGES:
        return pairs, 0
    following = dict(reversed(pairs))  # of each state the next one of its shape
    neighbours = [(a, b) for a, b in pairs if following[a] is b]
    return neighbours, len(pairs) - len(neighbours)


def _meddle(states: dict[str, Array], trial: _Trial, start: Named, rows: slice) -> None:
    """Lose a state, or exchange two, in some rows."""
    a, b = trial
    if b:
        states[a][rows], states[b][rows] = states[b][rows].copy(), states[a][rows].copy()
    else:
        states[a][rows] = start[a]


def _by_trial(found: Array, right: Array) -> Array:
    """How far each of several is from what is right, at most; what is no number, infinitely."""
    with np.errstate(invalid="ignore"):
        apart = np.abs(found.astype(np.float64) - right.astype(np.float64))
    apart[found == right] = 0
    most: Array = np.nan_to_num(apart, nan=np.inf).reshape(len(found), -1).max(axis=1, initial=0)
    return most
