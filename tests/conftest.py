from pathlib import Path

import pytest

from tests.support.reference import Demo
from tests.support.reference import demo as run_demo


@pytest.fixture(scope="session")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Demo:
    """A demo that was run."""
    return run_demo(tmp_path_factory.mktemp("demo"), symbols=400)


@pytest.fixture(scope="session")
def reference(demo: Demo) -> Path:
    """The folder with the reference model, trained and exported."""
    return demo.artifacts
