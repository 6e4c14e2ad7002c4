"""How far tensors are apart, and where they first part."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from gatestream.export.errors import ParityError
from gatestream.export.roles import Array
from gatestream.protos.gatestream.v1 import gatestream_pb2 as pb

TOLERANCE = 1e-5
"""Largest absolute difference in float32. For an output that the graph denormalises: in normalised units."""

_ROUNDING = 1e-6
"""What float32 may lose, of the mean that is added to a denormalised output."""

FLOW = ("i", "f", "g", "o", "c", "h", "y")
"""The tensors in the order in which a step computes them: where several differ, the first is the cause."""


@dataclass(frozen=True, slots=True)
class Figure:
    """How far one tensor is from a reference.

    Attributes:
        reference: "torch", "numpy", or "alone": the same rows run by themselves.
        case: how the model was run.
        tensor: y, h, c, i, f, g or o.
        steps: that were compared, of each row.
        max_abs_difference: over all steps, rows and elements.
        tolerance: the largest that is accepted, of any element.
        exact: every bit is equal.
    """

    reference: str
    case: str
    tensor: str
    steps: int
    max_abs_difference: float
    tolerance: float
    exact: bool


@dataclass(frozen=True, slots=True)
class Difference:
    """Where a tensor first parts from a reference.

    Attributes:
        step: counted from 0, of the row's real steps.
        index: row, and the element in it.
    """

    reference: str
    case: str
    tensor: str
    step: int
    index: tuple[int, ...]
    found: float
    expected: float
    tolerance: float

    def __str__(self) -> str:
        """One line, for a person or a log."""
        row, *element = self.index
        return (
            f"{self.tensor} differs from {self.reference} ({self.case}), first at step {self.step}, row {row}, "
            f"element {element}: {self.found:.9g}, expected {self.expected:.9g}, "
            f"off by {abs(self.found - self.expected):.3g}, at most {self.tolerance:.3g}"
        )


class DifferenceError(ParityError):
    """A model differs from a reference; `difference` says where first."""

    def __init__(self, difference: Difference) -> None:
        super().__init__(str(difference))
        self.difference = difference


@dataclass(frozen=True, slots=True)
class Pair:
    """A tensor as it was found and as it should be.

    Attributes:
        tensor: y, h, c, i, f, g or o.
        found: [rows, steps, ...].
        expected: [rows, steps, ...].
        steps: the number of each step, [steps].
        row: the number of the first row.
    """

    tensor: str
    found: NDArray[np.floating]
    expected: NDArray[np.floating]
    steps: NDArray[np.integer]
    row: int = 0


def tolerance(tensor: str, spec: pb.ModelSpec) -> Array:
    """The largest difference to accept, for each element or for all."""
    output = spec.outputs[0]
    if tensor != "y" or not output.mean:
        return np.array(TOLERANCE, np.float32)
    mean, scale = (np.array(numbers, np.float32) for numbers in (output.mean, output.scale))
    return (scale * TOLERANCE + np.abs(mean) * _ROUNDING).astype(np.float32)


def compare(reference: str, case: str, pairs: Sequence[Pair], spec: pb.ModelSpec) -> list[Figure]:
    """Measure every tensor.

    Args:
        reference: what they are compared with.
        case: how the model was run.
        pairs: any number for each tensor.
        spec: of the model.

    Returns:
        One figure for each tensor.

    Raises:
        DifferenceError: one is too far away; it names the tensor that is so first, by step and then by the
            order `FLOW`.
    """
    differences = [difference for pair in pairs if (difference := _first(reference, case, pair, spec))]
    if differences:
        raise DifferenceError(min(differences, key=lambda each: (each.step, FLOW.index(each.tensor))))
    figures = []
    for tensor in FLOW:
        measured = [pair for pair in pairs if pair.tensor == tensor]
        if measured:
            figures.append(
                Figure(
                    reference,
                    case,
                    tensor,
                    steps=max(int(pair.steps[-1]) + 1 for pair in measured),
                    max_abs_difference=max(float(_apart(pair).max()) for pair in measured),
                    tolerance=float(tolerance(tensor, spec).max()),
                    exact=all(np.array_equal(pair.found, pair.expected.astype(np.float32)) for pair in measured),
                )
            )
    return figures


def _apart(pair: Pair) -> NDArray[np.float64]:
    apart: NDArray[np.float64] = np.abs(pair.found.astype(np.float64) - pair.expected.astype(np.float64))
    return apart


def _first(reference: str, case: str, pair: Pair, spec: pb.ModelSpec) -> Difference | None:
    """The largest difference of the first step that has one."""
    excess = _apart(pair) / tolerance(pair.tensor, spec)
    excess[np.isnan(excess)] = np.inf
    wrong = np.flatnonzero((excess > 1).any(axis=tuple(k for k in range(excess.ndim) if k != 1)))
    if not len(wrong):
        return None
    step = int(wrong[0])
    row, *element = (int(k) for k in np.unravel_index(np.argmax(excess[:, step]), excess[:, step].shape))
    at = (row, step, *element)
    allowed = np.broadcast_to(tolerance(pair.tensor, spec), excess.shape)
    return Difference(
        reference,
        case,
        pair.tensor,
        int(pair.steps[step]),
        (pair.row + row, *element),
        found=float(pair.found[at]),
        expected=float(pair.expected[at]),
        tolerance=float(allowed[at]),
    )
