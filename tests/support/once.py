"""What takes long to make, and is made once though tests run in several processes."""

import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import pytest
from filelock import FileLock

_T = TypeVar("_T")


def once(factory: pytest.TempPathFactory, name: str, make: Callable[[Path], _T]) -> _T:
    """What `make` returned when it was called first, in whichever process of this run.

    Args:
        factory: of the run.
        name: what nothing else is called by.
        make: fills the folder that it is given; what it returns can be pickled.
    """
    root = factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        root = root.parent
    folder = root / "once" / name
    folder.mkdir(parents=True, exist_ok=True)
    made = folder / "made.pickle"
    with FileLock(folder / "lock"):
        if not made.exists():
            made.write_bytes(pickle.dumps(make(folder)))
        found: _T = pickle.loads(made.read_bytes())
    return found
