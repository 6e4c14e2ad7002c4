"""Running an artifact of contract 2 where it will be served, its state carried; and what to run it on."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gatestream.export.errors import ArtifactError, ContractError
from gatestream.export.proof.runtime import new_session
from gatestream.protos.gatestream.v1 import gatestream_pb2 as pb
from gatestream.protos.layout import ModelLayout, State

Array = NDArray[Any]
Named = Mapping[str, Array]
"""Tensors by name: of steps [rows, time, *shape], of states [rows, *shape]."""

_LOUD = 2000
"""Of samples that are whole numbers without a limit: their standard deviation, that of clear speech in 16 bits."""

_SMALL = 0.25
_SWITCH = 4
"""Of the same, how many are below this."""


class Streamed:
    """An artifact on one thread of the CPU.

    Args:
        path: the file.
        spec: what it says of itself.

    Attributes:
        layout: of the model.
        by_row: run every row by itself, whatever is asked for: rows may depend on each other.

    Raises:
        ArtifactError: onnxruntime refuses the file, or is not installed.
    """

    def __init__(self, path: Path, spec: pb.ModelSpec) -> None:
        self._session = new_session(path, str(path))
        self.layout = layout = ModelLayout.of(spec)
        self.by_row = False
        self._outputs = [*layout.outputs, *layout.gates]
        self._names = [each.name for each in self._outputs] + [state.after for state in layout.states]

    def run(self, inputs: Named, states: Named, length: NDArray[np.int32] | None = None) -> tuple[Named, Named]:
        """As `run_together`; where `by_row` says so, every row by itself."""
        rows, time = next(iter(inputs.values())).shape[:2]
        if not self.by_row or rows == 1:
            return self.run_together(inputs, states, length)
        lengths = np.full(rows, time, np.int32) if length is None else length
        parts = [self.run_together(rows_of(inputs, [r]), rows_of(states, [r]), lengths[[r]]) for r in range(rows)]
        return _joined([part[0] for part in parts]), _joined([part[1] for part in parts])

    def run_together(
        self, inputs: Named, states: Named, length: NDArray[np.int32] | None = None
    ) -> tuple[Named, Named]:
        """Run once, all rows in one batch.

        Args:
            inputs: each [rows, time, *shape].
            states: before, each [rows, *shape].
            length: real steps of each row, [rows], where the model takes them; None: all are.

        Returns:
            The outputs and gates, each [rows, time, *shape], and the states after.

        Raises:
            ArtifactError: onnxruntime cannot.
            ContractError: an output has not the shape that the spec says.
        """
        rows, time = next(iter(inputs.values())).shape[:2]
        if length is None:
            length = np.full(rows, time, np.int32)
        feed = {**inputs, **states}
        if self.layout.length:
            feed[self.layout.length] = length
        try:
            found = self._session.run(self._names, feed)
        except Exception as error:  # onnxruntime's own classes have no common base but this
            raise ArtifactError(
                f"onnxruntime cannot run {rows} rows of {time} steps: {' '.join(str(error).split())}"
            ) from error
        outputs = dict(zip([each.name for each in self._outputs], found, strict=False))
        after = dict(zip([state.name for state in self.layout.states], found[len(outputs) :], strict=True))
        for column in self._outputs:
            _check(column.name, outputs[column.name], (rows, time, *column.shape))
        for state in self.layout.states:
            _check(state.after, after[state.name], (rows, *state.shape))
        return outputs, after

    def walk(self, inputs: Named, states: Named, chunk: int = 1) -> tuple[Named, Named]:
        """Take all steps, `chunk` at a time.

        Args:
            inputs: each [rows, time, *shape].
            states: before the first, each [rows, *shape].
            chunk: steps of a run.

        Returns:
            The outputs, each [rows, time, *shape]; and the states before every run and after the last, each
            [rows, runs + 1, *shape].
        """
        time = next(iter(inputs.values())).shape[1]
        outputs: list[Named] = []
        carried = [states]
        for at in range(0, time, chunk):
            found, states = self.run(cut(inputs, at, at + chunk), states)
            outputs.append(found)
            carried.append(states)
        return (
            {name: np.concatenate([part[name] for part in outputs], axis=1) for name in outputs[0]},
            {name: np.stack([part[name] for part in carried], axis=1) for name in carried[0]},
        )

    def start(self, rows: int, constants: Named | None = None) -> dict[str, Array]:
        """The states of new sessions, each [rows, *shape]; constants as given, each [rows, *shape]."""
        given = constants or {}
        return {
            state.name: given[state.name] if state.name in given else np.repeat(state.first()[None], rows, axis=0)
            for state in self.layout.states
        }


def _joined(parts: Sequence[Named]) -> Named:
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def cut(tensors: Named, start: int, stop: int) -> dict[str, Array]:
    """Steps from `start` to before `stop` of tensors [rows, time, ...]."""
    return {name: array[:, start:stop] for name, array in tensors.items()}


def rows_of(tensors: Named, rows: slice | list[int] | NDArray[np.intp]) -> dict[str, Array]:
    """These rows of tensors [rows, ...]."""
    return {name: array[rows] for name, array in tensors.items()}


def sample_inputs(spec: pb.ModelSpec, rows: int, time: int, rng: np.random.Generator) -> dict[str, Array]:
    """Steps for a model, drawn from what its spec says of its inputs, each [rows, time, *shape].

    Args:
        spec: of the model.
        rows: how many.
        time: steps of each.
        rng: where they are drawn from.
    """
    found = {}
    for tensor, column in zip(spec.inputs, ModelLayout.of(spec).inputs, strict=True):
        numbers = sample(column.dtype, column.limit, (rows, time, *column.shape), rng)
        if tensor.mean:
            mean, scale = (np.array(each).reshape(column.shape) for each in (tensor.mean, tensor.scale))
            numbers = (numbers * scale + mean).astype(column.dtype)
        found[column.name] = numbers
    return found


def sample_constants(layout: ModelLayout, rows: int, rng: np.random.Generator) -> dict[str, Array]:
    """A value of each constant for every row, each [rows, *shape]: random, or its start where few may be right."""
    return {
        state.name: sample(state.dtype, state.limit, (rows, *state.shape), rng)
        if state.dtype.kind == "f" or state.limit
        else np.repeat(state.first()[None], rows, axis=0)
        for state in layout.constants
    }


def sample(dtype: np.dtype[Any], limit: int, shape: tuple[int, ...], rng: np.random.Generator) -> Array:
    """Numbers such as an input takes.

    Args:
        dtype: of the input.
        limit: whole numbers are below it; 0: it has none.
        shape: of what is drawn.
        rng: where it is drawn from.
    """
    if dtype.kind == "f":
        return np.asarray(rng.standard_normal(shape)).astype(dtype)
    if dtype.kind == "b":
        return np.asarray(rng.integers(2, size=shape)).astype(dtype)
    if limit:
        return np.asarray(rng.integers(limit, size=shape)).astype(dtype)
    info = np.iinfo(dtype)
    numbers = np.clip(np.rint(_LOUD * rng.standard_normal(shape)), info.min, info.max)
    # It may as well be a switch: some are small.
    return np.where(rng.random(shape) < _SMALL, rng.integers(_SWITCH, size=shape), numbers).astype(dtype)


def _check(name: str, found: Array, shape: tuple[int, ...]) -> None:
    if found.shape != shape:
        raise ContractError(f"'{name}' came out as {list(found.shape)}, expected {list(shape)}")


def changing(layout: ModelLayout) -> list[State]:
    """The states that steps change: all but the constants."""
    return [state for state in layout.states if not state.constant]
