"""What waits to be sent on one stream."""

import asyncio
from collections import deque
from typing import Final

# A peer that leaves so many messages unread is not read from until it has taken some.
_FULL: Final = 256


class Outbox:
    """Messages as they go over the wire, in order, from the engine to the transport.

    One task takes, any number put. `put` never waits: what it may bring is bounded by what was accepted, and nothing
    is accepted from a stream while its outbox is full.

    Attributes:
        full: whether `room` would wait.
    """

    def __init__(self) -> None:
        self._messages: deque[tuple[bytes, int]] = deque()
        self._taker: asyncio.Future[None] | None = None
        self._room = asyncio.Event()
        self._room.set()
        self._ended = False
        self.full = False

    def put(self, message: bytes, rows: int = 0) -> None:
        """Append a message that carries so many rows."""
        if self._ended:
            return
        self._messages.append((message, rows))
        if len(self._messages) >= _FULL:
            self.full = True
            self._room.clear()
        taker = self._taker
        if taker is not None:
            self._taker = None
            if not taker.done():
                taker.set_result(None)

    def end(self) -> None:
        """After what is there, nothing more comes."""
        self._ended = True
        self.full = False
        self._room.set()
        if self._taker is not None and not self._taker.done():
            self._taker.set_result(None)

    async def take(self) -> tuple[bytes, int] | None:
        """The next message and its rows; None at the end."""
        while not self._messages:
            if self._ended:
                return None
            self._taker = asyncio.get_running_loop().create_future()
            await self._taker
        if self.full and len(self._messages) <= _FULL // 2:
            self.full = False
            self._room.set()
        return self._messages.popleft()

    async def room(self) -> None:
        """Return when the peer has taken enough of what it was sent."""
        await self._room.wait()
