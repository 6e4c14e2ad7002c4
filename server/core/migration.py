"""Moving sessions from one version of a model to another, each in its turn, while their owners go on.

From the moment of the move an owner's handle stands for a new session of the other version, the twin, in whose queue a
control waits first. The old session takes what it had accepted, in order; behind that stands a control that hands its
state and its position to the twin, whose queue then goes on.
"""

import asyncio
from collections.abc import Sequence
from functools import partial
from typing import Any, Final, NamedTuple

import numpy as np
import structlog

from gatestream.protos.layout import ModelLayout
from gatestream.server.arrays import Array, Ints
from gatestream.server.core.batches import GATES
from gatestream.server.core.catalog import Model, ModelState
from gatestream.server.core.controls import Then
from gatestream.server.core.kept import until_written
from gatestream.server.core.reply_sink import CloseReason, Holder, ReplySink, tell
from gatestream.server.core.transitions import Phase
from gatestream.server.errors import NotLoaded, OutOfStep, Reason, Refused, StoreUnavailable

_log = structlog.get_logger(__name__)

# So many are moved before the loop has its next turn.
_PIECE: Final = 8


class _State(NamedTuple):
    """What a session hands to its twin: a row of each state, [1, *shape], its position, whether a store knows it."""

    rows: list[Array]
    position: int
    kept: bool


def obstacle(before: ModelLayout, after: ModelLayout) -> str:
    """Why a state of one model means nothing to another; empty: it is a state of that too."""
    if before.fingerprint != after.fingerprint:
        return f"its weights are others ({before.fingerprint[:16]}, and not {after.fingerprint[:16]})"
    mine, others = ([(each.name, each.dtype, each.shape, each.role) for each in a.states] for a in (before, after))
    if mine != others:
        return f"its states are others ({_names(before.states)}, and not {_names(after.states)})"
    for what, columns in (
        ("inputs", (before.inputs, after.inputs)),
        ("outputs", (before.outputs, after.outputs)),
    ):
        a, b = columns
        if a != b:
            return f"its {what} are others ({_names(a)}, and not {_names(b)})"
    return ""


async def migrate(before: Model, after: Model) -> int:
    """Move all sessions from one version of a model to another, some at a time.

    Args:
        before: the version that they are on.
        after: the version that they go to, of which there is no `obstacle`.

    Returns:
        How many were moved. Sessions that are opened meanwhile are among them.

    Raises:
        NotLoaded: a session asks for gates that the other version does not show, there is no room for all, or the other
            version takes no sessions, or no more.
    """
    moved = 0
    while len(sessions := _movable(before)):
        if after.state is not ModelState.READY:
            raise NotLoaded(
                f"version {after.version!r} of model {after.name!r} takes no sessions: it is {after.state.value}"
            )
        _check(before, after, sessions)
        moved += _move_some(before, after, sessions[:_PIECE])
        await asyncio.sleep(0)
    return moved


def _movable(model: Model) -> Ints:
    """Those that have a slot and are not about to end. One stays whose state is in a store, or comes from there."""
    table = model.engine.sessions
    phase = table.phase
    known = (table.claiming == 0) & (table.accepted >= 0)
    return np.flatnonzero(((phase == Phase.RESIDENT) | (phase == Phase.DETACHED)) & known)


def _check(before: Model, after: Model, sessions: Ints) -> None:
    with_gates = int(np.count_nonzero(before.engine.reply_mask[sessions] & GATES))
    if with_gates and before.layout.gates != after.layout.gates:
        raise NotLoaded(
            f"{with_gates} sessions on version {before.version!r} ask for gates, which version {after.version!r} does "
            "not show in the same form; export that with --form gates"
        )
    room = len(after.engine.sessions.phase) - after.engine.sessions.taken
    if len(sessions) > room:
        raise NotLoaded(
            f"version {after.version!r} has room for {room} sessions more, and {len(sessions)} are on version "
            f"{before.version!r}; raise --sessions"
        )


def _move_some(before: Model, after: Model, sessions: Ints) -> int:
    """Move some sessions; how many were moved."""
    # By owner, what it calls them, and their twins.
    told: dict[ReplySink, list[tuple[int, int]]] = {}
    try:
        for session in sessions.tolist():
            owner: ReplySink | None = before.engine.sessions.owner[session]
            handle = int(before.engine.sessions.handle[session])
            twin = _Move(before, after, session).begin()
            if owner is not None:
                told.setdefault(owner, []).append((handle, twin))
    except Refused as error:
        # Those of a tenant that has as many as it may stay where they are, and all behind them.
        raise NotLoaded(f"not all sessions could be moved from version {before.version!r}: {error}") from error
    finally:
        for owner, pairs in told.items():
            handles, twins = np.array(pairs).T
            tell(owner, owner.moved, handles, after.number, twins)
    return len(sessions)


