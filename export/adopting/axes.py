"""Which axis of each tensor is the sessions' and which is time, found by running the graph.

The sessions': three unlike rows together give what each gives alone. Time: five steps in one run give what they give
one after another, the state carried. Names of axes only say what is tried first.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice, product
from math import prod
from typing import Any, Final, NoReturn

import numpy as np

from gatestream.export.adopting.options import Options
from gatestream.export.adopting.reference import context_state
from gatestream.export.adopting.running import Array, Named, RunError, Runner
from gatestream.export.adopting.signature import End, Signature, written
from gatestream.export.errors import AmbiguousError, NotStreamableError
from gatestream.export.proof.streamed import sample

_ROWS: Final = 3
_STEPS: Final = 5
_MOST_BATCHES: Final = 16
"""Ways to run rows together that are tried with more than one step."""

_MOST: Final = 4096
"""Attempts; a graph of so many axes of size 1 has to be told which."""

_Choice = tuple[int | None, ...]

Explain = Callable[[Named, Mapping[str, int]], str]
"""Of a run, and the time axes of its inputs: why it is not the same in parts."""


@dataclass(frozen=True, slots=True)
class _Parted:
    """Where a run of many steps and the same steps singly are not the same; what was run, and along which axes."""

    output: str
    step: int
    apart: float
    feed: Named
    time: Mapping[str, int]


def find_axes(
    runner: Runner, signature: Signature, options: Options, tolerance: float, explain: Explain | None = None
) -> None:
    """Find the axes of all inputs, outputs and states, and a shape of each with which one step of one session runs.

    Args:
        runner: of the graph.
        signature: of the graph; what is found is written there.
        options: what was said of it.
        tolerance: of two right runs, relative to the largest number of a tensor where that is more than 1.
        explain: why a run of many steps, and their axes, is not the same steps singly.

    Raises:
        AmbiguousError: the file does not say, and running it does not either.
        NotStreamableError: steps do not add up to the whole.
    """
    _Search(runner, signature, options, tolerance, explain or _unexplained).find()


class _Search:
    def __init__(
        self, runner: Runner, signature: Signature, options: Options, tolerance: float, explain: Explain
    ) -> None:
        self._explain = explain
        self._runner = runner
        self._signature = signature
        self._options = options
        self._tolerance = tolerance
        self._rng = np.random.default_rng(0)
        self._nearest: _Parted | None = None

    def find(self) -> None:
        for end in self._signature.fed:
            end.base = self._base(end)
        self._first_run()
        self._search()
        self._settle()

    def _search(self) -> None:
        """Rows and steps together where that can be; else rows, or steps, or neither."""
        first: dict[str, int | None] | None = None
        partly: tuple[dict[str, int | None], dict[str, int | None]] | None = None
        for axes in islice(self._batches(), _MOST_BATCHES):
            self._set_batch(axes)
            for times in self._times():
                self._set_time(times)
                if self._without_time() is not None:
                    partly = partly or (axes, times)
                elif self._both():
                    return
            self._set_time({})
            if partly is None and self._open() is None:
                return
            first = first or axes
        self._set_batch(None)
        if told := self._options.batch:
            self._refuse_batch(told, first)
        for times in self._times():
            self._set_time(times)
            if self._without_time() is None:
                return
        self._set_batch(first if partly is None else partly[0])
        self._set_time({} if partly is None else partly[1])
        if partly is None or (self._nearest is not None and self._open() is not None):
            self._refuse_time()

    # ---- One step of one session --------------------------------------------------------------

    def _base(self, end: End) -> tuple[int, ...]:
        sizes = [dim if isinstance(dim, int) else 1 for dim in end.dims]
        for axis in (self._options.batch.get(end.name), self._options.time.get(end.name)):
            if axis is not None:
                if not 0 <= axis < len(sizes):
                    raise AmbiguousError(f"'{end.name}' {written(end.dims)} has no axis {axis}; the first is 0")
                sizes[axis] = 1
        return tuple(sizes)

    def _first_run(self) -> None:
        try:
            found = self._runner.run(self._draw())
        except RunError as error:
            dynamic = [end for end in self._signature.inputs if any(not isinstance(dim, int) for dim in end.dims)]
            shapes = ", ".join(f"'{end.name}' {written(end.base)}" for end in self._signature.fed)
            names = ", ".join(f"--window {end.name}:SAMPLES" for end in dynamic)
            help_ = f"; where a step is a window of samples say how many: {names}" if names else ""
            raise AmbiguousError(f"one step of one session does not run, {shapes}: {error}{help_}") from error
        for state in self._signature.states:
            after = found[state.pair.output.name or ""]
            if after.shape != state.end.base:
                raise AmbiguousError(
                    f"state '{state.end.name}' {written(state.end.base)} comes out as '{state.pair.output.name}' "
                    f"{written(after.shape)}: not a pair; name its output with --state {state.end.name}=OUTPUT"
                )

    def _draw(self) -> dict[str, Array]:
        feed = {end.name: sample(end.dtype, end.limit, end.base, self._rng) for end in self._signature.inputs}
        for state in self._signature.states:
            end = state.end
            if end.dtype.kind == "f":
                feed[end.name] = (0.5 * self._rng.standard_normal(end.base)).astype(end.dtype)
            elif state.pair.initial is not None:  # any other number may be none that it can have
                feed[end.name] = np.broadcast_to(state.pair.initial, end.base).astype(end.dtype)
            else:
                feed[end.name] = np.zeros(end.base, end.dtype)
        return feed

    # ---- Rows ---------------------------------------------------------------------------------

    def _batches(self) -> Iterator[dict[str, int | None]]:
        """The axes of all tensors along which rows give together what each gives alone."""
        ends = self._signature.fed
        choices: list[list[int | None]] = []
        for end in ends:
            axes = [k for k, size in enumerate(end.base) if size == 1 and self._options.time.get(end.name) != k]
            told = self._options.batch.get(end.name)
            choices.append(_preferred(end, axes) if told is None else [told])
        if not all(choices):
            return
        rows = [self._draw() for _ in range(_ROWS)]
        alone = [self._runner.run(row) for row in rows]
        for choice in _combinations(ends, choices):
            along = dict(zip((end.name for end in ends), choice, strict=True))
            if (found := self._together(along, rows, alone)) is not None:
                yield {**along, **found}

    def _set_batch(self, axes: Mapping[str, int | None] | None) -> None:
        self._signature.batch = axes is not None
        for end in [*self._signature.fed, *self._signature.outputs]:
            end.batch = (axes or {}).get(end.name)

    def _refuse_batch(self, told: Mapping[str, int], found: Mapping[str, int | None] | None) -> NoReturn:
        flags = ", ".join(f"--batch {name}:{axis}" for name, axis in told.items())
        many = "of several steps " if found else ""
        raise AmbiguousError(f"{flags}: rows {many}run together along these axes do not give what each gives alone")

    def _both(self) -> bool:
        """Several rows of several steps together give what each row gives alone; or no such run is ever made."""
        signature = self._signature
        if self._options.context or any(end.time is None for end in [*signature.inputs, *signature.outputs]):
            return True
        rows = []
        for _ in range(_ROWS):
            row = self._draw()
            steps = [self._draw() for _ in range(_STEPS)]
            row |= {
                end.name: _joined([step[end.name].take([0], end.time) for step in steps], end.time)
                for end in signature.inputs
                if end.time is not None
            }
            rows.append(row)
        try:
            alone = [self._runner.run(row) for row in rows]
        except RunError:
            return False
        return self._together({end.name: end.batch for end in signature.fed}, rows, alone) is not None

    def _together(
        self, axes: Mapping[str, int | None], rows: Sequence[Named], alone: Sequence[Named]
    ) -> dict[str, int] | None:
        """The batch axis of each output, where rows give together what they give alone."""
        try:
            found = self._runner.run({name: _joined([row[name] for row in rows], axis) for name, axis in axes.items()})
        except RunError:
            return None
        grown: dict[str, int] = {}
        for name, values in found.items():
            axis = _grown(alone[0][name].shape, values.shape, _ROWS)
            if axis is None or self._parted(values, _joined([each[name] for each in alone], axis), axis) is not None:
                return None
            grown[name] = axis
        for state in self._signature.states:
            if grown[state.pair.output.name or ""] != axes[state.end.name]:
                return None
        return grown

    # ---- Time ---------------------------------------------------------------------------------

    def _times(self) -> Iterator[dict[str, int | None]]:
        """The axes of inputs and outputs along which many steps give in one run what they give one after another."""
        ends, told = self._signature.inputs, self._options.time
        choices: list[list[int | None]] = []
        for end in ends:
            axes = [k for k in range(len(end.base)) if k != end.batch]
            if end.name in self._options.windows:
                axes = [k for k in axes if isinstance(end.dims[k], int)]
            if end.name in self._options.context:
                axes = [k for k in axes if k != len(end.base) - 1]
            choices.append([told[end.name]] if end.name in told else [*_preferred(end, axes), None])
        for choice in _combinations(ends, choices):
            if all(axis is None for axis in choice):
                continue
            along = dict(zip((end.name for end in ends), choice, strict=True))
            found = self._along(along)
            if isinstance(found, _Parted):
                self._nearest = self._nearest or found
            elif found is not None:
                yield {**along, **found}

    def _set_time(self, axes: Mapping[str, int | None]) -> None:
        for end in [*self._signature.inputs, *self._signature.outputs]:
            end.time = axes.get(end.name)

    def _open(self) -> tuple[End, int] | None:
        """An input and its axis that the file leaves open, and that is neither the sessions' nor time."""
        for end in self._signature.inputs:
            for axis, dim in enumerate(end.dims):
                if (
                    not isinstance(dim, int)
                    and axis not in (end.batch, end.time)
                    and end.name not in self._options.time
                ):
                    return end, axis
        return None

    def _refuse_time(self) -> None:
        """No axis is time: every step is a window of one size, or there is something that cannot be streamed."""
        parted = self._nearest
        told = {name: axis for name, axis in self._options.time.items() if axis is not None}
        if told:
            flags = ", ".join(f"--time {name}:{axis}" for name, axis in told.items())
            why = f": {_said(parted)}" if parted else ""
            raise NotStreamableError(f"{flags}: steps in one run do not give what they give one after another{why}")
        if (found := self._open()) is None:
            return
        end, axis = found
        if parted is not None:
            raise NotStreamableError(
                f"steps do not add up to the whole along axis {axis} of '{end.name}' {written(end.dims)}: "
                f"{_said(parted)}. {self._explain(parted.feed, parted.time)}"
            )
        raise AmbiguousError(
            f"axis {axis} of '{end.name}' {written(end.dims)} is neither the sessions' nor time: a run of {_STEPS} "
            f"steps along it fails or gives other shapes; where a step is a window of samples say how many: "
            f"--window {end.name}:SAMPLES"
        )

    def _along(self, axes: Mapping[str, int | None]) -> dict[str, int | None] | _Parted | None:
        """The time axis of each output, where many steps give in one run what they give one after another.

        None: they cannot be run so.
        """
        signature = self._signature
        before = {end.name: end.base for end in signature.inputs}
        for end in signature.inputs:
            if (axis := axes[end.name]) is not None:
                end.base = (*end.base[:axis], 1, *end.base[axis + 1 :])
        start = self._draw()
        draws = [{**start, **{n: v for n, v in self._draw().items() if axes.get(n) is not None}} for _ in range(_STEPS)]
        for end in signature.inputs:
            end.base = before[end.name]
        carried = {state.end.name: start[state.end.name] for state in signature.states}
        after = {state.end.name: state.pair.output.name or "" for state in signature.states}
        contexts = {context_state(name): axes.get(name) for name in self._options.context}
        singly, before_step = [], []
        try:
            for draw in draws:
                found = self._runner.run({**draw, **carried})
                before_step.append(carried)
                carried = {name: found[output] for name, output in after.items()}
                singly.append(found)
            along = {name: axis for name, axis in axes.items() if axis is not None}
            together = {name: _joined([draw[name] for draw in draws], axis) for name, axis in along.items()}
            for name, axis in contexts.items():
                if axis is not None:  # the context of each step stands beside its window
                    together[name] = _joined([each[name] for each in before_step], axis)
            whole = self._runner.run({**start, **together})
        except RunError:
            return None
        grown: dict[str, int | None] = {}
        for end in signature.outputs:
            shape = singly[0][end.name].shape
            axis = _grown(shape, whole[end.name].shape, _STEPS)
            if axis is None and whole[end.name].shape != shape:
                return None
            grown[end.name] = axis
        for end in signature.outputs:
            axis = grown[end.name]
            expected = singly[-1][end.name] if axis is None else _joined([each[end.name] for each in singly], axis)
            if (parted := self._parted(whole[end.name], expected, axis)) is not None:
                return _Parted(end.name, *parted, {**start, **together}, along)
        for state, name in after.items():
            axis = contexts.get(state)
            expected = singly[-1][name] if axis is None else _joined([each[name] for each in singly], axis)
            if whole[name].shape != expected.shape:
                return None
            if (parted := self._parted(whole[name], expected, None)) is not None:
                return _Parted(name, _STEPS - 1, parted[1], {**start, **together}, along)
        return grown

    # ---- What follows -------------------------------------------------------------------------

    def _without_time(self) -> End | None:
        """An input that has no time axis, as others have, and of which nobody has said so."""
        return next(
            (end for end in self._signature.inputs if end.time is None and end.name not in self._options.time), None
        )

    def _settle(self) -> None:
        signature = self._signature
        if any(end.time is not None for end in signature.inputs):
            if (alone := self._without_time()) is not None:
                raise AmbiguousError(
                    f"input '{alone.name}' {written(alone.dims)} has no time axis, as others have: where a session "
                    f"sets it once, --constant {alone.name}; where it has one value for good, --constant "
                    f"{alone.name}=VALUE; where every step has its own, --time {alone.name}:none"
                )
            for end in signature.inputs:
                if end.time is not None:
                    end.base = (*end.base[: end.time], 1, *end.base[end.time + 1 :])
        ends = [*signature.inputs, *signature.outputs]
        signature.many = all(end.time is not None for end in ends)
        signature.time = signature.many and not self._options.context  # which the graph has for one step only
        found = self._runner.run(self._draw())
        for end in signature.outputs:
            end.base = found[end.name].shape
        if not signature.batch:
            for end in ends:
                if end.base and end.base[0] == 1 and end.time != 0:
                    end.dropped = 0
        if all(end.time is None for end in ends):
            self._hide_time_of_one()

    def _hide_time_of_one(self) -> None:
        """One step a run, and an axis of size 1 at the same place of all: a step is not shown with it."""
        ends = [*self._signature.inputs, *self._signature.outputs]
        axes = {end.rest[0] if len(end.rest) > 1 else None for end in ends}
        [axis] = axes if len(axes) == 1 else [None]
        if axis is not None and all(end.base[axis] == 1 for end in ends):
            for end in ends:
                end.time = axis

    def _parted(self, found: Array, expected: Array, axis: int | None) -> tuple[int, float] | None:
        """Where along an axis two tensors of one shape first differ by too much, and by how much at most there."""
        if found.dtype.kind != "f":
            apart = (found != expected).astype(np.float64)
            bound = 0.5
        else:
            with np.errstate(invalid="ignore"):
                apart = np.abs(found.astype(np.float64) - expected.astype(np.float64))
            apart[(found == expected) | (np.isnan(found) & np.isnan(expected))] = 0
            bound = self._tolerance * max(1.0, float(np.abs(expected).max(initial=0)))
        along = apart.max(axis=tuple(k for k in range(apart.ndim) if k != axis), initial=0)
        along = np.atleast_1d(along)
        wrong = np.flatnonzero(~(along <= bound))
        return (int(wrong[0]), float(along[wrong[0]])) if len(wrong) else None


