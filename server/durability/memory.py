"""The store that ends with its process. What it does is what every store does, in the fewest words."""

import asyncio
import heapq
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Sequence
from itertools import chain, count
from typing import Final

import numpy as np
import numpy.typing as npt

from gatestream.server.arrays import Ints
from gatestream.server.durability import rules
from gatestream.server.durability.checkpoints import (
    CLOSED_SECONDS,
    SILENCE_SECONDS,
    Checkpoint,
    Claim,
    Claimed,
    Key,
    Owned,
    Stored,
    Writes,
    Written,
)
from gatestream.server.durability.rules import Record

# Sessions that are written at once, in some 0.2 ms, and the turns of the event loop that follow: as many as it takes to
# read a message, to make its run and to answer it.
_AT_ONCE: Final = 64
_TURNS: Final = 5
# And those that are only looked at.
_LOOKED_AT: Final = 2000


class MemoryStore:
    """Checkpoints in this process' memory, on its event loop. As `Store`; bounded by what its callers put into it.

    Args:
        silence: seconds after its last beat at which an owner counts as dead.
    """

    kind = "memory"
    shared = False

    def __init__(self, silence: float = SILENCE_SECONDS):
        self._silence = silence
        self._records: dict[Key, Record] = {}
        self._beats: dict[str, float] = {}
        self._wanted: defaultdict[str, set[Key]] = defaultdict(set)
        self._usage: defaultdict[str, tuple[int, int]] = defaultdict(lambda: (0, 0))

    async def claim(self, key: Key, claim: Claim) -> Claimed:
        """As `Store`."""
        record = self._records.get(key)
        try:
            after, answer = rules.claimed(key, record, claim, self._lives, time.time())
        except Owned:
            assert record is not None, "it has an owner"
            self._records[key] = record._replace(wanted=True)
            self._wanted[record.owner].add(key)
            raise
        self._set(key, after)
        return answer

    async def write(self, writes: Writes) -> Written:
        """As `Store`."""
        n = len(writes.keys)
        result = Written(np.zeros(n, bool), np.zeros(n, np.int64), np.zeros(n, bool))
        for start in range(0, n, _AT_ONCE):
            if start:
                for _ in range(_TURNS):
                    await asyncio.sleep(0)
            self._write(writes, slice(start, start + _AT_ONCE), result)
        return result

    def _write(self, writes: Writes, piece: slice, result: Written) -> None:
        now = time.time()
        columns = (writes.epochs, writes.sequences, writes.positions, writes.acknowledged)
        numbers = (column[piece].tolist() for column in columns)
        rows = zip(count(piece.start), writes.keys[piece], *numbers, writes.states[piece], strict=False)
        for k, key, epoch, sequence, position, acknowledged, state in rows:
            record = self._owned(key, writes.owner, epoch)
            if record is None:
                continue
            stay = rules.written(record.checkpoints, Checkpoint(sequence, position, state.tobytes()), acknowledged)
            self._records[key] = record._replace(checkpoints=stay, written=now)
            result.taken[k], result.durable[k], result.wanted[k] = True, stay[0].sequence, record.wanted

    async def replace(self, key: Key, owner: str, epoch: int, checkpoint: Checkpoint) -> bool:
        """As `Store`."""
        record = self._owned(key, owner, epoch)
        if record is not None:
            self._set(key, record._replace(checkpoints=(checkpoint,), written=time.time()))
        return record is not None

    async def release(self, owner: str, keys: Sequence[Key], epochs: Ints) -> None:
        """As `Store`."""
        for key, epoch in zip(keys, epochs.tolist(), strict=True):
            record = self._owned(key, owner, epoch)
            if record is not None:
                self._set(key, record._replace(owner="", wanted=False))

    async def close(self, keys: Sequence[Key], epochs: Ints) -> npt.NDArray[np.bool_]:
        """As `Store`."""
        closed = np.zeros(len(keys), bool)
        for k, (key, epoch) in enumerate(zip(keys, epochs.tolist(), strict=True)):
            record = self._records.get(key)
            if record is not None and record.checkpoints and record.epoch == epoch:
                self._end(key, record)
                closed[k] = True
        return closed

    async def read(self, key: Key) -> Stored:
        """As `Store`."""
        record = self._records.get(key)
        if record is None or not record.checkpoints:
            raise rules.unknown(key)
        return _stored(key, record)._replace(lives=self._lives(record.owner))

    async def put(self, stored: Stored) -> None:
        """As `Store`."""
        self._set(stored.key, rules.put(stored.key, self._records.get(stored.key), stored, time.time()))

    async def page(self, tenant: str | None, model: str | None, behind: Key | None, size: int) -> Sequence[Stored]:
        """As `Store`."""
        found: list[Key] = []
        async for piece in self._pieces():
            keys = (
                key
                for key in piece
                if tenant in (None, key.tenant) and model in (None, key.model) and (behind is None or key > behind)
                if self._records[key].checkpoints
            )
            found = heapq.nsmallest(size, chain(found, keys))
        # Some may have ended meanwhile.
        there = ((key, self._records.get(key)) for key in found)
        return [_stored(key, record)._replace(checkpoints=()) for key, record in there if record and record.checkpoints]

    async def delete(self, keys: Sequence[Key]) -> int:
        """As `Store`."""
        found = [(key, self._records[key]) for key in dict.fromkeys(keys) if key in self._records]
        live = [(key, record) for key, record in found if record.checkpoints]
        for key, record in live:
            self._end(key, record)
        return len(live)

    async def prune(self, before: float) -> int:
        """As `Store`."""
        forgotten = max(before, time.time() - CLOSED_SECONDS)
        gone = 0
        async for piece in self._pieces():
            for key in piece:
                record = self._records[key]
                if record.checkpoints:
                    if record.written >= before or self._lives(record.owner):
                        continue
                    self._end(key, record)
                    gone += 1
                elif record.written >= forgotten:
                    continue
                del self._records[key]
        return gone

    async def usage(self, tenant: str) -> tuple[int, int]:
        """As `Store`."""
        return self._usage.get(tenant, (0, 0))

    async def beat(self, owner: str) -> Sequence[Key]:
        """As `Store`."""
        self._beats[owner] = time.monotonic()
        return list(self._wanted.get(owner, ()))

    async def close_store(self, owner: str) -> None:
        """As `Store`."""
        self._beats.pop(owner, None)
        for key, record in self._records.items():
            if record.owner == owner:
                self._records[key] = record._replace(owner="", wanted=False)
        self._wanted.pop(owner, None)

    async def _pieces(self) -> AsyncIterator[list[Key]]:
        """All keys, some at a time, those that are there: between two pieces the loop has its turn."""
        keys = list(self._records)
        for start in range(0, len(keys), _LOOKED_AT):
            yield [key for key in keys[start : start + _LOOKED_AT] if key in self._records]
            await asyncio.sleep(0)

    def _lives(self, owner: str) -> bool:
        beat = self._beats.get(owner)
        return beat is not None and time.monotonic() - beat < self._silence

    def _owned(self, key: Key, owner: str, epoch: int) -> Record | None:
        record = self._records.get(key)
        return record if record and record.checkpoints and (record.owner, record.epoch) == (owner, epoch) else None

    def _set(self, key: Key, record: Record) -> None:
        before = self._records.get(key)
        if before is not None and before.wanted and not record.wanted:
            self._wanted[before.owner].discard(key)
        count, room = self._usage[key.tenant]
        count += bool(record.checkpoints) - bool(before and before.checkpoints)
        room += record.room - (before.room if before else 0)
        self._usage[key.tenant] = count, room
        if not count:
            del self._usage[key.tenant]
        self._records[key] = record

    def _end(self, key: Key, record: Record) -> None:
        self._set(key, record._replace(owner="", checkpoints=(), written=time.time(), wanted=False))


def _stored(key: Key, record: Record) -> Stored:
    return Stored(key, record.epoch, record.owner, record.meaning, record.checkpoints, record.room, record.written)
