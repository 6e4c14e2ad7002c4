import os
import signal
import sys
from functools import partial
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from tests.support.once import once
from tests.support.reference import Demo
from tests.support.reference import demo as run_demo

# Tests run side by side: small tensors gain nothing from a second thread, and it would take the next test's core. Torch
# and NumPy read this when they are imported, and what tests start inherits it.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# Hundreds of processes import the package: compiled once, each starts in two thirds of the time.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False

# A shell starts what it runs in the background with SIGINT ignored, and the processes that tests start and interrupt
# would inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)

# How long something takes is no test's business: machines stall.
settings.register_profile("untimed", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("untimed")


@pytest.fixture(scope="session")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Demo:
    """A demo that was run."""
    return once(tmp_path_factory, "demo", partial(run_demo, symbols=400))


@pytest.fixture(scope="session")
def reference(demo: Demo) -> Path:
    """The folder with the reference model, trained and exported."""
    return demo.artifacts
