"""`gatestream`, with its loop and its checkpoints timed: `python -m benchmarks.contenders.timed FILE serve ...`.

FILE has the callbacks of the loop of a millisecond and more (tests.hostile.probed), FILE.rounds a line for each round
of checkpoints that wrote something: when it ended, its milliseconds, and how many sessions it wrote.
"""

import os
import sys
import time
from typing import Any

from gatestream.cli.main import main
from gatestream.server.core.checkpointer import Checkpointer
from tests.hostile.probed import probe


def time_rounds(path: str) -> None:
    """Time each round of this process' checkpoints."""
    out = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    checkpointer: Any = Checkpointer
    whole = checkpointer.round

    async def timed(self: Checkpointer) -> None:
        before, began = self.stats.written, time.perf_counter()
        await whole(self)
        if count := self.stats.written - before:
            took = time.perf_counter() - began
            os.write(out, f"{time.time():.3f} {took * 1e3:.3f} {count}\n".encode())

    checkpointer.round = timed


if __name__ == "__main__":
    file = sys.argv.pop(1)
    probe(file)
    time_rounds(f"{file}.rounds")
    main()
