"""What a pattern is given, and the list of all patterns."""

import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Literal

import grpc

Served = Literal["open", "tokens", "log full", "log closed", "tls", "workers"]
"""Which server it is for: `open` to everyone; with `tokens`, of which the neighbour has another tenant's; with a log
that takes nothing any more. One with TLS, and one of two workers, are for the short form alone."""

REFUSED_MS: Final = 5.0
TAKEN_MS: Final = 20.0
P99_MS: Final = 100.0


@dataclass
class Target:
    """A server, as one hostile client sees it.

    Attributes:
        token: the client's; empty: it has none.
        other_token: of the neighbour's tenant, for looking whether it still gets what is its own.
        scale: share of the full pattern.
        ca: a file with the authority of its certificate; empty: it speaks no TLS.
        sent: bytes of messages, and of frames written by hand.
        statuses: with which its calls ended, and what its messages were answered with.
    """

    address: str
    token: str = ""
    other_token: str = ""
    scale: float = 1.0
    ca: str = ""
    sent: int = 0
    statuses: Counter[str] = field(default_factory=Counter)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def port(self) -> int:
        return int(self.address.rpartition(":")[2])

    def times(self, count: int, least: int = 1) -> int:
        """How often, at this scale."""
        return max(least, round(count * self.scale))

    def note(self, status: str, count: int = 1) -> None:
        with self._lock:
            self.statuses[status] += count

    def add_sent(self, count: int) -> None:
        with self._lock:
            self.sent += count


Body = Callable[[Target], None]


@dataclass(frozen=True)
class Pattern:
    """One thing that a hostile client does, and what must hold meanwhile.

    Attributes:
        does: raises AssertionError where it sees what must not be.
        hold_ms: CPU of the loop's thread in one callback.
        peak_mib: how far the server's memory may rise.
        later_mib: what of that may be left some seconds later.
        p99_ms: the neighbour's beside it; more than `P99_MS` where docs/operations.md says why.
        allowed: statuses and reasons that may come.
        short: a hundredth of it says something, in a few tenths of a second.
    """

    name: str
    does: Body
    served: Served
    hold_ms: float
    peak_mib: float
    later_mib: float
    p99_ms: float
    allowed: frozenset[str]
    short: bool


PATTERNS: Final[dict[str, Pattern]] = {}


def pattern(
    name: str,
    *allowed: str,
    served: Served = "open",
    hold_ms: float = REFUSED_MS,
    peak_mib: float = 256.0,
    later_mib: float = 64.0,
    p99_ms: float = P99_MS,
    short: bool = False,
) -> Callable[[Body], Body]:
    """Add a pattern to the list; what is allowed is named as gRPC or the protocol names it."""

    def add(does: Body) -> Body:
        assert name not in PATTERNS
        PATTERNS[name] = Pattern(name, does, served, hold_ms, peak_mib, later_mib, p99_ms, frozenset(allowed), short)
        return does

    return add


@contextmanager
def channel(target: Target, **options: int) -> Iterator[grpc.Channel]:
    """A connection of its own that takes and sends messages of any size."""
    more = [(f"grpc.{name.replace('__', '.')}", value) for name, value in options.items()]
    unlimited = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]
    with connect(target.address, target.ca, [("grpc.use_local_subchannel_pool", 1), *unlimited, *more]) as opened:
        yield opened


def connect(address: str, ca: str, options: Sequence[tuple[str, int]] = ()) -> grpc.Channel:
    """A channel, with TLS where an authority is given."""
    if not ca:
        return grpc.insecure_channel(address, options)
    return grpc.secure_channel(address, grpc.ssl_channel_credentials(Path(ca).read_bytes()), options)


def together(does: Callable[[int], None], count: int) -> None:
    """Run it that often at once, each with its number; what one of them raises, this raises."""
    errors: list[BaseException] = []

    def run(k: int) -> None:
        try:
            does(k)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=run, args=(k,), daemon=True) for k in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]


def code_of(error: Any) -> str:
    """The name of the status that a call ended with."""
    return str(error.code().name)


def metadata(token: str) -> Sequence[tuple[str, str]] | None:
    return [("authorization", f"Bearer {token}")] if token else None
