"""Checkpoints of all kept sessions of a server, written behind their steps, many in one transaction."""

import asyncio
import itertools
import secrets
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Final

import numpy as np
import structlog

from gatestream.server.arrays import Ints
from gatestream.server.config import Limits
from gatestream.server.core.checkpoint_writer import CheckpointWriter, Kept
from gatestream.server.core.gate import WakingGate
from gatestream.server.core.store_room import StoreRoom
from gatestream.server.durability.checkpoints import Checkpoint, Key, Store
from gatestream.server.errors import CheckpointUnfit, NotFound, StoreUnavailable
from gatestream.server.telemetry import CheckpointsNow, CheckpointStats

_INTERVAL_SECONDS: Final = 0.05
# A round takes this part of the time at most, unless the longest interval is reached. Steps beside a round are slower,
# and few enough to leave the p99 alone.
_PART: Final = 0.02
# And this part where a client waits for one, since it has sent as much as it may keep.
_PART_ASKED: Final = 0.05
_LONGEST_SECONDS: Final = 2.0
# Owners hear what is durable so often at most, for each that hears it is one message more; not where one waits for it.
_TELL_SECONDS: Final = 0.25
_BEAT_SECONDS: Final = 1.0
_LONGEST_PAUSE: Final = 5.0
_COMPANY_SECONDS: Final = 0.005
# Sessions that have ended here and are to end in the store, when it answers again: some 20 MiB.
_MOST_CLOSING: Final = 2**16
# And of which it may have done a claim.
_MOST_UNSURE: Final = 2**16
# As many of these as a beat looks at.
_LOOKED_AT: Final = 1000
_PRUNE_SECONDS: Final = 30.0

_log = structlog.get_logger(__name__)


