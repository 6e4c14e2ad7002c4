"""What waits to be sent on one stream."""

import asyncio
import itertools
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final

import structlog

from gatestream.server.core.accounts import ITEM_BYTES, Account
from gatestream.server.core.gate import Gate, Void
from gatestream.server.errors import Failed, Idle, Refused, Unauthenticated

# A peer that leaves so many messages unread is not read from until it has taken some.
_FULL: Final = 256
# Nor one that leaves so many bytes unread which no accepted row stands for: of errors, and of what opened or closed.
_FULL_BYTES: Final = 2**20
_SMALL: Final = 4096

_log = structlog.get_logger(__name__)


class Pieces:
    """A message that is joined when it leaves, since many that are large may be complete at the same time.

    Args:
        pieces: of it.
    """

    __slots__ = ("_pieces", "_size")

    def __init__(self, pieces: Sequence[bytes]):
        self._pieces = pieces
        self._size = sum(map(len, pieces))

    def __len__(self) -> int:
        return self._size

    def __bytes__(self) -> bytes:
        return b"".join(self._pieces)


Item = tuple[bytes | Pieces, int]
"""A message and its rows."""

Instead = Callable[[bytes | Pieces, Any, Void], Sequence[bytes | Pieces]]


class SendQueue:
    """Messages as they go over the wire, in order, from the engine to the transport.

    One takes, any number put. `put` never waits: what it may bring is bounded by what was accepted, and nothing
    is accepted from a stream while its send queue is full.

    Args:
        account: of the tenant, which every message is counted for until the next one is taken, for then it was sent.
            Not so a small one that leaves at once: one of each stream is not worth the time.

    Attributes:
        full: whether `room` would wait.
        failure: what the stream ends with when all has been sent; None: it ends well.
        quiet: nothing has been put or taken since this was last set.
        sending: bytes counted for the message that was taken last.
        gate: what messages wait at; None: they do not.
        instead: says what is sent instead of a message that has waited, where it tells of sessions of which it is void:
            at least one message; of one with a number, one. It is given the message, what it tells of, and of which
            sessions it is void.
    """

    def __init__(self, account: Account) -> None:
        self._account = account
        # Each with its rows, and the bytes that it is counted for.
        self._messages: deque[tuple[bytes | Pieces, int, int]] = deque()
        # What came before its turn, and whose turn it is.
        self._early: dict[int, tuple[bytes | Pieces, int, int]] = {}
        self._turn = 0
        self._others = 0
        self._taker: Callable[[Item | None], None] | None = None
        self._room = asyncio.Event()
        self._room.set()
        self._ended = False
        self.full = False
        self.failure: Refused | Unauthenticated | Failed | Idle | None = None
        self.quiet = True
        self.sending = 0
        self.gate: Gate | None = None
        self.instead: Instead = lambda message, _of, _void: [message]
        # Each with the group of checkpoints that it waits for, how many fences there were, its number, what it is of.
        self._waiting: deque[tuple[int, int, int, Any, tuple[bytes | Pieces, int, int]]] = deque()

    def put(
        self, message: bytes | Pieces, rows: int = 0, number: int = -1, of: Any = None, *, stored: bool = False
    ) -> None:
        """Append a message that carries so many rows.

        Args:
            message: as it goes over the wire.
            rows: of it.
            number: it goes behind the messages of all lower numbers; of 0, 1, ... each comes once, in any order. -1: it
                goes behind what is there.
            of: what it tells of, for `instead`; None: of nothing that may be void.
            stored: what it tells is: it waits for what was put before it, and for no checkpoint of its own.
        """
        if self._ended:
            return
        self.quiet = False
        taker = self._taker
        gate = self.gate
        if stored and not self._waiting:
            gate = None
        if (
            gate is None
            and taker is not None
            and not self._early
            and len(message) <= _SMALL
            and (number < 0 or number == self._turn)
        ):
            # It leaves at once.
            if number >= 0:
                self._turn += 1
            self._taker = None
            taker((message, rows))
            return
        size = len(message) + ITEM_BYTES
        account = self._account
        everyone = account.everyone
        account.bytes = held = account.bytes + size
        everyone.bytes = held_by_all = everyone.bytes + size
        if rows == 0:
            self._others += size
        if gate is None:
            self._append((message, rows, size), number)
        else:
            group = self._waiting[-1][0] if stored else gate.group
            self._waiting.append((group, gate.fences, number, of, (message, rows, size)))
            if not stored:
                gate.hold(self)
        if (
            len(self._messages) + len(self._waiting) >= _FULL
            or len(self._early) >= _FULL
            or self._others >= _FULL_BYTES
            or held > account.most_bytes
            or held_by_all > everyone.most_bytes
        ):
            self.full = True
            self._room.clear()
        if taker is not None and self._messages:
            self._go_on()

    def let_out(self, group: int) -> None:
        """Send the messages that wait for this group of checkpoints, or for an earlier one."""
        while self._waiting and self._waiting[0][0] <= group:
            _, fences, number, of, item = self._waiting.popleft()
            void = None if self.gate is None or of is None else self.gate.void(fences)
            if void is None:
                self._append(item, number)
            else:
                for each in self._what_is_so(item, of, void):
                    self._append(each, number)
        if self._waiting and self.gate is not None:
            self.gate.hold(self)
        if self._messages or (self._ended and not self._waiting):
            self._go_on()

    def _what_is_so(
        self, item: tuple[bytes | Pieces, int, int], of: Any, void: Void
    ) -> Iterator[tuple[bytes | Pieces, int, int]]:
        """A message that has waited, or what is sent instead."""
        message, rows, size = item
        first, *others = self.instead(message, of, void)
        for each, its_rows, before in [(first, rows, size), *((other, 0, 0) for other in others)]:
            now = len(each) + ITEM_BYTES
            self._account.hold(now - before)
            if its_rows == 0:
                self._others += now - before
            yield each, its_rows, now

    def _append(self, item: tuple[bytes | Pieces, int, int], number: int) -> None:
        if number != self._turn and number >= 0:
            self._early[number] = item
            return
        self._messages.append(item)
        if number >= 0:
            self._turn += 1
            if self._early:
                self._put_early()

    def _put_early(self) -> None:
        """Append those whose turn has come."""
        while (early := self._early.pop(self._turn, None)) is not None:
            self._messages.append(early)
            self._turn += 1

    def fail(self, error: Exception) -> None:
        """End with INTERNAL, and log why: something that was to be answered here could not be."""
        if self._ended and self.failure is not None:
            return
        _log.error("a stream failed", exc_info=error)
        self.failure = Failed("the server failed at this call; its log says how")
        # What they tell may not be so.
        self._account.hold(-sum(size for *_, (_, _, size) in self._waiting))
        self._waiting.clear()
        self.end()

    def end(self) -> None:
        """After what is there, nothing more comes."""
        self._ended = True
        self.full = False
        self._room.set()
        self._go_on()

    def discard(self) -> None:
        """End, without what is there: nobody takes any more."""
        self.end()
        waiting = itertools.chain(self._messages, self._early.values(), (item for *_, item in self._waiting))
        self._account.hold(-self.sending - sum(size for _, _, size in waiting))
        self._messages.clear()
        self._early.clear()
        self._waiting.clear()
        self.sending = 0

    async def take(self) -> Item | None:
        """The next message and its rows; None at the end."""
        taken: asyncio.Future[Item | None] = asyncio.get_running_loop().create_future()
        self.give(lambda item: None if taken.done() else taken.set_result(item))
        return await taken

    def give(self, taker: Callable[[Item | None], None]) -> None:
        """Give someone the next message and its rows, now or when it comes; None at the end.

        Args:
            taker: sends it and does nothing else: it is called while `put`, `let_out` or `end` is.
        """
        if sent := self.sending:
            account = self._account
            account.bytes -= sent
            account.everyone.bytes -= sent
            self.sending = 0
        self._taker = taker
        if self._messages or self._ended or self.full:
            self._go_on()

    def _go_on(self) -> None:
        """Give whoever waits for it what is there."""
        taker = self._taker
        if taker is None:
            return
        if not self._messages:
            if self._ended and not self._waiting:
                self._taker = None
                taker(None)
            elif self.full and len(self._early) < _FULL // 2:
                self._let_in()
            return
        self._taker = None
        self.quiet = False
        message, rows, size = self._messages.popleft()
        self.sending = size
        if rows == 0:
            self._others -= size
        if self.full and len(self._messages) + len(self._early) < _FULL // 2 and self._others < _FULL_BYTES // 2:
            self._let_in()
        taker((message, rows))

    @property
    def unread(self) -> bool:
        """Whether the message that was taken last is still on its way."""
        return self._taker is None

    def _let_in(self) -> None:
        if not (self._messages and self._account.over):
            self.full = False
            self._room.set()

    async def room(self) -> None:
        """Return when the peer has taken enough of what it was sent."""
        await self._room.wait()
