"""The sequences of the Open Inference Protocol: sessions that no stream holds."""

from typing import Any

import numpy as np

from gatestream.server.arrays import Ints
from gatestream.server.core.batches import OUTPUTS
from gatestream.server.core.claims import Claims, Wish
from gatestream.server.core.constants import Given, Values
from gatestream.server.core.held import HeldSessions
from gatestream.server.core.places import Places
from gatestream.server.core.registry import Registry
from gatestream.server.core.reply_sink import Holder, ReplySink
from gatestream.server.errors import Draining, NotFound, Refused
from gatestream.server.sequence_ids import sequence_shown

_NONE = np.empty(0, np.int64)


class Sequences:
    """Finds and starts the sequences of one model.

    Args:
        registry: of the sessions.
        places: of them.
        held: the same, as those who hold them have them.
        claims: has them be claimed; None: there is no store.
        timeout: seconds without an answer after which one may be ended; infinity: none.
    """

    def __init__(self, registry: Registry, places: Places, held: HeldSessions, claims: Claims | None, timeout: float):
        self._registry = registry
        self._places = places
        self._held = held
        self._engine = registry.engine
        self._table = registry.table
        self._constants = registry.constants
        self._claims = claims
        self._timeout = timeout

    def session(self, holder: Holder, tenant: str, session_id: str, *, start: bool, constants: Given = ()) -> int:
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
        if session is None and session_id and self._registry.gate is not None:
            if start and self._registry.closed_for:
                raise Draining(f"{self._registry.closed_for}; start the sequence on another server")
            return self._from_store(holder, tenant, session_id, given, start=start)
        if session is None:
            if session_id and not start:
                self._registry.leases.check(self._engine.layout.name, tenant, session_id)
                ended = f"; {self._timeout:g} s after its last answer it ends"
                raise NotFound(
                    f"sequence_id {sequence_shown(session_id)} is not here; the first request of a sequence sets "
                    f"sequence_start{ended if self._timeout < np.inf else ''}"
                )
            if self._registry.closed_for:
                raise Draining(f"{self._registry.closed_for}; start the sequence on another server")
            # Nobody can ask another worker for a session without a name: it has no need of a lease.
            values = self._constants.complete(given)
            create = self._places.create if session_id else self._places.create_here
            session = create(tenant, session_id, values)
            table.detach(session)
            self._engine.reply_mask[session] = OUTPUTS
        elif start:
            self._start_again(holder, session, self._constants.complete(given))
        else:
            self._places.bring_back(session)
            self._constants.check_same(session, given)
        table.sequence[session] = table.owner[session] is None
        return session

    def _from_store(self, holder: Holder, tenant: str, session_id: str, given: dict[str, bytes], *, start: bool) -> int:
        """As `sequence`, of one that is not here; the store may know it, and is to know it."""
        assert self._claims is not None, "there is a store"
        table = self._table
        values = self._constants.complete(given) if start else self._constants.initial()
        session = self._places.make(tenant, session_id, values)
        table.detach(session)
        table.sequence[session] = table.parks[session] = True
        self._engine.reply_mask[session] = OUTPUTS

        def ready(created: bool) -> None:
            if created:
                return
            if start:
                self._engine.rows.begin(int(table.slot[session]), values)
                self._held.restart(None, np.array([session]), _NONE)
                return
            self._registry.keep_constants(session)
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
            self._registry.remove(np.array([session]))

        self._claims.claim(
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
            engine.control(np.array([session]), self._held.restart, self._held.not_restarted, holder=holder)
            return

        def restart(owner: ReplySink | None, sessions: Ints, handles: Ints) -> None:
            engine.rows.begin(int(table.slot[session]), values)
            self._held.restart(owner, sessions, handles)

        def fail(*_: Any) -> None:
            # Of several starts none that stands behind a failed one is done.
            self._constants.keep(session, engine.rows.constants(int(table.slot[session])))

        engine.control(np.array([session]), restart, fail, holder=holder)
        self._constants.keep(session, values)
