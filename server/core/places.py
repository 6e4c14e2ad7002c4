"""Places for the sessions of one model: new ones, and those that had given theirs up."""

import numpy as np

from gatestream.server.arrays import Ints
from gatestream.server.core.constants import Values
from gatestream.server.core.expiry import Expiry
from gatestream.server.core.registry import Registry
from gatestream.server.core.residence import Residence
from gatestream.server.core.transitions import Phase
from gatestream.server.errors import Elsewhere, Exhausted


class Places:
    """Gives the sessions of one model their places.

    Args:
        registry: of the sessions.
        expiry: ends some for the sake of others.
        residence: has some give up their slots for the sake of others; None: there is no store.
    """

    def __init__(self, registry: Registry, expiry: Expiry, residence: Residence | None):
        self._registry = registry
        self._engine = registry.engine
        self._table = registry.table
        self._expiry = expiry
        self._residence = residence

    def bring_back(self, session: int) -> None:
        """Have a session that gave up its slot have its state back before anything else that is asked of it."""
        if self._table.phase[session] == Phase.PARKED:
            assert self._residence is not None, "it has given up a slot"
            self._residence.bring_back(session)

    def bring_all_back(self, sessions: Ints) -> None:
        """As `bring_back`, of many."""
        for session in sessions[self._table.slot[sessions] < 0].tolist():
            self.bring_back(session)

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
            self._registry.check_free(tenant, session_id)
        session = self.create_here(tenant, session_id, constants)
        try:
            self._registry.lease(session)
        except Elsewhere:
            self._engine.remove(np.array([session]))
            self._engine.stats.opened -= 1
            raise
        return session

    def create_here(self, tenant: str, session_id: str, constants: Values) -> int:
        """As `create`, without a lease: no other worker is asked for it."""
        table, clock = self._table, self._engine.clock
        try:
            session = table.create(tenant, session_id, clock())
        except Exhausted as exhausted:
            # One that has as many as it may gives up its own.
            whose = tenant if table.at_share(tenant) else None
            residence = self._residence
            if not self._expiry.make_room(tenant):
                if residence is None:
                    raise
                if not residence.make_room(tenant=whose, leave=table.full(tenant)):
                    if not table.full(tenant):
                        exhausted.retry_after = residence.ask_for_new(tenant)
                    raise
            session = table.create(tenant, session_id, clock())
        self._engine.rows.begin(int(table.slot[session]), constants)
        self._registry.constants.keep(session, constants)
        self._engine.stats.opened += 1
        if self._residence is not None:
            self._residence.has_new(session)
        return session

    def make(self, tenant: str, session_id: str, values: Values) -> int:
        """As `create`, of one that the store is asked for."""
        checkpointer = self._registry.checkpointer
        if checkpointer is None or not checkpointer.store.shared:
            return self.create(tenant, session_id, values)
        # The store says who has it; but one that it does not know another worker may have.
        if session_id:
            self._registry.check_free(tenant, session_id)
            self._registry.leases.check(self._engine.layout.name, tenant, session_id)
        return self.create_here(tenant, session_id, values)
