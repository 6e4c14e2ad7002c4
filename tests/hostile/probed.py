"""`gatestream serve`, with every callback of its loop timed: `python -m tests.hostile.probed HOLDS serve ...`.

CPU time of the loop's thread, so that it does not count what other processes take from it. Callbacks of LEAST or more
are written to the file HOLDS as they end, a line each: when, milliseconds, and what it was.
"""

import asyncio
import os
import sys
import time
from typing import Any, Final

from gatestream.cli.main import main

LEAST: Final = 1e-3


def probe(path: str) -> None:
    """Time what every loop of this process calls."""
    out = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    handle_class: Any = asyncio.Handle
    run = handle_class._run
    clock = time.thread_time

    def timed(handle: Any) -> None:
        begin = clock()
        run(handle)
        if (took := clock() - begin) >= LEAST:
            name = " ".join(repr(handle._callback).split())[:160]
            os.write(out, f"{time.time():.3f} {took * 1e3:.3f} {name}\n".encode())

    handle_class._run = timed


if __name__ == "__main__":
    probe(sys.argv.pop(1))
    main()