def _unexplained(_feed: Named, _time: Mapping[str, int]) -> str:
    return "Something looks at other steps and carries nothing; export it with what it keeps as inputs and outputs"


def _said(parted: _Parted) -> str:
    return f"'{parted.output}' is off by {parted.apart:.2g} at step {parted.step}"


def _preferred(end: End, axes: list[int]) -> list[int | None]:
    """Axes of any size before those of one size, and those of size 1 before the others."""
    return [*sorted(axes, key=lambda k: (isinstance(end.dims[k], int), end.base[k] != 1, k))]


def _combinations(ends: Sequence[End], choices: Sequence[list[int | None]]) -> Iterator[_Choice]:
    """One axis for each; first those that the file calls by one name.

    Raises:
        AmbiguousError: there are too many.
    """
    seen: set[_Choice] = set()
    names: dict[Any, None] = {}
    for end, axes in zip(ends, choices, strict=True):
        names |= {end.dims[k]: None for k in axes if k is not None and isinstance(end.dims[k], str)}
    ways: list[list[list[int | None]]] = []
    for name in names:
        way: list[list[int | None]] = []
        for end, axes in zip(ends, choices, strict=True):
            own: list[int | None] = [k for k in axes if k is not None and end.dims[k] == name]
            way.append(own or axes)
        ways.append(way)
    for way in [*ways, list(choices)]:
        if prod(map(len, way)) > _MOST:
            unknown = max(zip(ends, way, strict=True), key=lambda pair: len(pair[1]))[0]
            raise AmbiguousError(
                f"too many axes may be the sessions' or time, most of them of '{unknown.name}' "
                f"{written(unknown.dims)}: say so with --batch {unknown.name}:AXIS and --time {unknown.name}:AXIS, for "
                "others too"
            )
        for choice in sorted(product(*way), key=lambda choice: sum(axis is None for axis in choice)):
            if choice not in seen:
                seen.add(choice)
                yield choice


def _joined(parts: Sequence[Array], axis: int | None) -> Array:
    assert axis is not None
    return np.concatenate(parts, axis=axis)


def _grown(before: tuple[int, ...], after: tuple[int, ...], times: int) -> int | None:
    """The one axis that had size 1 and is so long now; None: another one differs, or none."""
    if len(before) != len(after):
        return None
    changed = [k for k, (a, b) in enumerate(zip(before, after, strict=True)) if a != b]
    if len(changed) != 1 or (before[changed[0]], after[changed[0]]) != (1, times):
        return None
    return changed[0]
