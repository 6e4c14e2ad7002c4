"""The kept sessions of one model: those that the store of checkpoints knows, so that they outlive their streams.

The rules are those of docs/sessions.md. What has to wait for the store stands in the session's queue, and other
sessions go on.
"""

import asyncio
import hashlib
import itertools
from collections.abc import Callable, Set
from functools import partial
from typing import Final

import numpy as np
import numpy.typing as npt
import structlog

from gatestream.protos.layout import ModelLayout
from gatestream.server.arrays import Ints
from gatestream.server.core.checkpoint_writer import Rows
from gatestream.server.core.checkpointer import Checkpointer
from gatestream.server.core.engine import Engine
from gatestream.server.core.reply_sink import CloseReason, ReplySink, tell
from gatestream.server.core.sessions import SessionTable
from gatestream.server.core.transitions import Phase
from gatestream.server.durability.checkpoints import (
    SILENCE_SECONDS,
    Checkpoint,
    Key,
    Meaning,
    Written,
)
from gatestream.server.errors import StoreUnavailable

HANDOVER_SECONDS: Final = SILENCE_SECONDS + 5.0
"""So long whoever has a session may take to let go of it."""

_log = structlog.get_logger(__name__)


def meaning(layout: ModelLayout, version: str) -> Meaning:
    """What the states of a version of a model mean."""
    states = [(each.name, each.dtype.str, tuple(each.shape), int(each.role)) for each in layout.states]
    return Meaning(layout.fingerprint, hashlib.sha256(repr(states).encode()).hexdigest(), version)


def key_of(engine: Engine, session: int) -> Key:
    """What a session of a model is called in a store."""
    return Key(engine.sessions.tenants.tenant(session), engine.layout.name, engine.sessions.tenants.session_id(session))


def keys_of(engine: Engine, sessions: Ints) -> list[Key]:
    """The same of many; the loop waits while their states are copied, and for this."""
    tenants, ids = engine.sessions.tenants.names(sessions)
    return list(map(Key, tenants, itertools.repeat(engine.layout.name), ids))


async def until_written(
    table: SessionTable, session: int, hurry: Callable[[], None], sequence: int | None = None
) -> None:
    """Wait until a session is stored, or has ended.

    Args:
        table: that it is in.
        session: which.
        hurry: has what is to be stored be stored soon.
        sequence: up to which it is to be stored; None: as it stands, while nothing of it is stepped.

    Raises:
        StoreUnavailable: it could not be, for too long.
    """
    birth, epoch = table.birth[session], table.epoch[session]

    def lacks() -> bool:
        if sequence is None:
            return bool(table.written[session] != table.sequences(session))
        # Whoever claims it has it be written first, and may have it go back behind that.
        return bool(max(table.written[session], table.tip[session]) < sequence and table.epoch[session] == epoch)

    try:
        async with asyncio.timeout(HANDOVER_SECONDS):
            while table.birth[session] == birth and lacks():
                hurry()
                await table.changes.setdefault(session, asyncio.Event()).wait()
    except TimeoutError:
        raise StoreUnavailable("the session's steps could not be stored; try again", retry_after=1.0) from None


