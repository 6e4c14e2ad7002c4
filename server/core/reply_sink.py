"""What the engine tells of sessions, and to whom: a stream, from the engine's side."""

from collections.abc import Callable, Sequence
from enum import StrEnum
from typing import Any, Protocol

import numpy as np

from gatestream.server.arrays import Array, Ints
from gatestream.server.core.accounts import Account
from gatestream.server.core.send_queue import SendQueue
from gatestream.server.core.sessions import Stands
from gatestream.server.errors import Refused


class CloseReason(StrEnum):
    """Why a session has ended, by the names that it has on the wire."""

    REQUESTED = "CLOSE_REASON_REQUESTED"
    ADMINISTERED = "CLOSE_REASON_ADMINISTERED"
    IDLE = "CLOSE_REASON_IDLE"
    TAKEN_OVER = "CLOSE_REASON_TAKEN_OVER"
    DRAINED = "CLOSE_REASON_DRAINED"
    PARKED = "CLOSE_REASON_PARKED"
    FENCED = "CLOSE_REASON_FENCED"
    LOST = "CLOSE_REASON_LOST"


class Holder(Protocol):
    """Who has rows queued.

    Attributes:
        rows: its rows that were accepted and are not yet on their way back to it.
        account: of its tenant.
        send_queue: what waits to be sent to it.
    """

    rows: int
    account: Account
    send_queue: SendQueue


class ReplySink(Holder, Protocol):
    """The owner of sessions, who is told what becomes of them. All calls come on the event loop and return at once."""

    def opened(self, handle: int, session_id: str, stands: Stands, created: bool) -> None:
        """A session is this owner's.

        Args:
            handle: what it calls it.
            session_id: of the session.
            stands: where it does.
            created: it is new.
        """

    def not_opened(self, handle: int, error: Refused) -> None:
        """A session that steps could already be submitted of is not this owner's."""

    def parked(self, handle: int) -> None:
        """A session of this owner's has no slot any more: before its next step, it is to be asked for."""

    def durable(self, handles: Ints, sequences: Ints) -> None:
        """Sessions will not go back to before these sequences, [handles]."""

    def lost(self, handle: int) -> None:
        """Another owner has asked for this session: nothing more is taken from this one; `closed` will follow."""

    def moved(self, handles: Ints, model: int, sessions: Ints) -> None:
        """Sessions of this owner's have been moved to another version of their model.

        Args:
            handles: [sessions], what it calls them, as before.
            model: the number of that version.
            sessions: their numbers there.
        """

    def result(self, handle: int, first: int, length: int, outputs: Sequence[bytes], gates: Sequence[bytes]) -> None:
        """As `results`, for the one entry of a message."""

    def results(self, handles: Ints, first: Ints, lengths: Ints, outputs: list[Array], gates: list[Array]) -> None:
        """Steps were taken.

        Args:
            handles: [entries].
            first: [entries], position of each entry's first step answered here.
            lengths: [entries], steps answered here.
            outputs: a contiguous column for each of the model's outputs, [rows, *shape]; none where not wanted.
            gates: the same for each gate.
        """

    def refused(self, error: Refused, handles: Ints, positions: Ints, first: Ints, lengths: Ints) -> None:
        """Something will not be done.

        Args:
            error: why.
            handles: [entries].
            positions: [entries], where each session takes its next step.
            first: [entries], position of each entry's first step not taken; empty for what was not about steps.
            lengths: [entries], steps not taken; empty for what was not about steps.
        """

    def reset_done(self, handles: Ints, positions: Ints) -> None:
        """Sessions are back in their initial state."""

    def closed(self, handles: Ints, positions: Ints, reason: CloseReason) -> None:
        """Sessions are no longer this owner's."""

    def failed(self, error: Exception) -> None:
        """Something of this owner's could not be answered: it hears no more, and its sessions end."""


def tell(owner: ReplySink, say: Callable[..., None], *what: Any) -> None:
    """Call a method of an owner. Whatever it raises is that owner's end, and nobody else's affair."""
    try:
        say(*what)
    except Exception as error:
        owner.failed(error)


def refuse_one(owner: ReplySink, error: Refused, handle: int, position: int, first: int, length: int) -> None:
    """Tell an owner that one entry's steps are not taken."""
    columns = (np.array([number]) for number in (handle, position, first, length))
    tell(owner, owner.refused, error, *columns)


class Refusals:
    """Accepted steps that are not taken, put together for each owner and each reason."""

    def __init__(self) -> None:
        self._steps: dict[tuple[ReplySink, Refused], list[tuple[int, int, int, int]]] = {}

    def add(self, owner: ReplySink, error: Refused, handle: int, position: int, first: int, length: int) -> None:
        """One entry's steps, as `ReplySink.refused` has them."""
        self._steps.setdefault((owner, error), []).append((handle, position, first, length))

    def send(self) -> None:
        """Tell the owners."""
        for (owner, error), steps in self._steps.items():
            tell(owner, owner.refused, error, *np.array(steps).T)
        self._steps.clear()
