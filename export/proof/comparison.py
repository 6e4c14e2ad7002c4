"""How far tensors are apart, and where they first part."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from gatestream.export.errors import ParityError

FLOW = ("i", "f", "g", "o", "c", "h", "y")
"""The tensors of gatestream's own network in the order in which a step computes them; those of others come behind."""


@dataclass(frozen=True, slots=True)
class Figure:
    """How far one tensor is from a reference.

    Attributes:
        reference: "torch", "numpy", "source": the file that it was made from; "steps": the same steps taken singly; or
            "alone": the same rows run by themselves.
        case: how the model was run.
        tensor: y, h, c, i, f, g or o; of other models, what the graph calls it.
        steps: that were taken, of the longest row.
        max_abs_difference: over all steps, rows and elements.
        tolerance: the largest that was accepted anywhere, see `rounding`.
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
    """Where numbers first part from a reference.

    Attributes:
        reference: as in `Figure`.
        case: how the model was run.
        tensor: y, h, c, i, f, g or o.
        step: counted from 0, of the row's real steps.
        row: of the batch.
        layer: counted from 0; None for y.
        unit: of the layer, or of the output.
        found: the model's number.
        expected: the reference's.
        tolerance: by how much they may differ.
    """

    reference: str
    case: str
    tensor: str
    step: int
    row: int
    layer: int | None
    unit: int
    found: float
    expected: float
    tolerance: float

    def __str__(self) -> str:
        """One line, for a person or a log."""
        layer = "" if self.layer is None else f"layer {self.layer}, "
        return (
            f"{self.tensor} differs from {self.reference} ({self.case}), first at step {self.step}, row {self.row}, "
            f"{layer}unit {self.unit}: {self.found:.9g}, expected {self.expected:.9g}, "
            f"off by {abs(self.found - self.expected):.3g}, at most {self.tolerance:.3g}"
        )

    @property
    def order(self) -> tuple[int, float, int]:
        """Steps, then layers, then tensors, as they are computed: what comes first is the cause of the rest."""
        return self.step, math.inf if self.layer is None else self.layer, _place(self.tensor)


class DifferenceError(ParityError):
    """A model differs from a reference; `difference` says where first."""

    def __init__(self, difference: Difference) -> None:
        super().__init__(str(difference))
        self.difference = difference


@dataclass(frozen=True, slots=True)
class Pair:
    """A tensor of one row as it was found and as it should be.

    Attributes:
        tensor: y, h, c, i, f, g or o.
        row: of the batch.
        steps: the number of each step, [steps].
        found: [steps, layers, hidden]; for y, [steps, outputs].
        expected: of the same shape.
        allowed: the largest differences to accept; broadcast to that shape.
    """

    tensor: str
    row: int
    steps: NDArray[np.integer]
    found: NDArray[np.floating]
    expected: NDArray[np.floating]
    allowed: NDArray[np.floating]


def compare(reference: str, case: str, pairs: Sequence[Pair]) -> list[Figure]:
    """Measure every tensor.

    Args:
        reference: what they are compared with.
        case: how the model was run.
        pairs: any number for each tensor.

    Returns:
        One figure for each tensor.

    Raises:
        DifferenceError: one is too far away; it names the first that is, see `Difference.order`.
    """
    pairs = [pair for pair in pairs if len(pair.steps)]
    differences = [difference for pair in pairs if (difference := _first(reference, case, pair))]
    if differences:
        raise DifferenceError(min(differences, key=lambda difference: difference.order))
    figures = []
    for tensor in sorted(dict.fromkeys(pair.tensor for pair in pairs), key=_place):
        measured = [pair for pair in pairs if pair.tensor == tensor]
        if measured:
            figures.append(
                Figure(
                    reference,
                    case,
                    tensor,
                    steps=max(int(pair.steps[-1]) + 1 for pair in measured),
                    max_abs_difference=max(float(_apart(pair).max()) for pair in measured),
                    tolerance=max(float(pair.allowed.max()) for pair in measured),
                    exact=all(np.array_equal(pair.found, pair.expected.astype(pair.found.dtype)) for pair in measured),
                )
            )
    return figures


def summary(figures: Sequence[Figure]) -> str:
    """One line on how near they are: exact apart from close."""
    if not figures:
        return "float32 has parted before there was anything to compare"
    steps = max(figure.steps for figure in figures)
    close = [figure for figure in figures if not figure.exact]
    if not close:
        return f"{steps} steps, all {len(figures)} comparisons exact"
    worst = max(close, key=lambda figure: figure.max_abs_difference / figure.tolerance)
    return (
        f"{steps} steps, {len(figures) - len(close)} of {len(figures)} comparisons exact, the others close: "
        f"at most {worst.max_abs_difference:.2g}, {worst.tensor} to {worst.reference} {worst.case}"
    )


def _place(tensor: str) -> int:
    return FLOW.index(tensor) if tensor in FLOW else len(FLOW)


def _apart(pair: Pair) -> NDArray[np.float64]:
    apart: NDArray[np.float64] = np.abs(pair.found.astype(np.float64) - pair.expected.astype(np.float64))
    return apart


def _first(reference: str, case: str, pair: Pair) -> Difference | None:
    """The largest difference in the lowest layer of the first step that has one."""
    excess = _apart(pair) / pair.allowed  # [steps, layers, hidden] or, for y, [steps, outputs]
    excess[np.isnan(excess)] = np.inf
    wrong = np.argwhere(excess > 1)  # in order of steps, then layers
    if not len(wrong):
        return None
    step, *layer = (int(k) for k in wrong[0][:-1])
    unit = int(np.argmax(excess[step, *layer]))
    at = (step, *layer, unit)
    return Difference(
        reference,
        case,
        pair.tensor,
        step=int(pair.steps[step]),
        row=pair.row,
        layer=layer[0] if layer else None,
        unit=unit,
        found=float(pair.found[at]),
        expected=float(pair.expected[at]),
        tolerance=float(np.broadcast_to(pair.allowed, excess.shape)[at]),
    )
