"""The stores that every test of a store runs against, and what such tests ask of them."""

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import numpy as np

from gatestream.server.durability.checkpoints import Checkpoint, Claim, Key, Meaning, Store, Writes
from gatestream.server.durability.memory import MemoryStore
from gatestream.server.durability.sqlite import SqliteStore
from gatestream.server.durability.valkey import ValkeyStore
from gatestream.server.durability.valkey_url import connect
from tests.server.durability.valkey_server import SERVER

MEANING = Meaning("weights" * 9, "layout" * 9, "3")
WIDTH = 16
FOREVER = 10_000.0

Open = Callable[[Path, float], Store]
OPEN: dict[str, Open] = {
    "memory": lambda _, silence: MemoryStore(silence),
    "valkey": lambda _, silence: ValkeyStore(*connect(SERVER.emptied()), silence),
    "sqlite": lambda folder, silence: SqliteStore(folder / "sessions.db", silence=silence),
}


@asynccontextmanager
async def opened(kind: str, folder: Path, silence: float = FOREVER) -> AsyncIterator[Store]:
    """A store with nothing in it, in which owners `a` and `b` live."""
    store = OPEN[kind](folder, silence)
    for owner in ("a", "b"):
        await store.beat(owner)
    yield store
    await store.close_store("a")


def key(name: str, tenant: str = "t", model: str = "m") -> Key:
    return Key(tenant, model, name)


def state(seed: int) -> bytes:
    return np.random.default_rng(seed).bytes(WIDTH)


def at(sequence: int, seed: int = 0) -> Checkpoint:
    """A checkpoint whose state says where it is of."""
    return Checkpoint(sequence, sequence + 100, state(1000 * seed + sequence))


def claim(
    owner: str = "a",
    epoch: int = 0,
    *,
    first: Checkpoint | None = None,
    taken_up: bool = True,
    acknowledged: int | None = None,
    resident: tuple[int, Checkpoint] | None = None,
    meaning: Meaning = MEANING,
) -> Claim:
    return Claim(owner, epoch, meaning, first, taken_up, acknowledged, resident)


def writes(owner: str, rows: Sequence[tuple[Key, int, Checkpoint, int]]) -> Writes:
    """The columns of rows of key, epoch, checkpoint, acknowledged."""
    keys, epochs, checkpoints, acknowledged = zip(*rows, strict=True)
    return Writes(
        owner,
        keys,
        np.array(epochs, np.int64),
        np.array([item.sequence for item in checkpoints], np.int64),
        np.array([item.position for item in checkpoints], np.int64),
        np.array(acknowledged, np.int64),
        np.stack([np.frombuffer(item.state, np.uint8) for item in checkpoints]),
    )
