import asyncio
from collections.abc import Iterable

import pytest

from gatestream.server.config import Limits
from gatestream.server.core.accounts import ITEM_BYTES, Account, Accounts
from gatestream.server.core.gate import Gate
from gatestream.server.core.send_queue import Item, SendQueue
from gatestream.server.durability.checkpoints import Key


def account(**limits: int) -> Account:
    return Accounts(Limits(**limits)).of("tenant")


async def test_messages_come_in_order_then_the_end() -> None:
    send_queue = SendQueue(account())
    messages = [b"a", b"b", b"c"]
    taker = asyncio.create_task(send_queue.take())
    await asyncio.sleep(0)
    for k, message in enumerate(messages):
        send_queue.put(message, rows=k)
    send_queue.end()
    send_queue.put(messages[0])
    assert await taker == (messages[0], 0)
    assert [await send_queue.take(), await send_queue.take(), await send_queue.take()] == [
        (messages[1], 1),
        (messages[2], 2),
        None,
    ]


async def test_a_full_queue_has_no_room_until_half_of_it_is_taken() -> None:
    send_queue = SendQueue(account())
    for _ in range(256):
        send_queue.put(b"message")
    waiter = asyncio.create_task(send_queue.room())
    for _ in range(128):
        await send_queue.take()
        await asyncio.sleep(0)
        assert not waiter.done()
    await send_queue.take()
    await waiter


async def test_the_end_makes_room_for_whoever_waits() -> None:
    send_queue = SendQueue(account())
    for _ in range(300):
        send_queue.put(b"message")
    waiter = asyncio.create_task(send_queue.room())
    await asyncio.sleep(0)
    send_queue.end()
    await waiter


@pytest.mark.parametrize("order", [range(5), range(4, -1, -1), [3, 0, 4, 2, 1]])
async def test_numbered_messages_come_in_their_order(order: Iterable[int]) -> None:
    send_queue = SendQueue(account())
    taker = asyncio.create_task(_all(send_queue))
    for number in order:
        send_queue.put(bytes([number]), rows=number, number=number)
        await asyncio.sleep(0)
    send_queue.end()
    assert await taker == [(bytes([number]), number) for number in range(5)]


async def test_messages_that_wait_for_their_turn_leave_no_room() -> None:
    send_queue = SendQueue(account())
    for number in range(1, 1001):
        send_queue.put(b"message", number=number)
    assert send_queue.full
    send_queue.put(b"message", number=0)
    for _ in range(1001 - 128):
        assert send_queue.full
        await send_queue.take()
    await send_queue.take()
    assert not send_queue.full


async def _all(send_queue: SendQueue) -> list[tuple[bytes, int]]:
    taken = []
    while (item := await send_queue.take()) is not None:
        taken.append((bytes(item[0]), item[1]))
    return taken


@pytest.mark.parametrize(("size", "counted"), [(4096, 0), (4097, 4097 + ITEM_BYTES)])
async def test_a_message_is_counted_until_the_next_one_is_taken_but_not_a_small_one_that_leaves_at_once(
    size: int, counted: int
) -> None:
    tenant = account()
    send_queue = SendQueue(tenant)
    taker = asyncio.create_task(send_queue.take())
    await asyncio.sleep(0)
    send_queue.put(b"x" * size)
    assert await taker is not None
    assert (tenant.bytes, send_queue.sending, send_queue.unread) == (counted, counted, True)
    taker = asyncio.create_task(send_queue.take())
    await asyncio.sleep(0)
    assert (tenant.bytes, send_queue.unread) == (0, False)
    # Behind another one it waits.
    send_queue.put(b"x")
    send_queue.put(b"x" * size)
    assert tenant.bytes == size + ITEM_BYTES
    await taker
    send_queue.discard()
    assert tenant.bytes == tenant.everyone.bytes == 0


async def test_errors_that_nobody_reads_are_bounded_by_their_bytes_too() -> None:
    send_queue = SendQueue(account())
    for _ in range(3):
        send_queue.put(b"x" * 300_000)
        assert not send_queue.full
    send_queue.put(b"x" * 300_000, rows=1)
    assert not send_queue.full
    send_queue.put(b"x" * 300_000)
    assert send_queue.full
    for _ in range(2):
        await send_queue.take()
        assert send_queue.full
    await send_queue.take()
    assert not send_queue.full


