"""Many more sessions than slots on a real server: all that they are asked, against plain sums; none is lost."""

import asyncio
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gatestream.client import aio
from tests.support.artifacts import whole_numbers
from tests.support.process import ServerProcess, serving

SLOTS, CLIENTS, SESSIONS, ACTS = 8, 4, 25, 15
PATIENCE = 120.0


class Walk:
    """One session, what it is asked, and the sum that it must stand at.

    Args:
        clients: of which one has it at a time.
        name: of the session.
    """

    def __init__(self, clients: list[aio.Client], name: str):
        self._clients = clients
        self._name = name
        self._chance = random.Random(name)
        self._rows = np.random.default_rng(self._chance.getrandbits(32))
        self._sums = np.zeros(2, np.float32)

    async def run(self) -> None:
        """Ask it this and that."""
        session = await self._open(self._name)
        for act in self._chance.choices(
            ["step", "chunk", "reset", "fork", "set", "leave"], [12, 6, 2, 2, 1, 2], k=ACTS
        ):
            if act == "step":
                await self._step(session)
            elif act == "chunk":
                rows = whole_numbers(self._rows, self._chance.randint(1, 40))
                got = await session.run(rows)
                expected = self._sums + np.cumsum(rows, 0)
                assert np.array_equal(got, expected), self._name
                self._sums = expected[-1]
            elif act == "reset":
                await session.reset()
                self._sums[:] = 0
            elif act == "fork":
                # The copy goes on, and the other one is left where it was.
                session = await self._open(await session.fork())
            elif act == "set":
                await session.set_state(await session.get_state())
            else:
                session = await self._open(session.id)
            await asyncio.sleep(self._chance.choice([0, 0, 0.01, 0.05]))
        await self._step(session)
        assert np.array_equal((await session.get_state()).arrays["s"], self._sums)
        await session.close()

    async def _open(self, name: str) -> aio.Session:
        """By a client of whichever: it is taken from the one that had it."""
        return await self._chance.choice(self._clients).session(id=name)

    async def _step(self, session: aio.Session) -> None:
        row = whole_numbers(self._rows, 1)[0]
        self._sums = self._sums + row
        assert np.array_equal(await session.step(row), self._sums), self._name


async def walk(server: ServerProcess) -> None:
    clients = [await aio.connect(server.address, timeout=PATIENCE) for _ in range(CLIENTS)]
    async with asyncio.TaskGroup() as group:
        for k in range(CLIENTS * SESSIONS):
            group.create_task(Walk(clients, f"walk-{k}").run())
    for client in clients:
        await client.close()


@pytest.mark.parametrize(("store", "durability"), [("memory", "behind"), ("sqlite", "before-answer")])
def test_each_gives_its_sums_whoever_has_the_slots(
    accumulator_path: Path, tmp_path: Path, store: str, durability: str
) -> None:
    where = store if store == "memory" else f"sqlite:{tmp_path}/sessions.db"
    settings: dict[str, Any] = {"sessions": SLOTS, "held_sessions": 4 * CLIENTS * SESSIONS, "durability": durability}
    with serving(accumulator_path, store=where, **settings) as server:
        asyncio.run(walk(server))
        assert '"level": "error"' not in server.log.read_text()
