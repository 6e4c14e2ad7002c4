"""What gRPC's channel options are set to: the bounds that it keeps itself, and when it takes a peer for gone."""

from collections.abc import Sequence
from typing import Final

from gatestream.server.config import ServerConfig

# Of each method. gRPC keeps 16 KB of each, also of those that were reset; a connection may have fewer.
_PENDING: Final = 8_192
# Of one connection, besides `streams`; its client has what is over it wait.
_CALLS_OF_CONNECTION: Final = 256
# As long as a client may take to say something, and to acknowledge what it was told of this server's bounds.
_GREETING_MS: Final = 10_000
# A call that gRPC holds for so long, since the calls before it take the server that long, is cancelled by it.
_UNSEEN_SECONDS: Final = 120


def channel_options(config: ServerConfig) -> Sequence[tuple[str, int]]:
    """Those of a server that is configured so."""
    return (
        ("grpc.max_receive_message_length", config.limits.message_bytes),
        # What is over `unary_calls` is refused by us; gRPC, which holds what comes between two looks of ours, cancels
        # it.
        ("grpc.server.max_pending_requests", _PENDING),
        ("grpc.server.max_pending_requests_hard_limit", _PENDING),
        ("grpc.server_max_unrequested_time_in_server", _UNSEEN_SECONDS),
        # Two servers on one port would each hold half of the sessions. Workers know of each other.
        ("grpc.so_reuseport", int(config.workers > 1)),
        # A peer that vanished without a word is found out within 40 s.
        ("grpc.keepalive_time_ms", 30_000),
        ("grpc.keepalive_timeout_ms", 10_000),
        # Clients may ping as often to learn the same of us.
        ("grpc.http2.min_ping_interval_without_data_ms", 5_000),
        ("grpc.keepalive_permit_without_calls", 1),
        # After so many PINGs too soon gRPC would close the connection, once for each of the thousands that it has read
        # already: tens of seconds of the thread that reads for everyone. To answer all of them is cheap.
        ("grpc.http2.max_ping_strikes", 0),
        ("grpc.max_concurrent_streams", config.limits.streams + _CALLS_OF_CONNECTION),
        # gRPC would count calls for longer than their clients do, and refuse some of clients that keep to the bound.
        ("grpc.http.overload_protection", 0),
        ("grpc.server_handshake_timeout_ms", _GREETING_MS),
        ("grpc.http2.settings_timeout", _GREETING_MS),
        ("grpc.max_allowed_incoming_connections", config.connections),
    )
