"""What a gRPC service is made of, before gRPC knows of it."""

from collections.abc import Callable, Container, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

MOST_BYTES: Final = 4096
"""Of a message for a method that wants some names. The longest id of a session has 400."""


@dataclass(frozen=True, slots=True)
class ServiceDefinition:
    """One service, and what its calls need.

    Attributes:
        descriptor: of the service in its .proto.
        servicer: has the methods, by the names of the .proto. Each takes a request and the call's context.
        names: that it is called by, in full; empty: its own.
        bytes_of: by method, gives the most that its message may have; else `MOST_BYTES`.
        unparsed: methods that take the request's bytes.
        streams: methods that take and give the bytes of many messages, and end their calls themselves.
        open_to_all: methods that need no token. From a caller without one nothing is received: it is answered as if its
            message were empty.
    """

    descriptor: Any
    servicer: Any
    names: tuple[str, ...] = ()
    bytes_of: Mapping[str, Callable[[], int]] = field(default_factory=dict)
    unparsed: Container[str] = ()
    streams: Container[str] = ()
    open_to_all: Container[str] = ()
