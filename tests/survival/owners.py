"""Two owners of the same sessions: one stops past its heartbeat, the other takes over, and the first goes on."""

import asyncio
import json
import random
import signal
import sqlite3
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

from gatestream.server.durability.checkpoints import SILENCE_SECONDS
from tests.support.process import start
from tests.survival.crowd import Crowd, crowd
from tests.survival.walks import Plan
from tests.survival.wire import wire


def stop_owners(artifacts: Sequence[Path], plans: Sequence[Plan], folder: Path, rounds: int, seed: int = 0) -> Crowd:
    """The proof: clients are led back and forth between two servers, each time away from one that has stopped.

    The one that they come back to has in its memory what it had when it was stopped, and tried to write it when it went
    on: by its log, so many writes were refused.

    Args:
        artifacts: of the models of the plans.
        plans: of the walks.
        folder: for the store.
        rounds: how often.
        seed: of the moments.

    Raises:
        GatestreamError: a call of a walk failed.
    """
    rng = random.Random(seed)
    path = folder / "owners.db"
    settings = {"deterministic": True, "store": f"sqlite:{path}"}
    servers = [start(*artifacts, **settings) for _ in range(2)]

    async def go() -> Crowd:
        current = 0
        async with wire(lambda: [servers[current].port]) as middle, crowd(middle.address, plans) as made:
            for _ in range(rounds):
                await asyncio.sleep(rng.random())
                older, current = servers[current], 1 - current
                older.popen.send_signal(signal.SIGSTOP)
                middle.cut()
                # One that has been stopped within a transaction keeps the file from everybody until it goes on.
                free = await asyncio.to_thread(_is_free, path)
                made.fault("owners stopped" if free else "owners stopped within a write")
                await asyncio.sleep(rng.random() * SILENCE_SECONDS)
                # Now and then it is heard of before anybody has what it had.
                if free and rng.random() < 0.8:
                    await made.answered()
                older.popen.send_signal(signal.SIGCONT)
                await made.answered()
            return made

    try:
        made = asyncio.run(go())
        made.kinds["late writes refused"] = sum(_refused(server.log) for server in servers)
        return made
    finally:
        for server in servers:
            server.popen.send_signal(signal.SIGCONT)
            server.close()


def _is_free(path: Path) -> bool:
    """Whether somebody who wants to write to a SQLite file can."""
    with closing(sqlite3.connect(path, timeout=1, isolation_level=None)) as connection:
        try:
            connection.execute("begin immediate")
        except sqlite3.OperationalError:
            return False
        connection.execute("rollback")
        return True


def _refused(log: Path) -> int:
    """Checkpoints that the store did not take of a server, since another had claimed the sessions."""
    lines = map(json.loads, log.read_text().splitlines())
    said = "another server has claimed sessions, or they were deleted"
    return sum(line["sessions"] for line in lines if line["event"] == said)
