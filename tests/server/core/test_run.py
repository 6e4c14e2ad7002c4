"""What a run computes, against a plain reading of its batches."""

from typing import Any

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from gatestream.server.core.batches import OUTPUTS, StepBatch
from gatestream.server.core.run import Run
from tests.support.engine import Recorder

LENGTHS = st.lists(st.integers(1, 5), min_size=1, max_size=6)


def batch_of(lengths: list[int], begin: int = 0) -> StepBatch:
    """Sessions from `begin` on; the rows of the message are numbered."""
    rows, count = sum(lengths), len(lengths)
    x = np.arange(rows, dtype=np.float32)[:, None] + 100 * begin
    sizes = np.array(lengths)
    sessions = np.arange(begin, begin + count)
    return StepBatch(
        sessions,
        sizes,
        np.cumsum(sizes) - sizes,
        rows,
        max(lengths),
        [x],
        False,
        0.0,
        Recorder(),
        sessions,
        True,
        OUTPUTS,
    )


@given(LENGTHS)
def test_a_batch_by_itself(lengths: list[int]) -> None:
    batch = batch_of(lengths)
    run = Run.whole(batch, batch.sessions + 7)
    assert (run.members, run.steps, run.rows, run.tick) == (len(lengths), max(lengths), sum(lengths), None)
    (column,) = run.gathered(1) if run.inputs is None else run.inputs
    assert column.shape == (len(lengths), max(lengths), 1)
    for member, (offset, length) in enumerate(zip(batch.offsets.tolist(), lengths, strict=True)):
        assert column[member, :length, 0].tolist() == list(range(offset, offset + length))
    assert (run.inputs is not None) == (len(set(lengths)) == 1), "what lies in order is not copied"


@given(LENGTHS, LENGTHS)
def test_parts_of_several_batches(first: list[int], second: list[int]) -> None:
    batches = [batch_of(first), batch_of(second, begin=len(first))]
    lengths = first + second
    parts: list[tuple[Any, int, int]] = [(batches[0], 0, len(first)), (batches[1], len(first), len(lengths))]
    offsets = np.concatenate([batch.offsets for batch in batches])
    sessions = np.arange(len(lengths))
    run = Run(
        sessions,
        sessions,
        np.array(lengths),
        len(lengths),
        max(lengths),
        sum(lengths),
        False,
        0.0,
        "loop",
        None,
        parts,
        offsets,
    )
    (column,) = run.gathered(1)
    for member, (batch, offset, length) in enumerate(
        zip([0] * len(first) + [1] * len(second), offsets.tolist(), lengths, strict=True)
    ):
        expected = batches[batch].inputs[0][offset : offset + length, 0]
        np.testing.assert_array_equal(column[member, :length, 0], expected)


@given(LENGTHS, st.integers(1, 12))
def test_pieces_leave_nobody_out_and_are_no_larger_than_asked(lengths: list[int], most: int) -> None:
    batch = batch_of(lengths)
    run = Run.whole(batch, batch.sessions)
    pieces = list(run.pieces(most))
    assert [member for _, start, stop in pieces for member in range(start, stop)] == list(range(len(lengths)))
    for _, start, stop in pieces:
        assert (stop - start) * run.steps <= most or stop - start == 1
