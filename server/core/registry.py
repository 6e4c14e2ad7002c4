"""Which sessions of one model there are: how they come and go, with their leases and their constants."""

from collections.abc import Callable
from functools import partial
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from gatestream.server.arrays import Ints
from gatestream.server.core.accounts import Accounts
from gatestream.server.core.admission import Caller
from gatestream.server.core.checkpointer import Checkpointer
from gatestream.server.core.constants import Constants
from gatestream.server.core.controls import Fail, Then
from gatestream.server.core.engine import Engine
from gatestream.server.core.gate import Gate
from gatestream.server.core.kept import key_of, keys_of, until_written
from gatestream.server.core.reply_sink import CloseReason, Holder, ReplySink, tell
from gatestream.server.durability.checkpoints import Key
from gatestream.server.durability.leases import Alone, Leases
from gatestream.server.errors import CheckpointUnfit, Exhausted, NotFound, StoreUnavailable

_STAYS: Final = {CloseReason.PARKED, CloseReason.FENCED, CloseReason.LOST, CloseReason.DRAINED}
"""Why a session ends here that the store goes on knowing."""


class Registry:
    """Which sessions of one model there are.

    Args:
        engine: of the model.
        accounts: of the tenants.
        leases: who may have which session, of all who serve it.
        checkpointer: of the server; None: every session ends with its stream.

    Attributes:
        engine, leases, checkpointer: as given.
        table: the sessions, in columns.
        constants: theirs.
        gate: where answers of kept sessions wait; None: nowhere.
        closed_for: why no more sessions are opened; empty: they are.
        check_free: raises AlreadyExists where another version of the model has a tenant's session of this id.
    """

    def __init__(
        self,
        engine: Engine,
        accounts: Accounts,
        leases: Leases | None = None,
        checkpointer: Checkpointer | None = None,
    ):
        self.engine = engine
        self.table = engine.sessions
        self._accounts = accounts
        self.leases = Alone() if leases is None else leases
        # By session, what to release it by; 0: nothing.
        self._leased = np.zeros(len(self.table.position), np.int64)
        self.constants = Constants(engine.layout, len(self.table.position))
        self.checkpointer = checkpointer
        self.gate: Gate | None = None if checkpointer is None else checkpointer.gate
        self.closed_for = ""
        # Sessions, by birth, that are not to end by what is queued.
        self._spared: set[int] = set()
        self.check_free: Callable[[str, str], None] = lambda _tenant, _session_id: None

    def find(self, tenant: str, session_id: str) -> int:
        """A session by its id.

        Raises:
            NotFound: no worker has it.
            Elsewhere: another one has.
        """
        try:
            return self.table.tenants.find(tenant, session_id)
        except NotFound:
            self.leases.check(self.engine.layout.name, tenant, session_id)
            raise

    def key(self, tenant: str, session_id: str) -> Key | None:
        """What a session is called in the store that is not here; None: it is here, or there is no store."""
        if self.checkpointer is None or self.table.tenants.get(tenant, session_id) is not None:
            return None
        self.leases.check(self.engine.layout.name, tenant, session_id)
        return Key(tenant, self.engine.layout.name, session_id)

    def caller(self, tenant: str) -> Caller:
        """Who asks for something in a tenant's name."""
        return Caller(self._accounts.of(tenant))

    def end(self, sessions: Ints, reason: CloseReason) -> None:
        """End sessions now; what is queued is answered as not taken, and the owners hear `closed`.

        Those of which answers wait that are to be stored first, and will not be, are FENCED if they are to stay.
        """
        table = self.table
        if self.gate is not None and reason in _STAYS and reason is not CloseReason.FENCED:
            undone = table.kept[sessions] & (table.sequences(sessions) != table.written[sessions])
            if undone.any():
                self.end(sessions[undone], CloseReason.FENCED)
                sessions = sessions[~undone]
        owners, which = np.unique([id(owner) for owner in table.owner[sessions]], return_inverse=True)
        told = []
        for k in range(len(owners)):
            mine = sessions[which == k]
            owner: ReplySink | None = table.owner[mine[0]]
            if owner is not None:
                told.append((owner, table.handle[mine], table.position[mine]))
        if reason is CloseReason.FENCED and self.gate is not None:
            self.gate.fence(keys_of(self.engine, sessions))
        self.engine.stats.ended[reason.removeprefix("CLOSE_REASON_")] += len(sessions)
        # What is still queued is answered first, then the owner hears that the session is closed.
        self.remove(sessions, stays=reason in _STAYS)
        for owner, handles, positions in told:
            tell(owner, owner.closed, handles, positions, reason)

    def remove(self, sessions: Ints, *, stays: bool = False) -> None:
        """Forget sessions here; the store does too, unless they are to stay in it, for whoever claims them."""
        known = sessions[self.table.kept[sessions]]
        if len(known):
            assert self.checkpointer is not None, "the store knows some"
            give_up = self.checkpointer.release if stays else self.checkpointer.close
            give_up(keys_of(self.engine, known), self.table.epoch[known])
        self.engine.remove(sessions)
        self.constants.forget(sessions)
        self.release(sessions)

    def stored(self, sessions: Ints | int) -> npt.NDArray[np.bool_]:
        """Whether the store knows each session, or will when what stands in its queue has been done."""
        known: npt.NDArray[np.bool_] = self.table.kept[sessions] | (self.table.claiming[sessions] > 0)
        return known

    def close_in_store(
        self,
        session: int,
        holder: Holder,
        reason: CloseReason,
        told: Callable[[bool], None],
        fail: Fail,
        *,
        unlimited: bool = False,
    ) -> None:
        """End a session that the store knows, in its turn: there first.

        Where the store does not answer, nobody knows whether it has ended there, and where another server has claimed
        it, it has not: who holds it hears that it was let go of, and may open it again.

        Args:
            session: which.
            holder: whose what is queued is.
            reason: why, for its owner.
            told: whether the store has ended it, when it is about to end here.
            fail: told that it has ended before its turn.
            unlimited: do so however much is pending; of a session, once.

        Raises:
            Exhausted: too much is pending.
        """
        checkpointer, table = self.checkpointer, self.table
        assert checkpointer is not None, "the store knows it"
        key = key_of(self.engine, session)
        turn = checkpointer.will_end(key)

        async def close() -> Then:
            if not table.kept[session]:
                # The Open that was to have it kept was refused: what the store has of this name is another.
                return partial(end, True)
            table.claiming[session] += 1
            spared = birth in self._spared
            if spared or self.gate is not None:
                try:
                    await until_written(table, session, checkpointer.hurry)
                except StoreUnavailable:
                    return partial(end, False)
            if spared or table.birth[session] != birth:
                # Or it has ended, and its number is another's.
                return partial(end, False)
            table.asked[session] = True
            return partial(end, await checkpointer.close([key], table.epoch[[session]]) or await self._is_gone(key))

        def end(closed: bool) -> None:
            self._spared.discard(birth)
            checkpointer.ends_no_more(key, turn)
            told(closed)
            if closed:
                table.kept[session] = False
            self.end(np.array([session]), reason if closed else CloseReason.PARKED)

        def ended(*why: Any) -> None:
            self._spared.discard(birth)
            checkpointer.ends_no_more(key, turn)
            fail(*why)

        birth = int(table.birth[session])
        try:
            self.engine.wait_for(session, close, ended, holder, must=True, unlimited=unlimited)
        except Exhausted:
            checkpointer.ends_no_more(key, turn)
            raise

    def spare(self, session: int) -> None:
        """Have what is queued to end a session let go of it, when it is stored: whoever asked for that never had it."""
        self._spared.add(int(self.table.birth[session]))

    async def _is_gone(self, key: Key) -> bool:
        """Whether the store says that it knows no session of a name."""
        assert self.checkpointer is not None, "there is a store"
        try:
            await self.checkpointer.store.read(key)
        except NotFound:
            return True
        except (StoreUnavailable, CheckpointUnfit):
            pass
        return False

    def lease(self, session: int) -> None:
        """Have this worker alone have a session's name.

        Raises:
            Elsewhere: another worker has it.
        """
        table = self.table
        name = self.engine.layout.name, table.tenants.tenant(session), table.tenants.session_id(session)
        self._leased[session] = self.leases.claim(*name)

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
