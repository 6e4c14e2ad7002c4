"""What a store of checkpoints is asked, and what it answers. `memory`, `sqlite` and `valkey` are such stores.

The rules that make a session exactly one, whoever serves it, are those of docs/sessions.md; a store keeps the part of
them that must happen in one transaction.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from gatestream.server.arrays import Ints

SILENCE_SECONDS: Final = 5.0
"""After its last beat an owner counts as dead: it beats once a second."""
CLOSED_SECONDS: Final = 3600.0
"""So long the epoch of a closed session is remembered, at least: longer than any late write lives."""
TERM: Final = 2**20
"""So far the sequence of a session that is taken up moves on: further than a client may lack answers."""


class Owned(Exception):
    """Another owner has the session, and lives."""


class Key(NamedTuple):
    """What a session is called in a store: one tenant's sessions are unknown to every other."""

    tenant: str
    model: str
    session_id: str


class Checkpoint(NamedTuple):
    """What a session has come to.

    Attributes:
        sequence: steps and resets that led to it, and states that were set.
        position: steps that led to it.
        state: the rows of all states, one after another, in the layout's order.
    """

    sequence: int
    position: int
    state: bytes


class Meaning(NamedTuple):
    """What the bytes of a state mean.

    Attributes:
        fingerprint: of the weights.
        states: digest of the states' names, shapes, dtypes and roles, in order.
        version: of the model, to be told to operators.
    """

    fingerprint: str
    states: str
    version: str


@dataclass(frozen=True, slots=True)
class Claim:
    """What somebody who opens a session asks of the store.

    Attributes:
        owner: who asks: a serving process, for its life.
        epoch: that the session is to have; 0: one more than it has.
        meaning: of its states, as the owner reads them.
        first: the checkpoint that a new session begins with; None: it must be there.
        taken_up: it may be there already.
        acknowledged: the session is to stand there or before; None: where it stands.
        resident: what the owner has in a slot, and the epoch at which it has it; None: nothing.
    """

    owner: str
    epoch: int
    meaning: Meaning
    first: Checkpoint | None
    taken_up: bool
    acknowledged: int | None = None
    resident: tuple[int, Checkpoint] | None = None


@dataclass(frozen=True, slots=True)
class Claimed:
    """A session is its owner's.

    Attributes:
        epoch: that it has from now on.
        created: it was not there.
        checkpoint: where it stands; None: where its owner has it.
        durable: sequence of the checkpoint that it can go back to.
        tip: sequence of the newest checkpoint. Where the session has gone back behind it, what is written below it
            may not stay stored: its slot is not to be given up before it stands there again.
        version: of the model that wrote it; of a new one that of the claim.
    """

    epoch: int
    created: bool
    checkpoint: Checkpoint | None
    durable: int
    tip: int
    version: str


@dataclass(frozen=True, slots=True)
class Writes:
    """Checkpoints of many sessions, in columns.

    Attributes:
        owner: who writes.
        keys: [n].
        epochs: [n], at which the owner has them.
        sequences: [n].
        positions: [n].
        acknowledged: [n], sequence of the first answer that each client lacks; above `sequences` it counts as that.
        states: uint8 [n, bytes], as `Checkpoint.state`; all of one model.
    """

    owner: str
    keys: Sequence[Key]
    epochs: Ints
    sequences: Ints
    positions: Ints
    acknowledged: Ints
    states: npt.NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class Written:
    """What has become of `Writes`.

    Attributes:
        taken: bool [n]; False: the session is another's by now, or closed.
        durable: [n], sequence of the checkpoint that each can go back to.
        wanted: bool [n], another owner asks for it: it is to be handed over.
    """

    taken: npt.NDArray[np.bool_]
    durable: Ints
    wanted: npt.NDArray[np.bool_]


