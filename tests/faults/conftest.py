from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from tests.client.artifacts import counter
from tests.support.artifacts import accumulator
from tests.support.process import ServerProcess, serving
from tests.support.wire import Stream


@pytest.fixture(scope="session")
def accumulator_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return accumulator(tmp_path_factory.mktemp("artifacts") / "accumulator.onnx")


@pytest.fixture(scope="session")
def counter_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return counter(tmp_path_factory.mktemp("artifacts") / "counter.onnx")


@pytest.fixture(scope="session")
def server(accumulator_path: Path, counter_path: Path) -> Iterator[ServerProcess]:
    """One server for all that no server may be harmed by: accumulator, with slow chunks, and counter."""
    with serving(accumulator_path, counter_path, tick_steps=1) as running:
        yield running
        assert running.popen.poll() is None


@pytest.fixture
def neighbour(server: ServerProcess) -> Iterator[None]:
    """Another client's session, which must go on as if it were alone."""
    with Stream(server.address) as stream:
        stream.opened(0, model="accumulator")
        stream.stepped(0, [[1, 2], [3, 4]])
        yield
        np.testing.assert_array_equal(stream.stepped(0, [[10, 20]]), [[14, 26]])
        stream.steps({0: [[0, 0]]}, first=[3])
        assert list(stream.expect("results").first) == [3]
