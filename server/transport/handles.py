"""What the handles of one stream stand for."""

from collections.abc import Sequence
from typing import Final

import numpy as np
import numpy.typing as npt

from gatestream.server.arrays import Ints
from gatestream.server.core.intake import Fault
from gatestream.server.errors import InvalidRequest, NotFound, Reason

FREE: Final = -1
LEAVING: Final = -2
"""Another stream took the handle's session: no more steps, and not free before `Closed`."""
# Still further below: the handle's session, of the number 0, 1, 2..., is closing.
_CLOSING: Final = -3


class Handles:
    """By handle, the session that it stands for, by the number that its model's engine has for it.

    Attributes:
        generation: another number whenever what some handle stands for has changed.
    """

    def __init__(self) -> None:
        self.generation = 0
        self._model = np.zeros(16, np.int32)
        # Or one of the marks above.
        self._session = np.full(16, FREE, np.int32)
        # Scratch, for finding those that stand twice in a message. Only read where it has just been written.
        self._entry = np.empty(16, np.int32)

    def session(self, handle: int) -> int:
        """The number of its session; negative: it has none that takes steps."""
        return int(self._session[handle]) if handle < len(self._session) else FREE

    def model(self, handle: int) -> int:
        """The number of its session's model."""
        return int(self._model[handle])

    def held(self, *, closing: bool = False) -> Ints:
        """The handles that have a session which takes steps; with those whose session is closing, if asked for."""
        held = self._session >= 0
        return np.flatnonzero(held | (self._session <= _CLOSING) if closing else held)

    def close(self, handles: Ints) -> None:
        """Have these take no more steps, and be free when `Closed` has come."""
        self.mark(handles, _CLOSING - self._session[handles].astype(np.int64))

    def by_model(self, handles: Ints) -> list[tuple[int, Ints, Ints]]:
        """For each model the number, those of the handles whose session is of it, and their sessions.

        Args:
            handles: that have a session which takes steps, or is closing.
        """
        sessions, models = self._session[handles].astype(np.int64), self._model[handles]
        sessions = np.where(sessions <= _CLOSING, _CLOSING - sessions, sessions)
        return [
            (number, handles[models == number], sessions[models == number]) for number in np.unique(models).tolist()
        ]

    def split(self, handles: Ints, entries: Ints) -> list[tuple[int, Ints]]:
        """For each model the number, and those of the entries of a message whose handle's session is of it.

        Args:
            handles: of the message.
            entries: of it, whose handles have a session which takes steps.
        """
        models = self._model[handles[entries]]
        return [(number, entries[models == number]) for number in np.unique(models).tolist()]

    def reserve(self, handle: int, model: int) -> None:
        """Make room for a handle whose session will be of this model."""
        size = len(self._session)
        if handle >= size:
            more = max(size, handle + 1 - size)
            self._entry = np.empty(size + more, np.int32)
            self._session = np.concatenate((self._session, np.full(more, FREE, np.int32)))
            self._model = np.concatenate((self._model, np.zeros(more, np.int32)))
        self._model[handle] = model

    def mark(self, handles: int | slice | Ints, session: int | Ints) -> None:
        """Have handles stand for a session, or for one of the marks."""
        self._session[handles] = session
        self.generation += 1

    def touch(self) -> None:
        """Have whoever knows what handles stand for look it up again."""
        self.generation += 1

    def move(self, handles: Ints, model: int, sessions: Ints) -> None:
        """Have handles stand for sessions of another model."""
        self._model[handles] = model
        self.mark(handles, sessions)

    def sessions(self, handles: Ints) -> Ints:
        """The sessions of many handles, negative where there is none that takes steps."""
        known = handles < len(self._session)
        if np.count_nonzero(known) == len(handles):
            return self._session[handles].astype(np.int64)
        return np.where(known, self._session[np.where(known, handles, 0)], FREE).astype(np.int64)

    def look_up(self, handles: Ints) -> tuple[Ints, int]:
        """As `sessions`, and the number of the first one's model that has a session.

        Raises:
            NotFound: none has.
        """
        sessions = self.sessions(handles)
        held = np.flatnonzero(sessions >= 0)
        if len(held) == 0:
            raise unknown(int(handles[0]))
        return sessions, int(self._model[handles[held[0]]])

    def all_right(self, handles: Ints, sessions: Ints, model: int) -> bool:
        """Whether `faults` would find none, in fewer passes."""
        return (
            sessions.min() >= 0
            and not np.count_nonzero(self._repeated(handles))
            and np.count_nonzero(self._model[handles] == model) == len(handles)
        )

    def faults(self, handles: Ints, sessions: Ints, models: Sequence[int] | None = None) -> list[Fault]:
        """What is wrong with the handles of a message; an entry may have several faults, of which the first counts.

        Args:
            handles: [entries].
            sessions: [entries], theirs.
            models: the numbers of those that the message may be for; None: it may be for any.
        """
        nobody = sessions < 0
        held = np.flatnonzero(~nobody)
        other = np.zeros(len(handles), np.bool_)
        if models is not None:
            other[held] = ~np.isin(self._model[handles[held]], models)
        repeated = np.zeros(len(handles), np.bool_)
        repeated[held] = self._repeated(handles[held])
        if repeated.any():
            repeated = np.isin(handles, handles[repeated])
        return [
            (nobody, lambda k: unknown(int(handles[k]))),
            (
                other,
                lambda k: InvalidRequest(
                    f"handle {handles[k]} is of another model than the message's first entry; send a message for each"
                ),
            ),
            (
                repeated,
                lambda k: InvalidRequest(
                    f"handle {handles[k]} stands more than once in the message; "
                    + ("name it once" if models is None else "send its steps as one chunk"),
                    Reason.HANDLE_REPEATED,
                ),
            ),
        ]

    def _repeated(self, handles: Ints) -> npt.NDArray[np.bool_]:
        """For each of some handles that have a session, whether it stands there again further on."""
        # Each one's last entry is found again where it was written; an earlier one of the same handle is not.
        places = np.arange(len(handles))
        self._entry[handles] = places
        again: npt.NDArray[np.bool_] = self._entry[handles] != places
        return again


def unknown(handle: int) -> NotFound:
    """That a handle has no session."""
    return NotFound(f"handle {handle} has no session on this stream; open it first", Reason.HANDLE_UNKNOWN)
