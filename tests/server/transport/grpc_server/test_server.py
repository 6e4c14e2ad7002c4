from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2

from gatestream.server.config import ServerConfig
from gatestream.server.errors import ConfigError
from gatestream.server.telemetry import ServerStats
from gatestream.server.transport.auth import Tenants
from gatestream.server.transport.grpc_server.calls import Calls
from gatestream.server.transport.grpc_server.health import Health
from gatestream.server.transport.grpc_server.server import GrpcServer


def made(listen: str, health: Health) -> GrpcServer:
    config = ServerConfig(artifacts=(Path("some.onnx"),), listen=listen)
    return GrpcServer(config, None, Calls(Tenants(None), 8, 8, 8, ServerStats()), [health.definition()])


@asynccontextmanager
async def serving() -> AsyncIterator[GrpcServer]:
    server = made("127.0.0.1:0", Health())
    await server.start()
    try:
        yield server
    finally:
        await server.stop(0)


async def test_it_answers_where_it_says_that_it_listens() -> None:
    async with serving() as server, grpc.aio.insecure_channel(server.address) as channel:
        assert server.address == f"127.0.0.1:{server.port}"
        calls: Any = channel
        answer = await calls.unary_unary("/grpc.health.v1.Health/Check")(b"", timeout=30)
        assert answer == health_pb2.HealthCheckResponse(status="SERVING").SerializeToString()
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await calls.unary_unary("/grpc.health.v1.Health/List")(b"", timeout=30)
        assert caught.value.code() == grpc.StatusCode.UNIMPLEMENTED


async def test_an_address_that_another_listens_on_is_refused() -> None:
    async with serving() as server:
        with pytest.raises(ConfigError, match=f"^listen is '{server.address}', which cannot be listened on: "):
            made(server.address, Health())
