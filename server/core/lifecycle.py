"""Opening, taking over, resetting, closing, expiring and copying the sessions of one model.

Whatever concerns a session that may have steps pending is a control in its line, and so happens in order.
"""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeVar

import numpy as np

from gatestream.server.arrays import Ints
from gatestream.server.config import Limits
from gatestream.server.core.accounts import Accounts
from gatestream.server.core.admission import Caller
from gatestream.server.core.batches import GATES, OUTPUTS
from gatestream.server.core.engine import Engine
from gatestream.server.core.owner import CloseReason, Holder, Owner, tell
from gatestream.server.durability.leases import Leases
from gatestream.server.errors import Draining, Elsewhere, Exhausted, InvalidRequest, NotFound, Reason, Refused
from gatestream.server.sequence_ids import sequence_shown
from gatestream.server.telemetry import DISCONNECTED

_NONE = np.empty(0, np.int64)
# Far enough below 2^63 that no session steps past it.
_POSITIONS = 2**62
# Sessions that are ended at once, before the loop has its next turn.
_PIECE: Final = 32
# And for the sake of a new one, of those whose time is over.
_ROOM: Final = 16
# When there was none, nobody looks again for so long.
_LOOK_AGAIN_SECONDS: Final = 0.05
_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class SessionState:
    """What a session has come to, to be kept, or put into another.

    Attributes:
        weights_fingerprint: of the model; for other weights it means nothing.
        position: steps that led to it.
        rows: for each of the model's states the bytes of its row.
    """

    weights_fingerprint: str
    position: int
    rows: Sequence[bytes]


