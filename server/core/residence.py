"""Which of one model's kept sessions have a slot: those used least give theirs up, until their next step."""

import asyncio
from collections.abc import Callable
from functools import partial
from typing import Final

import numpy as np
import numpy.typing as npt
import structlog

from gatestream.server.arrays import Ints
from gatestream.server.core.accounts import Accounts
from gatestream.server.core.admission import Caller
from gatestream.server.core.checkpointer import Checkpointer
from gatestream.server.core.controls import Then
from gatestream.server.core.engine import Engine
from gatestream.server.core.kept import KeptSessions
from gatestream.server.core.reply_sink import CloseReason, tell
from gatestream.server.core.transitions import Phase
from gatestream.server.durability.checkpoints import Checkpoint, Stored
from gatestream.server.errors import CheckpointUnfit, NotFound, StoreUnavailable

# Slots that are given up at once for one that is wanted, at most; and the part of all slots that is kept free.
_PIECE: Final = 16
_RESERVE: Final = 64
_FIRST_PAUSE, _LONGEST_PAUSE = 0.002, 0.2

_log = structlog.get_logger(__name__)


class Residence:
    """Gives and takes the slots of one model's kept sessions.

    Args:
        engine: of the model.
        accounts: of the tenants.
        kept: its sessions.
        checkpointer: of the server.
        forget: drops sessions, whose owners hear why; the store goes on knowing them.
        put: has a session stand at a checkpoint.
    """

    def __init__(
        self,
        engine: Engine,
        accounts: Accounts,
        kept: KeptSessions,
        checkpointer: Checkpointer,
        forget: Callable[[Ints, CloseReason], None],
        put: Callable[[int, Checkpoint], None],
    ):
        self._engine = engine
        self._table = engine.sessions
        self._accounts = accounts
        self._kept = kept
        self._checkpointer = checkpointer
        self._forget = forget
        self._put = put

    def make_room(self, count: int = 0, tenant: str | None = None, *, leave: bool = False) -> bool:
        """Have so many sessions give up their slots, or some; whether any did.

        Args:
            count: of sessions; 0: some.
            tenant: whose; None: anybody's.
            leave: only those that no stream holds, and that are nowhere then but in the store.
        """
        sessions = self._unneeded(count or max(1, min(_PIECE, self._table.slots // _RESERVE)), tenant, leave)
        if not len(sessions):
            return False
        table = self._table
        held = sessions[table.phase[sessions] == Phase.RESIDENT]
        aside = ~self._stays_stored(held)
        for session in held[aside].tolist():
            table.aside[session] = self._kept.checkpoint(session)
        for session in held.tolist():
            table.park(session)
            tell(table.owner[session], table.owner[session].parked, int(table.handle[session]))
        if len(left := sessions[table.phase[sessions] == Phase.DETACHED]):
            self._kept.leave(left)
        return True

    def hurry(self) -> None:
        """Have what is not stored be stored soon: then some can give up their slots."""
        self._checkpointer.hurry()

    def reserve(self) -> None:
        """See to it that some slots are free, so that nobody waits for one."""
        wanted = self._table.slots // _RESERVE
        if (free := self._table.free_slots) < wanted:
            self.make_room(wanted - free)

    def _unneeded(self, count: int, tenant: str | None, leave: bool) -> Ints:
        """Sessions that have nothing queued and stand at a confirmed checkpoint, those first that were used least.

        One that went back behind the newest checkpoint may stand where none stays stored. If a stream holds it, its
        state is kept aside, copied while no run is under way; if none does, its client sends again what it lacks.
        """
        table = self._table
        sessions = table.with_slot() if tenant is None else table.tenants.those_of(tenant, table.with_slot())
        sequences, phase = table.sequences(sessions), table.phase[sessions]
        at_rest = (
            table.kept[sessions]
            & table.parks[sessions]
            & (table.claiming[sessions] == 0)
            & (sequences == table.written[sessions])
            & ((phase == Phase.DETACHED) | ((phase == Phase.RESIDENT) & (not leave)))
        )
        sessions = sessions[at_rest]
        if len(sessions) > count:
            answered = table.answered_at[sessions]
            # Some of them may have something queued.
            sessions = sessions[np.argpartition(answered, min(2 * count, len(sessions) - 1))[: 2 * count]]
        sessions = self._engine.idle(sessions)
        if self._engine.running:
            sessions = sessions[(table.phase[sessions] == Phase.DETACHED) | self._stays_stored(sessions)]
        order: Ints = sessions[table.answered_at[sessions].argsort(kind="stable")]
        return order[:count]

    def _stays_stored(self, sessions: Ints) -> npt.NDArray[np.bool_]:
        """Whether the store keeps a checkpoint of exactly where sessions stand that were written there."""
        table, sequences = self._table, self._table.sequences(sessions)
        stays: npt.NDArray[np.bool_] = (sequences >= table.tip[sessions]) | (sequences == table.durable[sessions])
        return stays

    def bring_back(self, session: int) -> None:
        """Have a session that gave up its slot have its state back before anything else that is asked of it."""
        table = self._table
        if table.phase[session] != Phase.PARKED:
            return
        table.restore(session)
        holder = Caller(self._accounts.of(table.tenants.tenant(session)))
        self._engine.wait_for(session, lambda: self._back(session), _ended, holder, must=True, unlimited=True)

    async def _back(self, session: int) -> Then:
        table, birth = self._table, self._table.birth[session]
        key, pause = self._kept.key(session), _FIRST_PAUSE
        aside: Checkpoint | None = table.aside[session]
        stored: Stored | None = None
        while table.birth[session] == birth:
            try:
                if aside is None and stored is None:
                    stored = await self._checkpointer.store.read(key)
                # Then what is given up is free at once, and a state can be kept aside.
                if await self._engine.between_runs(partial(self._settled, session, birth, aside, stored)):
                    return _ended
            except StoreUnavailable:
                pass
            except (CheckpointUnfit, NotFound) as error:
                return partial(self._lose, session, str(error))
            except Exception:
                # Whatever it was, what stands in its queue is not to go on without its state.
                _log.exception("a session could not be restored", model=self._engine.layout.name)
                return partial(self._kept.leave, np.array([session]))
            await asyncio.sleep(pause)
            pause = min(2 * pause, _LONGEST_PAUSE)
        return _ended

    def _settled(self, session: int, birth: int, aside: Checkpoint | None, stored: Stored | None) -> bool:
        """Have a session stand again where it stood, if it can have a slot; whether it does, or has ended."""
        if self._table.birth[session] == birth:
            if not self._give_slot(session):
                return False
            self._settle(session, aside, stored)
        return True

    def _give_slot(self, session: int) -> bool:
        table, tenant = self._table, self._table.tenants.tenant(session)
        at_share = table.share < table.slots and table.has_share_of_slots(tenant)
        if (at_share and not self.make_room(1, tenant)) or not (table.free_slots or self.make_room()):
            self.hurry()
            return False
        if not table.free_slots:
            # Those who left have theirs until a run that is to be made again is over.
            return False
        table.give_slot(session)
        return True

    def _settle(self, session: int, found: Checkpoint | None, stored: Stored | None) -> None:
        """Put the state of a session into its slot; it was kept aside, or is among what is stored."""
        table = self._table
        sequence = int(table.sequences(session))
        if stored is not None:
            if stored.epoch != table.epoch[session]:
                self._forget(np.array([session]), CloseReason.FENCED)
                return
            found = next((each for each in stored.checkpoints if each.sequence == sequence), None)
        try:
            if found is None:
                raise ValueError(f"no checkpoint is at sequence {sequence}")
            self._put(session, found)
        except ValueError as error:
            self._lose(session, str(error))
            return
        table.restored(session)

    def _lose(self, session: int, why: str) -> None:
        _log.error("a session could not be restored", model=self._engine.layout.name, reason=why)
        self._forget(np.array([session]), CloseReason.LOST)


def _ended(*_: object) -> None:
    """The session has ended, and whoever asked for it has heard so."""