class Stored(NamedTuple):
    """What a store has of a session.

    Attributes:
        key: of the session.
        epoch: that it has.
        owner: who has it; empty: nobody.
        meaning: of its states.
        checkpoints: one or two, the latest last; empty where they were not asked for.
        bytes: that they take, when there are two.
        written: seconds since the Unix epoch.
        lives: its owner does; said where the checkpoints are.
    """

    key: Key
    epoch: int
    owner: str
    meaning: Meaning
    checkpoints: Sequence[Checkpoint] = ()
    bytes: int = 0
    written: float = 0.0
    lives: bool = False


class Store(Protocol):
    """Checkpoints of sessions, and whose each session is.

    Every call is one transaction, on a thread of the store's; several may be under way. Any of them raises
    `StoreUnavailable` where the store does not answer, or takes nothing more (a full disk): nothing has changed then,
    or, where the answer was lost, all has.

    Attributes:
        kind: memory, sqlite or valkey, as `Limits.store` says.
        shared: whether other processes may have its sessions.
    """

    kind: str
    shared: bool

    async def claim(self, key: Key, claim: Claim) -> Claimed:
        """Have a session: the newest checkpoint at or before `acknowledged` where it is given, else the newest of all.

        A resident one is kept where the store's epoch was its own and, with `acknowledged`, it stands there. Without,
        where nothing newer is stored, it becomes the only checkpoint, as the newest of all does else, and its sequence
        moves on by `TERM`: `Claimed.checkpoint` has it. A new session gets its first checkpoint.

        Raises:
            NotFound: it is not there, or was closed, and must be there.
            AlreadyExists: it is there, and must not be.
            InvalidRequest: the epoch is above 2**53 - 1.
            EpochStale: the epoch is not higher than that of the session; it says which that is.
            NotReplayable: no checkpoint is left at or before `acknowledged`.
            CheckpointUnfit: what is stored is damaged, or means something else.
            Owned: an owner has it that lives. It has been asked to hand it over: claim again soon.
        """

    async def write(self, writes: Writes) -> Written:
        """Keep the newest checkpoint at or before what is acknowledged, and the newest of all; nothing is inserted."""

    async def replace(self, key: Key, owner: str, epoch: int, checkpoint: Checkpoint) -> bool:
        """Make this the only checkpoint of a session, if it is still the owner's at this epoch; whether it is."""

    async def release(self, owner: str, keys: Sequence[Key], epochs: Ints) -> None:
        """Let any other owner have these, where they are still this one's."""

    async def close(self, keys: Sequence[Key], epochs: Ints) -> npt.NDArray[np.bool_]:
        """End sessions, where their epochs are still these; whether they were. Their epochs are remembered."""

    async def read(self, key: Key) -> Stored:
        """A session with its checkpoints, whoever has it.

        Raises:
            NotFound: it is not there, or was closed.
            CheckpointUnfit: it is damaged.
        """

    async def put(self, stored: Stored) -> None:
        """Have a session that nobody owns, with these checkpoints, at an epoch above the given one and any it had.

        Raises:
            AlreadyExists: it is there.
        """

    async def page(self, tenant: str | None, model: str | None, behind: Key | None, size: int) -> Sequence[Stored]:
        """Up to `size` sessions in order of their keys, without their checkpoints; None: of all tenants, or models."""

    async def delete(self, keys: Sequence[Key]) -> int:
        """End sessions, whoever has them; how many were there. Their epochs are remembered."""

    async def prune(self, before: float) -> int:
        """Forget sessions that no living owner has, last written before a time; how many.

        Closed ones too, and those that were closed `CLOSED_SECONDS` ago.
        """

    async def usage(self, tenant: str) -> tuple[int, int]:
        """How many sessions of a tenant are stored, and their bytes, as `Stored.bytes`."""

    async def beat(self, owner: str) -> Sequence[Key]:
        """Say that an owner lives, for `SILENCE_SECONDS` more; the sessions of its that others ask for.

        An owner beats before its first claim, and then once a second.
        """

    async def close_store(self, owner: str) -> None:
        """Let go of everything, and of the store."""
