"""Which of one model's kept sessions have a slot: those used least give theirs up, until their next step."""

import asyncio
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
from gatestream.server.core.yielding import Yielding
from gatestream.server.durability.checkpoints import Checkpoint, Stored
from gatestream.server.errors import CheckpointUnfit, NotFound, StoreUnavailable

# Slots that are given up at once for one that is wanted, at most; and the part of all slots that is kept free.
_PIECE: Final = 16
_RESERVE: Final = 64
_FIRST_PAUSE, _LONGEST_PAUSE = 0.002, 0.2
# So long a session waits for a slot that somebody can do without; then some that are in use are given up in their turn.
_PATIENCE: Final = 0.1
# A session that could not be opened for lack of a slot is to be asked for again so soon. So long a slot is left to it:
# clients that double their pauses twice come back within that. And as long it is not then, so that those that are open
# have their turns too.
_RETRY_SECONDS: Final = 0.5
_LEFT_TO_NEW_SECONDS: Final = 4.0
# Who is not the first in line is told when it is.
_LATER_SECONDS: Final = 5.0

_log = structlog.get_logger(__name__)


class _Waiting(NamedTuple):
    """A session that waits for a slot.

    Attributes:
        since: when it began to, in the loop's clock.
        called: set when it is to look for one.
    """

    since: float
    called: asyncio.Event


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
        self._yielding = Yielding(engine, accounts, checkpointer)
        # The sessions that wait for a slot, by birth, in order: in a line for each tenant, where tenants have shares of
        # the slots.
        self._lines: dict[str, dict[int, _Waiting]] = {}
        # By line, until when a slot is left to a session that could not be opened.
        self._left_to_new: dict[str, float] = {}

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

    def ask_for_new(self, tenant: str) -> float:
        """A tenant's session could not be opened for lack of a slot: have one be free when that is asked for again.

        Returns:
            Seconds after which to ask.
        """
        self._checkpointer.hurry()
        line, now, table = self._line(tenant), _now(), self._table
        # Of the only one nobody else has anything meanwhile: then for its next attempt alone.
        seconds = _LEFT_TO_NEW_SECONDS if min(table.slots, table.share) > 1 else 2 * _RETRY_SECONDS
        if now > self._left_to_new.get(line, 0.0) + seconds:
            self._left_to_new[line] = now + seconds
        self._yielding.ask(1, tenant if self._at_share(tenant) else None, self)
        return _RETRY_SECONDS

    def has_new(self, session: int) -> None:
        """A session has been opened, and has its slot."""
        self._left_to_new.pop(self._line(self._table.tenants.tenant(session)), None)
        self._yielding.has_slot(session)

    def _park(self, session: int) -> None:
        """Take the slot of a session that a stream holds, and that stands where it was written."""
        table = self._table
        if not self._stays_stored(np.array([session])).all():
            table.aside[session] = self._kept.checkpoint(session)
        table.park(session)
        if (owner := table.owner[session]) is not None:
            tell(owner, owner.parked, int(table.handle[session]))

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
        sessions = self._engine.edits.idle(sessions)
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
        self._engine.wait_for(session, lambda: self.back(session), _ended, holder, must=True, unlimited=True)

    async def back(self, session: int) -> Then:
        """Have a session that is to have a slot stand in one, where it stood."""
        table, birth = self._table, int(self._table.birth[session])
        key, pause = self._kept.key(session), _FIRST_PAUSE
        aside: Checkpoint | None = table.aside[session]
        stored: Stored | None = None
        try:
            while aside is None and stored is None and table.birth[session] == birth:
                try:
                    stored = await self._checkpointer.store.read(key)
                except StoreUnavailable:
                    await asyncio.sleep(pause)
                    pause = min(2 * pause, _LONGEST_PAUSE)
            if table.birth[session] == birth:
                await self._in_line(session, birth, aside, stored)
        except (CheckpointUnfit, NotFound) as error:
            return partial(self._lose, session, str(error))
        except Exception:
            # Whatever it was, what stands in its queue is not to go on without its state.
            _log.exception("a session could not be restored", model=self._engine.layout.name)
            return partial(self._kept.leave, np.array([session]))
        return _ended

    async def _in_line(self, session: int, birth: int, aside: Checkpoint | None, stored: Stored | None) -> None:
        """Return when a session stands again where it stood, or has ended; who came first has a slot first."""
        table, tenant = self._table, self._table.tenants.tenant(session)
        name, pause = self._line(tenant), _FIRST_PAUSE
        line = self._lines.setdefault(name, {})
        waiting = line[birth] = _Waiting(_now(), asyncio.Event())
        # Then what is given up is free at once, and a state can be kept aside.
        settled = partial(self._settled, session, birth, name, aside, stored)
        try:
            while table.birth[session] == birth:
                first = next(iter(line)) == birth
                if first and await self._engine.between_runs(settled):
                    return
                if first and _now() > waiting.since + _PATIENCE:
                    self._yielding.ask(len(line), tenant if self._at_share(tenant) else None, self)
                with suppress(TimeoutError):
                    async with asyncio.timeout(pause if first else _LATER_SECONDS):
                        await waiting.called.wait()
                waiting.called.clear()
                pause = min(2 * pause, _LONGEST_PAUSE)
        finally:
            del line[birth]
            self._call_first(name)

    def _call_first(self, name: str) -> None:
        """Have the first in a line look for a slot; nobody waits in one that is empty."""
        if line := self._lines.get(name):
            next(iter(line.values())).called.set()
        else:
            self._lines.pop(name, None)

    def _settled(self, session: int, birth: int, name: str, aside: Checkpoint | None, stored: Stored | None) -> bool:
        """Have a session stand again where it stood, if it can have a slot; whether it does, or has ended."""
        if self._table.birth[session] == birth:
            if not self._give_slot(session, name):
                return False
            self._settle(session, aside, stored)
        return True

    def _give_slot(self, session: int, name: str) -> bool:
        table, tenant = self._table, self._table.tenants.tenant(session)
        needed = 1 + (_now() < self._left_to_new.get(name, 0.0))
        if self._at_share(tenant, needed):
            if not self.make_room(1, tenant):
                self._checkpointer.hurry()
            if self._at_share(tenant, needed):
                return False
        if table.free_slots < needed and not self.make_room():
            self._checkpointer.hurry()
        # Those who left have theirs until a run that is to be made again is over.
        if table.free_slots < needed:
            return False
        table.give_slot(session)
        self._yielding.has_slot(session)
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

    def _line(self, tenant: str) -> str:
        """In which line a tenant's sessions wait."""
        return tenant if self._table.share < self._table.slots else ""

    def _at_share(self, tenant: str, more: int = 1) -> bool:
        """Whether a tenant may not have so many slots more."""
        table = self._table
        return table.share < table.slots and table.has_share_of_slots(tenant, more)

    def is_wanted(self, session: int) -> bool:
        """Whether somebody is short of the slot that a session has."""
        tenant = self._table.tenants.tenant(session)
        is_left = _now() < self._left_to_new.get(self._line(tenant), 0.0)
        return bool(self._lines) or (is_left and (not self._table.free_slots or self._at_share(tenant)))

    def park_in_turn(self, session: int) -> bool:
        """Take the slot of a session whose turn that is; whether something behind that needs it again."""
        table = self._table
        again = not self._engine.edits.is_last(session)
        if again or table.phase[session] == Phase.RESIDENT:
            self._park(session)
        else:
            self._kept.leave(np.array([session]))
        if again:
            table.restore(session)
        for name in list(self._lines):
            self._call_first(name)
        return again

    def _lose(self, session: int, why: str) -> None:
        _log.error("a session could not be restored", model=self._engine.layout.name, reason=why)
        self._forget(np.array([session]), CloseReason.LOST)


def _now() -> float:
    return asyncio.get_running_loop().time()


def _ended(*_: object) -> None:
    """The session has ended, and whoever asked for it has heard so."""
