"""Runs of several rows, and of several steps, against the same rows alone and the same steps one after another."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from gatestream.export.adopting.options import Options
from gatestream.export.adopting.reference import context_state
from gatestream.export.adopting.running import Array, Named, RunError, Runner
from gatestream.export.adopting.signature import Signature
from gatestream.export.proof.streamed import sample

ROWS: Final = 3
STEPS: Final = 5


@dataclass(frozen=True, slots=True)
class Parted:
    """Where a run of many steps and the same steps singly are not the same; what was run, and along which axes."""

    output: str
    step: int
    apart: float
    feed: Named
    time: Mapping[str, int]


class Trials:
    """Of one graph.

    Args:
        runner: of the graph.
        signature: of the graph, with the shapes of one step of one session, and the axes that are tried now.
        options: what was said of it.
        tolerance: of two right runs, relative to the largest number of a tensor where that is more than 1.
    """

    def __init__(self, runner: Runner, signature: Signature, options: Options, tolerance: float) -> None:
        self._runner = runner
        self._signature = signature
        self._options = options
        self._tolerance = tolerance
        self._rng = np.random.default_rng(0)

    def draw(self) -> dict[str, Array]:
        """Random inputs and states of the shapes in the signature: one step of one session."""
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

    def together(
        self, axes: Mapping[str, int | None], rows: Sequence[Named], alone: Sequence[Named]
    ) -> dict[str, int] | None:
        """The batch axis of each output, where rows give together what they give alone."""
        try:
            found = self._runner.run({name: _joined([row[name] for row in rows], axis) for name, axis in axes.items()})
        except RunError:
            return None
        grown: dict[str, int] = {}
        for name, values in found.items():
            axis = _grown(alone[0][name].shape, values.shape, ROWS)
            if axis is None or self._parted(values, _joined([each[name] for each in alone], axis), axis) is not None:
                return None
            grown[name] = axis
        for state in self._signature.states:
            if grown[state.pair.output.name or ""] != axes[state.end.name]:
                return None
        return grown

    def both(self) -> bool:
        """Several rows of several steps together give what each row gives alone; or no such run is ever made."""
        signature = self._signature
        if self._options.context or any(end.time is None for end in [*signature.inputs, *signature.outputs]):
            return True
        rows = []
        for _ in range(ROWS):
            row = self.draw()
            steps = [self.draw() for _ in range(STEPS)]
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
        return self.together({end.name: end.batch for end in signature.fed}, rows, alone) is not None

    def along(self, axes: Mapping[str, int | None]) -> dict[str, int | None] | Parted | None:
        """The time axis of each output, where many steps give in one run what they give one after another.

        None: they cannot be run so.
        """
        signature = self._signature
        before = {end.name: end.base for end in signature.inputs}
        for end in signature.inputs:
            if (axis := axes[end.name]) is not None:
                end.base = (*end.base[:axis], 1, *end.base[axis + 1 :])
        start = self.draw()
        draws = [{**start, **{n: v for n, v in self.draw().items() if axes.get(n) is not None}} for _ in range(STEPS)]
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
            axis = _grown(shape, whole[end.name].shape, STEPS)
            if axis is None and whole[end.name].shape != shape:
                return None
            grown[end.name] = axis
        for end in signature.outputs:
            axis = grown[end.name]
            expected = singly[-1][end.name] if axis is None else _joined([each[end.name] for each in singly], axis)
            if (parted := self._parted(whole[end.name], expected, axis)) is not None:
                return Parted(end.name, *parted, {**start, **together}, along)
        for state, name in after.items():
            axis = contexts.get(state)
            expected = singly[-1][name] if axis is None else _joined([each[name] for each in singly], axis)
            if whole[name].shape != expected.shape:
                return None
            if (parted := self._parted(whole[name], expected, None)) is not None:
                return Parted(name, STEPS - 1, parted[1], {**start, **together}, along)
        return grown

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
