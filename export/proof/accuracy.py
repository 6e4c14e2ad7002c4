"""What fewer bits cost and save: a file against the float32 network that its weights were rounded from."""

import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Final

import numpy as np
from numpy.typing import NDArray

from gatestream.export.errors import AccuracyError
from gatestream.export.proof import samples
from gatestream.export.proof.comparison import FLOW
from gatestream.export.proof.parity import STEPS, Reference
from gatestream.export.proof.runtime import Session
from gatestream.export.proof.walk import walk
from gatestream.model.tasks import reber
from gatestream.protos.gatestream.v1 import gatestream_pb2 as pb

ROWS: Final = 8
BATCHES: Final = (1, 32, 128)

_ROUNDS, _SECONDS, _RUNS = 7, 0.02, 3


@dataclass(frozen=True, slots=True)
class Loss:
    """How far one tensor is from the float32 network's, which carries a state of its own.

    Attributes:
        tensor: y, h, c, i, f, g or o. An output that the graph denormalises is measured in normalised units.
        max_abs_difference: over all rows and steps.
        mean_abs_difference: likewise.
    """

    tensor: str
    max_abs_difference: float
    mean_abs_difference: float


@dataclass(frozen=True, slots=True)
class Cost:
    """One step of a batch, on one thread, the two files taking turns.

    Attributes:
        batch: rows.
        microseconds: of a run, the median.
        float32_microseconds: of the same with float32 weights.
    """

    batch: int
    microseconds: float
    float32_microseconds: float

    @property
    def ratio(self) -> float:
        """To float32; below 1 it pays."""
        return self.microseconds / self.float32_microseconds


@dataclass(frozen=True, slots=True)
class Accuracy:
    """All of it.

    Attributes:
        inputs: what was stepped through.
        rows, steps: that were compared, the states carried all the way.
        losses: in the order in which a step computes them.
        decisions: most likely tokens that were compared; 0 where the outputs are no tokens.
        other_decisions: those that differ.
        illegal: predictions that the Reber grammar forbids, in the file and in the float32 network; None for other
            tasks.
        bytes, float32_bytes: of the files.
        costs: of a step.
    """

    inputs: str
    rows: int
    steps: int
    losses: tuple[Loss, ...]
    decisions: int
    other_decisions: int
    illegal: tuple[int, int] | None
    bytes: int
    float32_bytes: int
    costs: tuple[Cost, ...]

    @property
    def error(self) -> float:
        """The largest difference of an output."""
        return next(loss.max_abs_difference for loss in self.losses if loss.tensor == "y")

    def check(self, max_error: float | None) -> str:
        """The outputs are near enough.

        Returns:
            One line on how near.

        Raises:
            AccuracyError: an output is further away than `max_error`.
        """
        if max_error is not None and not self.error <= max_error:
            raise AccuracyError(
                f"y is up to {self.error:.3g} from the float32 network's over {self.steps} carried steps, at most "
                f"{max_error:g} was asked for; export with weights float32, or accept more"
            )
        return f"{self.steps} steps, y at most {self.error:.2g} from the float32 network's"

    def parity(self) -> list[pb.ParityFigure]:
        """As the spec records it."""
        return [
            pb.ParityFigure(
                reference="float32",
                tensor=loss.tensor,
                max_abs_difference=loss.max_abs_difference,
                steps=self.steps,
                exact=loss.max_abs_difference == 0,
            )
            for loss in self.losses
        ]

    def lines(self) -> Iterator[str]:
        """For a person."""
        yield f"against the float32 network, {self.rows} rows of {self.steps:,} carried steps of {self.inputs}"
        for loss in self.losses:
            yield f"  {loss.tensor}  at most {loss.max_abs_difference:.1e} off, mean {loss.mean_abs_difference:.1e}"
        if self.decisions:
            yield f"  most likely token differs in {self.other_decisions:,} of {self.decisions:,} steps"
        if self.illegal is not None:
            yield f"  illegal predictions {self.illegal[0]:,}, of the float32 network {self.illegal[1]:,}"
        yield f"  file {self.bytes:,} bytes, float32 {self.float32_bytes:,}: {self.bytes / self.float32_bytes:.2f}"
        for cost in self.costs:
            yield (
                f"  a step at batch {cost.batch:<3} {cost.microseconds:8.0f} µs, float32 "
                f"{cost.float32_microseconds:8.0f} µs: {cost.ratio:.2f}"
            )


