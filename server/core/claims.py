"""Claims of kept sessions: each waits in its session's queue until the store has said whose it is."""

import asyncio
from collections.abc import Callable, Coroutine
from dataclasses import replace
from functools import partial
from typing import Any, Final, NamedTuple

import numpy as np
import structlog

from gatestream.server.arrays import Ints
from gatestream.server.core.checkpointer import Checkpointer
from gatestream.server.core.controls import Then
from gatestream.server.core.engine import Engine
from gatestream.server.core.kept import HANDOVER_SECONDS, KeptSessions, until_written
from gatestream.server.core.reply_sink import CloseReason, Holder
from gatestream.server.core.sessions import UNKNOWN
from gatestream.server.core.stored import check_size
from gatestream.server.durability.checkpoints import (
    Claim,
    Claimed,
    Key,
    Owned,
)
from gatestream.server.errors import (
    CheckpointUnfit,
    EpochStale,
    Exhausted,
    NotFound,
    Refused,
    StepFailed,
    StoreUnavailable,
    session_closed,
)

# An owner that lives has let go by then, and one that does not counts as dead.
_FIRST_PAUSE, _LONGEST_PAUSE = 0.005, 0.1

_log = structlog.get_logger(__name__)


class Wish(NamedTuple):
    """How a session is to be opened, where a store may know it.

    Attributes:
        parks: it stays when its stream ends.
        epoch: that it is to have; 0: one more than it has.
        acknowledged: sequence of the first answer that its client lacks; None: the client can send nothing again.
    """

    parks: bool = False
    epoch: int = 0
    acknowledged: int | None = None

    @property
    def of_store(self) -> bool:
        """Whether the store is to be asked for a session that is not here."""
        return self.parks or self.epoch > 0 or self.acknowledged is not None


NO_WISH: Final = Wish()