class KeptSessions:
    """The kept sessions of one version of a model.

    Args:
        engine: of the model.
        version: of the model.
        checkpointer: of the server.
        forget: drops sessions, whose owners hear why; the store goes on knowing them.

    Attributes:
        state_bytes: of a session.
        meaning: of their states.
    """

    def __init__(
        self, engine: Engine, version: str, checkpointer: Checkpointer, forget: Callable[[Ints, CloseReason], None]
    ):
        self._engine = engine
        self._table = engine.sessions
        self.meaning = meaning(engine.layout, version)
        self._checkpointer = checkpointer
        self._forget = forget
        self.state_bytes = max(1, engine.layout.state_bytes)
        # By slot, what the session in it was called that was last copied, and its birth.
        self._called: npt.NDArray[np.object_] = np.full(self._table.slots, None, object)
        self._called_births = np.full(self._table.slots, -1, np.int64)
        # Sessions that another owner asks for, by birth.
        self._wanted: dict[int, int] = {}
        # Sessions whose owners have yet to hear what is durable.
        self._untold: list[Ints] = []

    def key(self, session: int) -> Key:
        """What a session is called in the store."""
        return key_of(self._engine, session)

    def checkpoint(self, session: int) -> Checkpoint:
        """Where a session stands that has a slot. No run is under way."""
        return Checkpoint(*self._stands(session))

    def _stands(self, session: int) -> tuple[int, int, bytes]:
        """Sequence, position and state, as in `Checkpoint`."""
        table, rows = self._table, self._engine.rows
        assert table.slot[session] >= 0, "its state is here"
        state = rows.packed(table.slot[[session]])
        return int(table.sequences(session)), int(table.position[session]), state.tobytes()

    def put(self, session: int, checkpoint: Checkpoint) -> None:
        """Have a session that has a slot stand at a checkpoint.

        Raises:
            ValueError: its state is none of this model's.
        """
        table, rows = self._table, self._engine.rows
        rows.write(int(table.slot[session]), rows.unpacked(checkpoint.state))
        table.position[session] = checkpoint.position
        table.offset[session] = checkpoint.sequence - checkpoint.position

    # ---- Checkpoints --------------------------------------------------------------------------

    def dirty(self) -> Ints:
        """The sessions whose state is not stored, and those that may go back to less than their clients lack."""
        table = self._table
        sessions = table.with_slot()
        written = table.written[sessions]
        moved = table.sequences(sessions) != written
        behind = (table.acknowledged[sessions] >= written) & (table.durable[sessions] < written)
        sessions = sessions[moved | behind]
        return self._stored(sessions)

    def _stored(self, sessions: Ints) -> Ints:
        """Those of the sessions that the store knows as they are here, and whose state is here."""
        table = self._table
        stored: Ints = sessions[table.kept[sessions] & ~table.asked[sessions] & (table.slot[sessions] >= 0)]
        return stored

    async def copied(self, sessions: Ints) -> Rows:
        """Copies of the states of those sessions that are still there, as soon as no run is under way."""
        return await self._engine.between_runs(partial(self._copied, sessions))

    def _copied(self, sessions: Ints) -> Rows:
        table = self._table
        sessions = self._stored(sessions)
        sequences = table.sequences(sessions)
        return Rows(
            sessions,
            table.birth[sessions],
            self._keys(sessions),
            table.epoch[sessions],
            sequences,
            table.position[sessions],
            np.minimum(table.acknowledged[sessions], sequences),
            self._engine.rows.packed(table.slot[sessions]),
        )

    def _keys(self, sessions: Ints) -> list[Key]:
        """What sessions are called that have a slot."""
        slots, births = self._table.slot[sessions], self._table.birth[sessions]
        if (others := self._called_births[slots] != births).any():
            self._called_births[slots[others]] = births[others]
            for slot, key in zip(slots[others].tolist(), keys_of(self._engine, sessions[others]), strict=True):
                self._called[slot] = key
        keys: list[Key] = self._called[slots].tolist()
        return keys

    def written(self, rows: Rows, result: Written) -> None:
        """Note what has become of copies that the store was given; owners hear what they have lost."""
        table = self._table
        sessions = rows.sessions
        same = (table.birth[sessions] == rows.births) & (table.epoch[sessions] == rows.epochs) & ~table.asked[sessions]
        taken = same & result.taken
        mine, durable = sessions[taken], result.durable[taken]
        if len(further := mine[table.durable[mine] != durable]):
            self._untold.append(further)
        table.written[mine] = rows.sequences[taken]
        table.tip[mine] = np.maximum(table.tip[mine], rows.sequences[taken])
        table.durable[mine] = durable
        table.changed(mine)
        if (fenced := sessions[same & ~result.taken]).size:
            _log.warning(
                "another server has claimed sessions, or they were deleted",
                model=self._engine.layout.name,
                sessions=fenced.size,
            )
            self._forget(fenced, CloseReason.FENCED)
        self.hand_over(sessions[taken & result.wanted])

    def acknowledge(self, sessions: Ints, sequences: Ints) -> None:
        """Note what clients have that send nothing for a while: they hear soon what is durable.

        Args:
            sessions: which.
            sequences: of the first answer of each that its client lacks.
        """
        table = self._table
        parks = table.parks[sessions]
        sessions, sequences = sessions[parks], sequences[parks]
        stands = table.sequences(sessions)
        # Where one stands that takes the place of another is not known yet.
        table.acknowledged[sessions] = np.where(table.asked[sessions], sequences, np.minimum(sequences, stands))
        here = table.slot[sessions] >= 0
        # Written once more, also where nothing was stepped since: that is what moves the anchor.
        table.written[sessions[here]] = -1
        # What is neither here nor aside is stored where it stands: a client that has all answers goes back no further.
        anchored = ~here & ~table.are_aside(sessions) & (sequences >= stands)
        table.durable[sessions[anchored]] = stands[anchored]
        self._untold.append(sessions[anchored])
        self._checkpointer.tell_soon()

    def tell_later(self, session: int) -> None:
        """Have an owner hear how far its session may go back when the others do, also if it has heard so."""
        self._untold.append(np.array([session]))

    def tell_durable(self) -> None:
        """Tell owners how far the sessions may go back that were written since this was last called."""
        if not self._untold:
            return
        table = self._table
        sessions = np.unique(np.concatenate(self._untold))
        self._untold.clear()
        sessions = sessions[table.kept[sessions] & table.parks[sessions] & (table.claiming[sessions] == 0)]
        by_owner: dict[ReplySink, list[int]] = {}
        for owner, session in zip(table.owner[sessions].tolist(), sessions.tolist(), strict=True):
            if owner is not None:
                by_owner.setdefault(owner, []).append(session)
        for owner, mine in by_owner.items():
            tell(owner, owner.durable, table.handle[mine].astype(np.int64), table.durable[mine])

    # ---- Handing over -------------------------------------------------------------------------

    def asked_for(self, keys: Set[Key]) -> None:
        """Hand over those of the sessions that are called so."""
        name, table = self._engine.layout.name, self._table
        found = [table.tenants.get(key.tenant, key.session_id) for key in keys if key.model == name]
        sessions = np.array([session for session in found if session is not None], np.int64)
        self.hand_over(sessions[table.kept[sessions]])

    def has(self, key: Key, epoch: int) -> bool:
        """Whether a session is here at this epoch, or being claimed; at an earlier one it is dropped."""
        table = self._table
        session = table.tenants.get(key.tenant, key.session_id) if key.model == self._engine.layout.name else None
        if session is None:
            return False
        if table.claiming[session] or (table.kept[session] and table.epoch[session] >= epoch):
            return True
        if table.kept[session]:
            self._forget(np.array([session]), CloseReason.FENCED)
        return False

    def hand_over(self, sessions: Ints) -> None:
        """Have sessions take nothing more, and be let go of when all they accepted is done and stored."""
        table = self._table
        for session in sessions.tolist():
            birth = int(table.birth[session])
            if birth in self._wanted:
                continue
            self._wanted[birth] = session
            if (owner := table.owner[session]) is not None:
                tell(owner, owner.lost, int(table.handle[session]))

    def leave(self, sessions: Ints) -> None:
        """Forget sessions of which the store has what their clients cannot send again; they may be opened again."""
        self._forget(sessions, CloseReason.PARKED)

    def let_go(self) -> None:
        """Forget the sessions that are to be handed over and can be."""
        if not self._wanted:
            return
        table = self._table
        self._wanted = {birth: session for birth, session in self._wanted.items() if table.birth[session] == birth}
        there = np.fromiter(self._wanted.values(), np.int64, len(self._wanted))
        good = table.kept[there] & (table.claiming[there] == 0) & (table.phase[there] != Phase.CLOSING)
        sessions = self._engine.edits.idle(there[good])
        sessions = sessions[table.sequences(sessions) == table.written[sessions]]
        # Of one that has no slot the store has all.
        if len(sessions):
            for birth in table.birth[sessions].tolist():
                del self._wanted[birth]
            self._forget(sessions, CloseReason.PARKED)

    def all(self) -> Ints:
        """The sessions that the store knows."""
        return np.flatnonzero(self._table.kept)
