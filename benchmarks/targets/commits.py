"""Commits of a SQLite store that survive a power cut, and nothing else: what a durable answer must cost at least."""

import asyncio
import time
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np

from benchmarks.harness.statistics import Figures
from gatestream.server.durability.checkpoints import Checkpoint, Claim, Key, Meaning, Writes
from gatestream.server.durability.sqlite import SqliteStore

OWNER = "benchmark"
WIDTH = 1024


class Commits:
    """A store with some sessions of 1 KiB; in a `with` block.

    Args:
        path: of its file.
        most: sessions that a commit may be of.
    """

    def __init__(self, path: Path, most: int):
        self._runner = asyncio.Runner()
        self._store = SqliteStore(path, synchronous="FULL")
        self._keys = [Key("", "model", f"session-{k}") for k in range(most)]
        self._sequence = 0

    def __enter__(self) -> Self:
        self._runner.run(self._open())
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._runner.run(self._store.close_store(OWNER))
        self._runner.close()

    async def _open(self) -> None:
        await self._store.beat(OWNER)
        new = Claim(OWNER, 0, Meaning("weights", "states", "1"), Checkpoint(0, 0, bytes(WIDTH)), True)
        await asyncio.gather(*(self._store.claim(key, new) for key in self._keys))

    def measure(self, count: int, seconds: float) -> Figures:
        """A window of commits of so many sessions, one after another, from the call to the answer."""
        return self._runner.run(self._window(count, seconds))

    async def _window(self, count: int, seconds: float) -> Figures:
        states, epochs = np.zeros((count, WIDTH), np.uint8), np.ones(count, np.int64)
        times: list[float] = []
        end = time.perf_counter() + seconds
        while not times or time.perf_counter() < end:
            self._sequence += 1
            at = np.full(count, self._sequence, np.int64)
            began = time.perf_counter()
            written = await self._store.write(Writes(OWNER, self._keys[:count], epochs, at, at, at, states))
            times.append(1e6 * (time.perf_counter() - began))
            assert written.taken.all()
        return {"p50_us": float(np.median(times)), "p99_us": float(np.quantile(times, 0.99))}
