"""Slots that are in use, given up in turn: by sessions that are never at rest where they were written."""

import asyncio
import itertools
from dataclasses import dataclass
from functools import partial
from typing import Any, Final, Protocol

import numpy as np

from gatestream.server.arrays import Ints
from gatestream.server.core.accounts import Accounts
from gatestream.server.core.admission import Caller
from gatestream.server.core.checkpointer import Checkpointer
from gatestream.server.core.controls import Then
from gatestream.server.core.engine import Engine
from gatestream.server.core.transitions import Phase

_FIRST_PAUSE, _LONGEST_PAUSE = 0.002, 0.1
# So long a session's steps wait until it is written, at most; after one that was not, none is asked for a while.
_SECONDS: Final = 2.0
_REST_SECONDS: Final = 10.0
# So long one that was asked, and whose turn has not come, counts among those that are asked at once.
_SECONDS_ASKED: Final = 0.1
# So many are asked at once, and this part of all slots.
_MOST: Final = 64
_PART: Final = 8
_NEVER: Final = -1


class Slots(Protocol):
    """The slots of one model, as `core.residence` has them. It asks for them to be given up, so that it is not kept."""

    def is_wanted(self, session: int) -> bool:
        """Whether somebody is short of the slot that a session has."""

    def park_in_turn(self, session: int) -> bool:
        """Take the slot of a session whose turn that is; whether something behind that needs it again."""

    async def back(self, session: int) -> Then:
        """Have a session that is to have a slot stand in one, where it stood."""


@dataclass(slots=True)
class _Turn:
    """A session's turn to give its slot up.

    Attributes:
        line: the tenant who is short of slots; None: everybody.
        asked_at: when it was asked, in the loop's clock.
        come: its turn has come: what it is asked for from now on waits.
    """

    line: str | None
    asked_at: float
    come: bool = False


class Yielding:
    """Asks sessions of one model that have slots to give them up, each in its turn.

    Args:
        engine: of the model.
        accounts: of the tenants.
        checkpointer: of the server.
    """

    def __init__(self, engine: Engine, accounts: Accounts, checkpointer: Checkpointer):
        self._engine = engine
        self._table = engine.sessions
        self._accounts = accounts
        self._checkpointer = checkpointer
        # By session, which turn it was when it was given its slot, or was asked in vain to give it up.
        self._turns = itertools.count(1)
        self._given = np.zeros(len(self._table.position), np.int64)
        # By session, the birth of the one of that number that is to give its slot up.
        self._asked = np.full(len(self._table.position), _NEVER, np.int64)
        # Those that were asked, by birth.
        self._turns_asked: dict[int, _Turn] = {}
        self._rests_until = -np.inf

    def has_slot(self, session: int) -> None:
        """A session has been given its slot."""
        self._given[session] = next(self._turns)

    def ask(self, count: int, tenant: str | None, slots: Slots) -> None:
        """Have sessions that have had their slots for longest give them up, until so many are to.

        None does while checkpoints cannot be written soon.

        Args:
            count: of sessions.
            tenant: whose; None: anybody's.
            slots: what becomes of them.
        """
        table, now = self._table, _now()
        # One that has much queued has its turn late: meanwhile another is asked.
        under_way = sum(
            each.line == tenant and (each.come or now < each.asked_at + _SECONDS_ASKED)
            for each in self._turns_asked.values()
        )
        count = min(count, self._most(tenant)) - under_way
        if count <= 0 or now < self._rests_until or not self._writes():
            return
        sessions = table.with_slot() if tenant is None else table.tenants.those_of(tenant, table.with_slot())
        sessions = sessions[self._may_yield(sessions) & (self._asked[sessions] != table.birth[sessions])]
        if len(sessions) > count:
            sessions = sessions[np.argpartition(self._given[sessions], count - 1)[:count]]
        for session in sessions.tolist():
            self._ask(session, int(table.birth[session]), _Turn(tenant, now), slots)

    def _most(self, line: str | None) -> int:
        """How many may have their turn at once."""
        slots = self._table.slots if line is None else self._table.share
        return min(_MOST, max(1, slots // _PART))

    def _writes(self) -> bool:
        """Whether a session that stops would soon be written."""
        return self._checkpointer.writes_within(_SECONDS / 2)

    def _may_yield(self, sessions: Ints) -> Any:
        table = self._table
        phase = table.phase[sessions]
        in_slot = (phase == Phase.RESIDENT) | (phase == Phase.DETACHED)
        return in_slot & table.kept[sessions] & table.parks[sessions] & (table.claiming[sessions] == 0)

    def _ask(self, session: int, birth: int, turn: _Turn, slots: Slots) -> None:
        self._asked[session] = birth
        self._turns_asked[birth] = turn

        holder = Caller(self._accounts.of(self._table.tenants.tenant(session)))
        over = partial(self._over, session, birth)
        wait = partial(self._yield, session, birth, turn, over, slots)
        self._engine.wait_for(session, wait, over, holder, must=True, unlimited=True)

    def _over(self, session: int, birth: int, *_: object) -> None:
        """A session's turn is over, or will not come."""
        self._turns_asked.pop(birth, None)
        if self._asked[session] == birth:
            self._asked[session] = _NEVER

    async def _yield(self, session: int, birth: int, turn: _Turn, over: Then, slots: Slots) -> Then:
        """Give a slot up when its state is written, and have one again where something is queued behind this."""
        restored: bool | None = None
        if sum(each.line == turn.line and each.come for each in self._turns_asked.values()) >= self._most(turn.line):
            # It was asked long ago, and so have others been since.
            restored = False
        turn.come = True
        pause, until = _FIRST_PAUSE, _now() + _SECONDS
        while restored is None:
            restored = await self._engine.between_runs(partial(self._given_up, session, birth, slots))
            if restored is None:
                if not self._writes():
                    break
                if _now() > until:
                    self._rests_until = _now() + _REST_SECONDS
                    break
                self._checkpointer.hurry()
                await asyncio.sleep(pause)
                pause = min(2 * pause, _LONGEST_PAUSE)
        # Who waits for a slot itself keeps nobody from having a turn.
        self._turns_asked.pop(birth, None)
        if not restored or self._table.birth[session] != birth:
            self.has_slot(session)
            return over
        # Whatever has been asked of it since: what stands behind this needs its slot.
        back = await slots.back(session)

        def then() -> None:
            over()
            back()

        return then

    def _given_up(self, session: int, birth: int, slots: Slots) -> bool | None:
        """Whether a session is to be restored that has given its slot up, or need not; None: it cannot yet."""
        table = self._table
        one = np.array([session])
        if table.birth[session] != birth or not self._may_yield(one).all() or not slots.is_wanted(session):
            return False
        if table.sequences(session) != table.written[session]:
            return None
        return slots.park_in_turn(session)


def _now() -> float:
    return asyncio.get_running_loop().time()
