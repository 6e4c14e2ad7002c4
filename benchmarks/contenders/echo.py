"""limit-echo: what grpc.aio itself costs. Bytes come back as they went; nothing is parsed, nothing computed."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import grpc

from benchmarks.contenders.announce import announce


async def echo(messages: AsyncIterator[bytes], _context: Any) -> AsyncIterator[bytes]:
    async for message in messages:
        yield message


async def main() -> None:
    server = grpc.aio.server(options=[("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)])
    # Without serialisers the messages stay bytes.
    handlers: dict[str, Any] = {"Echo": grpc.stream_stream_rpc_method_handler(echo)}
    server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler("benchmark.Limit", handlers)])
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    announce(port)
    await server.wait_for_termination()


if __name__ == "__main__":
    asyncio.run(main())
