"""What is asked of sessions by name that are in the store and not here. None is taken from its owner."""

import asyncio
import secrets
from typing import Final, NamedTuple

import numpy as np

from gatestream.server.core.checkpointer import Checkpointer
from gatestream.server.durability.checkpoints import Checkpoint, Claim, Key, Meaning, Owned, Stored
from gatestream.server.errors import CheckpointUnfit, Elsewhere, EpochStale, NotFound, OutOfStep, StoreUnavailable

_READ_AT_ONCE: Final = 16
# To write to a session that is being opened, or let go of, meanwhile.
_TRIES: Final = 3


class Listed(NamedTuple):
    """A session that is in the store.

    Attributes:
        key: of it.
        version: of its model that wrote it.
        position: steps consumed.
        written: seconds since the Unix epoch.
    """

    key: Key
    version: str
    position: int
    written: float


class Meant(NamedTuple):
    """Where a session is to stand for what is asked of it.

    Attributes:
        sequence: None: anywhere.
        epoch: 0: any.
    """

    sequence: int | None = None
    epoch: int = 0

    def check(self, sequence: int, epoch: int) -> None:
        """Check that a session stands so.

        Raises:
            EpochStale: it was opened since.
            OutOfStep: it stands elsewhere.
        """
        if self.epoch not in (0, epoch):
            raise EpochStale(f"epoch is {self.epoch}; the session has {epoch}: expected that", epoch=epoch)
        if self.sequence not in (None, sequence):
            raise OutOfStep(f"sequence is {self.sequence}; the session stands at {sequence}")


ANYWHERE: Final = Meant()


class StoredSessions:
    """The sessions of one version of a model that are in the store.

    Args:
        checkpointer: of the server.
        meaning: of the states.
        state_bytes: of each.
    """

    def __init__(self, checkpointer: Checkpointer, meaning: Meaning, state_bytes: int):
        self._store = checkpointer.store
        self._room = checkpointer.room
        self._release = checkpointer.release
        self._not_heard = checkpointer.not_heard
        self._replace_behind_writes = checkpointer.replace
        self._owner = checkpointer.owner
        self._meaning = meaning
        self._state_bytes = state_bytes

    async def state(self, key: Key) -> Checkpoint:
        """Where a session stands.

        Raises:
            NotFound: it is not there.
            Elsewhere: another server has it.
            CheckpointUnfit: it is damaged, or means something else.
            StoreUnavailable: the store does not answer.
        """
        return (await self._read(key)).checkpoints[-1]

    async def close(self, key: Key) -> int:
        """End a session; its last position. Raises: as `state`."""
        stored = await self._read(key)
        if not (await self._store.close([key], np.array([stored.epoch]))).all():
            raise _elsewhere(key)
        return stored.checkpoints[-1].position

    async def replace(self, key: Key, position: int, state: bytes, meant: Meant = ANYWHERE) -> None:
        """Have a session stand somewhere else. Raises: as `state`, and EpochStale, OutOfStep."""
        if meant.sequence is not None:
            await self._replace_there(key, position, state, meant)
            return
        stored = await self._read(key)
        meant.check(stored.checkpoints[-1].sequence, stored.epoch)
        claim = Claim(self._owner, stored.epoch + 1, self._meaning, None, True)
        try:
            claimed = await self._store.claim(key, claim)
        except Owned:
            raise _elsewhere(key) from None
        except (StoreUnavailable, asyncio.CancelledError):
            self._not_heard(key)
            raise
        checkpoint = Checkpoint(claimed.tip + 1, position, state)
        try:
            taken = await self._store.replace(key, self._owner, claimed.epoch, checkpoint)
        finally:
            # Also where nobody waits any more.
            self._release([key], np.array([claimed.epoch]))
        if not taken:
            raise OutOfStep(f"session {key.session_id!r} was opened meanwhile; ask its owner")

    async def _replace_there(self, key: Key, position: int, state: bytes, meant: Meant) -> None:
        """The same at its epoch, where its client goes on from then: the next epoch is the client's."""
        for _ in range(_TRIES):
            stored = await self._read(key)
            tip = stored.checkpoints[-1].sequence
            meant.check(tip, stored.epoch)
            if stored.owner not in ("", self._owner):
                raise Elsewhere(f"session {key.session_id!r} had an owner that is gone; open it to have it")
            checkpoint = Checkpoint(tip + 1, position, state)
            if stored.owner:
                # It was let go of here, perhaps while it was written.
                taken = await self._replace_behind_writes(key, stored.epoch, checkpoint)
            else:
                taken = await self._store.replace(key, "", stored.epoch, checkpoint)
            if taken:
                return
        raise EpochStale(f"epoch is {stored.epoch}; the session was opened since", epoch=stored.epoch + 1)

    async def fork(self, key: Key, new_id: str) -> Checkpoint:
        """Copy a session; where both stand. Raises: as `state`, and AlreadyExists, Exhausted."""
        stored = await self._read(key)
        checkpoint = stored.checkpoints[-1]
        await self.put(key._replace(session_id=new_id), checkpoint)
        return checkpoint

    async def put(self, key: Key, checkpoint: Checkpoint) -> None:
        """Have a session be there that nobody owns.

        Raises:
            AlreadyExists: it is there.
            Exhausted: its tenant has as many as it may.
            StoreUnavailable: the store does not answer.
        """
        await self._room.check(key.tenant, self._state_bytes)
        await self._store.put(Stored(key, 0, "", self._meaning, (checkpoint,)))

    async def _read(self, key: Key) -> Stored:
        stored = await self._store.read(key)
        if stored.lives and stored.owner != self._owner:
            raise _elsewhere(key)
        mine, its = self._meaning, stored.meaning
        if (mine.fingerprint, mine.states) != (its.fingerprint, its.states):
            raise CheckpointUnfit(
                f"session {key.session_id!r} is of other weights, those of version {its.version!r}",
                fingerprint=its.fingerprint,
            )
        check_size(key, stored.checkpoints[-1], self._state_bytes)
        return stored


