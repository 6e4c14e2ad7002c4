"""The room that tenants have in a store."""

import asyncio

import pytest

from gatestream.server.config import Limits
from gatestream.server.core.store_room import StoreRoom
from gatestream.server.durability.memory import MemoryStore
from gatestream.server.errors import Exhausted, StoreUnavailable

LIMITS = Limits(parked_sessions=3, parked_bytes=4096)


class Slow(MemoryStore):
    """It takes a while to say what a tenant has, and counts who asks."""

    asked = 0
    away = False

    async def usage(self, tenant: str) -> tuple[int, int]:
        self.asked += 1
        await asyncio.sleep(0.01)
        if self.away:
            raise StoreUnavailable("away")
        return await super().usage(tenant)


async def fitting(room: StoreRoom, size: int, count: int) -> int:
    """How many of so many that come at once fit."""
    told = await asyncio.gather(*(room.check("tenant", size) for _ in range(count)), return_exceptions=True)
    assert all(each is None or isinstance(each, Exhausted) for each in told)
    return sum(each is None for each in told)


@pytest.mark.parametrize(("size", "fit"), [(8, 3), (1024, 2)])
async def test_of_many_who_come_at_once_as_many_fit_as_there_is_room_for(size: int, fit: int) -> None:
    store = Slow()
    assert await fitting(StoreRoom(store, LIMITS), size, 10) == fit
    assert store.asked == 1


async def test_a_store_that_did_not_answer_is_asked_again() -> None:
    store = Slow()
    room = StoreRoom(store, LIMITS)
    store.away = True
    told = await asyncio.gather(*(room.check("tenant", 8) for _ in range(3)), return_exceptions=True)
    assert [type(each) for each in told] == [StoreUnavailable] * 3
    store.away = False
    assert await fitting(room, 8, 5) == 3
