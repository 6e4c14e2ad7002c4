"""The store in a SQLite file, which the workers of one machine share.

A write of many sessions is a handful of statements, whatever their number: they run without the interpreter's lock.
"""

import asyncio
import time
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt

from gatestream.server.arrays import Ints
from gatestream.server.durability import rules
from gatestream.server.durability import sqlite_rows as sessions
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
from gatestream.server.durability.database import Database, Synchronous
from gatestream.server.durability.transactions import Transactions, Use
from gatestream.server.errors import StoreUnavailable

# Of states, in one transaction.
_PIECE_BYTES: Final = 4 * 2**20


class SqliteStore:
    """Checkpoints in a file, on a thread. As `Store`.

    Args:
        path: of the file; beside it stand PATH-wal, PATH-shm and PATH-owners.
        create: make it where it is not there.
        synchronous: NORMAL: a power cut may take the latest commits, though never the death of a process; FULL: none.
        silence: seconds after its last beat at which an owner counts as dead, if its process still runs.
    """

    kind = "sqlite"
    shared = True

    def __init__(
        self,
        path: Path,
        *,
        create: bool = True,
        synchronous: Synchronous = "NORMAL",
        silence: float = SILENCE_SECONDS,
    ):
        self._silence = silence
        self._transactions = Transactions(Database(path, create, synchronous))

    async def claim(self, key: Key, claim: Claim) -> Claimed:
        """As `Store`."""

        def work(use: Use) -> Claimed:
            row = sessions.read(use, key)
            try:
                after, answer = rules.claimed(
                    key, row and row.record, claim, lambda owner: sessions.lives(use, owner, self._silence), time.time()
                )
            except Owned:
                assert row is not None, "it has an owner"
                use.connection.execute("update sessions set wanted = 1 where id = ?", (row.id,))
                raise
            sessions.keep(use, key, row, after)
            return answer

        return await self._transactions.do(work)

    async def write(self, writes: Writes) -> Written:
        """As `Store`."""
        n = len(writes.keys)
        result = Written(np.zeros(n, bool), np.zeros(n, np.int64), np.zeros(n, bool))
        most = max(1, min(sessions.PIECE, _PIECE_BYTES // max(1, writes.states.shape[1])))
        for start in range(0, n, most):
            piece = slice(start, min(start + most, n))
            rows = await self._transactions.do(partial(sessions.write, writes=writes, piece=piece), large=True)
            if rows:
                at, durable, wanted = np.array(rows, np.int64).T
                at += start
                result.taken[at], result.durable[at], result.wanted[at] = True, durable, wanted != 0
        return result

    async def replace(self, key: Key, owner: str, epoch: int, checkpoint: Checkpoint) -> bool:
        """As `Store`."""

        def work(use: Use) -> bool:
            row = sessions.read(use, key, check=False)
            if row is None or not row.record.checkpoints or row.record[:2] != (epoch, owner):
                return False
            sessions.keep(use, key, row, row.record._replace(checkpoints=(checkpoint,), written=time.time()))
            return True

        return await self._transactions.do(work)

    async def release(self, owner: str, keys: Sequence[Key], epochs: Ints) -> None:
        """As `Store`."""
        for piece in _pieces(len(keys)):
            asked = _named(keys[piece], epochs[piece])
            await self._transactions.do(partial(sessions.release, asked=asked, owner=owner), large=True)

    async def close(self, keys: Sequence[Key], epochs: Ints) -> npt.NDArray[np.bool_]:
        """As `Store`."""
        closed = np.zeros(len(keys), bool)
        for piece in _pieces(len(keys)):
            asked = _named(keys[piece], epochs[piece])
            found = await self._transactions.do(partial(sessions.end, asked=asked), large=True)
            closed[piece][found] = True
        return closed

    async def read(self, key: Key) -> Stored:
        """As `Store`."""

        def work(use: Use) -> Stored:
            row = sessions.read(use, key)
            if row is None or not row.record.checkpoints:
                raise rules.unknown(key)
            record = row.record
            lives = bool(record.owner) and sessions.lives(use, record.owner, self._silence)
            epoch, owner, meaning, checkpoints, written, _ = record
            return Stored(key, epoch, owner, meaning, checkpoints, record.room, written, lives)

        return await self._transactions.do(work)

    async def put(self, stored: Stored) -> None:
        """As `Store`."""

        def work(use: Use) -> None:
            row = sessions.read(use, stored.key, check=False)
            sessions.keep(use, stored.key, row, rules.put(stored.key, row and row.record, stored, time.time()))

        await self._transactions.do(work)

    async def page(self, tenant: str | None, model: str | None, behind: Key | None, size: int) -> Sequence[Stored]:
        """As `Store`."""
        return await self._transactions.do(partial(sessions.page, tenant=tenant, model=model, behind=behind, size=size))

    async def delete(self, keys: Sequence[Key]) -> int:
        """As `Store`."""
        gone = 0
        unique = list(dict.fromkeys(keys))
        for piece in _pieces(len(unique)):
            asked = [(*key, None) for key in unique[piece]]
            gone += len(await self._transactions.do(partial(sessions.end, asked=asked), large=True))
        return gone

    async def prune(self, before: float) -> int:
        """As `Store`."""
        await self._transactions.do(sessions.forget_owners)
        while await self._transactions.do(sessions.free, large=True):
            pass
        gone = 0
        while found := await self._transactions.do(partial(sessions.prune_parked, before=before), large=True):
            gone += found
        closed_before = max(before, time.time() - CLOSED_SECONDS)
        while await self._transactions.do(partial(sessions.prune_closed, before=closed_before), large=True):
            pass
        return gone

    async def usage(self, tenant: str) -> tuple[int, int]:
        """As `Store`."""
        return await self._transactions.do(partial(sessions.usage, tenant=tenant))

    async def beat(self, owner: str) -> Sequence[Key]:
        """As `Store`."""
        return await self._transactions.do(partial(sessions.beat, owner=owner))

    async def close_store(self, owner: str) -> None:
        """As `Store`."""
        try:
            while await self._transactions.do(partial(sessions.leave, owner=owner), large=True):
                pass
        except StoreUnavailable:
            # The log says so. Whoever wants the sessions sees that this process has ended.
            pass
        finally:
            await asyncio.to_thread(self._transactions.stop)


def _pieces(n: int) -> Iterator[slice]:
    return (slice(start, min(start + sessions.PIECE, n)) for start in range(0, n, sessions.PIECE))


def _named(keys: Sequence[Key], epochs: Ints) -> list[tuple[object, ...]]:
    return [(*key, epoch) for key, epoch in zip(keys, epochs.tolist(), strict=True)]
