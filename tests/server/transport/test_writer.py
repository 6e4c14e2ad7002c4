"""A stream's messages on their way into gRPC, with a call that is written to as fast as it is told."""

import asyncio
from collections.abc import Coroutine
from typing import Any

import pytest

from gatestream.server.config import Limits
from gatestream.server.core.accounts import Accounts
from gatestream.server.core.send_queue import Pieces, SendQueue
from gatestream.server.telemetry import StreamStats
from gatestream.server.transport.writer import Writer


class Call:
    """Notes what is written; each write lasts until it is let through."""

    def __init__(self) -> None:
        self.begun: list[bytes] = []
        self.under_way: list[asyncio.Future[None]] = []

    async def write(self, message: bytes) -> None:
        assert all(write.done() for write in self.under_way), "one is written after another"
        self.begun.append(message)
        self.under_way.append(asyncio.get_running_loop().create_future())
        await self.under_way[-1]
        # gRPC's may wait more than once.
        again = asyncio.get_running_loop().create_future()
        asyncio.get_running_loop().call_soon(again.set_result, None)
        await again


class Stream:
    def __init__(self, *, prompt: bool):
        self.rows = 6
        self.send_queue = SendQueue(Accounts(Limits()).of("tenant"))
        self.call = Call()
        self.stats = StreamStats()
        self.written = asyncio.ensure_future(Writer(self, self.call, self.stats, prompt=prompt).write_all())


@pytest.fixture(params=[True, False], ids=["prompt", "in the next turn"])
async def stream(request: pytest.FixtureRequest) -> Stream:
    made = Stream(prompt=request.param)
    await turns()
    return made


async def turns() -> None:
    for _ in range(6):
        await asyncio.sleep(0)


async def test_messages_are_written_in_order_and_one_at_a_time(stream: Stream) -> None:
    stream.send_queue.put(b"a", 1)
    stream.send_queue.put(Pieces([b"b", b"c"]), 2)
    stream.send_queue.put(b"d", 3)
    await turns()
    assert (stream.call.begun, stream.rows, stream.stats.sent) == ([b"a"], 5, 1)
    stream.call.under_way[0].set_result(None)
    await turns()
    assert (stream.call.begun, stream.rows) == ([b"a", b"bc"], 3)
    stream.send_queue.end()
    for k in (1, 2):
        assert not stream.written.done()
        stream.call.under_way[k].set_result(None)
        await turns()
    assert (stream.call.begun, stream.rows, stream.stats.sent) == ([b"a", b"bc", b"d"], 0, 3)
    await stream.written


async def test_a_message_leaves_where_it_is_made() -> None:
    stream = Stream(prompt=True)
    await turns()
    stream.send_queue.put(b"a", 1)
    assert (stream.call.begun, stream.rows) == ([b"a"], 5)


async def test_a_large_message_leaves_in_a_turn_of_its_own() -> None:
    stream = Stream(prompt=True)
    await turns()
    stream.send_queue.put(Pieces([bytes(2**16), b"x"]), 1)
    assert (stream.call.begun, stream.rows) == ([], 5)
    await turns()
    assert stream.call.begun == [bytes(2**16) + b"x"]
    stream.send_queue.put(b"b", 1)
    stream.call.under_way[0].set_result(None)
    await turns()
    assert stream.call.begun[1:] == [b"b"]


async def test_the_end_is_that_of_the_queue(stream: Stream) -> None:
    assert not stream.written.done()
    stream.send_queue.end()
    await asyncio.wait_for(stream.written, 1)


async def test_a_write_that_fails_ends_it(stream: Stream) -> None:
    stream.send_queue.put(b"a", 1)
    stream.send_queue.put(b"b", 1)
    await turns()
    stream.call.under_way[0].set_exception(ConnectionError("the peer has gone"))
    with pytest.raises(ConnectionError, match="the peer has gone"):
        await asyncio.wait_for(stream.written, 1)
    # As when its call has ended.
    stream.send_queue.discard()
    assert stream.call.begun == [b"a"]


async def test_a_write_that_cannot_be_begun_ends_it_and_the_caller_goes_on(stream: Stream) -> None:
    def broken(_message: bytes) -> Coroutine[Any, Any, None]:
        raise MemoryError("there is no room to join it")

    stream.call.write = broken  # type: ignore[assignment, method-assign]
    stream.send_queue.put(b"a", 1)
    with pytest.raises(MemoryError):
        await asyncio.wait_for(stream.written, 1)


async def test_a_write_that_is_cancelled_ends_it(stream: Stream) -> None:
    stream.send_queue.put(b"a", 1)
    await turns()
    stream.call.under_way[0].cancel()
    with pytest.raises(asyncio.CancelledError):
        await asyncio.wait_for(stream.written, 1)


async def test_nothing_is_written_when_its_call_has_ended(stream: Stream) -> None:
    stream.send_queue.put(b"a", 1)
    stream.send_queue.put(b"b", 1)
    await turns()
    stream.written.cancel()
    await turns()
    stream.send_queue.discard()
    stream.call.under_way[0].set_result(None)
    await turns()
    assert stream.call.begun == [b"a"]
    assert stream.written.cancelled()


async def test_a_write_that_is_over_at_once_lets_the_next_one_begin(stream: Stream) -> None:
    begun = []

    async def write(message: bytes) -> None:
        begun.append(message)

    stream.call.write = write  # type: ignore[method-assign]
    for k in range(3):
        stream.send_queue.put(bytes([k]), 1)
    await turns()
    assert begun == [b"\0", b"\1", b"\2"]
