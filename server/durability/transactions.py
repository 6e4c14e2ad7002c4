"""The thread of a SQLite store: what waits for it is done in one transaction, and committed once."""

import asyncio
import sqlite3
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from queue import SimpleQueue
from typing import Any, Final, NamedTuple, TypeVar

import structlog

from gatestream.server.durability.checkpoints import Owned
from gatestream.server.durability.database import Database, Unusable
from gatestream.server.durability.presence import Presence
from gatestream.server.errors import Refused, StoreUnavailable

_log = structlog.get_logger(__name__)
_T = TypeVar("_T")

# Calls about one session that share a commit, beside one about many.
_GROUP: Final = 256
_MOST_WAITING: Final = 100_000
_RETRY_SECONDS: Final = 1.0
_COMMITTED, _ONE_AT_FAULT, _ALL_AT_FAULT = range(3)
# A damaged page, or a full disk, need not concern every call of a transaction.
_OF_ONE: Final = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_FULL)
# After these the open file is as good as before.
_PASSING: Final = (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_FULL)


class Use(NamedTuple):
    """What a transaction works with."""

    connection: sqlite3.Connection
    presence: Presence


@dataclass(slots=True)
class _Call:
    work: Callable[[Use], Any]
    loop: asyncio.AbstractEventLoop
    answer: asyncio.Future[Any]
    result: Any = None
    error: BaseException | None = field(default=None)


class Transactions:
    """Runs calls on a thread of its own, many in one transaction where they wait together.

    A call about many sessions is to be cut to pieces, each a call: between two of them the others have their turn.

    Args:
        database: that they are about.
    """

    def __init__(self, database: Database):
        self._database = database
        self._small: deque[_Call] = deque()
        self._large: deque[_Call] = deque()
        self._lock = threading.Lock()
        # Something for each call. A condition's waiter would wake while the caller still has its lock, and sleep again.
        self._wake: SimpleQueue[None] = SimpleQueue()
        self._stopped = False
        self._reason: str | None = None
        self._thread = threading.Thread(target=self._run, name="store", daemon=True)
        self._thread.start()

    async def do(self, work: Callable[[Use], _T], *, large: bool = False) -> _T:
        """Have something done in a transaction.

        Args:
            work: does it. What it raises of `Refused` and `Owned` is the caller's, and leaves what it wrote before.
            large: it is a piece of something about many sessions.

        Raises:
            StoreUnavailable: it cannot be done now.
        """
        loop = asyncio.get_running_loop()
        call = _Call(work, loop, loop.create_future())
        with self._lock:
            if self._stopped:
                raise _unavailable("it is closed")
            if len(self._small) + len(self._large) >= _MOST_WAITING:
                raise _unavailable("too much waits for it")
            (self._large if large else self._small).append(call)
        self._wake.put(None)
        _elsewhere(loop, 1)
        result: _T = await call.answer
        return result

    def stop(self) -> None:
        """Do what waits, close the database, and end the thread."""
        with self._lock:
            self._stopped = True
        self._wake.put(None)
        self._thread.join()

    def _run(self) -> None:
        while True:
            with self._lock:
                calls = [self._small.popleft() for _ in range(min(_GROUP, len(self._small)))]
                if self._large:
                    calls.append(self._large.popleft())
                if not calls and self._stopped:
                    break
            if not calls:
                self._wake.get()
                continue
            if self._commit(calls) == _ONE_AT_FAULT and len(calls) > 1:
                for call in calls:
                    self._commit([call])
            _deliver(calls)
        self._database.close()

    def _commit(self, calls: list[_Call]) -> int:
        """Do calls in one transaction; how it went. Each has its result then, or its error."""
        try:
            use = Use(*self._database.use())
            changes = use.connection.total_changes
            use.connection.execute("begin immediate")
            for call in calls:
                call.error = None
                try:
                    call.result = call.work(use)
                except (Refused, Owned) as error:
                    call.error = error
            use.connection.execute("commit")
        except (sqlite3.Error, OSError, Unusable) as error:
            self._fail(calls, error)
            return _ONE_AT_FAULT if _code(error) in _OF_ONE else _ALL_AT_FAULT
        except Exception as error:
            # A fault of our own: each hears of it, and nothing of it is committed.
            _log.exception("a transaction of the store failed")
            self._fail(calls, error)
            return _ONE_AT_FAULT
        # What only reads goes on where the disk is full, and says nothing of that.
        if self._reason is not None and use.connection.total_changes > changes:
            _log.info("the store is there again", path=str(self._database.path))
            self._reason = None
        return _COMMITTED

    def _fail(self, calls: list[_Call], error: Exception) -> None:
        reason = f"{type(error).__name__}: {error}"
        if reason != self._reason:
            _log.error("the store cannot be used", path=str(self._database.path), reason=reason)
            self._reason = reason
        try:
            self._database.abandon(keep=_code(error) in _PASSING)
        except sqlite3.Error as closing:
            _log.error("the store could not be closed", path=str(self._database.path), reason=str(closing))
        for call in calls:
            call.error = _unavailable(_told(error))


def _code(error: Exception) -> int:
    return getattr(error, "sqlite_errorcode", 0) & 0xFF


def _told(error: Exception) -> str:
    """Why, without paths: clients read it."""
    match error:
        case OSError(strerror=str() as told):
            return told
        case Unusable() | sqlite3.Error():
            return str(error)
    return type(error).__name__


def _unavailable(reason: str) -> StoreUnavailable:
    return StoreUnavailable(f"the store of sessions cannot be used: {reason}", retry_after=_RETRY_SECONDS)


def _deliver(calls: list[_Call]) -> None:
    by_loop: dict[asyncio.AbstractEventLoop, list[_Call]] = {}
    for call in calls:
        by_loop.setdefault(call.loop, []).append(call)
    for loop, own in by_loop.items():
        try:
            loop.call_soon_threadsafe(_answer, own)
        except RuntimeError:
            # The loop is closed, and nobody waits any more.
            continue


def _answer(calls: list[_Call]) -> None:
    _elsewhere(calls[0].loop, -len(calls))
    for call in calls:
        if call.answer.done():
            continue
        if call.error is not None:
            call.answer.set_exception(call.error)
        else:
            call.answer.set_result(call.result)


def _elsewhere(loop: asyncio.AbstractEventLoop, more: int) -> None:
    """Tell a loop that looks for what comes, as `process.event_loop.Loop`, how many calls it waits for."""
    if (tell := getattr(loop, "elsewhere", None)) is not None:
        tell(more)


def boot_time() -> float:
    """Seconds since this machine was booted: the same for all its processes, whatever is done to its wall clock."""
    return time.clock_gettime(time.CLOCK_BOOTTIME) if hasattr(time, "CLOCK_BOOTTIME") else time.monotonic()
