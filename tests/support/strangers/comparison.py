"""Whether an artifact gives, however it is stepped, what the original file gives by its own convention."""

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np

from tests.support.strangers.adopted import Adopted
from tests.support.strangers.oracle import Oracle
from tests.support.strangers.stranger import Arrays, Stranger

STEPS = 12
CUTS = (0, 5, 6, 12)
ROWS = 3
TOLERANCE = 2e-5
"""Of `differences` where the numbers are float32; these files are no larger than 512 and 12 steps long."""


def differences(stranger: Stranger, artifact: Path) -> dict[str, float]:
    """The largest difference of each output, by how the artifact was stepped, in parts of the largest output.

    Args:
        stranger: the original.
        artifact: made from it. One that rounds all rows and steps of a run by one range is stepped alone only.
    """
    oracle, adopted = Oracle(stranger), Adopted(artifact)
    xs = [oracle.sample(STEPS, seed) for seed in range(ROWS)]
    constants = [oracle.sample_constants(seed) for seed in range(ROWS)]
    expected = [oracle.run(x, given) for x, given in zip(xs, constants, strict=True)]
    found = {"steps": _apart(adopted, xs[:1], constants[:1], expected[:1], range(STEPS + 1), stranger)}
    if stranger.promises_rows:
        found["chunks"] = _apart(adopted, xs[:1], constants[:1], expected[:1], CUTS, stranger)
        found["rows together"] = _apart(adopted, xs, constants, expected, range(STEPS + 1), stranger)
        found["rows together, chunks"] = _apart(adopted, xs, constants, expected, CUTS, stranger)
    return found


def _apart(
    adopted: Adopted,
    xs: Sequence[Arrays],
    constants: Sequence[Arrays],
    expected: Sequence[Arrays],
    cuts: Sequence[int],
    stranger: Stranger,
) -> float:
    states = adopted.start(len(xs), constants)
    worst = 0.0
    for begin, end in pairwise(cuts):
        results = adopted.advance(states, [{name: x[name][begin:end] for name in x} for x in xs])
        for row, outputs in enumerate(results):
            for tensor in stranger.outputs:
                wanted = expected[row][tensor.name]
                got = adopted.named(outputs, tensor.name)
                assert got.shape == wanted[begin:end].shape, (tensor.name, got.shape, wanted[begin:end].shape)
                assert got.dtype == wanted.dtype
                scale = max(1.0, float(np.abs(wanted.astype(np.float64)).max()))
                difference = np.abs(got.astype(np.float64) - wanted[begin:end].astype(np.float64)).max()
                worst = max(worst, float(difference) / scale)
    return worst
