"""Single steps of few rows in buffers that are bound once, against the runs that gather and scatter."""

import weakref
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from gatestream.server.backend import few_steps
from gatestream.server.backend.artifact import Artifact
from gatestream.server.backend.deterministic import DeterministicRunner
from gatestream.server.backend.few_steps import FEW, _Buffers
from gatestream.server.backend.runner import CPU, ArenaRunner, HostRunner
from gatestream.server.config import TickLimits
from tests.support.artifacts import POISON

CAPACITY = 40


def test_few_rows_give_the_bits_of_the_straight_way(lstm_path: Path) -> None:
    artifact = Artifact.load(lstm_path)
    few, straight = (HostRunner(artifact, CAPACITY, 1, straight=straight) for straight in (False, True))
    rng = np.random.default_rng(0)
    initial = [rng.standard_normal((CAPACITY, *state.shape)).astype(state.dtype) for state in artifact.layout.states]
    for runner in (few, straight):
        runner.write(np.arange(CAPACITY), initial)
    for rows in [*range(1, FEW + 1), *range(FEW, 0, -1)]:
        slots = rng.permutation(CAPACITY)[:rows]
        x = rng.standard_normal((rows, 1, 3), np.float32)
        for gates in {False, "gates" in lstm_path.name}:
            expected = straight.step(slots, [x], np.ones(rows, np.int32), gates)
            for got, wanted in zip(few.step_few(slots.tolist(), [x], gates), expected, strict=True):
                assert [column.tobytes() for column in got] == [column.tobytes() for column in wanted]
    states = ([column.tobytes() for column in runner.read(np.arange(CAPACITY))] for runner in (few, straight))
    assert next(states) == next(states)


def test_one_row_gives_the_bits_of_few(lstm_path: Path) -> None:
    artifact = Artifact.load(lstm_path)
    one, few = (HostRunner(artifact, CAPACITY, 1) for _ in range(2))
    rng = np.random.default_rng(0)
    initial = [rng.standard_normal((CAPACITY, *state.shape)).astype(state.dtype) for state in artifact.layout.states]
    for runner in (one, few):
        runner.write(np.arange(CAPACITY), initial)
    for slot in rng.integers(0, 5, 30).tolist():
        x = rng.standard_normal((1, 1, 3), np.float32)
        for gates in {False, "gates" in lstm_path.name}:
            wanted = few.step_few([slot], [x], gates)
            bits = tuple([column.tobytes() for column in columns] for columns in wanted)
            assert one.step_one(slot, [x.tobytes()], gates) == bits
    before = [column.tobytes() for column in one.read(np.arange(CAPACITY))]
    assert before == [column.tobytes() for column in few.read(np.arange(CAPACITY))]
    assert one.step_one(0, [np.array([1, np.inf, 1], np.float32).tobytes()], False) is None
    assert before == [column.tobytes() for column in one.read(np.arange(CAPACITY))]


def test_other_runners_leave_one_row_to_the_general_way(lstm_path: Path) -> None:
    artifact = Artifact.load(lstm_path)
    host, limits = HostRunner(artifact, CAPACITY, 1), TickLimits(rows=4, steps=2)
    for runner in (ArenaRunner(artifact, CAPACITY, CPU, 1), DeterministicRunner(host, artifact.spec, limits)):
        assert runner.step_one(0, [bytes(12)], False) is None


def test_outputs_that_cannot_be_copied_leave_the_row_as_it_was(
    accumulator_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runner = HostRunner(Artifact.load(accumulator_path), CAPACITY, 1)
    runner.write(np.arange(2), [np.ones((2, 2), np.float32)])

    def full(_array: Any) -> bytes:
        raise MemoryError("there is no room for a copy")

    monkeypatch.setattr(few_steps, "_to_bytes", full)
    with pytest.raises(MemoryError):
        runner.step_one(1, [np.ones(2, np.float32).tobytes()], False)
    assert runner.read(np.arange(2))[0].tolist() == [[1, 1], [1, 1]]


def test_a_bound_run_that_fails_changes_no_row(accumulator_path: Path) -> None:
    runner = HostRunner(Artifact.load(accumulator_path), CAPACITY, 1)
    runner.write(np.arange(3), [np.arange(6, dtype=np.float32).reshape(3, 2)])
    poisoned = np.ones((3, 1, 2), np.float32)
    poisoned[1] = POISON
    with pytest.raises(Exception, match="out of data bounds"):
        runner.step_few([0, 1, 2], [poisoned], gates=False)
    with pytest.raises(Exception, match="out of data bounds"):
        runner.step_one(1, [poisoned[1].tobytes()], False)
    assert runner.read(np.arange(3))[0].tolist() == [[0, 1], [2, 3], [4, 5]]


class Forgetful:
    """A binding that keeps nothing alive, as onnxruntime's kept nothing before 1.30."""

    def __init__(self) -> None:
        self.bound: dict[str, weakref.ref[npt.NDArray[Any]]] = {}

    def bind_ortvalue_input(self, name: str, value: npt.NDArray[Any]) -> None:
        self.bound[name] = weakref.ref(value)

    bind_ortvalue_output = bind_ortvalue_input


@pytest.mark.parametrize("rows", [1, 3])
def test_every_buffer_of_a_bound_run_is_kept(lstm_path: Path, rows: int) -> None:
    layout, binding = Artifact.load(lstm_path).layout, Forgetful()
    arenas = [np.zeros((CAPACITY, *state.shape), state.dtype) for state in layout.states]
    bound = _Buffers(binding, lambda array: array, layout, arenas, rows, True)
    names = [item.name for item in (*layout.inputs, *layout.states, *layout.outputs, *layout.gates)]
    assert binding.bound.keys() == {layout.length, *names, *(state.after for state in layout.states)}
    assert [name for name, buffer in binding.bound.items() if buffer() is None] == []
    del bound
