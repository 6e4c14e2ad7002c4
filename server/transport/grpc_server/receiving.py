"""How many messages of unary calls are being received at once."""

import asyncio
from collections import deque
from typing import Any, Final

_Task = asyncio.Task[Any]

_AT_ONCE: Final = 8
# As many more may be those of clients that are slow to send.
_SLOW: Final = 8
_SLOW_SECONDS: Final = 0.1
_TOO_SLOW_SECONDS: Final = 1.0


class Receiving:
    """The unary calls of one tenant whose messages gRPC is receiving, and the line of those that wait for it.

    gRPC unpacks a message as soon as it is told to receive it: 15 KB on the wire may be Limits.message_bytes here, and
    all of it is there before this server sees any. So few are received at once, and the others stay on the wire. A
    call whose message does not come makes room for those in line, and is cancelled where there are many like it.
    """

    def __init__(self) -> None:
        self._since: dict[_Task, float] = {}
        self._slow: dict[_Task, float] = {}
        self._line: deque[tuple[_Task, asyncio.Future[None]]] = deque()
        self._timer: asyncio.TimerHandle | None = None

    @property
    def idle(self) -> bool:
        """Whether there is no call here."""
        return not (self._since or self._slow or self._line)

    async def enter(self, task: _Task) -> None:
        """Wait for a place.

        Args:
            task: of the call, which leaves when its message has come, or it has ended.
        """
        loop = asyncio.get_running_loop()
        if len(self._since) < _AT_ONCE:
            self._since[task] = loop.time()
            return
        turn = loop.create_future()
        self._line.append((task, turn))
        self._watch()
        await turn

    def leave(self, task: _Task) -> None:
        """Its place is free, if it had one."""
        if self._since.pop(task, None) is not None:
            self._admit()
        else:
            self._slow.pop(task, None)

    def _admit(self) -> None:
        while self._line and len(self._since) < _AT_ONCE:
            task, turn = self._line.popleft()
            # Its client may have gone while it waited.
            if not turn.done():
                self._since[task] = asyncio.get_running_loop().time()
                turn.set_result(None)

    def _watch(self) -> None:
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(_SLOW_SECONDS, self._make_room)

    def _make_room(self) -> None:
        self._timer = None
        now = asyncio.get_running_loop().time()
        for task in [task for task, since in self._since.items() if since + _SLOW_SECONDS <= now]:
            if len(self._slow) == _SLOW:
                slowest = next(iter(self._slow))
                if self._slow[slowest] + _TOO_SLOW_SECONDS > now:
                    break
                del self._slow[slowest]
                slowest.cancel()
            self._slow[task] = self._since.pop(task)
        self._admit()
        if self._line:
            self._watch()
