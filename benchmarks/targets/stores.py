"""What the stores of sessions cost: a checkpoint of many, a claim, and a restore."""

import asyncio
import sys
import tempfile
import threading
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import numpy as np

from benchmarks.harness.bench import FULL, Bench
from benchmarks.harness.report import Section, Verdict
from benchmarks.harness.statistics import Spread
from gatestream.server.arrays import Ints
from gatestream.server.durability.checkpoints import Checkpoint, Claim, Key, Meaning, Store, Writes
from gatestream.server.durability.memory import MemoryStore
from gatestream.server.durability.sqlite import SqliteStore
from gatestream.server.durability.valkey import ValkeyStore
from gatestream.server.durability.valkey_url import connect
from tests.server.durability.valkey_server import Server

WIDTH: Final = 1024
COUNTS: Final = (64, 1_000, 10_000)
OWNER: Final = "benchmark"
MEANING: Final = Meaning("weights", "states", "1")
BOUND_MS: Final = 250.0
RESTORE_BOUND_MS: Final = 5.0
# As the server's tuning has it.
SWITCH_SECONDS: Final = 1e-4
CLAIMS: Final = 200


def measure(bench: Bench) -> Section:
    section = Section(
        "stores",
        0,
        "Stores of sessions",
        "Sessions of 1 KiB. write_N: milliseconds of a checkpoint of N, and held: the longest that the event loop was "
        "held meanwhile, beside a thread that keeps the interpreter busy; the loop does nothing else. claim, restore: "
        "milliseconds from the call to the answer, of a new session and of a parked one. valkey is a Redis server "
        "on this machine.",
    )
    sys.setswitchinterval(SWITCH_SECONDS)
    repeats = 9 if bench.pace.repeats == FULL.repeats else 3
    with tempfile.TemporaryDirectory() as folder, _server() as server:
        stores: dict[str, Callable[[], Store]] = {
            "memory": MemoryStore,
            "sqlite NORMAL": lambda: SqliteStore(Path(folder) / "normal.db"),
            "sqlite FULL": lambda: SqliteStore(Path(folder) / "full.db", synchronous="FULL"),
            "valkey": lambda: ValkeyStore(*connect(server.url)),
        }
        for name, make in stores.items():
            section.contenders[name] = asyncio.run(_measured(make(), repeats))
        for name in ("sqlite NORMAL", "sqlite FULL", "valkey"):
            found = section.contenders[name]
            section.verdicts.append(Verdict(f"{name}: 10,000 written", found["write_10000"], BOUND_MS, True, "ms"))
            section.verdicts.append(Verdict(f"{name}: a restore", found["restore"], RESTORE_BOUND_MS, True, "ms"))
    return section


async def _measured(store: Store, repeats: int) -> dict[str, Spread]:
    await store.beat(OWNER)
    keys = [Key("", "model", f"session-{k:06}") for k in range(max(COUNTS))]
    first = Checkpoint(0, 0, bytes(WIDTH))
    new = Claim(OWNER, 0, MEANING, first, True)
    found = {"claim": await _each(lambda key: store.claim(key, new), keys[:CLAIMS])}
    await asyncio.gather(*(store.claim(key, new) for key in keys[CLAIMS:]))
    states = np.random.default_rng(0).integers(0, 256, (max(COUNTS), WIDTH), np.uint8)
    epochs = np.ones(max(COUNTS), np.int64)
    sequence = 0
    for count in COUNTS:
        times, held = [], []
        for _ in range(repeats):
            sequence += 2
            at = np.full(count, sequence, np.int64)
            writes = Writes(OWNER, keys[:count], epochs[:count], at, at, at - 1, states[:count])
            with _busy():
                watch = asyncio.create_task(_longest_hold())
                await asyncio.sleep(0.01)
                began = time.perf_counter()
                written = await store.write(writes)
                times.append(1e3 * (time.perf_counter() - began))
                watch.cancel()
                held.append(1e3 * await watch)
            assert written.taken.all()
        found |= {f"write_{count}": Spread.of(times), f"held_{count}": Spread.of(held)}
    await _release(store, keys, epochs)
    restore = Claim(OWNER, 0, MEANING, None, True, acknowledged=sequence)
    found["restore"] = await _each(lambda key: store.claim(key, restore), keys[:CLAIMS])
    await store.close_store(OWNER)
    return found


async def _each(ask: Callable[[Key], Awaitable[object]], keys: Sequence[Key]) -> Spread:
    times = []
    for key in keys:
        began = time.perf_counter()
        await ask(key)
        times.append(1e3 * (time.perf_counter() - began))
    return Spread.of(times)


async def _release(store: Store, keys: Sequence[Key], epochs: Ints) -> None:
    await store.release(OWNER, keys, epochs)


async def _longest_hold() -> float:
    """Seconds that a timer was late, at most, until it is cancelled."""
    longest, before = 0.0, time.perf_counter()
    try:
        while True:
            await asyncio.sleep(1e-3)
            now = time.perf_counter()
            longest, before = max(longest, now - before - 1e-3), now
    except asyncio.CancelledError:
        return longest


@contextmanager
def _busy() -> Iterator[None]:
    """A thread that wants the interpreter all the time, as a server's does."""
    stop = threading.Event()

    def spin() -> None:
        while not stop.is_set():
            sum(range(200))

    thread = threading.Thread(target=spin)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


@contextmanager
def _server() -> Iterator[Server]:
    server = Server()
    server.start()
    try:
        yield server
    finally:
        server.end()
