"""Rows of state before, in and after runs of a model that sums what it gets."""

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from gatestream.server.backend.artifact import Artifact
from gatestream.server.backend.runner import HostRunner
from gatestream.server.backend.state import StateRows
from tests.support.artifacts import POISON

COUNT = 4


@pytest.fixture
def rows(accumulator_path: Path) -> StateRows:
    """All rows hold [9, 9]; each look at the clock finds it one second later."""
    artifact = Artifact.load(accumulator_path)
    runner = HostRunner(artifact, COUNT, 1)
    runner.write(np.arange(COUNT), [np.full((COUNT, 2), 9, np.float32)])
    seconds = iter(range(1000))
    return StateRows(artifact.layout, runner, COUNT, lambda: float(next(seconds)))


def ones(batch: int, steps: int) -> list[npt.NDArray[Any]]:
    return [np.ones((batch, steps, 2), np.float32)]


def step(rows: StateRows, slots: list[int], steps: int) -> Any:
    outputs, _ = rows.step(np.array(slots), ones(len(slots), steps), np.full(len(slots), steps), gates=False)
    return outputs[0][:, -1, 0].tolist()


def test_a_fresh_row_begins_with_the_initial_state_and_its_neighbours_do_not(rows: StateRows) -> None:
    rows.make_fresh(1)
    assert [rows.is_fresh(slot) for slot in range(COUNT)] == [False, True, False, False]
    assert step(rows, [2, 1, 0], 3) == [12, 3, 12]
    assert not rows.is_fresh(1)
    assert step(rows, [1], 1) == [4]


def test_a_fresh_row_is_read_as_it_will_be(rows: StateRows) -> None:
    rows.make_fresh(3)
    (state,) = rows.read(3)
    assert state.tolist() == [[0, 0]]
    state += 5
    assert rows.read(3)[0].tolist() == [[0, 0]]
    assert rows.read(2)[0].tolist() == [[9, 9]]


@pytest.mark.parametrize("slots", [[], [3], [2, 3, 1]])
def test_rows_are_packed_as_they_are_read_and_none_is_no_fault(rows: StateRows, slots: list[int]) -> None:
    rows.make_fresh(3)
    packed = rows.packed(np.array(slots, np.int64))
    assert packed.shape == (len(slots), 2 * 4)
    assert [row.tobytes() for row in packed] == [rows.read(slot)[0].tobytes() for slot in slots]


def test_a_row_that_is_set_is_no_longer_fresh(rows: StateRows) -> None:
    rows.make_fresh(0)
    rows.write(0, [np.full((1, 2), 7, np.float32)])
    assert not rows.is_fresh(0)
    assert step(rows, [0], 1) == [8]


def test_a_fresh_row_of_a_run_that_fails_holds_the_initial_state(rows: StateRows) -> None:
    rows.make_fresh(1)
    with pytest.raises(Exception, match="out of data bounds"):
        rows.step(np.array([1, 2]), [np.full((2, 1, 2), POISON, np.float32)], np.ones(2, np.int64), gates=False)
    assert [rows.read(slot)[0].tolist() for slot in (1, 2)] == [[[0, 0]], [[9, 9]]]


def test_single_steps_of_few_rows(rows: StateRows) -> None:
    outputs, gates = rows.step([2], ones(1, 1), [1], gates=False)
    assert (outputs[0].tolist(), gates) == ([[[10, 10]]], [])
    assert rows.read(2)[0].tolist() == [[10, 10]]
    outputs, _ = rows.step([0, 2], ones(2, 1), [1, 1], gates=False)
    assert outputs[0].tolist() == [[[10, 10]], [[11, 11]]]


def test_runs_are_timed_by_their_size(rows: StateRows) -> None:
    step(rows, [0, 1, 2], 2)
    assert rows.seconds == 1
    assert rows.run_time.expected(3, 2) == 1
    assert rows.run_time.expected(1, 1) == float("inf")
    rows.step([0], ones(1, 1), [1], gates=False)
    assert rows.run_time.expected(1, 1) == 1
