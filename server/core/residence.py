"""Which of one model's kept sessions have a slot: those used least give theirs up, until their next step."""

import asyncio
import itertools
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Final, NamedTuple

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
# So long a session waits for a slot that somebody can do without; then one that is in use is given up in its turn.
_PATIENCE: Final = 0.1
# So long it is waited for to be stored; its steps wait meanwhile.
_YIELD_SECONDS: Final = 2.0
# So long a free slot is left to a session that could not be opened for lack of one, and is asked for again.
_LEFT_TO_NEW_SECONDS: Final = 1.0

_log = structlog.get_logger(__name__)


class _Waiting(NamedTuple):
    """A session that waits for a slot.

    Attributes:
        since: when it began to, in the loop's clock.
        freed: set when there is one for who has waited longest.
    """

    since: float
    freed: asyncio.Event

    def long(self) -> bool:
        """Whether it has waited for as long as others are to have had slots of their own accord."""
        return _now() > self.since + _PATIENCE


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
        # By session, which turn it was when it was given its slot.
        self._turns = itertools.count(1)
        self._given = np.zeros(len(self._table.position), np.int64)
        # The sessions that wait for a slot, by birth, in order; by tenant, where a tenant has a share of the slots.
        self._waiting: dict[str, dict[int, _Waiting]] = {}
        # Births of those that are to give theirs up.
        self._yielding: set[int] = set()
        self._left_to_new = -np.inf

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
        for session in sessions[table.phase[sessions] == Phase.RESIDENT].tolist():
            self._park(session)
        if len(left := sessions[table.phase[sessions] == Phase.DETACHED]):
            self._kept.leave(left)
        return True

    def ask_for_new(self, tenant: str) -> None:
        """A tenant's session could not be opened for lack of a slot: have one be free when that is asked for again."""
        self._checkpointer.hurry()
        own, now = self._at_share(tenant), _now()
        if not own and now > self._left_to_new + _LEFT_TO_NEW_SECONDS:
            # Every other second at most, so that those that are open have their turns too.
            self._left_to_new = now + _LEFT_TO_NEW_SECONDS
        self._have_one_yield(tenant if own else None)

    def has_new(self) -> None:
        """It has been opened."""
        self._left_to_new = -np.inf

    def _park(self, session: int) -> None:
        """Take the slot of a session that a stream holds, and that stands where it was written."""
        table = self._table
        if not self._stays_stored(np.array([session])).all():
            table.aside[session] = self._kept.checkpoint(session)
        table.park(session)
        tell(table.owner[session], table.owner[session].parked, int(table.handle[session]))

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
        birth = int(self._table.birth[session])
        name = self._line(session)
        line = self._waiting.setdefault(name, {})
        waiting = line[birth] = _Waiting(_now(), asyncio.Event())
        try:
            return await self._restored(session, birth, waiting)
        finally:
            del line[birth]
            if not line:
                del self._waiting[name]

    async def _restored(self, session: int, birth: int, waiting: _Waiting) -> Then:
        table = self._table
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
            if waiting.long() and table.birth[session] == birth:
                tenant = table.tenants.tenant(session)
                self._have_one_yield(tenant if self._at_share(tenant) else None)
            with suppress(TimeoutError):
                async with asyncio.timeout(pause):
                    await waiting.freed.wait()
            waiting.freed.clear()
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
        line = self._waiting[self._line(session)]
        if next(iter(line.values())).long() and not line[int(table.birth[session])].long():
            # Else those who have one again and again would leave none.
            return False
        if (self._at_share(tenant) and not self.make_room(1, tenant)) or not (table.free_slots or self.make_room()):
            self._checkpointer.hurry()
            return False
        # Those who left have theirs until a run that is to be made again is over.
        if table.free_slots <= (_now() < self._left_to_new):
            return False
        table.give_slot(session)
        self._given[session] = next(self._turns)
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

    # ---- Slots in use --------------------------------------------------------------------------

    def _line(self, session: int) -> str:
        """In which line a session waits: its tenant's, where tenants have shares."""
        table = self._table
        return table.tenants.tenant(session) if table.share < table.slots else ""

    def _at_share(self, tenant: str) -> bool:
        return self._table.share < self._table.slots and self._table.has_share_of_slots(tenant)

    def _have_one_yield(self, tenant: str | None) -> None:
        """Have the session that has had its slot for longest give it up in its turn, if too few are to do so.

        Args:
            tenant: whose; None: anybody's.
        """
        if len(self._yielding) > sum(map(len, self._waiting.values())) or not self._checkpointer.written_lately:
            return
        table = self._table
        sessions = table.with_slot() if tenant is None else table.tenants.those_of(tenant, table.with_slot())
        in_use = (table.phase[sessions] == Phase.RESIDENT) & table.kept[sessions] & table.parks[sessions]
        sessions = sessions[in_use & (table.claiming[sessions] == 0)]
        sessions = sessions[~np.isin(table.birth[sessions], list(self._yielding))]
        if len(sessions):
            session = int(sessions[self._given[sessions].argmin()])
            birth = int(table.birth[session])
            self._yielding.add(birth)
            self._engine.wait_for(
                session,
                lambda: self._yield(session, birth),
                lambda *_: self._yielding.discard(birth),
                Caller(self._accounts.of(table.tenants.tenant(session))),
                must=True,
                unlimited=True,
            )

    async def _yield(self, session: int, birth: int) -> Then:
        """Give a slot up when what stands in it is stored, and have one again where something is queued behind this."""
        pause, until = _FIRST_PAUSE, _now() + _YIELD_SECONDS
        try:
            while _now() < until and not await self._engine.between_runs(partial(self._yielded, session, birth)):
                self._checkpointer.hurry()
                await asyncio.sleep(pause)
                pause = min(2 * pause, _LONGEST_PAUSE)
        finally:
            self._yielding.discard(birth)
        if self._table.birth[session] == birth and self._table.phase[session] == Phase.RESTORING:
            return await self._back(session)
        return _ended

    def _yielded(self, session: int, birth: int) -> bool:
        """Whether a session has given up its slot, or need not any more."""
        table = self._table
        wanted = (self._waiting or _now() < self._left_to_new) and self._checkpointer.written_lately
        there = table.birth[session] == birth and table.phase[session] == Phase.RESIDENT
        if not (wanted and there) or table.claiming[session]:
            return True
        if table.sequences(session) != table.written[session]:
            return False
        self._park(session)
        for line in self._waiting.values():
            next(iter(line.values())).freed.set()
        if not self._engine.last_in_queue(session):
            table.restore(session)
        return True

    def _lose(self, session: int, why: str) -> None:
        _log.error("a session could not be restored", model=self._engine.layout.name, reason=why)
        self._forget(np.array([session]), CloseReason.LOST)


def _now() -> float:
    return asyncio.get_running_loop().time()


def _ended(*_: object) -> None:
    """The session has ended, and whoever asked for it has heard so."""