class Lifecycle:
    """Who has which session of one model.

    Args:
        engine: of the model.
        limits: of the server.
        accounts: of the tenants.
        leases: what this worker shares with the others of its server; None where it is alone.

    Attributes:
        sequence_timeout: seconds without an answer after which a sequence may be ended; infinity: none.
        closed_for: why no more sessions are opened; empty: they are.
    """

    def __init__(self, engine: Engine, limits: Limits, accounts: Accounts, leases: Leases | None = None):
        self._engine = engine
        self._accounts = accounts
        # Seconds without an answer after which a session is closed, and a sequence.
        self._timeout = limits.idle_timeout or np.inf
        self.sequence_timeout = min(limits.sequence_timeout or np.inf, self._timeout)
        self.closed_for = ""
        self._looked = -np.inf
        self._leases = leases
        # By slot; 0: none.
        self._claimed = np.zeros(0 if leases is None else len(engine.sessions.position), np.int64)

    def open(
        self, owner: Owner, tenant: str, session_id: str, handle: int, *, create: bool, resume: bool, wants: int
    ) -> int:
        """Give a session to an owner, who hears `opened` when all that was accepted for it before has run.

        A session that another owner holds is taken from it: the other end of a dead connection may not know yet that
        it is dead.

        Args:
            owner: who holds it from now on.
            tenant: whose it is.
            session_id: of the session; empty: of a new one, made here.
            handle: what the owner calls it.
            create: it may be made,
            resume: it may be there already. One of them at least.
            wants: OUTPUTS and GATES, of its steps.

        Returns:
            The slot. Steps may be submitted at once.

        Raises:
            InvalidRequest, NotFound, AlreadyExists, Elsewhere, Exhausted, Draining: nothing has changed.
        """
        engine, sessions = self._engine, self._engine.sessions
        if self.closed_for:
            raise Draining(f"{self.closed_for}; open the session on another server")
        if wants & GATES and not engine.layout.gates:
            raise InvalidRequest(
                f"gates were asked for, but the artifact of model {engine.layout.name!r} shows none; "
                "serve the one that `gatestream export --form gates` makes",
                Reason.NO_GATES,
            )
        slot = None
        if not create:
            slot = self._find(tenant, session_id)
        elif resume and session_id:
            slot = sessions.get(tenant, session_id)
        if slot is None:
            slot = self._create(tenant, session_id)
            tell(owner, owner.opened, handle, sessions.session_id(slot), 0, True)
        else:
            before, before_handle = sessions.owner[slot], int(sessions.handle[slot])
            self._take_over(slot, owner, handle)
            if before is not None:
                tell(before, before.lost, before_handle)
        sessions.owner[slot] = owner
        sessions.attached[slot] = True
        sessions.sequence[slot] = False
        sessions.handle[slot] = handle
        engine.wants[slot] = wants
        return slot

    def _take_over(self, slot: int, owner: Owner, handle: int) -> None:
        sessions = self._engine.sessions
        session_id = sessions.session_id(slot)
        before, before_handle = sessions.owner[slot], int(sessions.handle[slot])

        def leave() -> int:
            position = self._answered(slot)
            if before is not None:
                gone = np.array([before_handle]), np.array([position])
                tell(before, before.closed, *gone, CloseReason.TAKEN_OVER)
            return position

        def run(*_: Any) -> None:
            tell(owner, owner.opened, handle, session_id, leave(), False)

        def fail(error: Refused, *_: Any) -> None:
            leave()
            tell(owner, owner.refused, error, np.array([handle]), _NONE, _NONE, _NONE)

        self._engine.control(np.array([slot]), run, fail, owner, must=True)

    def reset(self, owner: Owner, slots: Ints, handles: Ints) -> None:
        """Back to the initial state, each in its order; the owner hears `reset_done`.

        Raises:
            Exhausted: too much is pending.
        """
        self._engine.control(slots, self._restart, self._not_restarted, owner, handles)

    def _restart(self, owner: Owner | None, slots: Ints, handles: Ints) -> None:
        engine = self._engine
        engine.rows.make_fresh(slots)
        engine.sessions.answered_at[slots] = engine.clock()
        if owner is not None:
            tell(owner, owner.reset_done, handles, engine.sessions.position[slots])

    def _not_restarted(self, error: Refused, owner: Owner | None, slots: Ints, handles: Ints) -> None:
        if owner is not None:
            tell(owner, owner.refused, error, handles, self._engine.sessions.position[slots], _NONE, _NONE)

    def sequence(self, holder: Holder, tenant: str, session_id: str, *, start: bool) -> int:
        """The slot of the session, held by no stream, that a sequence of the Open Inference Protocol is.

        Args:
            holder: whose what is put in line is.
            tenant: whose it is.
            session_id: of the sequence; empty: one for a single request.
            start: put it into its initial state, or make it.

        Raises:
            NotFound: it is not to start, and is not there.
            Elsewhere: another worker has it.
            Draining: it would have to be made.
            Exhausted: it cannot be made.
        """
        slot = self._engine.sessions.get(tenant, session_id) if session_id else None
        if slot is None:
            if session_id and not start:
                self._check_elsewhere(tenant, session_id)
                ended = f"; {self.sequence_timeout:g} s after its last answer it ends"
                raise NotFound(
                    f"sequence_id {sequence_shown(session_id)} is not here; the first request of a sequence sets "
                    f"sequence_start{ended if self.sequence_timeout < np.inf else ''}"
                )
            if self.closed_for:
                raise Draining(f"{self.closed_for}; start the sequence on another server")
            # Nobody can ask another worker for a session without a name: it has no need of a claim.
            slot = self._create(tenant, session_id) if session_id else self._create_here(tenant, "")
            self._engine.wants[slot] = OUTPUTS
        elif start:
            self._engine.control(np.array([slot]), self._restart, self._not_restarted, holder=holder)
        sessions = self._engine.sessions
        sessions.sequence[slot] = sessions.owner[slot] is None
        return slot

    def close(self, holder: Holder, slots: Ints) -> None:
        """End sessions, each in its order; whoever holds them hears `closed`. Their ids are free at once."""
        # By the other door some may have been ended already: they wait for it.
        slots = slots[~self._engine.sessions.leaving[slots]]
        if not len(slots):
            return
        self._engine.control(slots, self._close, self._not_closed, holder=holder, must=True, unlimited=True)
        self._engine.sessions.leave(slots)
        self._release(slots)

    def _close(self, _owner: Owner | None, slots: Ints, _handles: Ints) -> None:
        self._end(slots, CloseReason.REQUESTED)

    def _not_closed(self, *_: Any) -> None:
        """They have ended already, and their owner has heard so."""

    def detach(self, owner: Owner, slots: Ints) -> None:
        """End those of the sessions that are still the owner's, who has gone: some now, others as the loop has time."""
        sessions = self._engine.sessions
        some, others = slots[:_PIECE], slots[_PIECE:]
        some = some[sessions.owner[some] == owner]
        self._engine.stats.ended[DISCONNECTED] += len(some)
        sessions.owner[some] = None
        self._engine.remove(some)
        self._release(some)
        if len(others):
            asyncio.get_running_loop().call_soon(self.detach, owner, others)

    async def end_all(self, reason: CloseReason) -> None:
        """End every session; what stands in line is answered as not taken, and the owners hear `closed`."""
        while len(slots := self._engine.sessions.last_answered_before(np.inf)):
            self._end(slots[:_PIECE], reason)
            await asyncio.sleep(0)

    async def expire(self) -> int:
        """End the sessions that have had no answer for too long; how many."""
        ended = 0
        while len(slots := self._overdue()):
            self._end(slots[:_PIECE], CloseReason.IDLE)
            ended += len(slots[:_PIECE])
            await asyncio.sleep(0)
        return ended

    def _overdue(self) -> Ints:
        """Slots of the sessions that have had no answer for too long, and have nothing in line."""
        sessions, now = self._engine.sessions, self._engine.clock()
        slots = sessions.last_answered_before(now - self.sequence_timeout)
        timeouts = np.where(sessions.sequence[slots], self.sequence_timeout, self._timeout)
        return self._engine.idle(slots[sessions.answered_at[slots] < now - timeouts])

    def _make_room(self, tenant: str) -> bool:
        """End some sessions whose time is over, and which `expire` has not come to yet; whether there were any.

        Args:
            tenant: who has no room; its own are ended, where it has as many as it may.
        """
        sessions, now = self._engine.sessions, self._engine.clock()
        if now < self._looked + _LOOK_AGAIN_SECONDS:
            return False
        slots = self._overdue()
        if sessions.at_share(tenant):
            slots = np.intersect1d(slots, sessions.of(tenant), assume_unique=True)
        if len(slots) == 0:
            self._looked = now
        self._end(slots[:_ROOM], CloseReason.IDLE)
        return len(slots) > 0

    async def close_by_id(self, tenant: str, session_id: str) -> int:
        """End a session whoever owns it; its last position."""

        def end(slot: int) -> int:
            position = int(self._engine.sessions.position[slot])
            self._end(np.array([slot]), CloseReason.ADMINISTERED)
            return position

        return await self._in_line(tenant, session_id, end)

    async def state(self, tenant: str, session_id: str) -> SessionState:
        """A copy of a session's state, after all steps accepted so far."""

        def copy(slot: int) -> SessionState:
            engine = self._engine
            rows = [row.tobytes() for row in engine.rows.read(slot)]
            return SessionState(engine.layout.fingerprint, int(engine.sessions.position[slot]), rows)

        return await self._in_line(tenant, session_id, copy)

    async def set_state(self, tenant: str, session_id: str, state: SessionState) -> int:
        """Put a session into a state and at its position; the position.

        Raises:
            InvalidRequest: the state is of other weights, or not of this model's shape.
            OutOfStep: steps that were accepted before it failed.
        """
        layout = self._engine.layout
        if state.weights_fingerprint != layout.fingerprint:
            raise InvalidRequest(
                f"state.weights_fingerprint is {state.weights_fingerprint[:140]!r}; this model's is "
                f"{layout.fingerprint!r}: a state has a meaning for the weights that made it only",
                Reason.STATE_MISMATCH,
            )
        sizes = [item.row_bytes for item in layout.states]
        if [len(column) for column in state.rows] != sizes:
            raise InvalidRequest(
                f"state.state has columns of {[len(column) for column in state.rows[:8]]} bytes; expected {sizes}",
                Reason.STATE_MISMATCH,
            )
        if state.position >= _POSITIONS:
            raise InvalidRequest(f"state.position is {state.position}; expected less than 2^62")
        rows = [item.rows(column) for column, item in zip(state.rows, layout.states, strict=True)]
        if not all(np.isfinite(row).all() for row in rows):
            raise InvalidRequest("state.state holds NaN or infinity; expected finite numbers", Reason.NOT_FINITE)

        def put(slot: int) -> int:
            self._engine.rows.write(slot, rows)
            self._engine.sessions.position[slot] = state.position
            return state.position

        slot = self._find(tenant, session_id)
        setting = self._in_line(tenant, session_id, put)
        # Steps that come from now on stand behind it in the line, and count from its position.
        self._engine.sessions.accepted[slot] = state.position
        return await setting

    async def fork(self, tenant: str, session_id: str, new_id: str) -> tuple[str, int]:
        """A session that no stream holds, with a copy of another's state; its id and position."""

        def copy(slot: int) -> tuple[str, int]:
            engine = self._engine
            twin = self._create(tenant, new_id)
            engine.rows.write(twin, engine.rows.read(slot))
            engine.sessions.position[twin] = engine.sessions.accepted[twin] = engine.sessions.position[slot]
            return engine.sessions.session_id(twin), int(engine.sessions.position[twin])

        return await self._in_line(tenant, session_id, copy)

    def _in_line(self, tenant: str, session_id: str, do: Callable[[int], _T]) -> asyncio.Future[_T]:
        slot = self._find(tenant, session_id)
        answer: asyncio.Future[_T] = asyncio.get_running_loop().create_future()
        if self._engine.at_rest(slot):
            # A control in an empty line would be done next, some turns of the loop later.
            answer.set_result(do(slot))
            return answer
        caller = Caller(self._accounts.of(tenant))

        def run(*_: Any) -> None:
            try:
                result = do(slot)
            except Refused as error:
                fail(error)
            else:
                if not answer.done():
                    answer.set_result(result)

        def fail(error: Refused, *_: Any) -> None:
            # The caller may have gone.
            if not answer.done():
                answer.set_exception(error)

        self._engine.control(np.array([slot]), run, fail, holder=caller)
        return answer

    def _answered(self, slot: int) -> int:
        self._engine.sessions.answered_at[slot] = self._engine.clock()
        return int(self._engine.sessions.position[slot])

    def _end(self, slots: Ints, reason: CloseReason) -> None:
        table = self._engine.sessions
        owners, which = np.unique([id(owner) for owner in table.owner[slots]], return_inverse=True)
        told = []
        for k in range(len(owners)):
            mine = slots[which == k]
            owner: Owner | None = table.owner[mine[0]]
            if owner is not None:
                told.append((owner, table.handle[mine], table.position[mine]))
        self._engine.stats.ended[reason.removeprefix("CLOSE_REASON_")] += len(slots)
        # What still stands in line is answered first, then the owner hears that the session is closed.
        self._engine.remove(slots)
        self._release(slots)
        for owner, handles, positions in told:
            tell(owner, owner.closed, handles, positions, reason)

    def _find(self, tenant: str, session_id: str) -> int:
        """The slot of a session.

        Raises:
            NotFound: no worker has it.
            Elsewhere: another one has.
        """
        try:
            return self._engine.sessions.find(tenant, session_id)
        except NotFound:
            self._check_elsewhere(tenant, session_id)
            raise

    def _check_elsewhere(self, tenant: str, session_id: str) -> None:
        if self._leases is not None:
            self._leases.check(self._engine.layout.name, tenant, session_id)

    def _create(self, tenant: str, session_id: str) -> int:
        slot = self._create_here(tenant, session_id)
        if self._leases is not None:
            session_id = self._engine.sessions.session_id(slot)
            try:
                self._claimed[slot] = self._leases.claim(self._engine.layout.name, tenant, session_id)
            except Elsewhere:
                self._engine.remove(np.array([slot]))
                self._engine.stats.opened -= 1
                raise
        return slot

    def _release(self, slots: Ints) -> None:
        if self._leases is not None:
            claimed = self._claimed[slots]
            self._claimed[slots] = 0
            self._leases.release(claimed[claimed != 0].tolist())

    def _create_here(self, tenant: str, session_id: str) -> int:
        sessions, clock = self._engine.sessions, self._engine.clock
        try:
            slot = sessions.create(tenant, session_id, clock())
        except Exhausted:
            if not self._make_room(tenant):
                raise
            slot = sessions.create(tenant, session_id, clock())
        self._engine.rows.make_fresh(slot)
        self._engine.stats.opened += 1
        return slot
