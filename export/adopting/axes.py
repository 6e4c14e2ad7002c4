"""Which axis of each tensor is the sessions' and which is time, found by running the graph.

The sessions': three unlike rows together give what each gives alone. Time: five steps in one run give what they give
one after another, the state carried. Names of axes only say what is tried first.
"""

from collections.abc import Callable, Iterator, Mapping
from itertools import islice
from typing import Final, NoReturn

from gatestream.export.adopting.axis_choices import combinations, preferred
from gatestream.export.adopting.axis_trials import ROWS, STEPS, Parted, Trials
from gatestream.export.adopting.options import Options
from gatestream.export.adopting.running import Named, RunError, Runner
from gatestream.export.adopting.signature import End, Signature, written
from gatestream.export.errors import AmbiguousError, NotStreamableError

_MOST_BATCHES: Final = 16
"""Ways to run rows together that are tried with more than one step."""

Explain = Callable[[Named, Mapping[str, int]], str]
"""Of a run, and the time axes of its inputs: why it is not the same in parts."""


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
        self._trials = Trials(runner, signature, options, tolerance)
        self._nearest: Parted | None = None

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
                elif self._trials.both():
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
            found = self._runner.run(self._trials.draw())
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

    # ---- Rows ---------------------------------------------------------------------------------

    def _batches(self) -> Iterator[dict[str, int | None]]:
        """The axes of all tensors along which rows give together what each gives alone."""
        ends = self._signature.fed
        choices: list[list[int | None]] = []
        for end in ends:
            axes = [k for k, size in enumerate(end.base) if size == 1 and self._options.time.get(end.name) != k]
            told = self._options.batch.get(end.name)
            choices.append(preferred(end, axes) if told is None else [told])
        if not all(choices):
            return
        rows = [self._trials.draw() for _ in range(ROWS)]
        alone = [self._runner.run(row) for row in rows]
        for choice in combinations(ends, choices):
            along = dict(zip((end.name for end in ends), choice, strict=True))
            if (found := self._trials.together(along, rows, alone)) is not None:
                yield {**along, **found}

    def _set_batch(self, axes: Mapping[str, int | None] | None) -> None:
        self._signature.batch = axes is not None
        for end in [*self._signature.fed, *self._signature.outputs]:
            end.batch = (axes or {}).get(end.name)

    def _refuse_batch(self, told: Mapping[str, int], found: Mapping[str, int | None] | None) -> NoReturn:
        flags = ", ".join(f"--batch {name}:{axis}" for name, axis in told.items())
        many = "of several steps " if found else ""
        raise AmbiguousError(f"{flags}: rows {many}run together along these axes do not give what each gives alone")

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
            choices.append([told[end.name]] if end.name in told else [*preferred(end, axes), None])
        for choice in combinations(ends, choices):
            if all(axis is None for axis in choice):
                continue
            along = dict(zip((end.name for end in ends), choice, strict=True))
            found = self._trials.along(along)
            if isinstance(found, Parted):
                self._nearest = self._nearest or found
            elif found is not None:
                yield {**along, **found}

    def _set_time(self, axes: Mapping[str, int | None]) -> None:
        for end in [*self._signature.inputs, *self._signature.outputs]:
            end.time = axes.get(end.name)

    def _open(self) -> tuple[End, int] | None:
        """An input and its axis that was said to be time, or that the file leaves open, and that is not settled."""
        told = self._options.time
        for end in self._signature.inputs:
            for axis, dim in enumerate(end.dims):
                asked = told[end.name] == axis if end.name in told else not isinstance(dim, int)
                if asked and axis not in (end.batch, end.time):
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
            f"axis {axis} of '{end.name}' {written(end.dims)} is neither the sessions' nor time: a run of {STEPS} "
            f"steps along it fails or gives other shapes; where a step is a window of samples say how many: "
            f"--window {end.name}:SAMPLES"
        )

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
        found = self._runner.run(self._trials.draw())
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


def _unexplained(_feed: Named, _time: Mapping[str, int]) -> str:
    return "Something looks at other steps and carries nothing; export it with what it keeps as inputs and outputs"


def _said(parted: Parted) -> str:
    return f"'{parted.output}' is off by {parted.apart:.2g} at step {parted.step}"
