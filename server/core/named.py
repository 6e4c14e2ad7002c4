"""What is asked of sessions by name, whoever holds them."""

import asyncio
import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

import numpy as np

from gatestream.server.core.constants import check_numbers
from gatestream.server.core.controls import Then
from gatestream.server.core.kept import KeptSessions, until_written
from gatestream.server.core.places import Places
from gatestream.server.core.registry import Registry
from gatestream.server.core.reply_sink import CloseReason
from gatestream.server.core.stored import ANYWHERE, Listed, Meant, StoredSessions, page, random_id
from gatestream.server.durability.checkpoints import Checkpoint
from gatestream.server.errors import InvalidRequest, OutOfStep, Reason, Refused, StoreUnavailable, session_closed

# Far enough below 2^53, up to which every store counts, that no session steps past it.
_POSITIONS = 2**52
_FIRST_PAUSE, _LONGEST_PAUSE = 0.01, 1.0
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


class NamedSessions:
    """The sessions of one model by their names.

    Args:
        registry: of the sessions.
        places: of them.
        kept: those that the store knows; None: there is no store.
    """

    def __init__(self, registry: Registry, places: Places, kept: KeptSessions | None):
        self._registry = registry
        self._places = places
        self._engine = registry.engine
        self._table = registry.table
        self._constants = registry.constants
        self._kept = kept
        self._checkpointer = registry.checkpointer
        # By session, the turn of the state that is to be set last.
        self._turns = itertools.count()
        self._latest: dict[int, int] = {}
        # Sessions of which the store has yet to say whether it has a state that is to be set.
        self._unknown: set[int] = set()
        if self._checkpointer is not None and self._kept is not None:
            self._stored = StoredSessions(self._checkpointer, self._kept.meaning, self._engine.layout.state_bytes)

    async def close(self, tenant: str, session_id: str) -> int:
        """End a session whoever holds it; its last position."""
        if (key := self._registry.key(tenant, session_id)) is not None:
            return await self._stored.close(key)
        session = self._registry.find(tenant, session_id)
        if self._registry.stored(session):
            return await self._close_kept(session, tenant)

        def end(session: int) -> int:
            position = int(self._table.position[session])
            self._registry.end(np.array([session]), CloseReason.ADMINISTERED)
            return position

        return await self._in_line(tenant, session_id, end)

    async def _close_kept(self, session: int, tenant: str) -> int:
        """As `close`, of a session that the store knows."""
        answer: asyncio.Future[int] = asyncio.get_running_loop().create_future()

        def told(closed: bool) -> None:
            if answer.done():
                return
            if closed:
                answer.set_result(int(self._table.position[session]))
            else:
                answer.set_exception(
                    StoreUnavailable("the store did not say that it has closed the session; ask again")
                )

        def fail(error: Refused, *_: Any) -> None:
            if not answer.done():
                answer.set_exception(error)

        caller = self._registry.caller(tenant)
        self._registry.close_in_store(session, caller, CloseReason.ADMINISTERED, told, fail)
        return await answer

    async def state(self, tenant: str, session_id: str) -> SessionState:
        """A copy of a session's state, after all steps accepted so far."""
        if (key := self._registry.key(tenant, session_id)) is not None:
            checkpoint = await self._stored.state(key)
            rows = [row.tobytes() for row in self._engine.rows.unpacked(checkpoint.state)]
            return SessionState(self._engine.layout.fingerprint, checkpoint.position, rows)
        return await self._stored_first(tenant, session_id, self._copy)

    async def _stored_first(self, tenant: str, session_id: str, copy: Callable[[int], _T]) -> _T:
        """A copy of a session in its turn; where answers wait to be stored, when what it has is."""
        table, registry = self._table, self._registry

        def copied(session: int) -> tuple[_T, int, bool, int, int]:
            waits = registry.gate is not None and bool(table.kept[session])
            return copy(session), session, waits, int(table.birth[session]), int(table.sequences(session))

        made, session, waits, birth, sequence = await self._in_line(tenant, session_id, copied)
        if waits:
            assert self._checkpointer is not None, "there is a store"
            if table.birth[session] == birth:
                await until_written(table, session, self._checkpointer.hurry, sequence)
            if table.birth[session] != birth:
                why = "the session was let go of before its state was stored; ask again"
                raise StoreUnavailable(why, retry_after=0.1)
        return made

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
            StoreUnavailable: nobody knows whether it was put; opening the session again shows it.
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
            raise InvalidRequest(f"state.position is {state.position}; expected less than 2^52")
        rows = [item.rows(column) for column, item in zip(state.rows, layout.states, strict=True)]
        for item, column in zip(layout.states, state.rows, strict=True):
            check_numbers(f"state.state {item.name!r}", item, column)

        def put(session: int) -> int:
            try:
                meant.check(int(table.sequences(session)), int(table.epoch[session]))
            except Refused:
                self._not_set(session, turn)
                raise
            self._engine.rows.write(int(table.slot[session]), rows)
            table.offset[session] += table.position[session] + 1 - state.position
            table.position[session] = state.position
            self._was_set(session, turn)
            return state.position

        if (key := self._registry.key(tenant, session_id)) is not None:
            await self._stored.replace(key, state.position, b"".join(state.rows), meant)
            return state.position
        session = self._registry.find(tenant, session_id)
        self._constants.check_state(session, state.rows)
        if self._registry.stored(session):
            return await self._set_kept(session, tenant, state, meant)
        turn = next(self._turns)
        # It may be refused for a step that failed; and whoever waits for it may have gone by then.
        setting = self._in_line(tenant, session_id, put, moves=True, failed=lambda: self._is_last(session, turn))
        if not setting.done():
            self._latest[session] = turn
            table.setting[session] = True
        # Steps that come from now on stand behind it in the queue, and count from its position.
        table.accepted[session] = state.position
        return await setting

    async def _set_kept(self, session: int, tenant: str, state: SessionState, meant: Meant) -> int:
        """As `set_state`, of a session that the store knows: there first."""
        kept, checkpointer, table = self._kept, self._checkpointer, self._table
        assert kept is not None, "the store knows it"
        assert checkpointer is not None, "there is a store"
        answer: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        packed = b"".join(state.rows)

        if session in self._unknown:
            raise StoreUnavailable("the store has yet to say whether it has the state before this one", retry_after=1.0)
        unknown = False

        async def replace() -> Then:
            nonlocal unknown
            meant.check(int(table.sequences(session)), int(table.epoch[session]))
            key, epoch = kept.key(session), int(table.epoch[session])
            checkpoint = Checkpoint(int(table.sequences(session)) + 1, state.position, packed)
            if not table.kept[session]:
                # The Open that was to have it kept was refused.
                return partial(settle, checkpoint)
            if answer.done():
                raise StoreUnavailable("nobody waits for the state any more")
            unknown, pause = True, _FIRST_PAUSE
            while table.birth[session] == birth:
                try:
                    taken = await checkpointer.replace(key, epoch, checkpoint)
                    if taken and table.birth[session] == birth:
                        # What would be written before it stands there is what this has replaced.
                        table.asked[session] = True
                    return partial(settle, checkpoint if taken else None)
                except StoreUnavailable:
                    # What it may have done it does once more: nothing else may be asked of the session before.
                    if table.birth[session] == birth:
                        self._unknown.add(session)
                    await asyncio.sleep(pause)
                    pause = min(2 * pause, _LONGEST_PAUSE)
            raise session_closed()

        def settle(checkpoint: Checkpoint | None) -> None:
            self._unknown.discard(session)
            table.asked[session] = False
            if checkpoint is None:
                self._registry.end(np.array([session]), CloseReason.FENCED)
                return
            kept.put(session, checkpoint)
            self._was_set(session, turn)
            for column in (table.written, table.tip, table.durable, table.acknowledged):
                column[session] = checkpoint.sequence
            if not answer.done():
                answer.set_result(state.position)

        def fail(error: Refused, *_: Any) -> None:
            if unknown:
                self._unknown.discard(session)
            if table.birth[session] == birth:
                self._not_set(session, turn)
            if not answer.done():
                answer.set_exception(_maybe_set() if unknown else error)

        self._places.bring_back(session)
        self._engine.wait_for(session, replace, fail, self._registry.caller(tenant), moves=True)
        birth = table.birth[session]
        turn = self._latest[session] = next(self._turns)
        table.setting[session] = True
        if table.accepted[session] >= 0:
            # Steps that come from now on stand behind it in the queue, and count from its position. Where an Open
            # stands before it none is taken that names a position.
            table.accepted[session] = state.position
        return await answer

    def is_to_be_set(self, session: int) -> bool:
        """Whether a state of a session is yet to be set."""
        return session in self._latest

    def _was_set(self, session: int, turn: int) -> None:
        """A state was set: steps behind it count from its position."""
        if self._decides(session, turn):
            self._table.accepted[session] = self._table.position[session] + self._engine.edits.steps(session)

    def _not_set(self, session: int, turn: int) -> None:
        """A state was not set: refuse the steps that count from its position."""
        table = self._table
        accepted = int(table.accepted[session])
        failed = OutOfStep("the state that was to be set before this step was not", Reason.PRECEDING_FAILED)
        self._engine.edits.cut_off(np.array([session]), failed, until_moved=True)
        table.accepted[session] = table.position[session] if self._decides(session, turn) else accepted

    def _decides(self, session: int, turn: int) -> bool:
        """Whether steps that come from now on count from where a turn that is over has left a session.

        Not so where another state is to be set behind it, or an Open stands there: they count from where that puts it.
        """
        return self._is_last(session, turn) and not self._table.claiming[session]

    def _is_last(self, session: int, turn: int) -> bool:
        """Whether no other state is to be set behind that of a turn, which is over."""
        if self._latest.get(session) != turn:
            return False
        del self._latest[session]
        self._table.setting[session] = False
        return True

    async def fork(self, tenant: str, session_id: str, new_id: str) -> tuple[str, int]:
        """A session that no stream holds, with a copy of another's state; its id and position."""
        new_id = new_id or random_id()
        if (key := self._registry.key(tenant, session_id)) is not None:
            return new_id, (await self._stored.fork(key, new_id)).position
        session = self._registry.find(tenant, session_id)
        if self._kept is not None and self._registry.stored(session):
            self._registry.check_free(tenant, new_id)
            self._table.tenants.check_free(tenant, new_id)
            key = self._kept.key(session)._replace(session_id=new_id)
            checkpoint = await self._stored_first(tenant, session_id, self._kept.checkpoint)
            await self._stored.put(key, checkpoint)
            return new_id, checkpoint.position

        def copy(session: int) -> tuple[str, int]:
            engine, table = self._engine, self._table
            twin = self._places.create(tenant, new_id, self._constants.of(session))
            table.detach(twin)
            engine.rows.write(int(table.slot[twin]), engine.rows.read(int(table.slot[session])))
            # A start with others may be queued behind this.
            self._registry.keep_constants(twin)
            table.position[twin] = table.accepted[twin] = table.position[session]
            return table.tenants.session_id(twin), int(table.position[twin])

        return await self._in_line(tenant, session_id, copy)

    async def stored(self, tenant: str, behind: str, size: int) -> tuple[list[Listed], str]:
        """Up to `size` of a tenant's sessions of this model, of all versions, that the store has, behind an id.

        Returns:
            These, and the id behind which there may be more; empty: there are none.

        Raises:
            StoreUnavailable: the store does not answer.
        """
        if self._checkpointer is None:
            return [], ""
        return await page(self._checkpointer, tenant, self._engine.layout.name, behind, size)

    def _in_line(
        self,
        tenant: str,
        session_id: str,
        do: Callable[[int], _T],
        *,
        moves: bool = False,
        failed: Callable[[], object] = lambda: None,
    ) -> asyncio.Future[_T]:
        session = self._registry.find(tenant, session_id)
        answer: asyncio.Future[_T] = asyncio.get_running_loop().create_future()
        self._places.bring_back(session)
        if self._engine.at_rest(session):
            # A control in an empty queue would be done next, some turns of the loop later.
            answer.set_result(do(session))
            return answer
        caller = self._registry.caller(tenant)

        def run(*_: Any) -> None:
            try:
                result = do(session)
            except Refused as error:
                fail(error)
            else:
                if not answer.done():
                    answer.set_result(result)

        def fail(error: Refused, *_: Any) -> None:
            failed()
            # The caller may have gone.
            if not answer.done():
                answer.set_exception(error)

        self._engine.control(np.array([session]), run, fail, holder=caller, moves=moves)
        return answer


def _maybe_set() -> StoreUnavailable:
    return StoreUnavailable(
        "the session was let go of before the store had said whether it has the state; opening it again shows that"
    )
