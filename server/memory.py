"""What the C library does with freed memory."""

import asyncio
import ctypes
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

# https://man7.org/linux/man-pages/man3/mallopt.3.html
_TRIM_THRESHOLD: Final = -1
_MMAP_THRESHOLD: Final = -3
_KEPT_BYTES: Final = 64 * 2**20
# What is larger is a table that grows, whose old memory is not to stay.
_MAPPED_BYTES: Final = 3 * 2**20
# How often is looked whether memory can be given back, which is done when it was found so twice in a row.
_LOOK_SECONDS: Final = 1.0
_RESIDENT: Final = Path("/proc/self/statm")


def keep_freed() -> None:
    """Have freed memory kept for the next message, up to 64 MiB.

    A message of some hundred kilobytes is allocated several times on its way; given back to the kernel each time, its
    pages are faulted in anew, which took up to a seventh of the time of 512 packed steps. Only glibc can be told.
    """
    if (mallopt := _glibc("mallopt")) is not None:
        mallopt(_MMAP_THRESHOLD, _MAPPED_BYTES)
        mallopt(_TRIM_THRESHOLD, _KEPT_BYTES)


async def give_back(held: Callable[[], int]) -> None:
    """Give freed memory back to the kernel after each burst, until cancelled.

    Freed memory lies between what is in use, where nothing returns it by itself: after 100 streams that read nothing,
    hundreds of megabytes. To return it takes a tenth of a millisecond for each, in which whoever allocates may wait.

    Args:
        held: bytes that are in use now and were not always.
    """
    if (trim := _glibc("malloc_trim")) is None:
        return
    floor, above = _resident() - held(), False
    while True:
        await asyncio.sleep(_LOOK_SECONDS)
        now = _resident() - held()
        floor, before, above = min(floor, now), above, now - floor > _KEPT_BYTES
        if above and before:
            await asyncio.to_thread(trim, 0)
            floor, above = _resident() - held(), False


def _resident() -> int:
    """Bytes of memory that this process has."""
    return int(_RESIDENT.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def _glibc(name: str) -> Any:
    """A function of that library; None where there is another."""
    return getattr(ctypes.CDLL(None), name, None) if sys.platform == "linux" else None
