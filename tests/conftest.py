from pathlib import Path

import pytest

from tests.support import reference as model


@pytest.fixture(scope="session")
def reference() -> Path:
    """The folder with the reference model, trained and exported."""
    return model.artifacts()
