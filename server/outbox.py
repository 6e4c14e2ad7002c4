"""What waits to be sent on one stream."""

import asyncio
from collections import deque
from typing import Final, Generic, TypeVar

_M = TypeVar("_M")

# A peer that leaves so many messages unread is not read from until it has taken some.
_FULL: Final = 256


class Outbox(Generic[_M]):
    """Messages in order, from the engine to the transport.

    One task takes, any number put. `put` never waits: what it may bring is bounded by what was accepted, and nothing
    is accepted from a stream while its outbox is full.
    """

    def __init__(self) -> None:
        self._messages: deque[tuple[_M, int]] = deque()
        self._taker: asyncio.Future[None] | None = None
        self._room = asyncio.Event()
        self._room.set()
        self._ended = False

    def put(self, message: _M, rows: int = 0) -> None:
        """Append a message that carries so many rows."""
        if self._ended:
            return
        self._messages.append((message, rows))
        if len(self._messages) >= _FULL:
            self._room.clear()
        self._wake()

    def end(self) -> None:
        """After what is there, nothing more comes."""
        self._ended = True
        self._room.set()
        self._wake()

    async def take(self) -> tuple[_M, int] | None:
        """The next message and its rows; None at the end."""
        while not self._messages:
            if self._ended:
                return None
            self._taker = asyncio.get_running_loop().create_future()
            await self._taker
        if len(self._messages) == _FULL // 2:
            self._room.set()
        return self._messages.popleft()

    @property
    def full(self) -> bool:
        """Whether `room` would wait."""
        return not self._room.is_set()

    async def room(self) -> None:
        """Return when the peer has taken enough of what it was sent."""
        await self._room.wait()

    def _wake(self) -> None:
        if self._taker is not None and not self._taker.done():
            self._taker.set_result(None)
