"""The life of a session: its phases, and where each event takes it. `TRANSITIONS` is the whole of it."""

from collections.abc import Mapping
from enum import IntEnum
from typing import Any, Final

import numpy as np

from gatestream.server.errors import AlreadyExists, NotFound


class Phase(IntEnum):
    """Where a session is in its life.

    Attributes:
        CLOSED: there is none.
        NEW: it has a name and a state row, and nobody has heard of it.
        RESIDENT: a stream holds it, and its state is in a slot.
        DETACHED: no stream holds it, and its state is in a slot.
        PARKED: its state is in a store, and it has no slot. A stream may hold it.
        RESTORING: it is to have a slot, and its state is on its way from the store. A stream may hold it.
        CLOSING: it only waits for its end: another session may have its name.
    """

    CLOSED = 0
    NEW = 1
    RESIDENT = 2
    DETACHED = 3
    PARKED = 4
    RESTORING = 5
    CLOSING = 6


class Event(IntEnum):
    """What happens to a session.

    Attributes:
        CREATE: it is made, under a name that is free.
        ATTACH: a stream takes hold of it, or another one does.
        DETACH: no stream is to hold it.
        PARK: its state is in the store, and its slot is given back.
        RESTORE: it is to have a slot, and its state is asked for.
        RESTORED: its state is in the slot.
        CLOSE: its name is free, and its end stands in its queue.
        END: it is there no more.
    """

    CREATE = 0
    ATTACH = 1
    DETACH = 2
    PARK = 3
    RESTORE = 4
    RESTORED = 5
    CLOSE = 6
    END = 7


class IllegalTransition(AssertionError):
    """An event that cannot happen to a session in this phase. A bug: whoever raised the event had to know better."""


# What is not here is refused: `refusal` says how.
TRANSITIONS: Final[Mapping[Phase, Mapping[Event, Phase]]] = {
    Phase.CLOSED: {Event.CREATE: Phase.NEW},
    Phase.NEW: {
        Event.ATTACH: Phase.RESIDENT,
        Event.DETACH: Phase.DETACHED,
        Event.END: Phase.CLOSED,
    },
    Phase.RESIDENT: {
        Event.ATTACH: Phase.RESIDENT,
        Event.DETACH: Phase.DETACHED,
        Event.PARK: Phase.PARKED,
        Event.CLOSE: Phase.CLOSING,
        Event.END: Phase.CLOSED,
    },
    Phase.DETACHED: {
        Event.ATTACH: Phase.RESIDENT,
        Event.DETACH: Phase.DETACHED,
        Event.PARK: Phase.PARKED,
        Event.CLOSE: Phase.CLOSING,
        Event.END: Phase.CLOSED,
    },
    Phase.PARKED: {
        Event.ATTACH: Phase.PARKED,
        Event.DETACH: Phase.PARKED,
        Event.RESTORE: Phase.RESTORING,
        Event.CLOSE: Phase.CLOSING,
        Event.END: Phase.CLOSED,
    },
    Phase.RESTORING: {
        Event.ATTACH: Phase.RESTORING,
        Event.DETACH: Phase.RESTORING,
        Event.RESTORED: Phase.DETACHED,
        Event.CLOSE: Phase.CLOSING,
        Event.END: Phase.CLOSED,
    },
    Phase.CLOSING: {
        Event.RESTORED: Phase.CLOSING,
        Event.END: Phase.CLOSED,
    },
}


def refusal(phase: Phase, event: Event) -> Exception:
    """Why an event cannot happen to a session in this phase.

    Returns:
        AlreadyExists: it would be made, and is there.
        NotFound: it is there no more, or not for long.
        IllegalTransition: the server has lost track of it.
    """
    if event is Event.CREATE and phase is not Phase.CLOSING:
        return AlreadyExists("the session exists; resume it, or choose another session_id")
    if phase in (Phase.CLOSED, Phase.CLOSING) and event in (Event.ATTACH, Event.PARK, Event.RESTORE, Event.CLOSE):
        return NotFound("the session is not here; it was never opened, or was closed or expired")
    return IllegalTransition(f"a session that is {phase.name} cannot {event.name}. This is a bug.")


# By phase and event the next phase; -1: there is none.
_NEXT: Final = np.array([[TRANSITIONS[phase].get(event, -1) for event in Event] for phase in Phase], np.int8)


def after(phases: Any, event: Event) -> Any:
    """The phases that sessions are in after an event.

    Args:
        phases: before it, of int8: [n], or of one session.
        event: that happens to all of them.

    Raises:
        AlreadyExists, NotFound, IllegalTransition: as `refusal`, for the first one that it cannot happen to.
    """
    following = _NEXT[phases, event]
    if (following < 0).any():
        raise refusal(Phase(int(np.atleast_1d(phases)[np.atleast_1d(following) < 0][0])), event)
    return following
