"""Sessions of a model to the store: copied between runs, and the next copied while the store writes."""

import asyncio
import time
from collections import deque
from collections.abc import Sequence, Set
from typing import Final, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from gatestream.server.arrays import Ints
from gatestream.server.durability.checkpoints import Checkpoint, Key, Store, Writes, Written
from gatestream.server.telemetry import CheckpointStats

# Of states that are copied while the loop waits, for a millisecond or two, and that the store is given at once.
_BYTES: Final = 4 * 2**20
_ROWS: Final = 1000
# Writes that the store has at a time: behind the one that it makes another waits, so that it is never without.
_WRITES: Final = 2


class Rows(NamedTuple):
    """Copies of sessions' states, one element of each array for each session.

    Attributes:
        sessions: which.
        births: theirs, by which it is seen that a number is another session's by now.
        keys: theirs.
        epochs, sequences, positions, acknowledged, states: as in `Writes`.
    """

    sessions: Ints
    births: Ints
    keys: Sequence[Key]
    epochs: Ints
    sequences: Ints
    positions: Ints
    acknowledged: Ints
    states: npt.NDArray[np.uint8]


class Kept(Protocol):
    """The kept sessions of one model, as `core.kept` has them."""

    state_bytes: int

    def dirty(self) -> Ints:
        """The sessions whose state is not stored."""

    async def copied(self, sessions: Ints) -> Rows:
        """Copies of the states of those sessions that are still there, as soon as no run is under way."""

    def written(self, rows: Rows, result: Written) -> None:
        """Note what has become of copies that the store was given."""

    def tell_durable(self) -> None:
        """Tell owners how far the sessions may go back that were written since this was last called."""

    def asked_for(self, keys: Set[Key]) -> None:
        """Hand over those of the sessions that are called so."""

    def has(self, key: Key, epoch: int) -> bool:
        """Whether a session is here at this epoch, or being claimed; at an earlier one it is dropped."""

    def let_go(self) -> None:
        """Forget the sessions that are to be handed over and can be."""


class CheckpointWriter:
    """Writes checkpoints of sessions. Of each, one write is under way at a time.

    Args:
        store: that they go to.
        owner: who writes.
        stats: where they are counted.

    Attributes:
        tells: owners hear at once what is durable; else when they are next told.
    """

    def __init__(self, store: Store, owner: str, stats: CheckpointStats):
        self.tells = True
        self._store = store
        self._owner = owner
        self._stats = stats
        # For a round's writes, or for one that replaces what is stored.
        self._writing = asyncio.Lock()
        self._replacing = 0

    async def replace(self, key: Key, epoch: int, checkpoint: Checkpoint) -> bool:
        """As `Store.replace`, behind the writes that are under way."""
        self._replacing += 1
        try:
            async with self._writing:
                return await self._store.replace(key, self._owner, epoch, checkpoint)
        finally:
            self._replacing -= 1

    async def write(self, kept: Kept, sessions: Ints) -> None:
        """Write sessions of a model.

        Raises:
            StoreUnavailable: the store does not take them all.
        """
        while len(sessions):
            async with self._writing:
                sessions = await self._write(kept, sessions)

    async def _write(self, kept: Kept, sessions: Ints) -> Ints:
        """Write sessions, and copy the next meanwhile; those that are left, where others wait to write."""
        most = max(1, min(_ROWS, _BYTES // kept.state_bytes))
        writes: deque[asyncio.Task[None]] = deque()
        try:
            while len(sessions):
                copies = await kept.copied(sessions[:most])
                sessions = sessions[most:]
                if not len(sessions) and not writes:
                    await self._give(kept, copies)
                    break
                if len(writes) == _WRITES:
                    await writes.popleft()
                writes.append(asyncio.create_task(self._give(kept, copies)))
                # The store has it before more is copied, and the loop is not held for both.
                await asyncio.sleep(0)
                if self._replacing:
                    break
            while writes:
                await writes.popleft()
        except asyncio.CancelledError:
            for write in writes:
                write.cancel()
            raise
        finally:
            await asyncio.gather(*writes, return_exceptions=True)
        return sessions

    async def _give(self, kept: Kept, copies: Rows) -> None:
        _, _, keys, epochs, sequences, positions, acknowledged, states = copies
        if not keys:
            return
        began = time.perf_counter()
        result = await self._store.write(Writes(self._owner, keys, epochs, sequences, positions, acknowledged, states))
        self._stats.wrote(len(keys), states.nbytes, time.perf_counter() - began)
        kept.written(copies, result)
        if self.tells:
            kept.tell_durable()