class Checkpointer:
    """Writes what has changed of kept sessions to the store.

    Args:
        store: of the checkpoints.
        limits: of the server.
        before_answer: answers wait until what they tell is stored.

    Attributes:
        store: as given.
        owner: what this process is called in the store, for its life.
        stats: what is counted.
        gate: where answers wait; None: nowhere.
        room: that tenants have in the store.
        listing: whose turn it is to read many sessions.
        turns: numbers, for what is asked of sessions in order.
        ending: by name, the turns of what is about to end a session of that name in the store.
    """

    def __init__(self, store: Store, limits: Limits, *, before_answer: bool = False):
        self.store = store
        self.gate = WakingGate(self.hurry) if before_answer else None
        self.owner = secrets.token_hex(16)
        self.stats = CheckpointStats()
        self._writer = CheckpointWriter(store, self.owner, self.stats)
        self.room = StoreRoom(store, limits)
        self.listing = asyncio.Semaphore()
        self.turns = itertools.count()
        self.ending: dict[Key, set[int]] = {}
        # What the latest round took; infinite where the store did not take it.
        self._took = 0.0
        # When the one that is under way did.
        self._began: float | None = None
        self._limits = limits
        self._all_written_at = 0.0
        self._letting_go: dict[Key, int] = {}
        # Sessions that the store may have claimed for us without saying so.
        self._perhaps_ours: set[Key] = set()
        self._models: dict[Kept, Callable[[], None]] = {}
        self._closing: dict[Key, int] = {}
        # Those of them that the store is asked to end now.
        self._asked_to_end: dict[Key, int] = {}
        # There were too many since the store has answered last, and the log says so.
        self._leaves = False
        # Those that the store did not end, of which nobody has heard yet.
        self._not_ended: set[Key] = set()
        # Who waits for them, with what was asked for.
        self._closes: list[tuple[Sequence[Key], asyncio.Future[bool]]] = []
        self._told_at = -_TELL_SECONDS
        # A client waits for the next round, which begins then at the soonest.
        self._asked = False
        self._soonest = 0.0
        self._due: asyncio.TimerHandle | None = None
        self._awake = False
        self._sleep: asyncio.Future[None] | None = None

    def hurry(self) -> None:
        """Begin the next round of checkpoints as soon as may be: somebody waits for it."""
        self._awake = True
        if self._sleep is not None and not self._sleep.done():
            self._sleep.set_result(None)

    def writes_within(self, seconds: float) -> bool:
        """Whether the latest round of checkpoints was stored, and took no longer; nor has the one that is under way."""
        under_way = 0.0 if self._began is None else asyncio.get_running_loop().time() - self._began
        return max(self._took, under_way) < seconds

    def tell_soon(self) -> None:
        """Have a round soon, after which owners hear what is durable: one waits for it."""
        if not self._asked:
            self._asked = True
            # After the round that is under way, if one is, `run` waits no longer than this.
            if self._due is not None:
                self._due.cancel()
                self._due = asyncio.get_running_loop().call_at(self._soonest, self.hurry)

    def add(self, kept: Kept, reserve: Callable[[], None]) -> None:
        """Write the checkpoints of a model's sessions too.

        Args:
            kept: these.
            reserve: sees to it that some slots are free; called in each round.
        """
        self._models[kept] = reserve

    def remove(self, kept: Kept) -> None:
        """Of a model that is served no more."""
        del self._models[kept]

    async def beat(self) -> None:
        """Say that this process lives, and hear which of its sessions others ask for, until cancelled."""
        while True:
            # The log says already that a store does not answer.
            with suppress(StoreUnavailable):
                await self.beat_once()
            await asyncio.sleep(_BEAT_SECONDS)

    async def beat_once(self) -> None:
        """Say that this process lives; to be done before the first claim.

        Raises:
            StoreUnavailable: it cannot be said.
        """
        wanted = set(await self.store.beat(self.owner))
        if wanted:
            for kept in self._models:
                kept.asked_for(wanted)
            self.hurry()
        # Those first that nobody has here. The next beat does not wait for all: what is left is looked at then.
        look = sorted(wanted, key=lambda key: any(kept.has(key, 0) for kept in self._models))
        look += itertools.islice(self._perhaps_ours, _LOOKED_AT)
        with suppress(TimeoutError):
            async with asyncio.timeout(_BEAT_SECONDS):
                for key in look:
                    perhaps_ours = key in self._perhaps_ours
                    # Before: it may be claimed once more without a word.
                    self._perhaps_ours.discard(key)
                    try:
                        await self._release_void(key)
                    except BaseException:
                        if perhaps_ours:
                            self._perhaps_ours.add(key)
                        raise

    def not_heard(self, key: Key) -> None:
        """Note that the store has not answered a claim, which it may have done; it is asked when it answers again."""
        if len(self._perhaps_ours) < _MOST_UNSURE:
            self._perhaps_ours.add(key)

    async def _release_void(self, key: Key) -> None:
        """Let go of a session that the store says is ours and that nobody has here, or at an earlier epoch only.

        The store claimed it for us, and could not say so.
        """
        try:
            stored = await self.store.read(key)
        except (NotFound, CheckpointUnfit):
            return
        if stored.owner == self.owner and not any(kept.has(key, stored.epoch) for kept in self._models):
            await self.store.release(self.owner, [key], np.array([stored.epoch]))

    async def run(self) -> None:
        """Write checkpoints, until cancelled."""
        interval, pause, took = _INTERVAL_SECONDS, 0.0, 0.0
        loop = asyncio.get_running_loop()
        while True:
            if pause:
                await asyncio.sleep(pause)
            elif not self._awake:
                await self._until_due(interval)
            if self.gate is not None:
                await self.gate.company(min(took, _COMPANY_SECONDS))
            self._awake = False
            began = self._began = loop.time()
            try:
                await self.round()
            except StoreUnavailable as error:
                self.stats.failures += 1
                if not pause:
                    _log.warning("checkpoints cannot be written; steps go on", reason=str(error))
                pause = min(max(2 * pause, _INTERVAL_SECONDS), _LONGEST_PAUSE)
            else:
                if pause:
                    _log.info("checkpoints are written again")
                pause = 0.0
            took = loop.time() - began
            self._took, self._began = float("inf") if pause else took, None
            soonest = _interval(took, _PART_ASKED)
            self._soonest = loop.time() + soonest
            interval = soonest if self._asked else _interval(took, _PART)

    async def _until_due(self, seconds: float) -> None:
        # Without `wait_for`: it takes a task and some turns of the loop, and Python 3.11's forgets that it was
        # cancelled when what it waits for comes in the same turn.
        loop = asyncio.get_running_loop()
        self._sleep = loop.create_future()
        self._due = loop.call_later(seconds, self.hurry)
        try:
            await self._sleep
        finally:
            self._due.cancel()
            self._sleep = self._due = None

    async def round(self) -> None:
        """Write what has changed once, and let go of what is to be handed over.

        Raises:
            StoreUnavailable: the store does not take it.
        """
        began = asyncio.get_running_loop().time()
        group = None if self.gate is None else self.gate.begin()
        tells = self._asked or began >= self._told_at + _TELL_SECONDS
        self._asked = False
        if tells:
            self._told_at = began
        # Before the answer, the answers leave first.
        self._writer.tells = tells and self.gate is None
        await self._close_sessions()
        await self._release()
        written = []
        try:
            for kept, reserve in list(self._models.items()):
                await self._writer.write(kept, kept.dirty())
                written.append((kept, reserve))
            if self.gate is not None and group is not None:
                self.gate.stored(group)
        finally:
            for kept, reserve in written:
                if tells:
                    kept.tell_durable()
                kept.let_go()
                reserve()
        await self._release()
        self._all_written_at = began

    async def prune(self) -> None:
        """Forget, now and then, what nobody has asked for in too long, until cancelled.

        There may be so much of it that no round of checkpoints is to wait for it.
        """
        timeout = self._limits.park_timeout
        while True:
            with suppress(StoreUnavailable):
                await self.store.prune(time.time() - timeout if timeout else 0.0)
            await asyncio.sleep(_PRUNE_SECONDS)

    async def replace(self, key: Key, epoch: int, checkpoint: Checkpoint) -> bool:
        """As `Store.replace`, behind the writes that are under way."""
        return await self._writer.replace(key, epoch, checkpoint)

    def now(self) -> CheckpointsNow:
        """What there is to be written."""
        dirty = sum(len(kept.dirty()) for kept in self._models)
        age = asyncio.get_running_loop().time() - self._all_written_at if dirty else 0.0
        return CheckpointsNow(dirty, age)

    # ---- Sessions that end --------------------------------------------------------------------

    def release(self, keys: Sequence[Key], epochs: Ints) -> None:
        """Let any other owner have sessions, soon."""
        self._letting_go.update(zip(keys, epochs.tolist(), strict=True))
        self.hurry()

    async def _release(self) -> None:
        letting_go, self._letting_go = self._letting_go, {}
        try:
            if letting_go:
                epochs = np.fromiter(letting_go.values(), np.int64, len(letting_go))
                await self.store.release(self.owner, list(letting_go), epochs)
        except StoreUnavailable:
            self._letting_go = letting_go | self._letting_go
            raise

    def close(self, keys: Sequence[Key], epochs: Ints) -> asyncio.Future[bool]:
        """End sessions in the store, many together; whether they have all ended there.

        Where it does not answer they may have, and are kept in mind until it does; those that are too many for that are
        left in the store. What is not there, or was claimed at another epoch, has not.
        """
        done: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        room = max(0, _MOST_CLOSING - len(self._closing))
        if len(keys) > room:
            self._leave(len(keys) - room)
            keys, epochs = keys[:room], epochs[:room]
            done.set_result(False)
        self._closing.update(zip(keys, epochs.tolist(), strict=True))
        self._closes.append((keys, done))
        self.hurry()
        return done

    async def end_now(self, key: Key) -> None:
        """Have the store end a session of a name, if that could not be done yet, before another one is made.

        Raises:
            StoreUnavailable: the store does not answer.
        """
        if (epoch := self._closing.get(key)) is not None:
            [ended] = await self.store.close([key], np.array([epoch]))
            if self._closing.get(key) == epoch:
                del self._closing[key]
                if not ended:
                    self._not_ended.add(key)

    def will_end(self, key: Key) -> int:
        """Note that a session of a name is about to end in the store; the turn of that."""
        turn = next(self.turns)
        self.ending.setdefault(key, set()).add(turn)
        return turn

    def ends(self, key: Key, turn: int) -> bool:
        """Whether a session of a name has yet to end in the store, of which that was asked before a turn."""
        asked = any(before < turn for before in self.ending.get(key, ()))
        return asked or key in self._closing or key in self._asked_to_end

    def ends_no_more(self, key: Key, turn: int) -> None:
        """What was to end a session of that name has done so, or will not; it may be said twice."""
        turns = self.ending.get(key, set())
        turns.discard(turn)
        if not turns:
            self.ending.pop(key, None)

    def _leave(self, sessions: int) -> None:
        self.stats.left += sessions
        if not self._leaves:
            self._leaves = True
            _log.warning("more sessions have ended than are remembered until the store answers; it keeps them")

    async def _close_sessions(self) -> None:
        closing, self._closing = self._closing, {}
        self._asked_to_end = closing
        closes, self._closes = self._closes, []
        not_ended, self._not_ended = self._not_ended, set()
        others = not_ended | closing.keys()
        try:
            if closing:
                ended = await self.store.close(list(closing), np.fromiter(closing.values(), np.int64, len(closing)))
                others = not_ended.union(itertools.compress(closing, ~ended))
                self._leaves = False
        except StoreUnavailable:
            self._closing = closing | self._closing
            raise
        finally:
            self._asked_to_end = {}
            for keys, done in closes:
                if not done.done():
                    done.set_result(others.isdisjoint(keys))


def _interval(took: float, part: float) -> float:
    """Seconds between two rounds, of which the first took so long, for them to take so much of the time."""
    return min(max(_INTERVAL_SECONDS, took / part), _LONGEST_SECONDS)
