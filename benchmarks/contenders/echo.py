"""limit-echo: what grpc.aio itself costs. Bytes come back as they went; nothing is parsed, nothing computed.

With --artifact it is limit-both: between a message and its echo it makes limit-run's run, once. No server on grpc.aio
that keeps a message's steps together does less.
"""

import argparse
import asyncio
import itertools
from collections.abc import AsyncIterator
from typing import Any

import grpc

from benchmarks.contenders.announce import announce
from benchmarks.contenders.run import BareRun


async def echo(messages: AsyncIterator[bytes], _context: Any) -> AsyncIterator[bytes]:
    async for message in messages:
        yield message


def running(model: BareRun) -> Any:
    async def echo_and_run(messages: AsyncIterator[bytes], _context: Any) -> AsyncIterator[bytes]:
        numbers = itertools.count()
        async for message in messages:
            model.run(next(numbers))
            yield message

    return echo_and_run


async def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, default=0, help="shared with others that name it")
    parser.add_argument("--artifact", default="")
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--steps", type=int, default=1)
    options = parser.parse_args()
    handler = running(BareRun(options.artifact, options.batch, options.steps, 1)) if options.artifact else echo
    sizes = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]
    server = grpc.aio.server(options=[*sizes, ("grpc.so_reuseport", int(options.port > 0))])
    # Without serialisers the messages stay bytes.
    handlers: dict[str, Any] = {"Echo": grpc.stream_stream_rpc_method_handler(handler)}
    server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler("benchmark.Limit", handlers)])
    port = server.add_insecure_port(f"127.0.0.1:{options.port}")
    await server.start()
    announce(port)
    await server.wait_for_termination()


if __name__ == "__main__":
    asyncio.run(main())
