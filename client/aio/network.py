"""Connections to the addresses of a client, for asyncio: one is current, others stay until their streams are over."""

# A timeout here is not asyncio.timeout: it also decides how long refusals are retried, and which error comes.
# ruff: noqa: ASYNC109

import asyncio
from collections.abc import Sequence
from typing import Any, Self, TypeVar

import grpc

from gatestream.client.channel import OPTIONS, Settings, from_connecting, from_rpc, rpc_timeout
from gatestream.client.errors import GatestreamError, ServerUnreachableError
from gatestream.client.models import Models
from gatestream.client.unary import Call
from gatestream.protos.gatestream.v1 import gatestream_pb2 as pb
from gatestream.protos.gatestream.v1 import gatestream_pb2_grpc as pb_grpc

R = TypeVar("R")


class Connection:
    """To one address."""

    def __init__(self, settings: Settings, address: str) -> None:
        self.address = address
        self.users = 0
        self._settings = settings
        secure = settings.credentials
        self.channel = (
            grpc.aio.secure_channel(address, secure, OPTIONS) if secure else grpc.aio.insecure_channel(address, OPTIONS)
        )
        self._stub: pb_grpc.GatestreamAsyncStub = pb_grpc.GatestreamStub(self.channel)
        self.described = pb.DescribeResponse()

    @classmethod
    async def made(cls, settings: Settings, address: str) -> Self:
        """Connect.

        Raises:
            GatestreamError: nobody answers there as a gatestream server.
        """
        connection = cls(settings, address)
        try:
            seconds = rpc_timeout(settings.connect_timeout)
            asked = connection._stub.Describe(pb.DescribeRequest(), timeout=seconds, metadata=settings.metadata)
            connection.described = await asked
        except grpc.aio.AioRpcError as error:
            await connection.channel.close()
            raise from_connecting(error, address, settings.connect_timeout) from None
        except BaseException:
            await connection.channel.close()
            raise
        return connection

    @property
    def limits(self) -> pb.Limits:
        """The server's."""
        return self.described.limits

    async def ask(self, call: Call[R], timeout: float) -> R:
        """What the server answers.

        Raises:
            GatestreamError: it refused, or there was no answer.
        """
        rpc: Any = getattr(self._stub, call.rpc)
        try:
            answer = await rpc(call.request, timeout=rpc_timeout(timeout), metadata=self._settings.metadata)
        except grpc.aio.AioRpcError as error:
            raise from_rpc(error, self.address) from None
        except grpc.aio.UsageError:
            # gRPC's word for a channel that was closed meanwhile.
            raise ServerUnreachableError(f"the connection to {self.address} was closed") from None
        return call.read(answer)


class Network:
    """Belongs to the loop that made it."""

    def __init__(self, settings: Settings, first: Connection) -> None:
        self.settings = settings
        self._lock = asyncio.Lock()
        self._closed = False
        self.current = first
        self.models = Models(first.described)

    @classmethod
    async def made(cls, settings: Settings) -> Self:
        """Connect to the first address that answers.

        Raises:
            GatestreamError: none does.
        """
        return cls(settings, await _first(settings, settings.addresses))

    async def renew(self, old: Connection, *, elsewhere: bool = False, only: str = "") -> Connection:
        """A connection in place of one that is of no more use: see `gatestream.client.sync.network.Network.renew`."""
        async with self._lock:
            if self._closed:
                raise ServerUnreachableError("this client is closed")
            if self.current is not old and only in ("", self.current.address):
                return self.current
            every = self.settings.addresses
            at = every.index(old.address) + elsewhere
            new = await _first(self.settings, [only] if only else [*every[at:], *every[:at]])
            if self.current is old:
                self.current = new
                self.models.learn(new.described)
                if not old.users:
                    await old.channel.close()
            return new

    def use(self, connection: Connection) -> Connection:
        """Keep a connection open until it is released."""
        connection.users += 1
        return connection

    async def release(self, connection: Connection) -> None:
        """A user is done with it."""
        connection.users -= 1
        if connection.users == 0 and connection is not self.current:
            await connection.channel.close()

    async def close(self) -> None:
        """End the current connection."""
        self._closed = True
        await self.current.channel.close()


async def _first(settings: Settings, addresses: Sequence[str]) -> Connection:
    for left, address in zip(range(len(addresses) - 1, -1, -1), addresses, strict=True):
        try:
            return await Connection.made(settings, address)
        except GatestreamError:
            if not left:
                raise
    raise AssertionError("no address")
