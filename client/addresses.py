"""Where servers are, and how a client that has lost one finds it again, or another."""

import random
from collections.abc import Iterator, Sequence

from gatestream.client.errors import (
    ConnectionLostError,
    DrainingError,
    GatestreamError,
    InputError,
    ServerUnreachableError,
    StreamsExhaustedError,
)

Address = str | Sequence[str]
"""One address; several, of which any will do, in a list or between commas."""

_LEAST_DELAY = 0.05
_MOST_DELAY = 5.0
# Schemes of gRPC's whose addresses have commas of their own.
_WHOLE = ("ipv4:", "ipv6:")


def addresses_of(address: Address) -> tuple[str, ...]:
    """Each address, in the order given.

    Raises:
        InputError: there is none.
    """
    if isinstance(address, str):
        address = [address] if address.startswith(_WHOLE) else address.split(",")
    each = tuple(text.strip() for text in address)
    if not each or not all(each):
        raise InputError(f"address: {address!r} came; one 'host:port' or more, between commas, were expected")
    return each


def delays() -> Iterator[float]:
    """Seconds to wait before each attempt to connect: longer each time, and at random, for those who lost the same."""
    longest = _LEAST_DELAY
    while True:
        yield random.uniform(longest / 2, longest)
        longest = min(1.5 * longest, _MOST_DELAY)


def passes(error: GatestreamError, *, begun: bool) -> bool:
    """Whether a stream that ended so may have a successor.

    Args:
        error: why it ended.
        begun: there is something to go on with: a server has taken this stream, or one before it. Where the first
            server refuses the first stream, its caller is told.
    """
    if isinstance(error, StreamsExhaustedError | DrainingError):
        return begun
    return isinstance(error, ConnectionLostError | ServerUnreachableError)
