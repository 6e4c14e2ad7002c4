"""Runs of fixed shapes, so that a session's numbers do not depend on what other sessions do, bit for bit.

Which kernel multiplies two matrices, and in which order it adds, depends on their shapes; and a model that is quantised
as it runs takes its scale from the whole batch. So a run's shape [batch, time] is one of a few which have been found to
give each row the same bits, wherever it stands and whatever stands beside it (`agreement`). A tick that has another
shape is made of several such runs, with rows added that count for nothing.
"""

from bisect import bisect_left
from collections.abc import Iterator, Mapping, Sequence
from time import perf_counter

import numpy as np
import numpy.typing as npt
import structlog

from gatestream.protos.gatestream.v1 import gatestream_pb2 as pb
from gatestream.protos.spec import CONTRACT_ANY
from gatestream.server.arrays import Array, Ints
from gatestream.server.backend.bit_exact import Shapes, agreeing_shapes
from gatestream.server.backend.runner import ONES, HostRunner
from gatestream.server.config import TickLimits
from gatestream.server.errors import ArtifactError

_log = structlog.get_logger(__name__)


class DeterministicRunner:
    """A runner on the CPU whose every row gives the bits that it gives alone, a step at a time.

    Args:
        runner: what makes the runs.
        spec: of the model.
        limits: of a tick; no run is larger.

    Raises:
        ArtifactError: the spec does not promise that there are such bits, the same row gives others when it is run
            again, or it cannot be tried.
    """

    def __init__(self, runner: HostRunner, spec: pb.ModelSpec, limits: TickLimits):
        _check_promises(spec)
        self.provider = runner.provider
        self.placements = runner.placements
        self._runner = runner
        began = perf_counter()
        try:
            self._shapes = agreeing_shapes(runner, spec, limits)
        except ArtifactError:
            raise
        except Exception as error:  # onnxruntime's exceptions have no public base but Exception
            why = " ".join(str(error).split())[:200]
            raise ArtifactError(
                f"model {spec.name!r} cannot be served with --deterministic: it fails on random inputs, and so cannot "
                f"be tried ({why}); serve it without"
            ) from error
        found = {steps: list(rows) for steps, rows in self._shapes.items()}
        _log.info("deterministic", model=spec.name, rows_by_steps=found, seconds=round(perf_counter() - began, 3))
        if limits.rows > 1 and tuple(self._shapes[1]) == (1,):
            _log.warning("numbers depend on neighbours in a run: every session runs alone, slowly", model=spec.name)

    def step(
        self, slots: Ints, inputs: Sequence[Array], lengths: npt.NDArray[np.int32], gates: bool
    ) -> tuple[list[Array], list[Array]]:
        """As `Runner`."""
        states = self._runner.read(slots)
        batch, time = inputs[0].shape[:2]
        sizes = self._shapes.get(time, (0,))
        if batch <= sizes[-1] and (time == 1 or int(lengths.min()) == time):
            outputs, states, shown = self._padded_run(_fitting(sizes, batch), time, inputs, lengths, states, gates)
            self._runner.write(slots, states)
            return outputs, shown
        results: list[Array] = []
        for rows, begin, steps, size in plan(self._shapes, lengths):
            whole = slice(begin, begin + steps)
            outputs, after, shown = self._padded_run(
                size,
                steps,
                [column[rows, whole] for column in inputs],
                np.minimum(lengths[rows] - begin, steps),
                [state[rows] for state in states],
                gates,
            )
            if not results:
                results = [np.empty((batch, time, *got.shape[2:]), got.dtype) for got in (*outputs, *shown)]
            for result, got in zip(results, (*outputs, *shown), strict=True):
                result[rows, whole] = got
            for state, got in zip(states, after, strict=True):
                state[rows] = got
        # Not before all runs have succeeded.
        self._runner.write(slots, states)
        return results[: len(outputs)], results[len(outputs) :]

    def step_few(self, slots: Sequence[int], inputs: Sequence[Array], gates: bool) -> tuple[list[Array], list[Array]]:
        """As `Runner`."""
        return self.step(np.array(slots), inputs, ONES[: len(slots)], gates)

    def step_one(self, slot: int, columns: Sequence[bytes], gates: bool) -> tuple[list[bytes], list[bytes]] | None:
        """As `Runner`."""
        return None

    def _padded_run(
        self,
        size: int,
        steps: int,
        inputs: Sequence[Array],
        lengths: npt.NDArray[np.int32],
        states: Sequence[Array],
        gates: bool,
    ) -> tuple[list[Array], list[Array], list[Array]]:
        """As `HostRunner.compute`, with rows added for the run, up to `size` of them."""
        rows = len(lengths)
        if rows == size:
            return self._runner.compute(inputs, lengths, states, gates)
        results = self._runner.compute(
            [_padded(column, size) for column in inputs],
            # A row that is added takes all the steps: to the model it is a row like any other.
            _padded(lengths, size, steps),
            [_padded(state, size) for state in states],
            gates,
        )
        outputs, after, shown = ([got[:rows] for got in part] for part in results)
        return outputs, after, shown

    def read(self, slots: Ints) -> list[Array]:
        """As `Runner`."""
        return self._runner.read(slots)

    def write(self, slots: Ints, states: Sequence[Array]) -> None:
        """As `Runner`."""
        self._runner.write(slots, states)


def _check_promises(spec: pb.ModelSpec) -> None:
    """Raise ArtifactError where what was proved of the model does not go with the setting."""
    if spec.contract != CONTRACT_ANY:
        # Contract 1 promises both; that of a file whose weights were changed is found out by running it.
        return
    promises = spec.promises
    if not promises.rows_independent:
        why = "its spec does not promise rows_independent: a session's numbers depend on those that run beside it"
    elif not promises.replay_bit_equal:
        why = "its spec does not promise replay_bit_equal: the same row may give other bits when it is run again"
    else:
        return
    raise ArtifactError(f"model {spec.name!r} cannot be served with --deterministic: {why}; serve it without")


def plan(shapes: Shapes, lengths: npt.NDArray[np.int32]) -> Iterator[tuple[Ints, int, int, int]]:
    """The runs that a tick is made of, in order.

    Args:
        shapes: that a run can have.
        lengths: [batch], the steps of each row.

    Yields:
        The rows that take part, the step that each begins at, the run's steps and its batch, which may be larger than
        the number of rows. The longest row of a run always fills it.
    """
    order = np.argsort(-lengths, kind="stable")
    while len(order):
        most = shapes[_longest(shapes, int(lengths[order[0]]), 1)][-1]
        rows, order = order[:most], order[most:]
        begin = 0
        while len(rows):
            left = lengths[rows] - begin
            steps = _longest(shapes, int(left[0]), len(rows))
            yield rows, begin, steps, _fitting(shapes[steps], len(rows))
            begin += steps
            rows = rows[left > steps]


def _longest(shapes: Mapping[int, Sequence[int]], most: int, rows: int) -> int:
    return max(steps for steps, sizes in shapes.items() if steps <= most and sizes[-1] >= rows)


def _fitting(sizes: Sequence[int], rows: int) -> int:
    return sizes[bisect_left(sizes, rows)]


def _padded(rows: Array, size: int, value: int = 0) -> Array:
    padded = np.empty((size, *rows.shape[1:]), rows.dtype)
    padded[: len(rows)] = rows
    padded[len(rows) :] = value
    return padded
