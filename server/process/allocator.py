"""What the C library does with freed memory."""

import asyncio
import ctypes
import mmap
import sys
from typing import Any, Final

import numpy as np

_FUNCTIONS: Final = ("mallopt", "mallinfo2", "malloc_trim")
# https://man7.org/linux/man-pages/man3/mallopt.3.html
_TRIM_THRESHOLD: Final = -1
_MMAP_THRESHOLD: Final = -3
_NEVER: Final = -1
# What is larger is a table that grows, whose old memory is not to stay. A message is smaller.
_MAPPED_BYTES: Final = 8 * 2**20
# What is ready: NumPy has the kernel make huge pages of larger blocks.
_BLOCKS: Final = 8
_BLOCK_BYTES: Final = 2 * 2**20
_PIECE_BYTES: Final = 2**18
# So much more that is free is worth returning.
_WORTH_BYTES: Final = 48 * 2**20
# How often is looked whether memory can be given back, which is done when it was found so twice in a row.
_LOOK_SECONDS: Final = 0.5


def why_not() -> str | None:
    """Why the C library cannot be told; None: it can."""
    missing = [name for name in _FUNCTIONS if not hasattr(_library(), name)]
    return f"the C library has no {', '.join(missing)}, as glibc has since 2.33" if missing else None


def keep_freed() -> None:
    """Have freed memory kept for the next message, until `give_back`.

    A message of some hundred kilobytes is allocated several times on its way; given back to the kernel each time, its
    pages are faulted in anew, which took up to a seventh of the time of 512 packed steps. And whoever frees what is
    next to the end of the heap would give back all that is free before it: 20 ms of the loop, for 64 MiB.
    """
    mallopt = _library().mallopt
    mallopt(_MMAP_THRESHOLD, _MAPPED_BYTES)
    mallopt(_TRIM_THRESHOLD, _NEVER)


async def fault_in() -> None:
    """Have some memory ready: to fault in the pages of a first large message would hold up everyone.

    A fault takes some microseconds; between two pieces the loop has its turn.
    """
    blocks = [np.empty(_BLOCK_BYTES, np.uint8) for _ in range(_BLOCKS)]
    for block in blocks:
        for begin in range(0, _BLOCK_BYTES, _PIECE_BYTES):
            block[begin : begin + _PIECE_BYTES : mmap.PAGESIZE] = 0
            await asyncio.sleep(0)


class _Allocated(ctypes.Structure):
    """What mallinfo2 returns: https://man7.org/linux/man-pages/man3/mallinfo.3.html."""

    _fields_ = tuple(
        (name, ctypes.c_size_t)
        for name in (
            *("arena", "ordblks", "smblks", "hblks", "hblkhd", "usmblks", "fsmblks"),
            *("uordblks", "fordblks", "keepcost"),
        )
    )


async def give_back() -> None:
    """Give freed memory back to the kernel after each burst, until cancelled.

    Freed memory lies between what is in use, where nothing returns it by itself: after 100 streams that read nothing,
    or 20,000 calls at once, hundreds of megabytes. To return it takes a tenth of a millisecond for each, in which
    whoever allocates may wait. What has been returned stays free, and so does what is there to be used next: so what
    counts is by how much more is free than was when least was.
    """
    trim, told = _library().malloc_trim, _library().mallinfo2
    told.restype = _Allocated

    def free() -> int:
        return int(told().fordblks)

    least, above = free(), False
    while True:
        await asyncio.sleep(_LOOK_SECONDS)
        now = await asyncio.to_thread(free)
        least, before, above = min(least, now), above, now - least > _WORTH_BYTES
        if above and before:
            await asyncio.to_thread(trim, 0)
            await fault_in()
            least, above = now, False


def _library() -> Any:
    """The C library; where it is none of Linux, one without functions."""
    return ctypes.CDLL(None) if sys.platform == "linux" else None