class _Move:
    """One session's move.

    Args:
        before: the version that it is on.
        after: the version that it goes to.
        session: of the former.
    """

    def __init__(self, before: Model, after: Model, session: int):
        self._before = before
        self._after = after
        self._session = session
        self._twin = -1
        # What the twin waits for; None: the session has ended.
        self._state: asyncio.Future[_State | None] = asyncio.get_running_loop().create_future()
        self._kept = False
        self._expected = 0
        self._closed = OutOfStep("the session was closed while it was moved to another version", Reason.SESSION_CLOSED)

    def begin(self) -> int:
        """Have the twin take its place; the twin.

        Raises:
            Exhausted: there is no room for it.
        """
        engine, session = self._before.engine, self._session
        table = engine.sessions
        tenant, owner = table.tenants.tenant(session), table.owner[session]
        holder: Holder = self._before.lifecycle.registry.caller(tenant) if owner is None else owner
        self._make_twin(tenant, owner)
        waits = self._before.lifecycle.registry.gate is not None and bool(table.kept[session])
        one = np.array([session])
        if waits and not (engine.at_rest(session) and table.sequences(session) == table.written[session]):
            engine.wait_for(session, self._written, self._lost, holder, must=True, unlimited=True)
        elif engine.at_rest(session):
            self._hand_over()
        else:
            engine.control(one, lambda *_: self._hand_over(), self._lost, holder=holder, must=True, unlimited=True)
        # By now all that has come for it is accepted, or refused.
        twins, twin = self._after.engine.sessions, self._twin
        self._expected = twins.accepted[twin] = int(table.accepted[session])
        twins.position[twin] = table.position[session]
        state = self._state.result() if self._state.done() else None
        if state is not None and not self._after.engine.running:
            self._take(state)
        else:
            # However much is pending: by now it has the other's place.
            self._after.engine.wait_for(twin, self._wait, self._ended, holder, must=True, unlimited=True)
        return twin

    def _make_twin(self, tenant: str, owner: ReplySink | None) -> None:
        old, new, session = self._before.engine.sessions, self._after.engine.sessions, self._session
        session_id = old.tenants.session_id(session)
        twin = self._twin = new.create(tenant, session_id, float(old.answered_at[session]))
        if owner is None:
            new.detach(twin)
            new.sequence[twin] = old.sequence[session]
        else:
            new.attach(twin, owner, int(old.handle[session]))
        self._after.engine.reply_mask[twin] = self._before.engine.reply_mask[session]
        self._before.lifecycle.registry.pass_on(session, self._after.lifecycle.registry, twin)
        # The store knows it as it will stand there: until then it is not written.
        new.kept[twin] = new.asked[twin] = old.kept[session]
        old.leave(np.array([session]))
        # It tells nobody any more that it ends.
        old.owner[session] = None

    # ---- The old session ----------------------------------------------------------------------

    async def _written(self) -> Then:
        """What its owner is still to be told is stored first: from then on no round of checkpoints has it."""
        registry = self._before.lifecycle.registry
        assert registry.checkpointer is not None, "the store knows it"
        try:
            await until_written(registry.table, self._session, registry.checkpointer.hurry)
        except StoreUnavailable:
            return partial(registry.end, np.array([self._session]), CloseReason.PARKED)
        return self._hand_over

    def _hand_over(self) -> None:
        """Its turn has come: all that it accepted is done."""
        engine, session = self._before.engine, self._session
        table, twins = engine.sessions, self._after.engine.sessions
        rows = engine.rows.read(int(table.slot[session]))
        self._state.set_result(_State(rows, int(table.position[session]), bool(table.kept[session])))
        # At once: what is asked of the twin before it has the state is judged by where it will stand.
        twins.position[self._twin] = table.position[session]
        twins.offset[self._twin] = table.offset[session]
        engine.remove(np.array([session]))

    def _lost(self, _error: Refused, *_: Any) -> None:
        """It has ended before its turn, in the store too where that knows it no more."""
        self._kept = bool(self._before.engine.sessions.kept[self._session])
        if not self._state.done():
            self._state.set_result(None)

    # ---- The twin -----------------------------------------------------------------------------

    async def _wait(self) -> Then:
        state = await self._state
        if state is None:
            raise self._closed
        return lambda: self._take(state)

    def _take(self, state: _State) -> None:
        engine, twin = self._after.engine, self._twin
        try:
            engine.rows.write(int(engine.sessions.slot[twin]), state.rows)
        except Exception:
            _log.exception("a session could not be moved", model=engine.layout.name)
            reason = CloseReason.PARKED if engine.sessions.kept[twin] else CloseReason.ADMINISTERED
            self._after.lifecycle.registry.end(np.array([twin]), reason)
            return
        engine.sessions.kept[twin], engine.sessions.asked[twin] = state.kept, False
        if state.kept and (kept := self._after.lifecycle.kept) is not None:
            # What was to be told of the old session is of no number that is known any more.
            kept.tell_later(twin)
        if state.position != self._expected and not engine.at_rest(twin):
            failed = OutOfStep("the step before this one in the session failed", Reason.PRECEDING_FAILED)
            engine.edits.refuse_behind(twin, failed)
            self._after.lifecycle.registry.keep_constants(twin)
        if self._after.lifecycle.named.is_to_be_set(twin):
            # Steps count from the state that was asked for meanwhile.
            return
        engine.sessions.setting[twin] = False
        if engine.sessions.accepted[twin] >= 0:
            engine.sessions.accepted[twin] = state.position + engine.edits.steps(twin)

    def _ended(self, error: Refused, *_: Any) -> None:
        """What the twin waited for will not come, or it has ended itself."""
        lifecycle, twins = self._after.lifecycle, np.array([self._twin])
        if error is self._closed and self._kept and lifecycle.kept is not None:
            lifecycle.kept.leave(twins)
        elif error is self._closed:
            lifecycle.registry.end(twins, CloseReason.ADMINISTERED)
        elif not self._state.done():
            self._state.set_result(None)
            old, before = np.array([self._session]), self._before
            if before.engine.sessions.kept[self._session] and before.lifecycle.kept is not None:
                # What was computed of it and is not stored is not told.
                before.lifecycle.kept.leave(old)
            else:
                before.engine.remove(old)


def _names(columns: Sequence[Any]) -> str:
    return ", ".join(f"{each.name} {each.dtype} {list(each.shape)}" for each in columns)
