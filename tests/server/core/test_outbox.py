import asyncio
from collections.abc import Iterable

import pytest

from gatestream.server.config import Limits
from gatestream.server.core.accounts import ITEM_BYTES, Account, Accounts
from gatestream.server.core.outbox import Outbox


def account(**limits: int) -> Account:
    return Accounts(Limits(**limits)).of("tenant")


async def test_messages_come_in_order_then_the_end() -> None:
    outbox = Outbox(account())
    messages = [b"a", b"b", b"c"]
    taker = asyncio.create_task(outbox.take())
    await asyncio.sleep(0)
    for k, message in enumerate(messages):
        outbox.put(message, rows=k)
    outbox.end()
    outbox.put(messages[0])
    assert await taker == (messages[0], 0)
    assert [await outbox.take(), await outbox.take(), await outbox.take()] == [(messages[1], 1), (messages[2], 2), None]


async def test_a_full_outbox_has_no_room_until_half_of_it_is_taken() -> None:
    outbox = Outbox(account())
    for _ in range(256):
        outbox.put(b"message")
    waiter = asyncio.create_task(outbox.room())
    for _ in range(128):
        await outbox.take()
        await asyncio.sleep(0)
        assert not waiter.done()
    await outbox.take()
    await waiter


async def test_the_end_makes_room_for_whoever_waits() -> None:
    outbox = Outbox(account())
    for _ in range(300):
        outbox.put(b"message")
    waiter = asyncio.create_task(outbox.room())
    await asyncio.sleep(0)
    outbox.end()
    await waiter


@pytest.mark.parametrize("order", [range(5), range(4, -1, -1), [3, 0, 4, 2, 1]])
async def test_numbered_messages_come_in_their_order(order: Iterable[int]) -> None:
    outbox = Outbox(account())
    taker = asyncio.create_task(_all(outbox))
    for number in order:
        outbox.put(bytes([number]), rows=number, number=number)
        await asyncio.sleep(0)
    outbox.end()
    assert await taker == [(bytes([number]), number) for number in range(5)]


async def test_messages_that_wait_for_their_turn_leave_no_room() -> None:
    outbox = Outbox(account())
    for number in range(1, 1001):
        outbox.put(b"message", number=number)
    assert outbox.full
    outbox.put(b"message", number=0)
    for _ in range(1001 - 128):
        assert outbox.full
        await outbox.take()
    await outbox.take()
    assert not outbox.full


async def _all(outbox: Outbox) -> list[tuple[bytes, int]]:
    taken = []
    while (item := await outbox.take()) is not None:
        taken.append((bytes(item[0]), item[1]))
    return taken


@pytest.mark.parametrize(("size", "counted"), [(4096, 0), (4097, 4097 + ITEM_BYTES)])
async def test_a_message_is_counted_until_the_next_one_is_taken_but_not_a_small_one_that_leaves_at_once(
    size: int, counted: int
) -> None:
    tenant = account()
    outbox = Outbox(tenant)
    taker = asyncio.create_task(outbox.take())
    await asyncio.sleep(0)
    outbox.put(b"x" * size)
    assert await taker is not None
    assert (tenant.bytes, outbox.sending, outbox.unread) == (counted, counted, True)
    taker = asyncio.create_task(outbox.take())
    await asyncio.sleep(0)
    assert (tenant.bytes, outbox.unread) == (0, False)
    # Behind another one it waits.
    outbox.put(b"x")
    outbox.put(b"x" * size)
    assert tenant.bytes == size + ITEM_BYTES
    await taker
    outbox.discard()
    assert tenant.bytes == tenant.everyone.bytes == 0


async def test_errors_that_nobody_reads_are_bounded_by_their_bytes_too() -> None:
    outbox = Outbox(account())
    for _ in range(3):
        outbox.put(b"x" * 300_000)
        assert not outbox.full
    outbox.put(b"x" * 300_000, rows=1)
    assert not outbox.full
    outbox.put(b"x" * 300_000)
    assert outbox.full
    for _ in range(2):
        await outbox.take()
        assert outbox.full
    await outbox.take()
    assert not outbox.full


async def test_who_has_messages_waiting_is_not_read_from_while_too_much_is_held() -> None:
    tenant = account(reply_bytes_per_stream=4096, reply_bytes=8192)
    one, other = Outbox(tenant), Outbox(tenant)
    one.put(b"x" * 8192)
    other.put(b"x")
    assert one.full
    assert other.full
    await other.take()
    await asyncio.wait_for(other.room(), 10)
