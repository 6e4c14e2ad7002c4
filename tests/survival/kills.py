"""A server that is killed at random moments, and started again on its port and its store."""

import asyncio
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tests.support.process import ServerProcess, start
from tests.survival.crowd import Crowd, crowd
from tests.survival.walks import Plan


class Restarted:
    """One server after another at one address.

    Args:
        artifacts: that each serves.
        settings: of each.
    """

    def __init__(self, artifacts: Sequence[Path], **settings: Any):
        self._artifacts = artifacts
        self._settings = {"deterministic": True, **settings}
        self.server: ServerProcess = start(*artifacts, **self._settings)
        self._settings["listen"] = self.server.address

    @property
    def address(self) -> str:
        return self.server.address

    async def again(self) -> None:
        """Kill it, and have another serve."""
        self.server.kill()
        self.server = await asyncio.to_thread(start, *self._artifacts, **self._settings)

    def close(self) -> None:
        self.server.close()


async def _killed(server: Restarted, made: Crowd, kills: int, rng: random.Random) -> None:
    for _ in range(kills):
        # From the middle of the resumption to long after it.
        await asyncio.sleep(rng.random() ** 2 * 3)
        made.check()
        made.fault("kills")
        await server.again()


def kill_server(
    artifacts: Sequence[Path],
    plans: Sequence[Plan],
    folder: Path,
    kills: int,
    durability: str,
    seed: int = 0,
    **settings: Any,
) -> Crowd:
    """The proof: `kills` times, with SQLite.

    Args:
        artifacts: of the models of the plans.
        plans: of the walks.
        folder: for the store.
        kills: how many.
        durability: as the server's setting.
        seed: of the moments.
        settings: more of the server.

    Raises:
        GatestreamError: a call of a walk failed.
    """
    store = f"sqlite:{folder / 'killed.db'}"
    server = Restarted(artifacts, store=store, durability=durability, **settings)

    async def go() -> Crowd:
        async with crowd(server.address, plans) as made:
            await _killed(server, made, kills, random.Random(seed))
        return made

    try:
        return asyncio.run(go())
    finally:
        server.close()
