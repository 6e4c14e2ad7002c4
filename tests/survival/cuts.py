"""Connections that are cut, delayed, throttled and half-open, under sessions that stream."""

import asyncio
import random
from collections.abc import Sequence
from pathlib import Path

from tests.support.process import serving
from tests.survival.crowd import Crowd, crowd
from tests.survival.walks import Plan
from tests.survival.wire import FAULTS, Wire, wire


async def disturb(middle: Wire, made: Crowd, rng: random.Random) -> None:
    """One fault of one connection; what is slow is as fast as before a moment later."""
    await asyncio.sleep(rng.random() * 0.5)
    made.check()
    whole = [each for each in middle.connections if not each.half_open and each.left is None]
    if not whole:
        return
    connection = rng.choice(whole)
    (name,) = rng.choices(list(FAULTS), [often for _, often in FAULTS.values()])
    made.fault(name)
    FAULTS[name][0](connection, rng)

    def mend() -> None:
        connection.delay = connection.rate = 0.0

    asyncio.get_running_loop().call_later(1.0, mend)


def cut_connections(
    artifacts: Sequence[Path], plans: Sequence[Plan], folder: Path, faults: int, seed: int = 0
) -> Crowd:
    """The proof.

    Args:
        artifacts: of the models of the plans.
        plans: of the walks.
        folder: for the store.
        faults: how many, in all.
        seed: of what happens when.

    Raises:
        GatestreamError: a call of a walk failed.
    """
    rng = random.Random(seed)
    with serving(*artifacts, deterministic=True, store=f"sqlite:{folder}/cuts.db") as server:

        async def go() -> Crowd:
            async with wire(lambda: [server.port]) as middle, crowd(middle.address, plans) as made:
                while len(made.faults) < faults:
                    await disturb(middle, made, rng)
            return made

        return asyncio.run(go())
