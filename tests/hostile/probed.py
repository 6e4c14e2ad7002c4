"""`gatestream serve`, with every callback of its loop timed: `python -m tests.hostile.probed HOLDS serve ...`.

CPU time of the loop's thread, so that it does not count what other processes take from it. Callbacks of LEAST or more
are written to the file HOLDS as they end, a line each: when, milliseconds, and what it was, with what Python's garbage
collector took of it.
"""

import asyncio
import gc
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
    collected = began = 0.0

    def collecting(phase: str, _info: Any) -> None:
        nonlocal collected, began
        if phase == "start":
            began = clock()
        else:
            collected += clock() - began

    def timed(handle: Any) -> None:
        nonlocal collected
        collected = 0.0
        begin = clock()
        run(handle)
        if (took := clock() - begin) >= LEAST:
            what = f"{_name(handle._callback)}, collector {collected * 1e3:.1f} ms"
            os.write(out, f"{time.time():.3f} {took * 1e3:.3f} {what}\n".encode())

    gc.callbacks.append(collecting)
    handle_class._run = timed


def _name(callback: Any) -> str:
    """A callback's name; of a task's step that of its coroutine."""
    task = getattr(callback, "__self__", None)
    return str(task.get_coro() if isinstance(task, asyncio.Task) else callback)[:160]


if __name__ == "__main__":
    probe(sys.argv.pop(1))
    main()
