"""Messages into a stream of gRPC's, from no task of anybody's."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import grpc
import pytest

from gatestream.client.aio.sender import Sender

COUNT = 200


@asynccontextmanager
async def streams() -> AsyncIterator[Any]:
    """What begins a stream to a server that repeats what it hears, until it hears `end`."""

    async def repeat(messages: AsyncIterator[bytes], context: Any) -> AsyncIterator[bytes]:
        async for message in messages:
            if message == b"end":
                await context.abort(grpc.StatusCode.UNAVAILABLE, "it ends")
            yield message

    server = grpc.aio.server()
    # Registered: a process that has imported our server finds no others.
    server.add_registered_method_handlers("test.S", {"Stream": grpc.stream_stream_rpc_method_handler(repeat)})
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            yield channel.stream_stream("/test.S/Stream")
    finally:
        await server.stop(None)


async def test_in_order_to_the_end() -> None:
    async with streams() as begin:
        call = begin()
        sender = Sender(call)
        messages = [str(k).encode() * (1 + k % 7 * 5000) for k in range(COUNT)]
        # The first before there is a connection, others while one is on its way, some of them in one go.
        for at in range(0, COUNT, 5):
            sender.send(messages[at : at + 3])
            sender.send(messages[at + 3 : at + 5])
            await asyncio.sleep(0)
        sender.finish()
        async with asyncio.timeout(20):
            assert [message async for message in call] == messages
            assert await call.code() is grpc.StatusCode.OK


async def test_who_sends_may_be_cancelled() -> None:
    async with streams() as begin:
        call = begin()
        sender = Sender(call)

        async def caller() -> None:
            sender.send([b"1", b"2"])
            await asyncio.sleep(60)

        task = asyncio.create_task(caller())
        await asyncio.sleep(0)
        task.cancel()
        sender.send([b"3"])
        sender.finish()
        async with asyncio.timeout(20):
            assert [message async for message in call] == [b"1", b"2", b"3"]


@pytest.mark.parametrize("here", [True, False], ids=["cancelled here", "ended by the server"])
async def test_nothing_into_a_stream_that_is_over(here: bool) -> None:
    async with streams() as begin:
        call = begin()
        sender = Sender(call)
        sender.send([b"1"])
        async with asyncio.timeout(20):
            assert await anext(aiter(call)) == b"1"
            if here:
                call.cancel()
            else:
                sender.send([b"end"])
            # While it may still be on its way, and when its end is known.
            sender.send([b"2"])
            with pytest.raises((grpc.aio.AioRpcError, asyncio.CancelledError)):
                _ = [message async for message in call]
            sender.send([b"3"])
            sender.finish()
            await asyncio.sleep(0.1)
            assert call.done()
