"""The sequences of the Open Inference Protocol: sessions that no stream holds."""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from gatestream.server.arrays import Ints
from gatestream.server.core.batches import OUTPUTS
from gatestream.server.core.claims import Claims, Wish
from gatestream.server.core.constants import Given, Values
from gatestream.server.core.held import HeldSessions
from gatestream.server.core.places import Places
from gatestream.server.core.registry import Registry
from gatestream.server.core.reply_sink import Holder, ReplySink, tell
from gatestream.server.errors import Draining, NotFound, OutOfStep, Reason, Refused, StoreUnavailable, session_closed
from gatestream.server.sequence_ids import sequence_shown

_NONE = np.empty(0, np.int64)


class Waiting(NamedTuple):
    """A request that may have to wait for where its sequence stands.

    Attributes:
        holder: whose it is.
        steps: that it has.
        reply_mask: OUTPUTS and GATES.
        again: takes it on, as if it had just come.
        refuse: says why it will not be done.
    """

    holder: ReplySink
    steps: int
    reply_mask: int
    again: Callable[[], None]
    refuse: Callable[[Refused], None]


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
        # By session that the store is asked for, the requests for it, in their order.
        self._asked: dict[int, list[Waiting]] = {}

    def waits(
        self,
        request: Waiting,
        tenant: str,
        session_id: str,
        *,
        start: bool,
        constants: Given = (),
        first: int = -1,
    ) -> bool:
        """Whether a request is not to be taken on now: it is told when it is, or why not.

        It waits while the store is asked where its sequence stands. If that is not where the request is meant for, it
        is refused in the sequence's order, and changes nothing.

        Args:
            request: to be told.
            tenant: whose it is.
            session_id: of the sequence.
            start: it is put into its initial state, or made.
            constants: that it is to have from its start on; if it is not to start, those that it has.
            first: the position that the request's first step is meant for; -1: whatever position it is.

        Raises:
            InvalidRequest: the constants are not the model's, or one that must be given is not.
            OutOfStep: it would have to be made, and is meant for later.
            Elsewhere: another worker has it.
            Draining: it would have to be made.
            Exhausted: it cannot be made, or too much is pending.
            StoreUnavailable: a stream has just opened it, and nobody knows where it stands.
        """
        table = self._table
        session = table.tenants.get(tenant, session_id)
        if session is None:
            if self._registry.gate is not None:
                self._ask(request, tenant, session_id, self._constants.read(constants), start=start, first=first)
                return True
            if start and first > 0:
                raise _mismatch(first, 0)
            return False
        if session in self._asked:
            self._hold(request)
            self._asked[session].append(request)
            return True
        if first < 0:
            return False
        self._engine.edits.take_in()
        accepted = int(table.accepted[session])
        if accepted < 0:
            raise StoreUnavailable(
                "a stream opens the sequence now, and where it stands is being asked; try again", retry_after=0.02
            )
        if accepted == first:
            return False
        self._refuse_in_turn(request, session, first)
        return True

    def session(self, holder: Holder, tenant: str, session_id: str, *, start: bool, constants: Given = ()) -> int:
        """The session, held by no stream, that a sequence of the Open Inference Protocol is. `waits` came first.

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
        session = table.tenants.get(tenant, session_id) if session_id else None
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
            values = self._constants.complete(given)
            self._places.bring_back(session)
            self._start_again(holder, session, values)
        else:
            self._places.bring_back(session)
            self._constants.check_same(session, given)
        table.sequence[session] = table.owner[session] is None
        return session

    # ---- Requests that wait -------------------------------------------------------------------

    def _ask(
        self, request: Waiting, tenant: str, session_id: str, given: dict[str, bytes], *, start: bool, first: int
    ) -> None:
        """Have the store be asked for a sequence that is not here; what is asked of it meanwhile waits."""
        assert self._claims is not None, "there is a store"
        if start and self._registry.closed_for:
            raise Draining(f"{self._registry.closed_for}; start the sequence on another server")
        table = self._table
        values = self._constants.complete(given) if start else self._constants.initial()
        self._hold(request)
        try:
            session = self._places.make(tenant, session_id, values)
        except Refused:
            self._let_go(request)
            raise
        table.detach(session)
        table.sequence[session] = table.parks[session] = True
        self._engine.reply_mask[session] = OUTPUTS
        self._asked[session] = [request]

        def ready(created: bool) -> None:
            if not created:
                self._registry.keep_constants(session)
            for each in self._answered(session):
                tell(each.holder, each.again)

        def failed(error: Refused) -> None:
            asked = self._answered(session)
            if (other := table.owner[session]) is not None:
                # A stream has opened it meanwhile, and stands behind this.
                again = StoreUnavailable("the sequence could not be had; try again", retry_after=0.02)
                tell(other, other.not_opened, int(table.handle[session]), again)
            self._engine.stats.opened -= 1
            self._registry.remove(np.array([session]))
            if not isinstance(error, NotFound):
                for each in asked:
                    tell(each.holder, each.refuse, error)
                return
            # Another may be to start it.
            cause, *others = asked
            text = f"sequence_id {sequence_shown(session_id)} is not here; the first request of a sequence sets "
            tell(cause.holder, cause.refuse, _mismatch(first, 0) if start else NotFound(f"{text}sequence_start"))
            for each in others:
                tell(each.holder, each.again)

        def ended() -> None:
            for each in self._answered(session):
                tell(each.holder, each.refuse, session_closed())

        self._claims.claim(
            session,
            request.holder,
            Wish(parks=True),
            new=True,
            # A new one stands at 0.
            create=start and first <= 0,
            resume=True,
            ready=ready,
            failed=failed,
            ended=ended,
        )

    def _hold(self, request: Waiting) -> None:
        self._engine.admission.take(request.holder, request.steps, request.reply_mask)

    def _let_go(self, request: Waiting) -> None:
        self._engine.admission.withdrawn(request.holder, request.steps, request.reply_mask)

    def _answered(self, session: int) -> list[Waiting]:
        """What waited for the store, which has answered, or need not any more."""
        asked = self._asked.pop(session, [])
        for each in asked:
            self._let_go(each)
        return asked

    def _refuse_in_turn(self, request: Waiting, session: int, first: int) -> None:
        """Refuse a request behind all that was accepted, so that what is said of where the sequence stands is so."""

        def refuse(*_: Any) -> None:
            stands = int(self._table.position[session])
            # All that was to move it on has failed.
            failed = OutOfStep("the step before this one in the session failed", Reason.PRECEDING_FAILED)
            request.refuse(failed if stands == first else _mismatch(first, stands))

        def fail(error: Refused, *_: Any) -> None:
            request.refuse(error)

        self._engine.control(np.array([session]), refuse, fail, holder=request.holder, must=True)

    # ---- Sequences that begin again -----------------------------------------------------------

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


def _mismatch(first: int, stands: int) -> OutOfStep:
    return OutOfStep(
        f"gatestream_first is {first}; the sequence's next step is {stands}", Reason.POSITION_MISMATCH, position=stands
    )
