from collections.abc import Iterator
from pathlib import Path

import pytest

from gatestream.client import Client, connect
from tests.client.artifacts import counter
from tests.support.artifacts import accumulator
from tests.support.lstm import Lstm
from tests.support.process import ServerProcess, serving


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("artifacts")


@pytest.fixture(scope="session")
def accumulator_path(folder: Path) -> Path:
    return accumulator(folder / "accumulator.onnx")


@pytest.fixture(scope="session")
def lstm() -> Lstm:
    return Lstm.random()


@pytest.fixture(scope="session")
def server(folder: Path, accumulator_path: Path, lstm: Lstm) -> Iterator[ServerProcess]:
    """One server for all tests that do not harm it: models accumulator, lstm and counter."""
    paths = accumulator_path, lstm.save(folder / "lstm.onnx"), counter(folder / "counter.onnx")
    with serving(*paths) as running:
        yield running


@pytest.fixture(scope="session")
def narrow(accumulator_path: Path) -> Iterator[ServerProcess]:
    """A server with small limits; kept sessions would give up their slots to others."""
    limits = {"sessions": 6, "sessions_per_stream": 4, "rows": 64, "rows_per_stream": 32, "chunk_length": 8}
    with serving(accumulator_path, durability="off", **limits) as running:
        yield running


@pytest.fixture
def gs(server: ServerProcess) -> Iterator[Client]:
    with connect(server.address) as client:
        yield client
