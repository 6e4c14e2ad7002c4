"""The kept sessions of one model: those that the store of checkpoints knows, so that they outlive their streams.

The rules are those of docs/sessions.md. What has to wait for the store stands in the session's queue, and other
sessions go on.
"""

import asyncio
import hashlib
from collections.abc import Awaitable, Callable, Set
from functools import partial
from typing import Final, NamedTuple

import numpy as np
import structlog

from gatestream.protos.layout import ModelLayout
from gatestream.server.arrays import Ints
from gatestream.server.core.checkpointer import Checkpointer, Rows
from gatestream.server.core.controls import Then
from gatestream.server.core.engine import Engine
from gatestream.server.core.reply_sink import CloseReason, Holder, ReplySink, tell
from gatestream.server.core.sessions import UNKNOWN
from gatestream.server.core.stored import check_size
from gatestream.server.core.transitions import Phase
from gatestream.server.durability.checkpoints import (
    SILENCE_SECONDS,
    Checkpoint,
    Claim,
    Claimed,
    Key,
    Meaning,
    Owned,
    Written,
)
from gatestream.server.errors import CheckpointUnfit, EpochStale, Refused, StepFailed, StoreUnavailable

# An owner that lives has let go by then, and one that does not counts as dead.
_HANDOVER_SECONDS: Final = SILENCE_SECONDS + 5.0
_FIRST_PAUSE, _LONGEST_PAUSE = 0.005, 0.1

_NOTHING: Final = np.empty(0, np.int64)

_log = structlog.get_logger(__name__)


class Wish(NamedTuple):
    """How a session is to be opened, where a store may know it.

    Attributes:
        parks: it stays when its stream ends.
        epoch: that it is to have; 0: one more than it has.
        acknowledged: sequence of the first answer that its client lacks; None: the client can send nothing again.
    """

    parks: bool = False
    epoch: int = 0
    acknowledged: int | None = None

    @property
    def of_store(self) -> bool:
        """Whether the store is to be asked for a session that is not here."""
        return self.parks or self.epoch > 0 or self.acknowledged is not None


NO_WISH: Final = Wish()


def meaning(layout: ModelLayout, version: str) -> Meaning:
    """What the states of a version of a model mean."""
    states = [(each.name, each.dtype.str, tuple(each.shape), int(each.role)) for each in layout.states]
    return Meaning(layout.fingerprint, hashlib.sha256(repr(states).encode()).hexdigest(), version)


