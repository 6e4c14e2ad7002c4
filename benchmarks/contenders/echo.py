"""limit-echo: what grpc.aio itself costs. Bytes come back as they went; nothing is parsed, nothing computed."""

import argparse
import asyncio
from collections.abc import AsyncIterator
from typing import Any

import grpc

from benchmarks.contenders.announce import announce


async def echo(messages: AsyncIterator[bytes], _context: Any) -> AsyncIterator[bytes]:
    async for message in messages:
        yield message


async def serve(handler: Any, port: int = 0) -> None:
    """Answer streams of bytes, on a port that is shared with others that name it; 0: on one of its own."""
    sizes = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]
    server = grpc.aio.server(options=[*sizes, ("grpc.so_reuseport", int(port > 0))])
    # Without serialisers the messages stay bytes.
    handlers: dict[str, Any] = {"Echo": grpc.stream_stream_rpc_method_handler(handler)}
    server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler("benchmark.Limit", handlers)])
    bound = server.add_insecure_port(f"127.0.0.1:{port}")
    await server.start()
    announce(bound)
    await server.wait_for_termination()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, default=0, help="shared with others that name it")
    asyncio.run(serve(echo, parser.parse_args().port))


if __name__ == "__main__":
    main()
