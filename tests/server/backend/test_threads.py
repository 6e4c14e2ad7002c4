"""The choice of threads: the rule on times that are given, and the measurement on a real model."""

from pathlib import Path

import numpy as np
import pytest

from gatestream.server.backend.artifact import Artifact
from gatestream.server.backend.runner import HostRunner, Runner
from gatestream.server.backend.threads import choose, measure


@pytest.mark.parametrize(
    ("seconds", "chosen", "why"),
    [
        ({1: {1: 1.0, 128: 10.0}}, 1, "there is no choice"),
        ({1: {1: 1.0, 128: 10.0}, 2: {1: 1.0, 128: 8.1}}, 1, "a fifth is the least that a doubling must save"),
        ({1: {1: 1.0, 128: 10.0}, 2: {1: 1.0, 128: 7.9}}, 2, "it saves that"),
        ({1: {1: 1.0, 128: 10.0}, 2: {1: 1.2, 128: 5.0}}, 1, "a session alone would wait for longer"),
        ({1: {1: 1.0, 128: 10.0}, 2: {1: 1.1, 128: 6.0}, 4: {1: 1.1, 128: 5.0}}, 2, "the second doubling saves little"),
        ({1: {1: 1.0, 128: 10.0}, 2: {1: 1.1, 128: 9.0}, 4: {1: 1.0, 128: 4.0}}, 4, "four save over one"),
        ({1: {1: 1.0, 8: 10.0}, 2: {1: 1.0, 8: 5.0}}, 2, "ticks that are smaller are judged by their largest"),
        ({1: {1: 1.0, 128: 9.0, 512: 9.0}, 2: {1: 1.0, 128: 9.0, 512: 4.0}}, 1, "larger ones are not what counts"),
        ({1: {1: 1.0}, 2: {1: 0.5}}, 2, "one row is the largest batch"),
    ],
)
def test_the_rule(seconds: dict[int, dict[int, float]], chosen: int, why: str) -> None:
    assert choose(seconds) == chosen, why


def test_every_count_is_timed_at_every_batch(accumulator_path: Path) -> None:
    artifact = Artifact.load(accumulator_path)
    made: dict[int, Runner] = {}

    def make(threads: int) -> Runner:
        made[threads] = HostRunner(artifact, 200, threads)
        return made[threads]

    runner, measured = measure(make, artifact.layout, largest=200, cpus=3)
    assert list(measured.seconds) == [1, 2, 3]
    for times in measured.seconds.values():
        assert list(times) == [1, 32, 128, 200]
        assert all(0 < seconds < 60 for seconds in times.values())
    assert measured.threads == choose(measured.seconds)
    # What was measured is what serves: no model is loaded for nothing.
    assert runner is made[measured.threads]
    outputs, _ = runner.step(np.array([0]), [np.ones((1, 1, 2), np.float32)], np.ones(1, np.int32), False)
    assert outputs[0].shape == (1, 1, 2)


def test_batches_that_no_tick_has_are_not_timed(accumulator_path: Path) -> None:
    artifact = Artifact.load(accumulator_path)
    _, measured = measure(lambda threads: HostRunner(artifact, 16, threads), artifact.layout, largest=16, cpus=2)
    assert [list(times) for times in measured.seconds.values()] == [[1, 16], [1, 16]]


def test_with_one_cpu_there_is_nothing_to_measure(accumulator_path: Path) -> None:
    artifact = Artifact.load(accumulator_path)
    _, measured = measure(lambda threads: HostRunner(artifact, 16, threads), artifact.layout, largest=16, cpus=1)
    assert (measured.threads, measured.seconds) == (1, {})
