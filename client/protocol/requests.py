"""What can be asked of a queue. Each piece of work is answered once, whatever happens."""

import enum
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from gatestream.client.columns import Array
from gatestream.client.errors import GatestreamError, Retried
from gatestream.protos.gatestream.v1 import gatestream_pb2 as pb

Ints = NDArray[np.int64]
_UNKNOWN: Ints = np.empty(0, np.int64)


def _nobody() -> None:
    """The `wake` of a caller that does not wait."""


@dataclass(eq=False, slots=True, kw_only=True)
class Work:
    """One thing asked of a queue: answered once, by `done` with or without an `error`.

    Attributes:
        members: which members of the queue it is for, strictly increasing.
        wake: called when `done` or `refusal` is set.
        refusal: the server has no room, or not now; the caller waits and calls `Batcher.again`, or withdraws.
        refusals: how often that happened.
    """

    members: Ints
    wake: Callable[[], None] = _nobody
    done: bool = False
    error: GatestreamError | None = None
    refusal: Retried | None = None
    refusals: int = 0

    def finish(self, error: GatestreamError | None = None) -> None:
        """Give the caller its answer, unless it has one."""
        if not self.done:
            self.done, self.error = True, error
            self.wake()

    def refuse(self, refusal: Retried) -> None:
        """Let the caller decide whether to try again."""
        self.refusal = refusal
        self.refusals += 1
        self.wake()


class Kind(enum.Enum):
    """What a `Control` asks for."""

    OPEN = enum.auto()
    RESET = enum.auto()
    CLOSE = enum.auto()
    # Nothing on the wire: from its turn until `Batcher.resume` the queue stands still.
    PAUSE = enum.auto()


@dataclass(eq=False, slots=True, kw_only=True)
class Control(Work):
    """Open, reset or close the members, or hold the queue.

    Attributes:
        opens: for OPEN, one per member.
    """

    kind: Kind
    opens: list[pb.Open] = field(default_factory=list)


@dataclass(eq=False, slots=True, kw_only=True)
class Chunk(Work):
    """Steps of every member.

    Attributes:
        columns: per input, [members, time, ...].
        length: time steps, of which `sent` have left so far.
        lengths: steps of each member, of which `length` is the greatest; None: all have that many.
        padding: steps that the caller passed besides, and that nobody takes; they are answered with zeros.
        first: position of each member's first step, once it has left.
        taken: once it has failed on the way: steps of each member that were taken all the same.
        parts: per answered message and column (outputs, then gates), [members, time, ...]; zero where not taken.
    """

    columns: list[Array]
    length: int
    sent: int = 0
    lengths: Ints | None = None
    padding: int = 0
    first: Ints = field(default_factory=lambda: _UNKNOWN)
    taken: Ints | None = None
    parts: list[list[Array]] = field(default_factory=list)

    def results(self) -> list[Array]:
        """Per column, the answers to all its steps, [members, time, ...]."""
        if len(self.parts) == 1 and not self.padding:
            return self.parts[0]
        every = [list(parts) for parts in zip(*self.parts, strict=True)]
        if self.padding:
            for parts in every:
                parts.append(np.zeros((len(self.members), self.padding, *parts[0].shape[2:]), parts[0].dtype))
        return [np.concatenate(parts, axis=1) for parts in every]
