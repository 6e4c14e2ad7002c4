"""Both runners on the CPU, against torch running each row by itself.

The arena runner is what serves on CUDA; on the CPU provider it is the same graph and the same code.
"""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

from gatestream.model.network import Network
from gatestream.server.backend.artifact import Artifact
from gatestream.server.backend.runner import CPU, ArenaRunner, HostRunner, Runner, load_runner
from gatestream.server.errors import ProviderError
from tests.support.artifacts import POISON

CAPACITY = 9
Make = Callable[[Path], Runner]


@pytest.fixture(params=["host", "arena"])
def make(request: pytest.FixtureRequest) -> Make:
    def make_runner(path: Path) -> Runner:
        artifact = Artifact.load(path)
        if request.param == "host":
            return HostRunner(artifact, CAPACITY, 1)
        return ArenaRunner(artifact, CAPACITY, CPU, 1)

    return make_runner


def test_rows_advance_as_each_does_alone(make: Make, lstm_path: Path, network: Network) -> None:
    runner = make(lstm_path)
    gates = "gates" in lstm_path.name
    rng = np.random.default_rng(0)
    state = {slot: network.initial_state(1) for slot in range(CAPACITY)}
    for _ in range(30):
        batch, steps = int(rng.integers(1, CAPACITY + 1)), int(rng.integers(1, 6))
        slots = rng.permutation(CAPACITY)[:batch].astype(np.int64)
        lengths = rng.integers(1, steps + 1, batch).astype(np.int32)
        lengths[0] = steps
        x = rng.standard_normal((batch, steps, 3), np.float32)
        outputs, shown = runner.step(slots, [x], lengths, gates)
        assert len(shown) == (4 if gates else 0)
        for k, (slot, length) in enumerate(zip(slots.tolist(), lengths.tolist(), strict=True)):
            with torch.no_grad():
                y, state[slot], expected = network(torch.from_numpy(x[k : k + 1, :length]), state[slot])
            np.testing.assert_allclose(outputs[0][k, :length], y[0], atol=1e-5)
            for got, gate in zip(shown, expected, strict=False):
                np.testing.assert_allclose(got[k, :length], gate[0], atol=1e-5)
    h, c = runner.read(np.arange(CAPACITY))
    for slot in range(CAPACITY):
        np.testing.assert_allclose(h[slot], state[slot][0][0], atol=1e-5)
        np.testing.assert_allclose(c[slot], state[slot][1][0], atol=1e-5)


def test_rows_can_be_read_and_written(make: Make, lstm_path: Path) -> None:
    runner = make(lstm_path)
    rng = np.random.default_rng(1)
    written = [rng.standard_normal((3, 2, 5), np.float32) for _ in range(2)]
    runner.write(np.array([7, 0, 3]), written)
    read = runner.read(np.array([3, 1, 7, 0]))
    for before, after in zip(written, read, strict=True):
        np.testing.assert_array_equal(after, [before[2], np.zeros((2, 5)), before[0], before[1]])


def test_a_run_that_fails_changes_no_row(make: Make, accumulator_path: Path) -> None:
    runner = make(accumulator_path)
    slots, length = np.array([2, 5]), np.ones(2, np.int32)
    runner.step(slots, [np.array([[[1, 2]], [[3, 4]]], np.float32)], length, False)
    with pytest.raises(Exception, match="indices element out of data bounds"):
        runner.step(slots, [np.array([[[1, 2]], [[POISON, 4]]], np.float32)], length, False)
    np.testing.assert_array_equal(runner.read(slots)[0], [[1, 2], [3, 4]])
    outputs, _ = runner.step(slots, [np.array([[[1, 2]], [[3, 4]]], np.float32)], length, False)
    np.testing.assert_array_equal(outputs[0], [[[2, 4]], [[6, 8]]])


def test_a_run_that_fails_after_its_states_were_computed_changes_no_row(
    make: Make, accumulator_path: Path, tmp_path: Path
) -> None:
    model = onnx.load(accumulator_path)
    (total,) = (node for node in model.graph.node if node.op_type == "ReduceSum")
    total.input[0] = "x_real"  # as before the poison: now only y fails of it
    onnx.save(model, tmp_path / "late.onnx")
    runner = make(tmp_path / "late.onnx")
    slots, length = np.array([2, 5]), np.ones(2, np.int32)
    runner.step(slots, [np.array([[[1, 2]], [[3, 4]]], np.float32)], length, False)
    with pytest.raises(Exception, match="indices element out of data bounds"):
        runner.step(slots[::-1], [np.array([[[1, 2]], [[POISON, 4]]], np.float32)], length, False)
    np.testing.assert_array_equal(runner.read(slots)[0], [[1, 2], [3, 4]])
    outputs, _ = runner.step(slots, [np.array([[[1, 2]], [[3, 4]]], np.float32)], length, False)
    np.testing.assert_array_equal(outputs[0], [[[2, 4]], [[6, 8]]])


def test_rows_written_after_a_step_stay(make: Make, accumulator_path: Path) -> None:
    runner = make(accumulator_path)
    slots, length = np.array([2, 5]), np.ones(2, np.int32)
    runner.step(slots, [np.array([[[1, 2]], [[3, 4]]], np.float32)], length, False)
    runner.write(np.array([5]), [np.array([[10, 20]], np.float32)])
    slots[:] = 0  # the caller's array is the caller's
    outputs, _ = runner.step(np.array([5, 2]), [np.ones((2, 1, 2), np.float32)], length, False)
    np.testing.assert_array_equal(outputs[0], [[[11, 21]], [[2, 3]]])


def test_every_node_is_accounted_for(make: Make, lstm_path: Path) -> None:
    runner = make(lstm_path)
    assert [placement.execution_provider for placement in runner.placements] == [CPU]
    operators = set(runner.placements[0].operators)
    assert ("Scan" if "gates" in lstm_path.name else "LSTM") in operators


def test_cuda_that_cannot_be_had_is_an_error_that_says_how_to_get_it(accumulator_path: Path) -> None:
    with pytest.raises(ProviderError, match=r"without CUDAExecutionProvider.*pip install 'gatestream\[cuda\]'"):
        load_runner(Artifact.load(accumulator_path), 1, "cuda", 1)


def test_auto_takes_the_cpu_where_there_is_no_cuda(accumulator_path: Path) -> None:
    assert load_runner(Artifact.load(accumulator_path), 1, "auto", 1).provider == CPU
