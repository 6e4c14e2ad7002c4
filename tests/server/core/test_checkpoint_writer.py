"""Checkpoints of more sessions than go to the store at once; it is one in memory."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import numpy as np
import pytest

from gatestream.server.arrays import Ints
from gatestream.server.core import checkpoint_writer
from gatestream.server.core.checkpointer import Checkpointer
from gatestream.server.core.claims import Wish
from gatestream.server.durability.checkpoints import Checkpoint, Key, Writes, Written
from gatestream.server.durability.memory import MemoryStore
from gatestream.server.errors import StoreUnavailable
from tests.support.engine import Bench, Recorder, bench

SESSIONS = 45
AT_ONCE = 10
PARKS = Wish(parks=True)


class WatchedStore(MemoryStore):
    """A store that takes some turns of the loop for each write, and notes what it is asked; it may fail."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[str] = []
        self.fails_at = -1

    async def write(self, writes: Writes) -> Written:
        number = self.asked.count("write")
        self.asked.append("write")
        for _ in range(5):
            await asyncio.sleep(0)
        if number == self.fails_at:
            raise StoreUnavailable("the store does not answer")
        return await super().write(writes)

    async def replace(self, key: Key, owner: str, epoch: int, checkpoint: Checkpoint) -> bool:
        self.asked.append("replace")
        return await super().replace(key, owner, epoch, checkpoint)


@pytest.fixture
def store() -> WatchedStore:
    return WatchedStore()


@pytest.fixture
async def b(accumulator_path: Path, store: WatchedStore, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Bench]:
    monkeypatch.setattr(checkpoint_writer, "_ROWS", AT_ONCE)
    async with bench(accumulator_path, sessions=2 * SESSIONS, store=store) as made:
        yield made


async def stepped(b: Bench) -> tuple[Checkpointer, Recorder, Ints]:
    """Sessions that have all taken a step, and acknowledged nothing."""
    assert b.checkpointer is not None
    owner = Recorder()
    sessions = [b.open(owner, k, f"s{k}", wish=PARKS) for k in range(SESSIONS)]
    await b.engine.quiet()
    b.steps(owner, list(range(SESSIONS)), sessions, [[1.0]] * SESSIONS)
    await b.engine.quiet()
    owner.take()
    return b.checkpointer, owner, np.array(sessions)


async def test_each_is_written_in_one_round_and_its_owner_hears_what_is_durable(b: Bench, store: WatchedStore) -> None:
    writer, owner, sessions = await stepped(b)
    table = b.engine.sessions
    table.acknowledged[sessions] = 1
    await writer.round()
    assert (table.written[sessions] == 1).all()
    assert writer.now().dirty == 0
    told = [heard for heard in owner.take() if heard[0] == "durable"]
    assert sorted(handle for _, handles, _ in told for handle in handles) == list(range(SESSIONS))
    assert all(sequence == 1 for _, _, sequences in told for sequence in sequences)
    assert len(store.asked) == 5


@pytest.mark.parametrize("fails_at", range(3))
async def test_what_the_store_did_not_take_is_written_by_the_next_round(
    b: Bench, store: WatchedStore, fails_at: int
) -> None:
    writer, _, sessions = await stepped(b)
    store.fails_at = fails_at
    with pytest.raises(StoreUnavailable):
        await writer.round()
    assert 0 < writer.now().dirty < SESSIONS
    await writer.round()
    assert (b.engine.sessions.written[sessions] == 1).all()


async def test_a_state_that_is_set_need_not_wait_for_the_whole_round(b: Bench, store: WatchedStore) -> None:
    writer, _, sessions = await stepped(b)
    kept, table = b.lifecycle.kept, b.engine.sessions
    assert kept is not None
    last = int(sessions[-1])
    rounds = asyncio.create_task(writer.round())
    while "write" not in store.asked:
        await asyncio.sleep(0)
    state = Checkpoint(9, 9, kept.checkpoint(last).state)
    assert await writer.replace(kept.key(last), int(table.epoch[last]), state)
    await rounds
    assert store.asked[-1] == "write"
    assert (table.written[sessions[:-1]] == 1).all()
