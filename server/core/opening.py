"""Opening sessions, and taking them over: from another stream, or from the store."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from gatestream.server.core.batches import GATES, OneEntry
from gatestream.server.core.claims import NO_WISH, Claims, Wish
from gatestream.server.core.constants import Given
from gatestream.server.core.held import HeldSessions
from gatestream.server.core.places import Places
from gatestream.server.core.registry import Registry
from gatestream.server.core.reply_sink import CloseReason, ReplySink, refuse_one, tell
from gatestream.server.core.sessions import UNKNOWN
from gatestream.server.core.transitions import Phase
from gatestream.server.errors import (
    CheckpointUnfit,
    Draining,
    EpochStale,
    InvalidRequest,
    NotFound,
    Reason,
    Refused,
    StoreUnavailable,
    session_closed,
)

_NONE = np.empty(0, np.int64)

OnFittingVersion = Callable[[str, Sequence[OneEntry]], bool]
"""Opens a session on the version of a model that has the weights of a fingerprint, and has it take the steps that were
sent meanwhile; whether there is one."""


class Opening:
    """Gives the sessions of one model to streams.

    Args:
        registry: of the sessions.
        places: of them.
        held: the same, as streams have them.
        claims: has them be claimed; None: there is no store.
    """

    def __init__(self, registry: Registry, places: Places, held: HeldSessions, claims: Claims | None):
        self._registry = registry
        self._places = places
        self._held = held
        self._engine = registry.engine
        self._table = registry.table
        self._constants = registry.constants
        self._claims = claims

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
        elsewhere: OnFittingVersion | None = None,
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
            elsewhere: opens it on the version of the model that has the weights of a fingerprint, where the store has
                it for other weights than these.

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
        asks = self._claims is not None and (wish.of_store or not create)
        session = None
        if not create and not (asks and session_id):
            session = self._registry.find(tenant, session_id)
        elif resume and session_id:
            session = table.tenants.get(tenant, session_id)
        if session is None:
            if self._registry.closed_for:
                raise Draining(f"{self._registry.closed_for}; open the session on another server")
            if asks:
                return self._open_from_store(
                    owner, tenant, session_id, handle, wish, given, reply_mask, elsewhere, create=create, resume=resume
                )
            session = self._places.create(tenant, session_id, self._constants.complete(given))
            table.epoch[session] = table.proposed[session] = wish.epoch or 1
            table.attach(session, owner, handle)
            tell(owner, owner.opened, handle, table.tenants.session_id(session), table.stands(session), True)
        else:
            self._constants.check_same(session, given)
            self._check_epoch(session, wish.epoch)
            before, before_handle = table.owner[session], int(table.handle[session])
            self._places.bring_back(session)
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
            raise EpochStale(f"open.epoch is {epoch}; the session has {has}: expected a higher one", epoch=has)

    def _open_from_store(
        self,
        owner: ReplySink,
        tenant: str,
        session_id: str,
        handle: int,
        wish: Wish,
        given: dict[str, bytes],
        reply_mask: int,
        elsewhere: OnFittingVersion | None,
        *,
        create: bool,
        resume: bool,
    ) -> int:
        """As `open`, of a session that is not here; the store may know it."""
        assert self._claims is not None, "there is a store"
        table = self._table
        missing: Refused | None = None
        try:
            values = self._constants.complete(given)
        except InvalidRequest as error:
            # One that is in the store has its own.
            if not resume:
                raise
            missing, values = error, self._constants.initial()
        session = self._places.make(tenant, session_id, values)
        table.attach(session, owner, handle)
        table.parks[session] = wish.parks
        self._engine.reply_mask[session] = reply_mask
        name = table.tenants.session_id(session)

        def ready(created: bool) -> None:
            if not created:
                self._registry.keep_constants(session)
                try:
                    self._constants.check_same(session, given)
                except Refused as error:
                    self._not_opened(owner, handle, session, error)
                    return
            self._tell_opened(owner, handle, session, name, created)

        def failed(error: Refused) -> None:
            fingerprint = error.fingerprint if isinstance(error, CheckpointUnfit) else ""
            if fingerprint and elsewhere is not None and self._holds(owner, handle, session):
                steps = self._engine.edits.withdraw_behind(session)
                # The name is wanted for the one that takes its place.
                self._engine.stats.opened -= 1
                self._registry.remove(np.array([session]))
                try:
                    if elsewhere(fingerprint, steps):
                        return
                except Refused as refused:
                    error = refused
                for step in steps:
                    refuse_one(owner, session_closed(), step.handle, UNKNOWN, UNKNOWN, step.length)
                tell(owner, owner.not_opened, handle, error)
                return
            why = missing if missing is not None and isinstance(error, NotFound) else error
            self._not_opened(owner, handle, session, why)
            if (other := table.owner[session]) is not None:
                # Another Open stands behind this one, of a session that is not here.
                again = StoreUnavailable("an Open of the session before this one failed; try again", retry_after=0.02)
                self._not_opened(other, int(table.handle[session]), session, again)
            self._engine.stats.opened -= 1
            self._registry.remove(np.array([session]))

        table.proposed[session] = wish.epoch
        self._claims.claim(
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
        if self._holds(owner, handle, session):
            tell(owner, owner.not_opened, handle, error)
            if self._table.phase[session] == Phase.CLOSING:
                # The owner has asked for its end already, and hears no more of it.
                self._table.owner[session] = None
                if self._table.kept[session]:
                    # But it was never the owner's to end.
                    self._registry.spare(session)
            else:
                self._held.detach(np.array([session]))

    def _holds(self, owner: ReplySink, handle: int, session: int) -> bool:
        """Whether an owner has a session by this handle; another may have opened it since."""
        table = self._table
        return table.owner[session] is owner and bool(table.handle[session] == handle)

    def _tell_opened(self, owner: ReplySink, handle: int, session: int, name: str, created: bool) -> None:
        table = self._table
        table.answered_at[session] = self._engine.clock()
        if self._holds(owner, handle, session):
            tell(owner, owner.opened, handle, name, table.stands(session), created)

    def _take_over(self, session: int, owner: ReplySink, handle: int, wish: Wish) -> None:
        table = self._table
        session_id = table.tenants.session_id(session)
        before, before_handle = table.owner[session], int(table.handle[session])
        asks = self._claims is not None and bool(wish.parks or self._registry.stored(session))

        def leave() -> None:
            nonlocal before
            table.answered_at[session] = self._engine.clock()
            # A claim that fails may end the session, and with it all that stands in its queue: this once more.
            told, before = before, None
            if told is not None:
                gone = np.array([before_handle]), table.position[[session]]
                tell(told, told.closed, *gone, CloseReason.TAKEN_OVER)

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
            assert self._claims is not None, "it is asked"
            self._claims.claim(
                session, owner, wish, new=False, create=True, resume=False, ready=ready, failed=failed, ended=leave
            )
            table.parks[session] = wish.parks
        else:
            self._engine.control(np.array([session]), run, fail, owner, must=True)
            table.epoch[session] = epoch
        table.proposed[session] = epoch
