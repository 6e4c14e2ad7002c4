"""What the messages of our own protocol ask, as plain records: a codec makes them, a stream acts on them."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from gatestream.server.arrays import Ints
from gatestream.server.errors import InvalidRequest, Refused

Numbers = Sequence[int] | Ints
"""A column of numbers, as protobuf has it or as an array."""

Column = bytes | memoryview
"""The bytes of an input, a row for each step."""


@dataclass(slots=True)
class Chunk:
    """Steps of one session, in few bytes.

    Of all messages that a template recognised it is the same object, with their position and columns, and these have
    the same sizes.

    Attributes:
        handle: of the session.
        length: steps, of any number; None: not sent, which is 1.
        first: position of the first step; -1: not sent.
        columns: bytes of each input.
        acknowledged: sequence of the first answer that the client lacks; -1: not sent.
    """

    handle: int
    length: int | None
    first: int
    columns: Sequence[bytes]
    acknowledged: int = -1

    def steps(self) -> "Steps":
        """The same, in columns."""
        return Steps(
            np.array([self.handle]),
            None if self.length is None else np.array([self.length]),
            None if self.first < 0 else np.array([self.first]),
            self.columns,
            None if self.acknowledged < 0 else np.array([self.acknowledged]),
        )


@dataclass(slots=True)
class Steps:
    """Steps of any number of sessions, in columns.

    Attributes:
        handles: [entries], at least one. The same array in all messages that a template recognised.
        lengths: [entries], steps of each, of any number; None: not sent, which is 1 of each.
        first: [entries], position of each one's first step; None: not sent.
        columns: bytes of each input, where they lie in the message.
        acknowledged: [entries], sequence of the first answer of each one that the client lacks; None: not sent.
    """

    handles: Ints
    lengths: Ints | None
    first: Ints | None
    columns: Sequence[Column]
    acknowledged: Ints | None = None


@dataclass(slots=True)
class Open:
    """A handle is to have a session.

    Attributes:
        handle: that is to have it.
        session_id: empty: a new name.
        model: empty: the only one.
        version: of the model; empty: any.
        create: it may be a new session.
        resume: it may be one that there is.
        outputs: they are to come back.
        gates: so are they.
        constants: names and bytes.
        parks: the session is to stay when the stream ends.
        epoch: that the session is to have; 0: one more than it has.
        acknowledged: sequence of the first answer that the client lacks; None: not sent.
    """

    handle: int
    session_id: str
    model: str
    version: str
    create: bool
    resume: bool
    outputs: bool
    gates: bool
    constants: Sequence[tuple[str, bytes]] = ()
    parks: bool = False
    epoch: int = 0
    acknowledged: int | None = None


@dataclass(slots=True)
class Reset:
    """The sessions of some handles, [entries], are to go back to their initial state.

    Attributes:
        handles: which.
        sequences: [entries], that each is meant for; None: whatever that is.
    """

    handles: Ints
    sequences: Ints | None = None


@dataclass(slots=True)
class Acknowledge:
    """What the client has of the sessions of some handles, [entries].

    Attributes:
        handles: which.
        sequences: [entries], of the first answer that it lacks; None: not sent, which says nothing.
    """

    handles: Ints
    sequences: Ints | None = None


@dataclass(slots=True)
class Close:
    """The sessions of some handles, [entries], are to be closed.

    Attributes:
        handles: which.
        sequences: as in `Reset`.
    """

    handles: Ints
    sequences: Ints | None = None


@dataclass(slots=True)
class Invalid:
    """A message that contradicts the protocol or itself, which is answered by one Error.

    Attributes:
        error: what is wrong.
        handles: [entries]; empty where they are what is wrong.
        first: [entries] as sent, numbers of 64 bits among them; empty: not sent, or not as many.
        lengths: [entries] as sent, in the same way.
    """

    error: InvalidRequest
    handles: Numbers = ()
    first: Numbers = ()
    lengths: Numbers = ()

    def __post_init__(self) -> None:
        forget_frames(self.error)


def forget_frames(error: Refused) -> None:
    """Have an error hold no frames: in one of them is its message, and in another what holds the error."""
    error.with_traceback(None)
    error.__cause__ = error.__context__ = None


Request = Chunk | Steps | Open | Reset | Close | Acknowledge | Invalid
