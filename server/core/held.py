"""What streams ask of the sessions that they hold, besides steps, and what becomes of these without them."""

import asyncio
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from gatestream.server.arrays import Ints
from gatestream.server.core.kept import KeptSessions
from gatestream.server.core.places import Places
from gatestream.server.core.registry import Registry
from gatestream.server.core.reply_sink import CloseReason, Holder, ReplySink, tell
from gatestream.server.core.transitions import Phase
from gatestream.server.errors import OutOfStep, Reason, Refused
from gatestream.server.telemetry import DISCONNECTED

_NONE = np.empty(0, np.int64)
# Sessions that are ended at once, before the loop has its next turn.
_PIECE: Final = 32


class HeldSessions:
    """The sessions of one model as those who hold them have them.

    Args:
        registry: of the sessions.
        places: of them.
        kept: those that the store knows; None: there is no store.
    """

    def __init__(self, registry: Registry, places: Places, kept: KeptSessions | None):
        self._registry = registry
        self._places = places
        self._kept = kept
        self._engine = registry.engine
        self._table = registry.table

    def reset(self, owner: ReplySink, sessions: Ints, handles: Ints, sequences: Ints | None = None) -> None:
        """Back to the initial state, each in its order; the owner hears `reset_done`.

        Args:
            owner: who holds the sessions.
            sessions: which.
            handles: what the owner calls them.
            sequences: that each is meant for; None: wherever it stands.

        Raises:
            Exhausted: too much is pending.
        """
        self._places.bring_all_back(sessions)
        if sequences is None:
            self._engine.control(sessions, self.restart, self.not_restarted, owner, handles)
            return
        meant = dict(zip(sessions.tolist(), sequences.tolist(), strict=True))

        def restart(owner: ReplySink | None, sessions: Ints, handles: Ints) -> None:
            expected = np.array([meant[session] for session in sessions.tolist()])
            good = self._standing(owner, sessions, handles, expected, "reset")
            self._table.acknowledged[sessions[good]] = expected[good]
            if good.any():
                self.restart(owner, sessions[good], handles[good])

        self._engine.control(sessions, restart, self.not_restarted, owner, handles)

    def acknowledge(self, sessions: Ints, sequences: Ints) -> None:
        """As `KeptSessions.acknowledge`."""
        if self._kept is not None:
            self._kept.acknowledge(sessions, sequences)
            # What is kept aside is written when it is in a slot again.
            self._places.bring_all_back(sessions[self._table.are_aside(sessions)])

    def closable(self, owner: ReplySink, sessions: Ints, handles: Ints, sequences: Ints) -> npt.NDArray[np.bool_]:
        """Which sessions stand where a Close is meant for, with no steps queued; the owner hears of the others.

        Args:
            owner: who holds the sessions.
            sessions: which.
            handles: what the owner calls them.
            sequences: that each is meant for.
        """
        self._engine.edits.take_in()
        # Steps that are queued will have moved it on; whatever else is leaves it where it stands.
        still = self._table.accepted[sessions] == self._table.position[sessions]
        return self._standing(owner, sessions, handles, np.where(still, sequences, -1), "close")

    def _standing(
        self, owner: ReplySink | None, sessions: Ints, handles: Ints, expected: Ints, kind: str
    ) -> npt.NDArray[np.bool_]:
        """Which sessions stand at the sequences that something is meant for; the owner hears of the others."""
        table = self._table
        stands = table.sequences(sessions)
        good: npt.NDArray[np.bool_] = stands == expected
        if owner is not None and not good.all():
            first = int((~good).argmax())
            error = OutOfStep(
                f"{kind}.sequence of handle {handles[first]} is {expected[first]}; it stands at {stands[first]}",
                Reason.POSITION_MISMATCH,
            )
            tell(owner, owner.refused, error, handles[~good], table.position[sessions[~good]], _NONE, _NONE)
        return good

    def restart(self, owner: ReplySink | None, sessions: Ints, handles: Ints) -> None:
        """Put sessions into the initial state, in their turn; the owner hears `reset_done`."""
        engine, table = self._engine, self._table
        engine.rows.make_fresh(table.slot[sessions])
        table.offset[sessions] += 1
        table.answered_at[sessions] = engine.clock()
        if owner is not None:
            tell(owner, owner.reset_done, handles, table.position[sessions])

    def not_restarted(self, error: Refused, owner: ReplySink | None, sessions: Ints, handles: Ints) -> None:
        """Tell the owner that sessions were not, and why."""
        if owner is not None:
            tell(owner, owner.refused, error, handles, self._table.position[sessions], _NONE, _NONE)

    def close(self, holder: Holder, sessions: Ints) -> None:
        """End sessions, each in its order; whoever holds them hears `closed`. Their ids are free at once."""
        # By the other door some may have been ended already: they wait for it.
        sessions = sessions[self._table.phase[sessions] != Phase.CLOSING]
        if not len(sessions):
            return
        known = self._registry.stored(sessions)
        if len(others := sessions[~known]):
            self._engine.control(others, self._close, self._not_closed, holder=holder, must=True, unlimited=True)
        for session in sessions[known].tolist():
            self._registry.close_in_store(
                session, holder, CloseReason.REQUESTED, lambda _: None, self._not_closed, unlimited=True
            )
        self._table.leave(sessions)
        self._registry.release(sessions)

    def _close(self, _owner: ReplySink | None, sessions: Ints, _handles: Ints) -> None:
        self._registry.end(sessions, CloseReason.REQUESTED)

    def _not_closed(self, *_: Any) -> None:
        """They have ended already, and their owner has heard so."""

    def leave_behind(self, owner: ReplySink, sessions: Ints) -> npt.NDArray[np.bool_]:
        """Have an owner who says nothing more lose those of its sessions that are to stay, each in its order.

        Args:
            owner: who holds the sessions, and hears `closed` of these.
            sessions: which.

        Returns:
            Which of the sessions are to stay.
        """
        stays = self._table.parks[sessions]

        def leave(_owner: ReplySink | None, sessions: Ints, _handles: Ints) -> None:
            table = self._table
            mine = sessions[table.owner[sessions] == owner]
            handles, positions = table.handle[mine].astype(np.int64), table.position[mine]
            self.detach(mine)
            if len(mine):
                tell(owner, owner.closed, handles, positions, CloseReason.PARKED)

        if stays.any():
            self._engine.control(sessions[stays], leave, self._not_closed, holder=owner, must=True, unlimited=True)
        return stays

    def disconnected(self, owner: ReplySink, sessions: Ints) -> None:
        """End or leave those of the sessions that are still the owner's, who has gone: some now, others soon."""
        table = self._table
        some, others = sessions[:_PIECE], sessions[_PIECE:]
        some = some[table.owner[some] == owner]
        stays = table.parks[some] & (table.phase[some] != Phase.CLOSING)
        self.detach(some[stays])
        ends = some[~stays]
        self._engine.stats.ended[DISCONNECTED] += len(ends)
        self._registry.remove(ends)
        if len(others):
            asyncio.get_running_loop().call_soon(self.disconnected, owner, others)

    def detach(self, sessions: Ints) -> None:
        """Have no stream hold sessions that stay; what they have queued and is not under way is not done."""
        if len(sessions):
            table = self._table
            ended = OutOfStep("the session's stream ended before this step's turn came", Reason.SESSION_CLOSED)
            self._engine.edits.cut_off(sessions, ended)
            table.detach(sessions)
            table.answered_at[sessions] = self._engine.clock()
            if len(parked := sessions[table.phase[sessions] == Phase.PARKED]):
                assert self._kept is not None, "the store knows them"
                self._kept.leave(parked)
