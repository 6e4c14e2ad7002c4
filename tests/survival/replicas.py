"""Three replicas behind a balancer, and the store that they share: each dies, or does not answer, at random moments."""

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

from tests.server.durability.valkey_server import Server
from tests.support.process import ServerProcess, start
from tests.support.scrape import HTTP, address, get
from tests.survival.crowd import Crowd, crowd
from tests.survival.walks import Plan
from tests.survival.wire import Wire, wire

_REPLICAS = 3
_CHECK_SECONDS = 0.2


class Replicas:
    """Servers that share a store, and who of them is ready.

    Args:
        artifacts: that each serves.
        store: that they share.

    Attributes:
        servers: by number; None: it is starting.
        ready: the ports of those that say they are.
    """

    def __init__(self, artifacts: Sequence[Path], store: str):
        self._artifacts = artifacts
        self._settings = {"deterministic": True, "store": store, **HTTP}
        self.servers: list[ServerProcess | None] = [start(*artifacts, **self._settings) for _ in range(_REPLICAS)]
        self.ready: list[int] = []
        self._turn = 0

    async def check(self) -> None:
        """Ask each of them at /readyz, as a balancer does, until cancelled."""
        while True:
            running = [server for server in self.servers if server is not None]
            self.ready = [server.port for server in running if await asyncio.to_thread(_ready, server)]
            await asyncio.sleep(_CHECK_SECONDS)

    def next(self) -> Sequence[int]:
        """Round robin among those that are ready."""
        self._turn += 1
        return [self.ready[(self._turn + k) % len(self.ready)] for k in range(len(self.ready))]

    async def replace(self, number: int) -> None:
        """Kill one, and have another in its place."""
        server, self.servers[number] = self.servers[number], None
        assert server is not None, "one at a time"
        server.kill()
        while self.servers[number] is None:
            # A server does not start while its store is away: whoever looks after servers tries again.
            with contextlib.suppress(RuntimeError):
                self.servers[number] = await asyncio.to_thread(start, *self._artifacts, **self._settings)

    def close(self) -> None:
        for server in self.servers:
            if server is not None:
                server.close()


def _ready(server: ServerProcess) -> bool:
    try:
        return get(address(server), "/readyz")[0] == 200
    except OSError:
        return False


@asynccontextmanager
async def balanced(replicas: Replicas) -> AsyncIterator[Wire]:
    """A balancer before them, for the length of a block; one is ready when it begins."""
    checks = asyncio.create_task(replicas.check())
    try:
        async with wire(replicas.next) as balancer:
            while not replicas.ready:
                await asyncio.sleep(_CHECK_SECONDS)
            yield balancer
    finally:
        checks.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await checks


def lose_replicas(
    artifacts: Sequence[Path],
    plans: Sequence[Plan],
    kills: int,
    restarts: int,
    away: Sequence[float],
    seed: int = 0,
) -> Crowd:
    """The proof.

    Args:
        artifacts: of the models of the plans.
        plans: of the walks.
        kills: how often one of the replicas is killed.
        restarts: how often the store is killed and started again on its file.
        away: for how many seconds each time the store does not answer.
        seed: of the moments.

    Raises:
        GatestreamError: a call of a walk failed.
    """
    store, rng = Server(), random.Random(seed)
    faults: list[str | float] = ["kills"] * kills + ["stores killed"] * restarts + list(away)
    rng.shuffle(faults)

    async def happen(fault: str | float, replicas: Replicas) -> None:
        match fault:
            case "kills":
                await replicas.replace(rng.randrange(_REPLICAS))
            case "stores killed":
                await asyncio.to_thread(store.kill)
                await asyncio.sleep(rng.random())
                await asyncio.to_thread(store.start)
            case float(seconds):
                with store.paused():
                    await asyncio.sleep(seconds)

    async def go(replicas: Replicas) -> Crowd:
        async with balanced(replicas) as balancer:
            async with crowd(balancer.address, plans) as made:
                for fault in faults:
                    await asyncio.sleep(rng.random() * 2)
                    made.check()
                    made.fault(fault if isinstance(fault, str) else f"stores away for {fault:g} s")
                    await happen(fault, replicas)
            return made

    store.start()
    try:
        replicas = Replicas(artifacts, store.url)
        try:
            return asyncio.run(go(replicas))
        finally:
            replicas.close()
    finally:
        store.end()
