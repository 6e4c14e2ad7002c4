"""Opening, taking over, resetting, closing, expiring and copying the sessions of one model.

Whatever concerns a session that may have steps pending is a control in its queue, and so happens in order.
"""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Final, TypeVar

import numpy as np
import numpy.typing as npt

from gatestream.server.arrays import Ints
from gatestream.server.config import Limits
from gatestream.server.core.accounts import Accounts
from gatestream.server.core.admission import Caller
from gatestream.server.core.batches import GATES, OUTPUTS
from gatestream.server.core.checkpointer import Checkpointer
from gatestream.server.core.constants import Constants, Given, Values, check_numbers
from gatestream.server.core.controls import Then
from gatestream.server.core.engine import Engine
from gatestream.server.core.gate import Gate
from gatestream.server.core.kept import NO_WISH, KeptSessions, Wish
from gatestream.server.core.reply_sink import CloseReason, Holder, ReplySink, tell
from gatestream.server.core.residence import Residence
from gatestream.server.core.stored import ANYWHERE, Listed, Meant, StoredSessions, page, random_id
from gatestream.server.core.transitions import Phase
from gatestream.server.durability.checkpoints import Checkpoint, Key
from gatestream.server.durability.leases import Alone, Leases
from gatestream.server.errors import (
    Draining,
    Elsewhere,
    EpochStale,
    Exhausted,
    InvalidRequest,
    NotFound,
    OutOfStep,
    Reason,
    Refused,
    StoreUnavailable,
)
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

