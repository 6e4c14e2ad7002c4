import signal
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from tests.support.reference import Demo
from tests.support.reference import demo as run_demo

# A shell starts what it runs in the background with SIGINT ignored, and the processes that tests start and interrupt
# would inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)

# How long something takes is no test's business: machines stall.
settings.register_profile("untimed", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("untimed")


@pytest.fixture(scope="session")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Demo:
    """A demo that was run."""
    return run_demo(tmp_path_factory.mktemp("demo"), symbols=400)


@pytest.fixture(scope="session")
def reference(demo: Demo) -> Path:
    """The folder with the reference model, trained and exported."""
    return demo.artifacts
