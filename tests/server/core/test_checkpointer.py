"""The loop that writes checkpoints."""

import asyncio

import numpy as np
import pytest

from gatestream.server.config import Limits
from gatestream.server.core.checkpointer import Checkpointer
from gatestream.server.durability.memory import MemoryStore


@pytest.mark.parametrize("turns", range(6))
async def test_it_ends_when_it_is_cancelled_whatever_comes_in_the_same_turn(turns: int) -> None:
    checkpointer = Checkpointer(MemoryStore(), Limits(), before_answer=True)
    running = asyncio.create_task(checkpointer.run())
    await asyncio.sleep(0.01)
    checkpointer.close([], np.empty(0, np.int64))
    for _ in range(turns):
        await asyncio.sleep(0)
    running.cancel()
    for _ in range(20):
        await asyncio.sleep(0)
    assert running.cancelled()
