"""What both clients say to gRPC, and what its errors mean."""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, cast

import grpc

from gatestream.client.addresses import Address, addresses_of
from gatestream.client.errors import (
    ConnectionLostError,
    DeadlineExceededError,
    GatestreamError,
    InputError,
    RefusedError,
    ServerUnreachableError,
    from_reason,
)
from gatestream.protos.gatestream.v1 import gatestream_pb2 as pb

log = logging.getLogger("gatestream.client")
"""Where both clients say that they have connected again."""

# More than a server lets one stream have on its way (Limits.reply_bytes_per_stream is 64 MiB by default).
_RECEIVE_BYTES = 256 << 20

OPTIONS = (
    # Each channel has a connection of its own: another one may lead to another worker, or around what is broken.
    ("grpc.use_local_subchannel_pool", 1),
    # A server that vanished without a word is found out within half a minute.
    ("grpc.keepalive_time_ms", 20_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.max_receive_message_length", _RECEIVE_BYTES),
    # The server's limit comes with Describe, and the packer keeps to it.
    ("grpc.max_send_message_length", -1),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """How to talk to a server.

    Attributes:
        address: as gRPC takes it, "host:port"; or several.
        credentials: for TLS; None: in clear.
        token: sent with every call as "authorization: Bearer TOKEN".
        timeout: seconds that a call may take unless it says otherwise; math.inf: no limit.
        connect_timeout: seconds to wait for the server when connecting.
        retry: try again, within the timeout, what was refused for lack of room.
        resume: go on with sessions when their connection is lost.
        replay_bytes: of what was sent that are kept for that, at most.
        direct: see `sync.wire`.
    """

    address: Address
    credentials: grpc.ChannelCredentials | None = None
    token: str | None = None
    timeout: float = 30.0
    connect_timeout: float = 5.0
    retry: bool = True
    resume: bool = True
    replay_bytes: int = 64 << 20
    direct: bool | None = None

    def __post_init__(self) -> None:
        addresses_of(self.address)
        if self.replay_bytes < 1:
            raise InputError(f"replay_bytes: {self.replay_bytes!r} came; a number of bytes, 1 or more, was expected")
        check_timeout("timeout", self.timeout)
        check_timeout("connect_timeout", self.connect_timeout)

    @property
    def addresses(self) -> tuple[str, ...]:
        """Each of them."""
        return addresses_of(self.address)

    @property
    def metadata(self) -> tuple[tuple[str, str], ...]:
        """Sent with every call."""
        return (("authorization", f"Bearer {self.token}"),) if self.token else ()


def stream_method() -> str:
    """The path of `Stream`, whose messages this client writes and reads as bytes."""
    service = pb.DESCRIPTOR.services_by_name["Gatestream"]
    return f"/{service.full_name}/{service.methods_by_name['Stream'].name}"


def check_timeout(name: str, seconds: float) -> None:
    """Refuse what is no time to wait.

    Raises:
        InputError: not more than 0.
    """
    if not seconds > 0:
        raise InputError(f"{name}: {seconds!r} came; seconds, more than 0, were expected")


def rpc_timeout(seconds: float) -> float | None:
    """As gRPC takes it."""
    return None if seconds == float("inf") else seconds


def from_rpc(error: Any, address: str) -> GatestreamError:
    """What a failed unary call means.

    Args:
        error: a grpc.RpcError with a status: of the synchronous or the asyncio API.
        address: the server's.
    """
    code, details = error.code(), error.details() or "no details"
    refusal = _refusal(error)
    if refusal is not None:
        return refusal
    if code is grpc.StatusCode.UNAVAILABLE:
        return ServerUnreachableError(
            f"no answer from {address}: {details}; check the address, that `gatestream serve` runs there, "
            "and that both sides use TLS or neither does"
        )
    if code is grpc.StatusCode.CANCELLED:
        # By a server that ends, or since the channel was closed.
        return ServerUnreachableError(f"no answer from {address}, since the connection was closed: {details}")
    if code is grpc.StatusCode.UNIMPLEMENTED:
        return ServerUnreachableError(f"what answers at {address} is not a gatestream server: {details}")
    if code is grpc.StatusCode.DEADLINE_EXCEEDED:
        return DeadlineExceededError(f"no answer from {address} in time: {details}")
    return RefusedError(f"{address} refused the call: {code.name}: {details}", code)


def from_connecting(error: Any, address: str, seconds: float) -> GatestreamError:
    """What it means that the first call to a server failed."""
    if error.code() is grpc.StatusCode.DEADLINE_EXCEEDED:
        return ServerUnreachableError(
            f"no answer from {address} within {seconds:g} s; check the address, that `gatestream serve` runs "
            "there, and that no firewall is between"
        )
    return from_rpc(error, address)


def from_stream(error: Any, address: str) -> Callable[[], GatestreamError]:
    """Makes the error for each that waits on a stream that ended; `error` None: the server ended it in order."""
    if error is None:
        return partial(_lost, address, "the server ended it")
    code, details = error.code(), error.details() or "no details"
    if _refusal(error) is not None:
        return partial(from_rpc, error, address)
    if code in _LOST:
        return partial(_lost, address, details)
    return lambda: RefusedError(f"{address} ended the stream: {code.name}: {details}", code)


# What the network, a crash or a restart does to a stream.
_LOST = (
    grpc.StatusCode.UNAVAILABLE,
    grpc.StatusCode.CANCELLED,
    grpc.StatusCode.UNKNOWN,
    grpc.StatusCode.INTERNAL,
)


def _lost(address: str, why: str) -> ConnectionLostError:
    return ConnectionLostError(
        f"the stream to {address} ended: {why}; its sessions are closed, and steps that had left may have been "
        "taken or not: open new sessions"
    )


def _refusal(error: Any) -> GatestreamError | None:
    """The error of a call that the server ended with a reason of its own."""
    trailing: dict[str, Any] = dict(_pairs(error.trailing_metadata()))
    name = trailing.get("gatestream-reason")
    if name not in pb.Reason.keys():  # noqa: SIM118 (an enum's wrapper, not a mapping)
        return None
    retry_after = int(trailing.get("gatestream-retry-after-ms", 0)) / 1000
    return from_reason(cast("pb.Reason", pb.Reason.Value(name)), error.details() or "", retry_after)


def _pairs(metadata: Sequence[tuple[str, Any]] | None) -> list[tuple[str, Any]]:
    return [(key, value) for key, value in metadata or ()]
