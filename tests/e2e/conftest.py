from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.artifacts import accumulator
from tests.support.process import ServerProcess, serving


@pytest.fixture(scope="session")
def accumulator_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return accumulator(tmp_path_factory.mktemp("artifacts") / "accumulator.onnx")


@pytest.fixture(scope="module")
def server(accumulator_path: Path) -> Iterator[ServerProcess]:
    """A server that takes a chunk one step a run."""
    with serving(accumulator_path, tick_steps=1) as running:
        yield running
        assert running.popen.poll() is None


@pytest.fixture
def models(tmp_path: Path) -> Path:
    """A folder for models, `NAME/VERSION/model.onnx`."""
    folder = tmp_path / "models"
    folder.mkdir()
    return folder
