"""Connections to the addresses of a client, blocking: one that is current, and others until their streams are over."""

import threading
from collections.abc import Sequence
from typing import Any, TypeVar

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
        """Connect.

        Raises:
            GatestreamError: nobody answers there as a gatestream server.
        """
        self.address = address
        self.users = 0
        self._settings = settings
        secure = settings.credentials
        self.channel = (
            grpc.secure_channel(address, secure, OPTIONS) if secure else grpc.insecure_channel(address, OPTIONS)
        )
        self._stub = pb_grpc.GatestreamStub(self.channel)
        try:
            seconds = rpc_timeout(settings.connect_timeout)
            self.described = self._stub.Describe(pb.DescribeRequest(), timeout=seconds, metadata=settings.metadata)
        except grpc.RpcError as error:
            self.channel.close()
            raise from_connecting(error, address, settings.connect_timeout) from None
        except BaseException:
            self.channel.close()
            raise

    @property
    def limits(self) -> pb.Limits:
        """The server's."""
        return self.described.limits

    def ask(self, call: Call[R], timeout: float) -> R:
        """What the server answers.

        Raises:
            GatestreamError: it refused, or there was no answer.
        """
        rpc: Any = getattr(self._stub, call.rpc)
        try:
            answer = rpc(call.request, timeout=rpc_timeout(timeout), metadata=self._settings.metadata)
        except grpc.RpcError as error:
            raise from_rpc(error, self.address) from None
        except ValueError:
            # gRPC's word for a channel that was closed meanwhile.
            raise ServerUnreachableError(f"the connection to {self.address} was closed") from None
        return call.read(answer)


class Network:
    """Safe to use from many threads."""

    def __init__(self, settings: Settings) -> None:
        """Connect to the first address that answers.

        Raises:
            GatestreamError: none does.
        """
        self.settings = settings
        self._lock = threading.Lock()
        self._closed = False
        self.current = self._first(settings.addresses)
        self.models = Models(self.current.described)

    def renew(self, old: Connection, *, elsewhere: bool = False, only: str = "") -> Connection:
        """A connection in place of one that is of no more use: to the same address where that answers, else to another.

        Args:
            old: see above.
            elsewhere: rather to another.
            only: to this address alone.

        Raises:
            GatestreamError: nobody answers.
        """
        with self._lock:
            if self._closed:
                raise ServerUnreachableError("this client is closed")
            if self.current is not old and only in ("", self.current.address):
                return self.current
            every = self.settings.addresses
            at = every.index(old.address) + elsewhere
            new = self._first([only] if only else [*every[at:], *every[:at]])
            if self.current is old:
                self.current = new
                if not old.users:
                    old.channel.close()
                self.models.learn(new.described)
            return new

    def use(self, connection: Connection) -> Connection:
        """Keep a connection open until it is released."""
        with self._lock:
            connection.users += 1
        return connection

    def release(self, connection: Connection) -> None:
        """A user is done with it."""
        with self._lock:
            connection.users -= 1
            if connection.users == 0 and connection is not self.current:
                connection.channel.close()

    def close(self) -> None:
        """End the current connection."""
        with self._lock:
            self._closed = True
            self.current.channel.close()

    def _first(self, addresses: Sequence[str]) -> Connection:
        for left, address in zip(range(len(addresses) - 1, -1, -1), addresses, strict=True):
            try:
                return Connection(self.settings, address)
            except GatestreamError:
                if not left:
                    raise
        raise AssertionError("no address")
