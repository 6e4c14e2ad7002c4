"""Sessions whose time is over."""

import asyncio
from collections.abc import Callable, Iterator
from typing import Final

import numpy as np

from gatestream.server.arrays import Ints
from gatestream.server.config import Limits
from gatestream.server.core.engine import Engine
from gatestream.server.core.reply_sink import CloseReason
from gatestream.server.core.transitions import Phase

# Sessions that are ended at once, before the loop has its next turn.
_PIECE: Final = 32
# And for the sake of a new one, of those whose time is over.
_ROOM: Final = 16
# When there was none, nobody looks again for so long.
_LOOK_AGAIN_SECONDS: Final = 0.05


class Expiry:
    """Ends the sessions of one model whose time is over.

    Args:
        engine: of the model.
        limits: of the server.
        end: ends sessions, whose owners hear why.

    Attributes:
        sequence_timeout: seconds without an answer after which a sequence may be ended; infinity: none.
    """

    def __init__(self, engine: Engine, limits: Limits, end: Callable[[Ints, CloseReason], None]):
        self._engine = engine
        self._table = engine.sessions
        self._end = end
        # Seconds without an answer after which a session is closed, and a sequence.
        self._timeout = limits.idle_timeout or np.inf
        self._park_timeout = limits.park_timeout or np.inf
        self.sequence_timeout = min(limits.sequence_timeout or np.inf, self._timeout)
        self._looked = -np.inf

    async def end_all(self, reason: CloseReason) -> None:
        """End every session; what is queued is answered as not taken, and the owners hear `closed`."""
        table = self._table
        while len(sessions := table.last_answered_before(np.inf)):
            for piece in _pieces(sessions):
                self._end(piece[table.phase[piece] != Phase.CLOSED], reason)
                await asyncio.sleep(0)

    async def expire(self) -> int:
        """End the sessions that have had no answer for too long; how many."""
        ended = 0
        for piece in _pieces(self._overdue()):
            # Some may have been answered since.
            overdue = self._overdue_among(piece)
            self._end(overdue, CloseReason.IDLE)
            ended += len(overdue)
            await asyncio.sleep(0)
        return ended

    def _overdue(self) -> Ints:
        """The sessions that have had no answer for too long, and have nothing queued."""
        table = self._table
        # Of those without a slot, which may be very many, streams hold all.
        parked = table.last_answered_before(self._engine.clock() - self._timeout)
        return self._overdue_among(np.concatenate((table.with_slot(), parked[table.slot[parked] < 0])))

    def _overdue_among(self, sessions: Ints) -> Ints:
        table, now = self._table, self._engine.clock()
        timeouts = np.where(table.sequence[sessions], self.sequence_timeout, self._timeout)
        left = table.parks[sessions] & (table.phase[sessions] == Phase.DETACHED) & ~table.sequence[sessions]
        timeouts[left] = self._park_timeout
        return self._engine.edits.idle(sessions[table.answered_at[sessions] < now - timeouts])

    def make_room(self, tenant: str) -> bool:
        """End some sessions whose time is over, and which `expire` has not come to yet; whether there were any.

        Args:
            tenant: who has no room; its own are ended, where it has as many as it may.
        """
        now = self._engine.clock()
        if now < self._looked + _LOOK_AGAIN_SECONDS:
            return False
        sessions = self._overdue()
        if self._table.at_share(tenant):
            sessions = self._table.tenants.those_of(tenant, sessions)
        if len(sessions) == 0:
            self._looked = now
        self._end(sessions[:_ROOM], CloseReason.IDLE)
        return len(sessions) > 0


def _pieces(sessions: Ints) -> Iterator[Ints]:
    return (sessions[begin : begin + _PIECE] for begin in range(0, len(sessions), _PIECE))
