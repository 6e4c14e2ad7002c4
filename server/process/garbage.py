"""When Python looks through all objects for cycles."""

import asyncio
import gc
import platform
import time
from collections.abc import Callable
from typing import Final

_NEVER: Final = 2**31 - 1
_LOOK_SECONDS: Final = 1.0
_LONGEST_SECONDS: Final = 60.0
# To look through what so many calls have takes 4 ms.
_FEW_CALLS: Final = 1_000
# Collections of younger objects that leave something to look for, as in Python's own rule.
_YOUNGER: Final = 10


def why_not() -> str | None:
    """Why the collector cannot be told; None: it can."""
    return None if hasattr(gc, "freeze") else f"{platform.python_implementation()} has no gc.freeze"


def keep_loaded() -> None:
    """Have what is there now never looked through again, and the rest by `collect` alone.

    A full collection holds up every session: for 20 to 30 ms where it looks at what was loaded at the start, and for
    as long where thousands of calls are open, which Python's own rule takes for a reason to collect.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(*gc.get_threshold()[:2], _NEVER)


async def collect(calls: Callable[[], int]) -> None:
    """Look through all objects while there are few, until cancelled; once a minute where there always are many.

    Args:
        calls: that are open, which is what most objects belong to.
    """
    last = time.monotonic()
    while True:
        await asyncio.sleep(_LOOK_SECONDS)
        due = calls() < _FEW_CALLS or time.monotonic() - last > _LONGEST_SECONDS
        if due and gc.get_count()[2] >= _YOUNGER:
            gc.collect()
            last = time.monotonic()