async def test_who_has_messages_waiting_is_not_read_from_while_too_much_is_held() -> None:
    tenant = account(reply_bytes_per_stream=4096, reply_bytes=8192)
    one, other = SendQueue(tenant), SendQueue(tenant)
    one.put(b"x" * 8192)
    other.put(b"x")
    assert one.full
    assert other.full
    await other.take()
    await asyncio.wait_for(other.room(), 10)


async def test_what_waits_at_the_gate_says_something_else_where_it_is_void() -> None:
    tenant, gate = account(), Gate()
    send_queue = SendQueue(tenant)
    send_queue.gate = gate
    keys = [Key("", "model", name) for name in "abcd"]
    for key, (message, rows) in zip(keys, [(b"a", 1), (b"bb", 0), (b"ccc", 3), (b"d", 4)], strict=True):
        send_queue.put(message, rows, of=key)
    said: dict[Key, list[bytes]] = dict(zip(keys, [[b"longer"], [b""], [b"two", b"of them"]], strict=False))
    send_queue.instead = lambda message, key, void: said[key] if key in void else [message]
    for key in keys[:3]:
        gate.fence([key])
    # What is computed of it from now on is so.
    send_queue.put(b"again", 1, of=keys[0])
    gate.stored(gate.begin())
    assert tenant.bytes == len(b"longer" + b"" + b"two" + b"of them" + b"d" + b"again") + 6 * ITEM_BYTES
    left = [(b"longer", 1), (b"", 0), (b"two", 3), (b"of them", 0), (b"d", 4), (b"again", 1)]
    assert [await send_queue.take() for _ in range(6)] == left
    send_queue.discard()
    assert tenant.bytes == 0


async def test_what_is_stored_waits_for_what_was_put_before_it_and_for_no_checkpoint() -> None:
    send_queue = SendQueue(account())
    send_queue.gate = gate = Gate()
    send_queue.put(b"stored", stored=True)
    assert await send_queue.take() == (b"stored", 0)
    send_queue.put(b"answer")
    group = gate.begin()
    send_queue.put(b"behind it", stored=True)
    gate.stored(group)
    assert [await send_queue.take(), await send_queue.take()] == [(b"answer", 0), (b"behind it", 0)]
    assert len(gate) == 0


class Giver:
    """Takes all that a queue has, one after another."""

    def __init__(self, queue: SendQueue):
        self.taken: list[Item | None] = []
        self._queue = queue
        queue.give(self._take)

    def _take(self, item: Item | None) -> None:
        self.taken.append(item)
        if item is not None:
            self._queue.give(self._take)


async def test_who_only_sends_is_given_a_message_while_it_is_put() -> None:
    queue = SendQueue(account())
    taken = Giver(queue).taken
    queue.put(b"first", 1)
    assert taken == [(b"first", 1)]
    queue.put(b"x" * 5000, 2)
    assert taken == [(b"first", 1), (b"x" * 5000, 2)]
    queue.end()
    assert taken[2:] == [None]


async def test_who_only_sends_is_given_messages_while_they_are_let_out() -> None:
    queue, gate = SendQueue(account()), Gate()
    queue.gate = gate
    taken = Giver(queue).taken
    queue.put(b"first", 1)
    queue.put(b"second", 2)
    assert taken == []
    gate.stored(gate.begin())
    assert taken == [(b"first", 1), (b"second", 2)]
    queue.put(b"third", 3, of="what")
    queue.end()
    assert taken[2:] == []
    queue.instead = lambda *_: [b"instead"]
    gate.fence([Key("", "model", "a")])
    gate.stored(gate.begin())
    assert taken[2:] == [(b"instead", 3), None]


async def test_the_end_comes_behind_what_is_there() -> None:
    queue = SendQueue(account())
    queue.put(b"first", 1)
    queue.end()
    assert Giver(queue).taken == [(b"first", 1), None]


async def test_a_taker_that_was_cancelled_takes_the_next_message_with_it() -> None:
    """As a stream's does that has ended; nobody else takes from its queue."""
    queue = SendQueue(account())
    taker = asyncio.create_task(queue.take())
    await asyncio.sleep(0)
    taker.cancel()
    await asyncio.sleep(0)
    queue.put(b"first", 1)
    assert queue.unread
    queue.discard()


async def test_a_queue_that_is_full_of_what_waits_stays_so_while_nothing_is_let_out() -> None:
    queue, gate = SendQueue(account()), Gate()
    queue.gate = gate
    Giver(queue)
    earlier = gate.begin()
    for _ in range(300):
        queue.put(b"answer", 1)
    assert queue.full
    gate.stored(earlier)
    assert queue.full
    gate.stored(gate.begin())
    assert not queue.full