def measure(path: Path, float32: Path, spec: pb.ModelSpec, network: Reference) -> Accuracy:
    """Compare a file with the network that its weights were rounded from.

    Args:
        path: the file.
        float32: the same network's file with float32 weights.
        spec: of the first.
        network: with float32 weights.
    """
    session = Session(path, spec)
    inputs, x, legal = _inputs(spec)
    h, c = samples.zeros(spec, ROWS)
    tracks = walk(session, x, h, c, np.ones((STEPS, ROWS), np.int64))
    found = {tensor: np.stack([row[tensor].values for row in tracks]) for tensor in tracks[0]}
    expected = network(x, h, c)
    decisions, other = 0, 0
    if spec.outputs[0].vocabulary:
        same = found["y"].argmax(axis=-1) == expected["y"].argmax(axis=-1)
        decisions, other = same.size, int(np.count_nonzero(~same))
    return Accuracy(
        inputs=inputs,
        rows=ROWS,
        steps=STEPS,
        losses=tuple(_losses(spec, found, expected)),
        decisions=decisions,
        other_decisions=other,
        illegal=None if legal is None else (reber.illegal(found["y"], legal), reber.illegal(expected["y"], legal)),
        bytes=path.stat().st_size,
        float32_bytes=float32.stat().st_size,
        costs=tuple(_costs(session, Session(float32, spec), spec)),
    )


def _inputs(spec: pb.ModelSpec) -> tuple[str, NDArray[np.generic], NDArray[np.bool_] | None]:
    """What is stepped through, its steps, and what may follow each of them where there is a grammar."""
    if spec.task == "reber" and "".join(spec.inputs[0].vocabulary) == reber.SYMBOLS:
        symbols, _, legal = reber.Streams(ROWS, seed=0).take(STEPS)
        return "the Reber grammar", symbols, legal
    kind = "random tokens" if spec.inputs[0].dtype == pb.DATA_TYPE_INT64 else "normal random numbers"
    return kind, samples.inputs(spec, ROWS, STEPS, np.random.default_rng(0)), None


def _losses(
    spec: pb.ModelSpec, found: Mapping[str, NDArray[np.floating]], expected: Mapping[str, NDArray[np.floating]]
) -> Iterator[Loss]:
    for tensor in FLOW:
        if tensor in found:
            unit = np.array(spec.outputs[0].scale or [1.0]) if tensor == "y" else 1.0
            apart = np.abs(found[tensor].astype(np.float64) - expected[tensor]) / unit
            yield Loss(tensor, float(apart.max()), float(apart.mean()))


def _costs(reduced: Session, float32: Session, spec: pb.ModelSpec) -> Iterator[Cost]:
    for batch in BATCHES:
        rng = np.random.default_rng(0)
        feed = samples.inputs(spec, batch, 1, rng), *samples.states(spec, batch, rng), np.ones(batch, np.int32)
        times: list[list[float]] = [[], []]
        for _ in range(_ROUNDS):
            for session, found in zip((reduced, float32), times, strict=True):
                session.run(*feed)
                end, runs = time.perf_counter() + _SECONDS, 0
                while runs < _RUNS or time.perf_counter() < end:
                    before = time.perf_counter()
                    session.run(*feed)
                    found.append(time.perf_counter() - before)
                    runs += 1
        yield Cost(batch, *(1e6 * median(found) for found in times))
