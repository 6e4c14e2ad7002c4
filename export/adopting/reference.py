"""The file as it came, run by its own conventions: what an adopted model is compared with.

Shares with the rewriting what was found of the axes, and nothing else: the file's own bytes, rows one at a time, axes
moved by NumPy.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx

from gatestream.export.adopting.external import take_in
from gatestream.export.adopting.running import Array, Named, Runner
from gatestream.export.adopting.signature import End
from gatestream.export.errors import SourceError

_OUTSIDE = ("batch", "dropped")
"""Axes of the file's tensors that a row does not have."""

_MOST_ENDS = 128
"""Steps of a file that gives its last step alone: each is a run of all that come before it, 8,256 steps for 128."""


@dataclass(frozen=True, slots=True)
class Plan:
    """How a tensor of the file stands to the artifact's.

    Attributes:
        name: in both.
        axes: of the file's tensor: "batch", "time", "dropped", or the number of the axis of the artifact's row.
    """

    name: str
    axes: tuple[str | int, ...]

    @classmethod
    def of(cls, end: End) -> "Plan":
        """Of an input, an output or a state."""
        rest = end.rest
        named = {end.batch: "batch", end.time: "time", end.dropped: "dropped"}
        return cls(end.name, tuple(named[k] if k in named else rest.index(k) for k in range(len(end.base))))

    def to_file(self, row: Array, *, steps: bool) -> Array:
        """One row as the file takes it.

        Args:
            row: [time, *shape], or [*shape] of a state.
            steps: it has a time axis.
        """
        if steps and "time" not in self.axes:
            [row] = row
            steps = False
        order = [axis + steps if isinstance(axis, int) else 0 for axis in self.axes if axis not in _OUTSIDE]
        moved = row.transpose(order)
        for k, axis in enumerate(self.axes):
            if axis in _OUTSIDE:
                moved = np.expand_dims(moved, k)
        return moved

    def from_file(self, values: Array, *, steps: bool) -> Array:
        """What the file gives, as one row [time, *shape], or [*shape] of a state."""
        gone = tuple(k for k, axis in enumerate(self.axes) if axis in _OUTSIDE)
        left = [axis for axis in self.axes if axis not in _OUTSIDE]
        values = values.squeeze(gone)
        order = sorted(range(len(left)), key=lambda k: -1 if left[k] == "time" else int(left[k]))
        moved = values.transpose(order)
        return moved[None] if steps and "time" not in left else moved


@dataclass(frozen=True, slots=True)
class Carries:
    """A state that the file shows.

    Attributes:
        plan: of its input.
        output: of the file.
        initial: what a new session has, as the file takes it.
    """

    plan: Plan
    output: str
    initial: Array


