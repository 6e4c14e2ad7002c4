"""How much each tenant may have in the store of checkpoints."""

import asyncio
from dataclasses import dataclass
from typing import Final

from gatestream.server.config import Limits
from gatestream.server.durability.checkpoints import Store
from gatestream.server.errors import Exhausted, Reason, StoreUnavailable

# So long it is believed what a tenant has in the store, of so many tenants.
_ROOM_SECONDS: Final = 1.0
_MOST_ROOMS: Final = 1024


@dataclass(slots=True)
class _Room:
    """What a tenant has in the store.

    Attributes:
        usage: sessions and bytes, as the store says, or will say.
        asked_at: when it was asked.
        sessions: more that came since.
        bytes: theirs.
    """

    usage: "asyncio.Task[tuple[int, int]]"
    asked_at: float
    sessions: int = 0
    bytes: int = 0


class StoreRoom:
    """The room that tenants have in a store.

    Args:
        store: of the checkpoints.
        limits: of the server.
    """

    def __init__(self, store: Store, limits: Limits):
        self._store = store
        self._limits = limits
        self._rooms: dict[str, _Room] = {}

    async def check(self, tenant: str, size: int) -> None:
        """Check that a tenant may have a session more in the store.

        Args:
            tenant: whose it is.
            size: bytes of its state.

        Raises:
            Exhausted: it has as many as it may, or as many bytes.
            StoreUnavailable: the store does not answer.
        """
        now = asyncio.get_running_loop().time()
        room = self._rooms.get(tenant)
        if room is None or now > room.asked_at + _ROOM_SECONDS:
            if len(self._rooms) >= _MOST_ROOMS:
                self._rooms.clear()
            # One asks for all who come meanwhile.
            room = self._rooms[tenant] = _Room(asyncio.create_task(self._store.usage(tenant)), now)
        try:
            stored, stored_bytes = await asyncio.shield(room.usage)
        except StoreUnavailable:
            if self._rooms.get(tenant) is room:
                del self._rooms[tenant]
            raise
        limits, sessions, taken = self._limits, stored + room.sessions, stored_bytes + room.bytes
        if sessions >= limits.parked_sessions or taken >= limits.parked_bytes:
            raise Exhausted(
                f"this tenant's kept sessions are {sessions}, of {taken} bytes; it may have "
                f"{limits.parked_sessions}, of {limits.parked_bytes} bytes: close some, or try again later",
                Reason.SESSIONS_EXHAUSTED,
                retry_after=_ROOM_SECONDS,
            )
        room.sessions += 1
        # Of each there may be two checkpoints.
        room.bytes += 2 * size