async def page(checkpointer: Checkpointer, tenant: str, model: str, behind: str, size: int) -> tuple[list[Listed], str]:
    """Up to `size` of a tenant's sessions of a model that are in the store, in order of their ids, behind one.

    Returns:
        Those of them that can be read, and the id behind which there may be more; empty: there are none.

    Raises:
        StoreUnavailable: the store does not answer.
    """
    store = checkpointer.store
    found = await store.page(tenant, model, Key(tenant, model, behind) if behind else None, size)
    listed: list[Listed] = []
    for start in range(0, len(found), _READ_AT_ONCE):
        # Whole states are read for this: few at a time, whoever asks, so that nobody else waits for the store.
        async with checkpointer.listing:
            reads = (store.read(each.key) for each in found[start : start + _READ_AT_ONCE])
            whole = await asyncio.gather(*reads, return_exceptions=True)
        for each in whole:
            if isinstance(each, Stored):
                tip = each.checkpoints[-1]
                listed.append(Listed(each.key, each.meaning.version, tip.position, each.written))
            elif not isinstance(each, NotFound | CheckpointUnfit):
                # One may have ended meanwhile, or be damaged; but nothing is left out since the store is away.
                raise each
    return listed, found[-1].key.session_id if len(found) == size else ""


def check_size(key: Key, checkpoint: Checkpoint, state_bytes: int) -> None:
    """Check that a checkpoint has the state of a model.

    Raises:
        CheckpointUnfit: it has more bytes, or fewer.
    """
    if len(checkpoint.state) != state_bytes:
        raise CheckpointUnfit(
            f"the state of session {key.session_id!r} has {len(checkpoint.state)} bytes; this model's has {state_bytes}"
        )


def random_id() -> str:
    """A name for a session, of 128 random bits."""
    return secrets.token_urlsafe(16)


def _elsewhere(key: Key) -> Elsewhere:
    return Elsewhere(f"session {key.session_id!r} has an owner, which serves it; open it to have it")
