"""All of it at random for many minutes: what a replica that lives on uses stays flat, and how long a call takes."""

import asyncio
import random
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

from tests.server.durability.valkey_server import Server
from tests.survival.crowd import Crowd, Outcome, crowd, outcome
from tests.survival.cuts import disturb
from tests.survival.replicas import Replicas, balanced
from tests.survival.walks import Plan
from tests.survival.wire import Wire

_SAMPLE_SECONDS = 5.0
_PARTS = 4
# What a part of the time may have more than the first: connections come and go.
_FILES = 16
_THREADS = 4
_MEMORY = 1.25


@dataclass(frozen=True)
class Sample:
    """Of the replica that is never killed.

    Attributes:
        at: seconds of the monotonic clock.
        mib: resident memory.
        files: open ones, sockets among them.
        threads: of it.
    """

    at: float
    mib: float
    files: int
    threads: int


@dataclass(frozen=True)
class Part:
    """Medians over a quarter of the time.

    Attributes:
        mib, files, threads: as in `Sample`.
        call_ms: milliseconds of a call.
    """

    mib: float
    files: float
    threads: float
    call_ms: float


@dataclass(frozen=True)
class Soaked:
    """What came of it."""

    outcome: Outcome
    parts: Sequence[Part]

    @property
    def whole(self) -> bool:
        """Whether every answer came, and nothing grew."""
        first, last = self.parts[0], self.parts[-1]
        return self.outcome.whole and (
            last.files <= first.files + _FILES
            and last.threads <= first.threads + _THREADS
            and last.mib <= first.mib * _MEMORY
        )

    def __str__(self) -> str:
        def row(name: str, values: Sequence[float], digits: int) -> str:
            return f"{name} " + ", ".join(f"{value:.{digits}f}" for value in values)

        rows = (
            row("MiB", [part.mib for part in self.parts], 0),
            row("files", [part.files for part in self.parts], 0),
            row("threads", [part.threads for part in self.parts], 0),
            row("ms a call", [part.call_ms for part in self.parts], 1),
        )
        return f"{self.outcome}; by quarters: " + "; ".join(rows)


def soak(artifacts: Sequence[Path], plans: Sequence[Plan], undisturbed: str, minutes: float, seed: int = 0) -> Soaked:
    """The proof: three replicas behind a balancer, their store, and the connections to them.

    Args:
        artifacts: of the models of the plans.
        plans: of the walks.
        undisturbed: the address of a server that nothing happens to.
        minutes: for how long.
        seed: of what happens when.

    Raises:
        GatestreamError: a call of a walk failed.
    """
    rng, store, samples = random.Random(seed), Server(), list[Sample]()
    until = 0.0

    async def cut(balancer: Wire, made: Crowd) -> None:
        while time.monotonic() < until:
            await asyncio.sleep(rng.random() * 4)
            await disturb(balancer, made, rng)

    async def kill_others(replicas: Replicas, made: Crowd) -> None:
        while time.monotonic() < until:
            await asyncio.sleep(rng.uniform(5, 25))
            made.fault("kills")
            await replicas.replace(rng.randrange(1, len(replicas.servers)))

    async def harm_store(made: Crowd) -> None:
        while time.monotonic() < until:
            await asyncio.sleep(rng.uniform(20, 60))
            if rng.random() < 0.5:
                made.fault("stores killed")
                await asyncio.to_thread(store.kill)
                await asyncio.sleep(rng.random())
                await asyncio.to_thread(store.start)
            else:
                made.fault("stores away for a while")
                with store.paused():
                    await asyncio.sleep(rng.uniform(1, 10))

    async def look(process: psutil.Process) -> None:
        while time.monotonic() < until:
            with process.oneshot():
                mib = process.memory_info().rss / 2**20
                samples.append(Sample(time.monotonic(), mib, process.num_fds(), process.num_threads()))
            await asyncio.sleep(_SAMPLE_SECONDS)

    async def go(replicas: Replicas) -> Crowd:
        nonlocal until
        lasting = replicas.servers[0]
        assert lasting is not None, "it runs"
        async with balanced(replicas) as balancer, crowd(balancer.address, plans) as made:
            until = time.monotonic() + minutes * 60
            await asyncio.gather(
                cut(balancer, made),
                kill_others(replicas, made),
                harm_store(made),
                look(psutil.Process(lasting.popen.pid)),
            )
            return made

    store.start()
    try:
        replicas = Replicas(artifacts, store.url)
        try:
            made = asyncio.run(go(replicas))
        finally:
            replicas.close()
    finally:
        store.end()
    return Soaked(outcome(made, undisturbed), _parts(samples, made))


def _parts(samples: Sequence[Sample], made: Crowd) -> list[Part]:
    first, last = samples[0].at, samples[-1].at
    found = []
    for k in range(_PARTS):
        begin, end = (first + (last - first) * each / _PARTS for each in (k, k + 1))
        inside = [each for each in samples if begin <= each.at <= end]
        calls = [until - since for walk in made.walks for since, until in walk.calls if begin <= since <= end]
        found.append(
            Part(
                statistics.median(each.mib for each in inside),
                statistics.median(each.files for each in inside),
                statistics.median(each.threads for each in inside),
                statistics.median(calls) * 1e3,
            )
        )
    return found
