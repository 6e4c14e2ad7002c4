"""Which sessions of one model there are: how they come and go, with their leases and their constants."""

from collections.abc import Callable
from typing import Final

import numpy as np

from gatestream.server.arrays import Ints
from gatestream.server.config import Limits
from gatestream.server.core.accounts import Accounts
from gatestream.server.core.admission import Caller
from gatestream.server.core.checkpointer import Checkpointer
from gatestream.server.core.constants import Constants, Values
from gatestream.server.core.engine import Engine
from gatestream.server.core.expiry import Expiry
from gatestream.server.core.gate import Gate
from gatestream.server.core.kept import KeptSessions
from gatestream.server.core.reply_sink import CloseReason, ReplySink, tell
from gatestream.server.core.residence import Residence
from gatestream.server.core.transitions import Phase
from gatestream.server.durability.checkpoints import Key
from gatestream.server.durability.leases import Alone, Leases
from gatestream.server.errors import Elsewhere, Exhausted, NotFound

_STAYS: Final = {CloseReason.PARKED, CloseReason.FENCED, CloseReason.LOST, CloseReason.DRAINED}
"""Why a session ends here that the store goes on knowing."""


class Registry:
    """Which sessions of one model there are.

    Args:
        engine: of the model.
        limits: of the server.
        accounts: of the tenants.
        leases: who may have which session, of all who serve it.
        checkpointer: of the server; None: every session ends with its stream.
        version: of the model.

    Attributes:
        engine, leases, checkpointer: as given.
        table: the sessions, in columns.
        constants: theirs.
        kept: of these sessions, those that the store knows; None: there is no store.
        expiry: ends those whose time is over.
        gate: where answers of kept sessions wait; None: nowhere.
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
        self.engine = engine
        self.table = engine.sessions
        self._accounts = accounts
        self.leases = Alone() if leases is None else leases
        # By session, what to release it by; 0: nothing.
        self._leased = np.zeros(len(self.table.position), np.int64)
        self.constants = Constants(engine.layout, len(self.table.position))
        self.expiry = Expiry(engine, limits, self.end)
        self.checkpointer = checkpointer
        self.gate: Gate | None = None
        self.kept: KeptSessions | None = None
        if checkpointer is not None:
            self.gate = checkpointer.gate
            self.kept = KeptSessions(engine, version, checkpointer, self.end)
            self._residence = Residence(engine, accounts, self.kept, checkpointer, self.end, self.kept.put)
        self.closed_for = ""
        self.check_free: Callable[[str, str], None] = lambda _tenant, _session_id: None

    def bring_back(self, session: int) -> None:
        """Have a session that gave up its slot have its state back before anything else that is asked of it."""
        if self.table.phase[session] == Phase.PARKED:
            self._residence.bring_back(session)

    def bring_all_back(self, sessions: Ints) -> None:
        """As `bring_back`, of many."""
        for session in sessions[self.table.slot[sessions] < 0].tolist():
            self.bring_back(session)

    def find(self, tenant: str, session_id: str) -> int:
        """A session by its id.

        Raises:
            NotFound: no worker has it.
            Elsewhere: another one has.
        """
        try:
            return self.table.find(tenant, session_id)
        except NotFound:
            self.leases.check(self.engine.layout.name, tenant, session_id)
            raise

    def key(self, tenant: str, session_id: str) -> Key | None:
        """What a session is called in the store that is not here; None: it is here, or there is no store."""
        if self.kept is None or self.table.get(tenant, session_id) is not None:
            return None
        self.leases.check(self.engine.layout.name, tenant, session_id)
        return Key(tenant, self.engine.layout.name, session_id)

    def caller(self, tenant: str) -> Caller:
        """Who asks for something in a tenant's name."""
        return Caller(self._accounts.of(tenant))

    def create(self, tenant: str, session_id: str, constants: Values) -> int:
        """A new session, with its lease.

        Args:
            tenant: whose it is.
            session_id: of it; empty: one is made here.
            constants: that it has.

        Raises:
            AlreadyExists: it is here.
            Elsewhere: another worker has it.
            Exhausted: there is no room for it.
        """
        if session_id:
            self.check_free(tenant, session_id)
        session = self.create_here(tenant, session_id, constants)
        session_id = self.table.session_id(session)
        try:
            self._leased[session] = self.leases.claim(self.engine.layout.name, tenant, session_id)
        except Elsewhere:
            self.engine.remove(np.array([session]))
            self.engine.stats.opened -= 1
            raise
        return session

    def create_here(self, tenant: str, session_id: str, constants: Values) -> int:
        """As `create`, without a lease: no other worker is asked for it."""
        table, clock = self.table, self.engine.clock
        try:
            session = table.create(tenant, session_id, clock())
        except Exhausted:
            full = not table.free_slots
            if not self.expiry.make_room(tenant) and not (
                full and self.kept is not None and self._residence.make_room()
            ):
                raise
            session = table.create(tenant, session_id, clock())
        self.engine.rows.begin(int(table.slot[session]), constants)
        self.constants.keep(session, constants)
        self.engine.stats.opened += 1
        return session

    def make(self, tenant: str, session_id: str, values: Values) -> int:
        """As `create`, of one that the store is asked for."""
        if self.checkpointer is None or not self.checkpointer.store.shared:
            return self.create(tenant, session_id, values)
        # The store says who has it; but one that it does not know another worker may have.
        if session_id:
            self.check_free(tenant, session_id)
            self.leases.check(self.engine.layout.name, tenant, session_id)
        return self.create_here(tenant, session_id, values)

    def end(self, sessions: Ints, reason: CloseReason) -> None:
        """End sessions now; what is queued is answered as not taken, and the owners hear `closed`."""
        table = self.table
        owners, which = np.unique([id(owner) for owner in table.owner[sessions]], return_inverse=True)
        told = []
        for k in range(len(owners)):
            mine = sessions[which == k]
            owner: ReplySink | None = table.owner[mine[0]]
            if owner is not None:
                told.append((owner, table.handle[mine], table.position[mine]))
        self.engine.stats.ended[reason.removeprefix("CLOSE_REASON_")] += len(sessions)
        # What is still queued is answered first, then the owner hears that the session is closed.
        self.remove(sessions, stays=reason in _STAYS)
        for owner, handles, positions in told:
            tell(owner, owner.closed, handles, positions, reason)

    def remove(self, sessions: Ints, *, stays: bool = False) -> None:
        """Forget sessions here; the store does too, unless they are to stay in it."""
        known = sessions[self.table.kept[sessions]]
        if len(known) and not stays:
            assert self.kept is not None, "the store knows some"
            assert self.checkpointer is not None, "there is a store"
            keys = [self.kept.key(session) for session in known.tolist()]
            self.checkpointer.close(keys, self.table.epoch[known])
        self.engine.remove(sessions)
        self.constants.forget(sessions)
        self.release(sessions)

    def release(self, sessions: Ints) -> None:
        """Let another worker have the names of sessions."""
        leased = self._leased[sessions]
        self._leased[sessions] = 0
        self.leases.release(leased[leased != 0].tolist())

    def pass_on(self, session: int, other: "Registry", twin: int) -> None:
        """Let a session that takes the place of this one have its lease and its constants: it has the same name.

        Args:
            session: of these.
            other: the registry of the one that takes its place.
            twin: that one.
        """
        other._leased[twin], self._leased[session] = self._leased[session], 0
        other.constants.keep(twin, self.constants.of(session))
        self.table.pass_on(session, other.table, twin)
        self.constants.forget(np.array([session]))

    def keep_constants(self, session: int) -> None:
        """Note that a session has the constants that stand in its row."""
        self.constants.keep(session, self.engine.rows.constants(int(self.table.slot[session])))