def key_of(engine: Engine, session: int) -> Key:
    """What a session of a model is called in a store."""
    return Key(engine.sessions.tenant(session), engine.layout.name, engine.sessions.session_id(session))


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
        self._store = checkpointer.store
        self.state_bytes = max(1, engine.layout.state_bytes)
        # Of sessions that another owner asks for, the births.
        self._wanted: set[int] = set()

    def key(self, session: int) -> Key:
        """What a session is called in the store."""
        return key_of(self._engine, session)

    # ---- Opening ------------------------------------------------------------------------------

    def claim(
        self,
        session: int,
        holder: Holder,
        wish: Wish,
        *,
        new: bool,
        create: bool,
        resume: bool,
        ready: Callable[[bool], None],
        failed: Callable[[Refused], None],
        ended: Callable[[], None],
    ) -> None:
        """Have a session that is here be claimed in its turn.

        Args:
            session: which.
            holder: whose what is queued is.
            wish: how it is to be opened.
            new: nothing was known of it here.
            create: the store need not know it.
            resume: the store may know it.
            ready: told, when it stands where it is to stand, whether it was created.
            failed: told why not; it is as before, or of a new one nobody has heard.
            ended: told that it has ended before that.

        Raises:
            Exhausted: too much is pending.
        """
        table = self._table

        def wait() -> Awaitable[Then]:
            known = bool(table.kept[session])
            here = self.checkpoint(session)
            claim = Claim(
                self._checkpointer.owner,
                wish.epoch,
                self.meaning,
                here if create and not known else None,
                resume or known,
                wish.acknowledged,
                (int(table.epoch[session]), here) if known else None,
            )
            return self._claimed(session, claim, settle, refuse)

        def settle(claimed: Claimed) -> None:
            table.claiming[session] -= 1
            self._settle(session, claimed, wish)
            ready(claimed.created)

        def refuse(error: Refused) -> None:
            table.claiming[session] -= 1
            if not table.claiming[session]:
                table.accepted[session] += table.position[session] - UNKNOWN
            if isinstance(error, EpochStale):
                table.proposed[session] = max(int(table.proposed[session]), error.epoch)
            void = bool(table.kept[session]) and isinstance(error, EpochStale)
            failed(error)
            if void:
                self._forget(np.array([session]), CloseReason.FENCED)

        self._engine.wait_for(session, wait, lambda *_: ended(), holder, must=True, unlimited=new)
        table.claiming[session] += 1
        table.accepted[session] = UNKNOWN

    async def _claimed(
        self, session: int, claim: Claim, settle: Callable[[Claimed], None], refuse: Callable[[Refused], None]
    ) -> Then:
        key, birth = self.key(session), self._table.birth[session]
        try:
            if claim.first is not None:
                await self._checkpointer.check_room(key.tenant)
            claimed = await self._ask(key, claim)
        except Refused as error:
            return partial(refuse, error)
        except Exception as error:
            _log.exception("a session could not be claimed", model=self._engine.layout.name)
            return partial(refuse, StepFailed(f"the server failed at opening the session: {error}"))
        unfit: Refused | None = None
        try:
            if claimed.checkpoint is not None:
                check_size(key, claimed.checkpoint, self._engine.layout.state_bytes)
        except CheckpointUnfit as error:
            unfit = error
        if unfit is not None or self._table.birth[session] != birth:
            # It is not to be had, or has ended meanwhile: nobody here would let go of it.
            self._checkpointer.release([key], np.array([claimed.epoch]))
        return partial(settle, claimed) if unfit is None else partial(refuse, unfit)

    async def _ask(self, key: Key, claim: Claim) -> Claimed:
        """Claim, and wait for the owner that has it to hand it over."""
        loop = asyncio.get_running_loop()
        until, pause = loop.time() + _HANDOVER_SECONDS, _FIRST_PAUSE
        while True:
            try:
                return await self._store.claim(key, claim)
            except Owned:
                if loop.time() > until:
                    raise StoreUnavailable(
                        "the session's owner lives and does not hand it over; try again", retry_after=1.0
                    ) from None
            await asyncio.sleep(pause)
            pause = min(2 * pause, _LONGEST_PAUSE)

    def checkpoint(self, session: int) -> Checkpoint:
        """Where a session stands that has a slot. No run is under way."""
        return Checkpoint(*self._stands(session))

    def _stands(self, session: int) -> tuple[int, int, bytes]:
        """Sequence, position and state, as in `Checkpoint`."""
        table, rows = self._table, self._engine.rows
        state = rows.packed(table.slot[[session]])
        return int(table.sequences(session)), int(table.position[session]), state.tobytes()

    def _settle(self, session: int, claimed: Claimed, wish: Wish) -> None:
        """Have a session be where a claim has it."""
        table = self._table
        queued = int(table.accepted[session]) - UNKNOWN
        if (checkpoint := claimed.checkpoint) is not None:
            self.put(session, checkpoint)
        sequence = int(table.sequences(session))
        table.accepted[session] = int(table.position[session]) + queued
        table.epoch[session] = claimed.epoch
        table.proposed[session] = max(int(table.proposed[session]), claimed.epoch)
        table.kept[session] = True
        table.parks[session] = wish.parks
        table.acknowledged[session] = sequence if wish.acknowledged is None else wish.acknowledged
        table.durable[session] = claimed.durable
        table.tip[session] = claimed.tip
        if checkpoint is not None or claimed.created or wish.acknowledged is None:
            table.written[session] = sequence
        if table.claiming[session]:
            # Another Open stands behind it.
            table.accepted[session] = UNKNOWN + queued

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
        moved = table.position + table.offset != table.written
        behind = (table.acknowledged >= table.written) & (table.durable < table.written)
        return np.flatnonzero(table.kept & (moved | behind) & (table.claiming == 0) & (table.slot >= 0))

    def copied(self, sessions: Ints) -> Rows:
        """Copies of the states of those sessions that are still there. No run is under way."""
        table = self._table
        sessions = sessions[table.kept[sessions] & (table.claiming[sessions] == 0) & (table.slot[sessions] >= 0)]
        sequences = table.sequences(sessions)
        return Rows(
            sessions,
            table.birth[sessions],
            [self.key(session) for session in sessions.tolist()],
            table.epoch[sessions],
            sequences,
            table.position[sessions],
            np.minimum(table.acknowledged[sessions], sequences),
            self._engine.rows.packed(table.slot[sessions]),
        )

    def between_runs(self, do: Callable[[], None]) -> None:
        """Do something as soon as no run is under way."""
        self._engine.between_runs(do)

    def written(self, rows: Rows, result: Written) -> None:
        """Note what has become of copies that the store was given, and tell the owners."""
        table = self._table
        sessions = rows.sessions
        same = (
            (table.birth[sessions] == rows.births)
            & (table.epoch[sessions] == rows.epochs)
            & (table.claiming[sessions] == 0)
        )
        taken = same & result.taken
        mine, durable = sessions[taken], result.durable[taken]
        told = mine[(table.durable[mine] != durable) & table.parks[mine]]
        table.written[mine] = rows.sequences[taken]
        table.tip[mine] = np.maximum(table.tip[mine], rows.sequences[taken])
        table.durable[mine] = durable
        self._tell_durable(told)
        if (fenced := sessions[same & ~result.taken]).size:
            _log.warning("another server has claimed sessions", model=self._engine.layout.name, sessions=fenced.size)
            if self._checkpointer.gate is not None:
                # Nothing of what waits for them may leave.
                for owner in {each for each in table.owner[fenced].tolist() if each is not None}:
                    owner.failed(StoreUnavailable("another server has claimed a session of this stream"))
            self._forget(fenced, CloseReason.FENCED)
        self.hand_over(sessions[taken & result.wanted])

    def _tell_durable(self, sessions: Ints) -> None:
        table = self._table
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
        found = [table.get(key.tenant, key.session_id) for key in keys if key.model == name]
        sessions = np.array([session for session in found if session is not None], np.int64)
        self.hand_over(sessions[table.kept[sessions]])

    def has(self, key: Key, epoch: int) -> bool:
        """Whether a session is here at this epoch, or being claimed; at an earlier one it is dropped."""
        table = self._table
        session = table.get(key.tenant, key.session_id) if key.model == self._engine.layout.name else None
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
            self._wanted.add(birth)
            if (owner := table.owner[session]) is not None:
                tell(owner, owner.lost, int(table.handle[session]))

    def let_go(self) -> tuple[list[Key], Ints]:
        """Forget the sessions that are to be handed over and can be; what they are called, and their epochs."""
        if not self._wanted:
            return [], _NOTHING
        table = self._table
        births = np.fromiter(self._wanted, np.int64, len(self._wanted))
        self._wanted.intersection_update(table.birth.tolist())
        there = np.isin(table.birth, births) & table.kept & (table.claiming == 0)
        sessions = self._engine.idle(np.flatnonzero(there & (table.phase != Phase.CLOSING)))
        sessions = sessions[table.sequences(sessions) == table.written[sessions]]
        keys, epochs = [self.key(session) for session in sessions.tolist()], table.epoch[sessions]
        # Of one that has no slot the store has all.
        if keys:
            self._wanted.difference_update(table.birth[sessions].tolist())
            self._forget(sessions, CloseReason.PARKED)
        return keys, epochs

    def all(self) -> Ints:
        """The sessions that the store knows."""
        return np.flatnonzero(self._table.kept)
