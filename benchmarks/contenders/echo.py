"""limit-echo: what grpc.aio itself costs. Bytes come back as they went; nothing is parsed, nothing computed."""

import argparse
import asyncio
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

from benchmarks.contenders.announce import announce
from gatestream.server.config import ServerConfig
from gatestream.server.process.tuning import tune
from gatestream.server.transport.grpc_server.options import channel_options


async def echo(messages: AsyncIterator[bytes], _context: Any) -> AsyncIterator[bytes]:
    async for message in messages:
        yield message


def run(handler: Any, port: int = 0, *, tuned: bool = False) -> None:
    """Answer streams of bytes until killed.

    Args:
        handler: of a stream.
        port: that is shared with others that name it; 0: one of its own.
        tuned: on the event loop that gatestream has, with all that it does to the process and to gRPC.
    """
    if tuned:
        config = ServerConfig(artifacts=(Path("none"),), provider="cpu")
        tune(config).run(_serve(handler, port, channel_options(config)))
    else:
        asyncio.run(_serve(handler, port, ()))


async def _serve(handler: Any, port: int, options: Sequence[tuple[str, int]]) -> None:
    # gRPC reads its settings when it is imported.
    import grpc

    own = {
        **dict(options),
        "grpc.max_receive_message_length": -1,
        "grpc.max_send_message_length": -1,
        "grpc.so_reuseport": int(port > 0),
    }
    server = grpc.aio.server(options=list(own.items()))
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
    parser.add_argument("--tuned", action="store_true", help="as gatestream tunes itself")
    options = parser.parse_args()
    run(echo, options.port, tuned=options.tuned)


if __name__ == "__main__":
    main()