@dataclass(frozen=True, slots=True)
class Source:
    """The file.

    Attributes:
        runner: of it.
        inputs: of each step.
        outputs: of each step.
        states: that it shows.
        constants: of each session.
        fixed: by input, what it has for good.
        context: by input, how many samples the caller puts before a step, and along which axis of a row.
        hidden: it carries more than it shows, so that it starts from the beginning or not at all.
        many: it takes many steps a run.
    """

    runner: Runner
    inputs: tuple[Plan, ...]
    outputs: tuple[Plan, ...]
    states: tuple[Carries, ...]
    constants: tuple[Plan, ...]
    fixed: Named
    context: Mapping[str, tuple[int, int]]
    hidden: bool
    many: bool

    @property
    def name(self) -> str:
        """In a report."""
        return "source"

    def whole(self, inputs: Named, constants: Named) -> Named:
        """The outputs of new sessions, each [rows, time, *shape]; the first `_MOST_ENDS` of a file of last steps."""
        rows = len(next(iter(inputs.values())))
        found = []
        for row in range(rows):
            own = {name: values[row] for name, values in inputs.items()}
            fixed = {plan.name: plan.to_file(constants[plan.name][row], steps=False) for plan in self.constants}
            states = {state.plan.name: state.initial for state in self.states}
            found.append(self._row(self._with_context(own, None), states, fixed)[0])
        return {name: np.stack([each[name] for each in found]) for name in found[0]}

    def step(self, inputs: Named, states: Named) -> tuple[Named, Named] | None:
        """One step of each row from given states; None where the file carries more than it shows."""
        if self.hidden:
            return None
        outputs, carried = [], []
        for row in range(len(next(iter(inputs.values())))):
            own = {name: values[row] for name, values in inputs.items()}
            fixed = {plan.name: plan.to_file(states[plan.name][row], steps=False) for plan in self.constants}
            before = {s.plan.name: s.plan.to_file(states[s.plan.name][row], steps=False) for s in self.states}
            contexts = {name: states[context_state(name)][row] for name in self.context}
            with_context = self._with_context(own, contexts)
            found, after = self._row(with_context, before, fixed)
            outputs.append(found)
            rest = {plan.name: states[plan.name][row] for plan in self.constants}
            for name, (samples, axis) in self.context.items():
                before_it = states[context_state(name)][row]  # may have axes of size 1 that a row of the input has not
                rest[context_state(name)] = _last(with_context[name][-1], samples, axis).reshape(before_it.shape)
            shown = {s.plan.name: s.plan.from_file(after[s.plan.name], steps=False) for s in self.states}
            carried.append({**shown, **rest})
        return _stacked(outputs), _stacked(carried)

    def _row(self, inputs: Named, states: Named, fixed: Named) -> tuple[dict[str, Array], Named]:
        """All steps of one session: [time, *shape] in and out; states as the file has them."""
        time = len(next(iter(inputs.values())))
        if self._gives_last:
            runs = [self._run(inputs, states, fixed, slice(0, at + 1)) for at in range(min(time, _MOST_ENDS))]
            outputs, states = [{name: values[-1:] for name, values in run[0].items()} for run in runs], runs[-1][1]
        else:
            outputs = []
            chunk = time if self.many else 1
            for at in range(0, time, chunk):
                found, states = self._run(inputs, states, fixed, slice(at, at + chunk))
                outputs.append(found)
        return {name: np.concatenate([each[name] for each in outputs]) for name in outputs[0]}, states

    @property
    def _gives_last(self) -> bool:
        """It takes many steps, gives the last one's outputs, and starts anew: each step is the end of a run."""
        return self.hidden and not self.many and all("time" in plan.axes for plan in self.inputs)

    def _run(self, inputs: Named, states: Named, fixed: Named, steps: slice) -> tuple[dict[str, Array], Named]:
        """One run of the file, over some of the steps."""
        feed = {plan.name: plan.to_file(inputs[plan.name][steps], steps=True) for plan in self.inputs}
        run = self.runner.run({**self.fixed, **fixed, **states, **feed})
        after = {state.plan.name: run[state.output] for state in self.states}
        return {plan.name: plan.from_file(run[plan.name], steps=True) for plan in self.outputs}, after

    def _with_context(self, inputs: Named, before: Named | None) -> dict[str, Array]:
        """Each step with the last samples of the one before in front of it, as the caller of the file does."""
        found = dict(inputs)
        for name, (samples, axis) in self.context.items():
            steps = inputs[name]
            shape = (*steps.shape[1 : 1 + axis], samples, *steps.shape[2 + axis :])
            last = np.zeros(shape, steps.dtype) if before is None else before[name].reshape(shape)
            rows = []
            for step in steps:
                rows.append(np.concatenate([last, step], axis))
                last = _last(rows[-1], samples, axis)
            found[name] = np.stack(rows)
        return found


def context_state(name: str) -> str:
    """What the state is called that keeps the last samples of an input."""
    return f"{name}_context"


def source_runner(path: Path, sha256: str) -> Runner:
    """The file as it is, but for the sizes that its signature fixes.

    Args:
        path: of the file; weights beside it are read too.
        sha256: of the file that was read to make the artifact of, and of the weights beside it, in hexadecimal.

    Raises:
        ArtifactError: onnxruntime refuses it.
        SourceError: the file or what stands beside it is another by now, or cannot be read.
    """
    changed = SourceError(f"{path}: changed while it was adopted; adopt it again when it is whole")
    data = path.read_bytes()
    digest = hashlib.sha256(data)
    try:
        proto = onnx.load_model_from_string(data)
        take_in(proto, path.parent, str(path), digest)
    except Exception as error:  # what was whole when it was read first
        raise changed from error
    if digest.hexdigest() != sha256:
        raise changed
    return Runner(proto)


def _last(values: Array, samples: int, axis: int) -> Array:
    return values.take(range(values.shape[axis] - samples, values.shape[axis]), axis)


def _stacked(rows: list[dict[str, Array]]) -> dict[str, Array]:
    return {name: np.stack([row[name] for row in rows]) for name in rows[0]}