class Claims:
    """Has the kept sessions of one version of a model be claimed.

    Args:
        engine: of the model.
        kept: its sessions.
        checkpointer: of the server.
        forget: drops sessions, whose owners hear why; the store goes on knowing them.
    """

    def __init__(
        self,
        engine: Engine,
        kept: KeptSessions,
        checkpointer: Checkpointer,
        forget: Callable[[Ints, CloseReason], None],
    ):
        self._engine = engine
        self._table = engine.sessions
        self._kept = kept
        self._checkpointer = checkpointer
        self._forget = forget

    def claim(
        self,
        session: int,
        holder: Holder,
        wish: Wish,
        *,
        new: bool,
        create: bool,
        resume: bool,
        ready: Callable[[bool], None],
        failed: Callable[[Refused], None],
        ended: Callable[[], None],
    ) -> None:
        """Have a session that is here be claimed in its turn.

        Args:
            session: which.
            holder: whose what is queued is.
            wish: how it is to be opened.
            new: nothing was known of it here.
            create: the store need not know it.
            resume: the store may know it.
            ready: told, when it stands where it is to stand, whether it was created.
            failed: told why not; it is as before, or of a new one nobody has heard.
            ended: told that it has ended before that.

        Raises:
            Exhausted: too much is pending.
        """
        table = self._table

        turn, key = next(self._checkpointer.turns), self._kept.key(session)
        # What the store has given, which is not settled yet.
        had: list[Claimed] = []

        def wait() -> Coroutine[Any, Any, Then]:
            known = bool(table.kept[session])
            try:
                here = self._kept.checkpoint(session)
            except Exception as error:
                return self._failed(error, refuse)
            claim = Claim(
                self._checkpointer.owner,
                wish.epoch,
                self._kept.meaning,
                here if create and not known else None,
                resume or known,
                wish.acknowledged,
                (int(table.epoch[session]), here) if known else None,
            )
            return self._claimed(session, key, claim, turn, had, settle, refuse)

        def settle(claimed: Claimed) -> None:
            had.clear()
            table.claiming[session] -= 1
            table.asked[session] = False
            self._settle(session, claimed, wish)
            ready(claimed.created)

        def refuse(error: Refused) -> None:
            table.claiming[session] -= 1
            table.asked[session] = False
            if not table.claiming[session]:
                if not table.setting[session]:
                    table.accepted[session] += table.position[session] - UNKNOWN
                # As it is stored, or not, whatever the Open that was refused wanted.
                table.parks[session] = table.kept[session]
            if isinstance(error, EpochStale):
                table.proposed[session] = max(int(table.proposed[session]), error.epoch)
            failed(error)
            if isinstance(error, EpochStale) and table.kept[session]:
                self._forget(np.array([session]), CloseReason.FENCED)

        def over(*_: Any) -> None:
            for claimed in had:
                # It has ended between the store's answer and its turn.
                self._checkpointer.release([key], np.array([claimed.epoch]))
            ended()

        self._engine.wait_for(session, wait, over, holder, must=True, moves=True, unlimited=new)
        table.claiming[session] += 1
        table.accepted[session] = UNKNOWN

    async def _claimed(
        self,
        session: int,
        key: Key,
        claim: Claim,
        turn: int,
        had: list[Claimed],
        settle: Callable[[Claimed], None],
        refuse: Callable[[Refused], None],
    ) -> Then:
        birth = self._table.birth[session]

        def there() -> bool:
            return bool(self._table.birth[session] == birth)

        try:
            if claim.resident is not None and self._checkpointer.gate is not None:
                await until_written(self._table, session, self._checkpointer.hurry)
            claim = await self._within_room(key, claim)
            if there():
                self._table.asked[session] = True
            claimed = await self._ask(key, claim, turn, there)
        except Refused as error:
            return partial(refuse, error)
        except Exception as error:
            return await self._failed(error, refuse)
        unfit: Refused | None = None
        try:
            if claimed.checkpoint is not None:
                check_size(key, claimed.checkpoint, self._engine.layout.state_bytes)
        except CheckpointUnfit as error:
            unfit = error
        if unfit is not None or not there():
            # It is not to be had, or has ended meanwhile: nobody here would let go of it.
            self._checkpointer.release([key], np.array([claimed.epoch]))
        else:
            had.append(claimed)
        return partial(settle, claimed) if unfit is None else partial(refuse, unfit)

    async def _failed(self, error: Exception, refuse: Callable[[Refused], None]) -> Then:
        _log.error("a session could not be claimed", model=self._engine.layout.name, exc_info=error)
        return partial(refuse, StepFailed(f"the server failed at opening the session: {error}"))

    async def _within_room(self, key: Key, claim: Claim) -> Claim:
        """The claim, or one of a session that is there, where the tenant has no room for one more.

        Raises:
            Exhausted: it would have to be made.
            StoreUnavailable: the store does not answer.
        """
        if claim.first is None:
            return claim
        try:
            await self._checkpointer.room.check(key.tenant, self._kept.state_bytes)
        except Exhausted:
            if not claim.taken_up:
                raise
            try:
                await self._checkpointer.store.read(key)
            except NotFound:
                pass
            else:
                return replace(claim, first=None)
            raise
        return claim

    async def _ask(self, key: Key, claim: Claim, turn: int, there: Callable[[], bool]) -> Claimed:
        """Claim, when those of the name that were to end before have, and the owner that has it hands it over."""
        loop = asyncio.get_running_loop()
        until, pause = loop.time() + HANDOVER_SECONDS, _FIRST_PAUSE
        while there():
            try:
                await self._checkpointer.end_now(key)
                if not self._checkpointer.ends(key, turn):
                    return await self._claim(key, claim)
                waits_for = "the session that has the name does not end"
            except Owned:
                waits_for = "the session's owner lives and does not hand it over"
            if loop.time() > until:
                raise StoreUnavailable(f"{waits_for}; try again", retry_after=1.0)
            await asyncio.sleep(pause)
            pause = min(2 * pause, _LONGEST_PAUSE)
        raise session_closed()

    async def _claim(self, key: Key, claim: Claim) -> Claimed:
        try:
            return await self._checkpointer.store.claim(key, claim)
        except StoreUnavailable:
            self._checkpointer.not_heard(key)
            raise

    def _settle(self, session: int, claimed: Claimed, wish: Wish) -> None:
        """Have a session be where a claim has it."""
        table = self._table
        queued = int(table.accepted[session]) - UNKNOWN
        if (checkpoint := claimed.checkpoint) is not None:
            self._kept.put(session, checkpoint)
        sequence = int(table.sequences(session))
        table.accepted[session] = int(table.position[session]) + queued
        table.epoch[session] = claimed.epoch
        table.proposed[session] = max(int(table.proposed[session]), claimed.epoch)
        table.kept[session] = True
        table.parks[session] = wish.parks
        table.acknowledged[session] = sequence if wish.acknowledged is None else wish.acknowledged
        table.durable[session] = claimed.durable
        table.tip[session] = claimed.tip
        if checkpoint is not None or claimed.created or wish.acknowledged is None:
            table.written[session] = sequence
        if table.claiming[session] or table.setting[session]:
            # Another Open stands behind it, or a state that is to be set.
            table.accepted[session] = UNKNOWN + queued