_STAYS: Final = {CloseReason.PARKED, CloseReason.FENCED, CloseReason.LOST, CloseReason.DRAINED}
"""Why a session ends here that the store goes on knowing."""


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
        leases: who may have which session, of all who serve it.
        checkpointer: of the server; None: every session ends with its stream.
        version: of the model.

    Attributes:
        kept: of these sessions, those that the store knows; None: there is no store.
        sequence_timeout: seconds without an answer after which a sequence may be ended; infinity: none.
        closed_for: why no more sessions are opened; empty: they are.
        check_free: raises AlreadyExists where another version of the model has a tenant's session of this id.
    """

    def __init__(
        self,
        engine: Engine,
        limits: Limits,
        accounts: Accounts,
        leases: Leases | None = None,
        checkpointer: Checkpointer | None = None,
        version: str = "",
    ):
        self._engine = engine
        self._table = engine.sessions
        self._accounts = accounts
        self._checkpointer = checkpointer
        self.kept: KeptSessions | None = None
        if checkpointer is not None:
            self.kept = KeptSessions(engine, version, checkpointer, self._end)
            self._residence = Residence(engine, accounts, self.kept, checkpointer, self._end, self.kept.put)
            self._stored = StoredSessions(checkpointer, self.kept.meaning)
        self._constants = Constants(engine.layout, len(self._table.position))
        # Seconds without an answer after which a session is closed, and a sequence.
        self._timeout = limits.idle_timeout or np.inf
        self._park_timeout = limits.park_timeout or np.inf
        self.sequence_timeout = min(limits.sequence_timeout or np.inf, self._timeout)
        self.closed_for = ""
        self.check_free: Callable[[str, str], None] = lambda _tenant, _session_id: None
        self._looked = -np.inf
        self._leases = Alone() if leases is None else leases
        # By session, what to release it by; 0: nothing.
        self._leased = np.zeros(len(self._table.position), np.int64)

    # ---- For streams --------------------------------------------------------------------------

    def open(
        self,
        owner: ReplySink,
        tenant: str,
        session_id: str,
        handle: int,
        *,
        create: bool,
        resume: bool,
        reply_mask: int,
        constants: Given = (),
        wish: Wish = NO_WISH,
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
            reply_mask: OUTPUTS and GATES, of its steps.
            constants: that a new session is to have, where it is not to have the model's own; one that is there has
                the same.
            wish: how it is to be opened, where the store may know it.

        Returns:
            The session. Steps may be submitted at once. Where the store is to be asked, the owner hears `opened` or
            `not_opened` when it has answered.

        Raises:
            InvalidRequest, NotFound, AlreadyExists, Elsewhere, OutOfStep, Exhausted, Draining, EpochStale: nothing has
                changed.
        """
        engine, table = self._engine, self._table
        if reply_mask & GATES and not engine.layout.gates:
            raise InvalidRequest(
                f"gates were asked for, but the artifact of model {engine.layout.name!r} shows none; "
                "serve the one that `gatestream export --form gates` makes",
                Reason.NO_GATES,
            )
        given = self._constants.read(constants)
        # A store that all who serve share knows who has a session; else another worker may.
        asks = self.kept is not None and (wish.of_store or not create)
        session = None
        if not create and not (asks and session_id):
            session = self._find(tenant, session_id)
        elif resume and session_id:
            session = table.get(tenant, session_id)
        if session is None:
            if self.closed_for:
                raise Draining(f"{self.closed_for}; open the session on another server")
            if asks:
                return self._open_from_store(
                    owner, tenant, session_id, handle, wish, given, reply_mask, create=create, resume=resume
                )
            session = self._create(tenant, session_id, self._constants.complete(given))
            table.epoch[session] = table.proposed[session] = wish.epoch or 1
            table.attach(session, owner, handle)
            tell(owner, owner.opened, handle, table.session_id(session), table.stands(session), True)
        else:
            self._constants.check_same(session, given)
            self._check_epoch(session, wish.epoch)
            before, before_handle = table.owner[session], int(table.handle[session])
            self.bring_back(session)
            self._take_over(session, owner, handle, wish)
            table.attach(session, owner, handle)
            if before is not None:
                tell(before, before.lost, before_handle)
        engine.reply_mask[session] = reply_mask
        return session

    def _check_epoch(self, session: int, epoch: int) -> None:
        """Check that an Open's epoch is higher than that of a session that is here.

        Raises:
            EpochStale: it is not.
        """
        has = int(self._table.proposed[session])
        if 0 < epoch <= has:
            raise EpochStale(f"open.epoch is {epoch}; the session has {has}: expected a higher one", has)

    def _open_from_store(
        self,
        owner: ReplySink,
        tenant: str,
        session_id: str,
        handle: int,
        wish: Wish,
        given: dict[str, bytes],
        reply_mask: int,
        *,
        create: bool,
        resume: bool,
    ) -> int:
        """As `open`, of a session that is not here; the store may know it."""
        assert self.kept is not None, "there is a store"
        table = self._table
        missing: Refused | None = None
        try:
            values = self._constants.complete(given)
        except InvalidRequest as error:
            # One that is in the store has its own.
            if not resume:
                raise
            missing, values = error, self._constants.initial()
        session = self._make(tenant, session_id, values)
        table.attach(session, owner, handle)
        table.parks[session] = wish.parks
        self._engine.reply_mask[session] = reply_mask
        name = table.session_id(session)

        def ready(created: bool) -> None:
            if not created:
                self.keep_constants(session)
                try:
                    self._constants.check_same(session, given)
                except Refused as error:
                    self._not_opened(owner, handle, session, error)
                    return
            self._tell_opened(owner, handle, session, name, created)

        def failed(error: Refused) -> None:
            why = missing if missing is not None and isinstance(error, NotFound) else error
            self._not_opened(owner, handle, session, why)
            if (other := table.owner[session]) is not None:
                # Another Open stands behind this one, of a session that is not here.
                again = StoreUnavailable("an Open of the session before this one failed; try again", retry_after=0.02)
                self._not_opened(other, int(table.handle[session]), session, again)
            self._engine.stats.opened -= 1
            self._remove(np.array([session]))

        table.proposed[session] = wish.epoch
        self.kept.claim(
            session,
            owner,
            wish,
            new=True,
            create=create and missing is None,
            resume=resume,
            ready=ready,
            failed=failed,
            ended=lambda: None,
        )
        return session

    def _not_opened(self, owner: ReplySink, handle: int, session: int, error: Refused) -> None:
        """Tell an owner that a session is not its own; unless another has opened it since, nobody's."""
        table = self._table
        if table.owner[session] is owner and table.handle[session] == handle:
            tell(owner, owner.not_opened, handle, error)
            self._detach(np.array([session]))

    def _make(self, tenant: str, session_id: str, values: Values) -> int:
        """A session that the store is asked for."""
        if self._checkpointer is None or not self._checkpointer.store.shared:
            return self._create(tenant, session_id, values)
        # The store says who has it; but one that it does not know another worker may have.
        if session_id:
            self.check_free(tenant, session_id)
            self._leases.check(self._engine.layout.name, tenant, session_id)
        return self._create_here(tenant, session_id, values)

    def _tell_opened(self, owner: ReplySink, handle: int, session: int, name: str, created: bool) -> None:
        table = self._table
        table.answered_at[session] = self._engine.clock()
        # Another may have opened it since.
        if table.owner[session] is owner and table.handle[session] == handle:
            tell(owner, owner.opened, handle, name, table.stands(session), created)

    def _take_over(self, session: int, owner: ReplySink, handle: int, wish: Wish) -> None:
        table = self._table
        session_id = table.session_id(session)
        before, before_handle = table.owner[session], int(table.handle[session])
        asks = self.kept is not None and (wish.parks or bool(table.kept[session] | (table.claiming[session] > 0)))

        def leave() -> None:
            table.answered_at[session] = self._engine.clock()
            if before is not None:
                gone = np.array([before_handle]), table.position[[session]]
                tell(before, before.closed, *gone, CloseReason.TAKEN_OVER)

        def run(*_: Any) -> None:
            leave()
            tell(owner, owner.opened, handle, session_id, table.stands(session), False)

        def fail(error: Refused, *_: Any) -> None:
            leave()
            tell(owner, owner.refused, error, np.array([handle]), _NONE, _NONE, _NONE)

        def ready(_created: bool) -> None:
            leave()
            self._tell_opened(owner, handle, session, session_id, False)

        def failed(error: Refused) -> None:
            leave()
            self._not_opened(owner, handle, session, error)

        epoch = wish.epoch or int(table.proposed[session]) + 1
        if asks:
            assert self.kept is not None, "it is asked"
            self.kept.claim(
                session, owner, wish, new=False, create=True, resume=False, ready=ready, failed=failed, ended=leave
            )
            table.parks[session] = wish.parks
        else:
            self._engine.control(np.array([session]), run, fail, owner, must=True)
            table.epoch[session] = epoch
        table.proposed[session] = epoch

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
        self.bring_all_back(sessions)
        if sequences is None:
            self._engine.control(sessions, self._restart, self._not_restarted, owner, handles)
            return
        meant = dict(zip(sessions.tolist(), sequences.tolist(), strict=True))

        def restart(owner: ReplySink | None, sessions: Ints, handles: Ints) -> None:
            expected = np.array([meant[session] for session in sessions.tolist()])
            good = self._standing(owner, sessions, handles, expected, "reset")
            self._table.acknowledged[sessions[good]] = expected[good]
            if good.any():
                self._restart(owner, sessions[good], handles[good])

        self._engine.control(sessions, restart, self._not_restarted, owner, handles)

    def acknowledge(self, sessions: Ints, sequences: Ints) -> None:
        """Note what clients have that send nothing for a while: the next checkpoint tells them what is durable.

        Args:
            sessions: which.
            sequences: of the first answer of each that its client lacks.
        """
        kept = self._table.kept[sessions]
        sessions, sequences = sessions[kept], sequences[kept]
        self._table.acknowledged[sessions] = np.minimum(sequences, self._table.sequences(sessions))
        # Written once more, also where nothing was stepped since: that is what moves the anchor.
        self._table.written[sessions] = -1

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

    def closable(self, owner: ReplySink, sessions: Ints, handles: Ints, sequences: Ints) -> npt.NDArray[np.bool_]:
        """Which sessions stand where a Close is meant for, with nothing queued; the owner hears of the others.

        Args:
            owner: who holds the sessions.
            sessions: which.
            handles: what the owner calls them.
            sequences: that each is meant for.
        """
        idle = np.isin(sessions, self._engine.idle(sessions))
        # What is queued will have moved it on.
        return self._standing(owner, sessions, handles, np.where(idle, sequences, -1), "close")

    def _restart(self, owner: ReplySink | None, sessions: Ints, handles: Ints) -> None:
        engine, table = self._engine, self._table
        engine.rows.make_fresh(table.slot[sessions])
        table.offset[sessions] += 1
        table.answered_at[sessions] = engine.clock()
        if owner is not None:
            tell(owner, owner.reset_done, handles, table.position[sessions])

    def _not_restarted(self, error: Refused, owner: ReplySink | None, sessions: Ints, handles: Ints) -> None:
        if owner is not None:
            tell(owner, owner.refused, error, handles, self._table.position[sessions], _NONE, _NONE)

    def close(self, holder: Holder, sessions: Ints) -> None:
        """End sessions, each in its order; whoever holds them hears `closed`. Their ids are free at once."""
        # By the other door some may have been ended already: they wait for it.
        sessions = sessions[self._table.phase[sessions] != Phase.CLOSING]
        if not len(sessions):
            return
        known = self._table.kept[sessions] | (self._table.claiming[sessions] > 0)
        if len(others := sessions[~known]):
            self._engine.control(others, self._close, self._not_closed, holder=holder, must=True, unlimited=True)
        for session in sessions[known].tolist():
            self._close_kept(holder, session)
        self._table.leave(sessions)
        self._release(sessions)

    def _close_kept(self, holder: Holder, session: int) -> None:
        """End a session in its order, in the store first."""
        kept, checkpointer, table = self.kept, self._checkpointer, self._table
        assert kept is not None, "the store knows it"
        assert checkpointer is not None, "there is a store"

        async def close() -> Then:
            # What would be written of it from now on, the store would refuse.
            table.claiming[session] += 1
            await checkpointer.close([kept.key(session)], table.epoch[[session]])
            return end

        def end() -> None:
            table.kept[session] = False
            self._end(np.array([session]), CloseReason.REQUESTED)

        self._engine.wait_for(session, close, self._not_closed, holder, must=True, unlimited=True)

    def _close(self, _owner: ReplySink | None, sessions: Ints, _handles: Ints) -> None:
        self._end(sessions, CloseReason.REQUESTED)

    def _not_closed(self, *_: Any) -> None:
        """They have ended already, and their owner has heard so."""

    def detach(self, owner: ReplySink, sessions: Ints) -> None:
        """End or leave those of the sessions that are still the owner's, who has gone: some now, others soon."""
        table = self._table
        some, others = sessions[:_PIECE], sessions[_PIECE:]
        some = some[table.owner[some] == owner]
        stays = table.parks[some] & (table.phase[some] != Phase.CLOSING)
        self._detach(some[stays])
        ends = some[~stays]
        self._engine.stats.ended[DISCONNECTED] += len(ends)
        self._remove(ends)
        if len(others):
            asyncio.get_running_loop().call_soon(self.detach, owner, others)

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
            self._detach(mine)
            if len(mine):
                tell(owner, owner.closed, handles, positions, CloseReason.PARKED)

        if stays.any():
            self._engine.control(sessions[stays], leave, self._not_closed, holder=owner, must=True, unlimited=True)
        return stays

    def _detach(self, sessions: Ints) -> None:
        """Have no stream hold sessions that stay; what they have queued and is not under way is not done."""
        if len(sessions):
            table = self._table
            self._engine.cut_off(sessions)
            table.detach(sessions)
            table.answered_at[sessions] = self._engine.clock()
            if len(parked := sessions[table.phase[sessions] == Phase.PARKED]):
                self._let_go(parked)

    def _let_go(self, sessions: Ints) -> None:
        """Forget sessions that no stream holds and of which the store has all."""
        kept, checkpointer = self.kept, self._checkpointer
        assert kept is not None, "the store knows them"
        assert checkpointer is not None, "there is a store"
        keys, epochs = [kept.key(session) for session in sessions.tolist()], self._table.epoch[sessions]
        self._end(sessions, CloseReason.PARKED)
        checkpointer.release(keys, epochs)

    @property
    def gate(self) -> Gate | None:
        """Where answers of kept sessions wait; None: nowhere."""
        return None if self._checkpointer is None else self._checkpointer.gate

    def bring_all_back(self, sessions: Ints) -> None:
        """As `bring_back`, of many."""
        for session in sessions[self._table.slot[sessions] < 0].tolist():
            self.bring_back(session)

    def bring_back(self, session: int) -> None:
        """Have a session that gave up its slot have its state back before anything else that is asked of it."""
        if self._table.phase[session] == Phase.PARKED:
            self._residence.bring_back(session)

    # ---- For the Open Inference Protocol ------------------------------------------------------

    def sequence(self, holder: Holder, tenant: str, session_id: str, *, start: bool, constants: Given = ()) -> int:
        """The session, held by no stream, that a sequence of the Open Inference Protocol is.

        Args:
            holder: whose what is queued is.
            tenant: whose it is.
            session_id: of the sequence; empty: one for a single request.
            start: put it into its initial state, or make it.
            constants: that it is to have from its start on; if it is not to start, those that it has.

        Raises:
            InvalidRequest: the constants are not the model's, or one that must be given is not.
            OutOfStep: it has other constants, and is not to start.
            NotFound: it is not to start, and is not there.
            Elsewhere: another worker has it.
            Draining: it would have to be made.
            Exhausted: it cannot be made.
        """
        table = self._table
        given = self._constants.read(constants)
        session = table.get(tenant, session_id) if session_id else None
        if session is None and session_id and self.gate is not None:
            if start and self.closed_for:
                raise Draining(f"{self.closed_for}; start the sequence on another server")
            return self._sequence_from_store(holder, tenant, session_id, given, start=start)
        if session is None:
            if session_id and not start:
                self._leases.check(self._engine.layout.name, tenant, session_id)
                ended = f"; {self.sequence_timeout:g} s after its last answer it ends"
                raise NotFound(
                    f"sequence_id {sequence_shown(session_id)} is not here; the first request of a sequence sets "
                    f"sequence_start{ended if self.sequence_timeout < np.inf else ''}"
                )
            if self.closed_for:
                raise Draining(f"{self.closed_for}; start the sequence on another server")
            # Nobody can ask another worker for a session without a name: it has no need of a lease.
            values = self._constants.complete(given)
            create = self._create if session_id else self._create_here
            session = create(tenant, session_id, values)
            table.detach(session)
            self._engine.reply_mask[session] = OUTPUTS
        elif start:
            self._start_again(holder, session, self._constants.complete(given))
        else:
            self.bring_back(session)
            self._constants.check_same(session, given)
        table.sequence[session] = table.owner[session] is None
        return session

    def _sequence_from_store(
        self, holder: Holder, tenant: str, session_id: str, given: dict[str, bytes], *, start: bool
    ) -> int:
        """As `sequence`, of one that is not here; the store may know it, and is to know it."""
        assert self.kept is not None, "there is a store"
        table = self._table
        values = self._constants.complete(given) if start else self._constants.initial()
        session = self._make(tenant, session_id, values)
        table.detach(session)
        table.sequence[session] = table.parks[session] = True
        self._engine.reply_mask[session] = OUTPUTS

        def ready(created: bool) -> None:
            if created:
                return
            if start:
                self._engine.rows.begin(int(table.slot[session]), values)
                self._restart(None, np.array([session]), _NONE)
                return
            self.keep_constants(session)
            try:
                self._constants.check_same(session, given)
            except Refused as error:
                self._engine.refuse_behind(session, error)

        def failed(error: Refused) -> None:
            if isinstance(error, NotFound):
                text = f"sequence_id {sequence_shown(session_id)} is not here; the first request of a sequence sets "
                error = NotFound(f"{text}sequence_start")
            self._engine.refuse_behind(session, error)
            self._engine.stats.opened -= 1
            self._remove(np.array([session]))

        self.kept.claim(
            session,
            holder,
            Wish(parks=True),
            new=True,
            create=start,
            resume=True,
            ready=ready,
            failed=failed,
            ended=lambda: None,
        )
        return session

    def _start_again(self, holder: Holder, session: int, values: Values) -> None:
        """Put a sequence into the initial state that goes with these constants, in its order."""
        engine, table = self._engine, self._table
        before = self._constants.of(session)
        if values == before:
            engine.control(np.array([session]), self._restart, self._not_restarted, holder=holder)
            return

        def restart(owner: ReplySink | None, sessions: Ints, handles: Ints) -> None:
            engine.rows.begin(int(table.slot[session]), values)
            self._restart(owner, sessions, handles)

        def fail(*_: Any) -> None:
            # Of several starts none that stands behind a failed one is done.
            self._constants.keep(session, engine.rows.constants(int(table.slot[session])))

        engine.control(np.array([session]), restart, fail, holder=holder)
        self._constants.keep(session, values)

    # ---- When time is over --------------------------------------------------------------------

    async def end_all(self, reason: CloseReason) -> None:
        """End every session; what is queued is answered as not taken, and the owners hear `closed`."""
        while len(sessions := self._table.last_answered_before(np.inf)):
            self._end(sessions[:_PIECE], reason)
            await asyncio.sleep(0)

    async def expire(self) -> int:
        """End the sessions that have had no answer for too long; how many."""
        ended = 0
        while len(sessions := self._overdue()):
            self._end(sessions[:_PIECE], CloseReason.IDLE)
            ended += len(sessions[:_PIECE])
            await asyncio.sleep(0)
        return ended

    def _overdue(self) -> Ints:
        """The sessions that have had no answer for too long, and have nothing queued."""
        table, now = self._table, self._engine.clock()
        sessions = table.last_answered_before(now - min(self.sequence_timeout, self._park_timeout))
        timeouts = np.where(table.sequence[sessions], self.sequence_timeout, self._timeout)
        left = table.parks[sessions] & (table.phase[sessions] == Phase.DETACHED) & ~table.sequence[sessions]
        timeouts[left] = self._park_timeout
        return self._engine.idle(sessions[table.answered_at[sessions] < now - timeouts])

    def _make_room(self, tenant: str) -> bool:
        """End some sessions whose time is over, and which `expire` has not come to yet; whether there were any.

        Args:
            tenant: who has no room; its own are ended, where it has as many as it may.
        """
        now = self._engine.clock()
        if now < self._looked + _LOOK_AGAIN_SECONDS:
            return False
        sessions = self._overdue()
        if self._table.at_share(tenant):
            sessions = np.intersect1d(sessions, self._table.of(tenant), assume_unique=True)
        if len(sessions) == 0:
            self._looked = now
        self._end(sessions[:_ROOM], CloseReason.IDLE)
        return len(sessions) > 0

    # ---- When a session is moved to another version of the model ------------------------------

    def pass_on(self, session: int, other: "Lifecycle", twin: int) -> None:
        """Let a session that takes the place of this one have its lease and its constants: it has the same name.

        Args:
            session: of these.
            other: the life cycle of the one that takes its place.
            twin: that one.
        """
        other._leased[twin], self._leased[session] = self._leased[session], 0
        other._constants.keep(twin, self._constants.of(session))
        self._table.pass_on(session, other._table, twin)
        self._constants.forget(np.array([session]))

    def keep_constants(self, session: int) -> None:
        """Note that a session has the constants that stand in its row."""
        self._constants.keep(session, self._engine.rows.constants(int(self._table.slot[session])))

    def end(self, sessions: Ints, reason: CloseReason) -> None:
        """End sessions now; what is queued is answered as not taken, and the owners hear `closed`."""
        self._end(sessions, reason)

    def caller(self, tenant: str) -> Caller:
        """Who asks for something in a tenant's name."""
        return Caller(self._accounts.of(tenant))

    # ---- By name ------------------------------------------------------------------------------

    async def close_by_id(self, tenant: str, session_id: str) -> int:
        """End a session whoever holds it; its last position."""
        if (key := self._key(tenant, session_id)) is not None:
            return await self._stored.close(key)

        def end(session: int) -> int:
            position = int(self._table.position[session])
            self._end(np.array([session]), CloseReason.ADMINISTERED)
            return position

        return await self._in_line(tenant, session_id, end)

    async def state(self, tenant: str, session_id: str) -> SessionState:
        """A copy of a session's state, after all steps accepted so far."""
        if (key := self._key(tenant, session_id)) is not None:
            checkpoint = await self._stored.state(key)
            rows = [row.tobytes() for row in self._engine.rows.unpacked(checkpoint.state)]
            return SessionState(self._engine.layout.fingerprint, checkpoint.position, rows)
        return await self._in_line(tenant, session_id, self._copy)

    def _copy(self, session: int) -> SessionState:
        engine, table = self._engine, self._table
        rows = [row.tobytes() for row in engine.rows.read(int(table.slot[session]))]
        return SessionState(engine.layout.fingerprint, int(table.position[session]), rows)

    async def set_state(self, tenant: str, session_id: str, state: SessionState, meant: Meant = ANYWHERE) -> int:
        """Put a session into a state and at its position; the position.

        Args:
            tenant: whose the session is.
            session_id: of it.
            state: to be put.
            meant: where the session is to stand.

        Raises:
            EpochStale, OutOfStep: it stands elsewhere.
            InvalidRequest: the state is of other weights, or not of this model's shape.
            OutOfStep: it has other constants than the session, or steps that were accepted before it failed.
        """
        layout, table = self._engine.layout, self._table
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
        for item, column in zip(layout.states, state.rows, strict=True):
            check_numbers(f"state.state {item.name!r}", item, column)

        def put(session: int) -> int:
            meant.check(int(table.sequences(session)), int(table.epoch[session]))
            self._engine.rows.write(int(table.slot[session]), rows)
            table.offset[session] += table.position[session] + 1 - state.position
            table.position[session] = state.position
            return state.position

        if (key := self._key(tenant, session_id)) is not None:
            await self._stored.replace(key, state.position, b"".join(state.rows), meant)
            return state.position
        session = self._find(tenant, session_id)
        self._constants.check_state(session, state.rows)
        if table.kept[session]:
            return await self._set_kept(session, tenant, state, meant)
        setting = self._in_line(tenant, session_id, put)
        # Steps that come from now on stand behind it in the queue, and count from its position.
        table.accepted[session] = state.position
        return await setting

    async def fork(self, tenant: str, session_id: str, new_id: str) -> tuple[str, int]:
        """A session that no stream holds, with a copy of another's state; its id and position."""
        new_id = new_id or random_id()
        if (key := self._key(tenant, session_id)) is not None:
            return new_id, (await self._stored.fork(key, new_id)).position
        session = self._find(tenant, session_id)
        if self.kept is not None and self._table.kept[session]:
            self.check_free(tenant, new_id)
            self._table.check_free(tenant, new_id)
            kept = self.kept
            checkpoint = await self._in_line(tenant, session_id, kept.checkpoint)
            await self._stored.put(kept.key(session)._replace(session_id=new_id), checkpoint)
            return new_id, checkpoint.position

        def copy(session: int) -> tuple[str, int]:
            engine, table = self._engine, self._table
            twin = self._create(tenant, new_id, self._constants.of(session))
            table.detach(twin)
            engine.rows.write(int(table.slot[twin]), engine.rows.read(int(table.slot[session])))
            # A start with others may be queued behind this.
            self.keep_constants(twin)
            table.position[twin] = table.accepted[twin] = table.position[session]
            return table.session_id(twin), int(table.position[twin])

        return await self._in_line(tenant, session_id, copy)

    async def stored(self, tenant: str, behind: str, size: int) -> list[Listed]:
        """Up to `size` of a tenant's sessions of this model, of all versions, that the store has, behind an id.

        Raises:
            StoreUnavailable: the store does not answer.
        """
        if self._checkpointer is None:
            return []
        return await page(self._checkpointer, tenant, self._engine.layout.name, behind, size)

    def _key(self, tenant: str, session_id: str) -> Key | None:
        """What a session is called in the store that is not here; None: it is here, or there is no store."""
        if self.kept is None or self._table.get(tenant, session_id) is not None:
            return None
        self._leases.check(self._engine.layout.name, tenant, session_id)
        return Key(tenant, self._engine.layout.name, session_id)

    async def _set_kept(self, session: int, tenant: str, state: SessionState, meant: Meant) -> int:
        """As `set_state`, of a session that the store knows: there first."""
        kept, checkpointer, table = self.kept, self._checkpointer, self._table
        assert kept is not None, "the store knows it"
        assert checkpointer is not None, "there is a store"
        answer: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        packed = b"".join(state.rows)

        async def replace() -> Then:
            meant.check(int(table.sequences(session)), int(table.epoch[session]))
            checkpoint = Checkpoint(int(table.sequences(session)) + 1, state.position, packed)
            taken = await checkpointer.replace(kept.key(session), int(table.epoch[session]), checkpoint)
            return partial(settle, checkpoint if taken else None)

        def settle(checkpoint: Checkpoint | None) -> None:
            if checkpoint is None:
                self._end(np.array([session]), CloseReason.FENCED)
                return
            kept.put(session, checkpoint)
            for column in (table.written, table.tip, table.durable, table.acknowledged):
                column[session] = checkpoint.sequence
            if not answer.done():
                answer.set_result(state.position)

        def fail(error: Refused, *_: Any) -> None:
            if table.accepted[session] == accepted:
                table.accepted[session] = table.position[session]
            if not answer.done():
                answer.set_exception(error)

        self.bring_back(session)
        self._engine.wait_for(session, replace, fail, Caller(self._accounts.of(tenant)))
        if table.accepted[session] >= 0:
            # Steps that come from now on stand behind it in the queue, and count from its position.
            table.accepted[session] = state.position
        accepted = state.position
        return await answer

    def _in_line(self, tenant: str, session_id: str, do: Callable[[int], _T]) -> asyncio.Future[_T]:
        session = self._find(tenant, session_id)
        answer: asyncio.Future[_T] = asyncio.get_running_loop().create_future()
        self.bring_back(session)
        if self._engine.at_rest(session):
            # A control in an empty queue would be done next, some turns of the loop later.
            answer.set_result(do(session))
            return answer
        caller = Caller(self._accounts.of(tenant))

        def run(*_: Any) -> None:
            try:
                result = do(session)
            except Refused as error:
                fail(error)
            else:
                if not answer.done():
                    answer.set_result(result)

        def fail(error: Refused, *_: Any) -> None:
            # The caller may have gone.
            if not answer.done():
                answer.set_exception(error)

        self._engine.control(np.array([session]), run, fail, holder=caller)
        return answer

    # ---- Sessions come and go -----------------------------------------------------------------

    def _end(self, sessions: Ints, reason: CloseReason) -> None:
        table = self._table
        owners, which = np.unique([id(owner) for owner in table.owner[sessions]], return_inverse=True)
        told = []
        for k in range(len(owners)):
            mine = sessions[which == k]
            owner: ReplySink | None = table.owner[mine[0]]
            if owner is not None:
                told.append((owner, table.handle[mine], table.position[mine]))
        self._engine.stats.ended[reason.removeprefix("CLOSE_REASON_")] += len(sessions)
        # What is still queued is answered first, then the owner hears that the session is closed.
        self._remove(sessions, stays=reason in _STAYS)
        for owner, handles, positions in told:
            tell(owner, owner.closed, handles, positions, reason)

    def _find(self, tenant: str, session_id: str) -> int:
        """A session by its id.

        Raises:
            NotFound: no worker has it.
            Elsewhere: another one has.
        """
        try:
            return self._table.find(tenant, session_id)
        except NotFound:
            self._leases.check(self._engine.layout.name, tenant, session_id)
            raise

    def _create(self, tenant: str, session_id: str, constants: Values) -> int:
        if session_id:
            self.check_free(tenant, session_id)
        session = self._create_here(tenant, session_id, constants)
        session_id = self._table.session_id(session)
        try:
            self._leased[session] = self._leases.claim(self._engine.layout.name, tenant, session_id)
        except Elsewhere:
            self._engine.remove(np.array([session]))
            self._engine.stats.opened -= 1
            raise
        return session

    def _remove(self, sessions: Ints, *, stays: bool = False) -> None:
        """Forget sessions here; the store does too, unless they are to stay in it."""
        known = sessions[self._table.kept[sessions]]
        if len(known) and not stays:
            assert self.kept is not None, "the store knows some"
            assert self._checkpointer is not None, "there is a store"
            keys = [self.kept.key(session) for session in known.tolist()]
            self._checkpointer.close(keys, self._table.epoch[known])
        self._engine.remove(sessions)
        self._constants.forget(sessions)
        self._release(sessions)

    def _release(self, sessions: Ints) -> None:
        leased = self._leased[sessions]
        self._leased[sessions] = 0
        self._leases.release(leased[leased != 0].tolist())

    def _create_here(self, tenant: str, session_id: str, constants: Values) -> int:
        table, clock = self._table, self._engine.clock
        try:
            session = table.create(tenant, session_id, clock())
        except Exhausted:
            full = not table.free_slots
            if not self._make_room(tenant) and not (full and self.kept is not None and self._residence.make_room()):
                raise
            session = table.create(tenant, session_id, clock())
        self._engine.rows.begin(int(table.slot[session]), constants)
        self._constants.keep(session, constants)
        self._engine.stats.opened += 1
        return session
