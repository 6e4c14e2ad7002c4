"""Sessions whose state is in a store and not in a slot: how they get there, and how they come back."""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from functools import partial
from typing import Any

import numpy as np
import structlog

from gatestream.server.arrays import Array, Ints
from gatestream.server.core.accounts import Accounts
from gatestream.server.core.admission import Caller
from gatestream.server.core.controls import Then
from gatestream.server.core.engine import Engine
from gatestream.server.core.reply_sink import CloseReason
from gatestream.server.core.transitions import Phase
from gatestream.server.durability.store import SessionState, Store
from gatestream.server.errors import Refused

_log = structlog.get_logger(__name__)


class Parking:
    """The parked sessions of one model.

    While the store takes its time, what is asked of a session stands in its queue, and other sessions go on.

    Args:
        engine: of the model.
        accounts: of the tenants.
        store: of the states; None: no session can be parked.
    """

    def __init__(self, engine: Engine, accounts: Accounts, store: Store | None):
        self._engine = engine
        self._table = engine.sessions
        self._accounts = accounts
        self._store = store
        # Sessions that the store knows: those that are parked, and those that once were.
        self._stored: set[int] = set()
        self._tasks: set[asyncio.Task[None]] = set()

    def copy(self, session: int) -> SessionState:
        """A copy of the state of a session that has a slot."""
        engine, table = self._engine, self._table
        rows = [row.tobytes() for row in engine.rows.read(int(table.slot[session]))]
        return SessionState(engine.layout.fingerprint, int(table.position[session]), rows)

    async def park(self, tenant: str, session_id: str) -> bool:
        """Put a session into the store that no stream holds, and let another one have its slot.

        Returns:
            Whether it is parked: it is not where a stream holds it, or something has been asked of it meanwhile.

        Raises:
            NotFound: the tenant has no such session.
            Exhausted: too much is pending.
        """
        store, table = self._store, self._table
        assert store is not None, "it has somewhere to go"
        session = table.find(tenant, session_id)
        if table.phase[session] != Phase.DETACHED:
            return False
        answer: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        ended = False

        def parked() -> None:
            wanted = table.phase[session] != Phase.DETACHED or not self._engine.last_in_queue(session)
            if not wanted:
                table.park(session)
                self._stored.add(session)
            if not answer.done():
                answer.set_result(not wanted)

        async def keep(state: SessionState) -> Then:
            await store.put(tenant, session_id, state)
            if ended:
                await store.delete(tenant, session_id)
            return parked

        def put() -> Awaitable[Then]:
            return keep(self.copy(session))

        def fail(error: Refused, *_: Any) -> None:
            nonlocal ended
            ended = True
            if not answer.done():
                answer.set_exception(error)

        self._engine.wait_for(session, put, fail, Caller(self._accounts.of(tenant)))
        return await answer

    def bring_back(self, session: int, end: Callable[[Ints, CloseReason], None]) -> None:
        """Have a session that is parked get its state back before anything else that is asked of it.

        Args:
            session: any.
            end: ends it, where its state cannot be had.

        Raises:
            Exhausted: every slot is taken.
        """
        table = self._table
        if table.phase[session] != Phase.PARKED:
            return
        store = self._store
        assert store is not None, "it came from somewhere"
        tenant, session_id = table.tenant(session), table.session_id(session)
        table.restore(session)

        async def get() -> Then:
            try:
                state = await store.get(tenant, session_id)
                states = self._engine.layout.states
                rows = [item.rows(column) for column, item in zip(state.rows, states, strict=True)]
            except Exception as error:
                return partial(self._lose, session, error, end)
            return partial(self._put_back, session, rows)

        self._engine.wait_for(session, get, _ended, Caller(self._accounts.of(tenant)), must=True)

    def _put_back(self, session: int, rows: Sequence[Array]) -> None:
        self._engine.rows.write(int(self._table.slot[session]), rows)
        self._table.restored(session)

    def _lose(self, session: int, error: Exception, end: Callable[[Ints, CloseReason], None]) -> None:
        _log.error("a session could not be restored", model=self._engine.layout.name, reason=str(error))
        end(np.array([session]), CloseReason.ADMINISTERED)

    def forget(self, sessions: Ints) -> None:
        """Have the store forget those of the sessions that it knows: they end."""
        for session in self._stored.intersection(sessions.tolist()):
            assert self._store is not None, "it is there"
            self._stored.discard(session)
            self._do(self._store.delete(self._table.tenant(session), self._table.session_id(session)))

    def _do(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


def _ended(*_: Any) -> None:
    """The session has ended, and whoever asked for it has heard so."""
