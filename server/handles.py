"""What the handles of one stream stand for."""

from collections.abc import Callable
from typing import Final

import numpy as np
import numpy.typing as npt

from gatestream.protos.gatestream.v1 import gatestream_pb2 as pb
from gatestream.server.errors import InvalidRequest, NotFound, Refused
from gatestream.server.slots import Ints

Fault = tuple[npt.NDArray[np.bool_], Callable[[int], Refused]]
"""Which entries of a message have it, and what to say of one of them."""

FREE: Final = -1
LEAVING: Final = -2
"""The handle's session is closing, or another stream took it: no more steps, and not free before `Closed`."""


class Handles:
    """By handle, the session that it stands for.

    Attributes:
        changes: how often what some handle stands for has changed.
    """

    def __init__(self) -> None:
        self.changes = 0
        self._model = np.zeros(16, np.int16)
        # Or one of the marks above.
        self._slot = np.full(16, FREE, np.int32)
        # Scratch, for finding those that stand twice in a message. Only read where it has just been written.
        self._entry = np.empty(16, np.int32)

    def slot(self, handle: int) -> int:
        """The state row of its session; negative: it has none that takes steps."""
        return int(self._slot[handle]) if handle < len(self._slot) else FREE

    def model(self, handle: int) -> int:
        """The number of its session's model."""
        return int(self._model[handle])

    def held(self) -> list[int]:
        """The handles that have a session which takes steps."""
        return np.flatnonzero(self._slot >= 0).tolist()

    def by_model(self) -> list[tuple[int, Ints]]:
        """The state rows of all sessions that take steps, by the number of their model."""
        held = self._slot >= 0
        return [
            (number, self._slot[held & (self._model == number)].astype(np.int64))
            for number in np.unique(self._model[held]).tolist()
        ]

    def reserve(self, handle: int, model: int) -> None:
        """Make room for a handle whose session will be of this model."""
        size = len(self._slot)
        if handle >= size:
            more = max(size, handle + 1 - size)
            self._entry = np.empty(size + more, np.int32)
            self._slot = np.concatenate((self._slot, np.full(more, FREE, np.int32)))
            self._model = np.concatenate((self._model, np.zeros(more, np.int16)))
        self._model[handle] = model

    def mark(self, handles: int | slice | Ints, slot: int) -> None:
        """Have handles stand for a state row, or for one of the marks."""
        self._slot[handles] = slot
        self.changes += 1

    def look_up(self, handles: Ints) -> tuple[Ints, int]:
        """The rows of many handles, negative where there is none, and the number of the first one's model that has one.

        Raises:
            NotFound: none has.
        """
        known = handles < len(self._slot)
        places = np.where(known, handles, 0)
        slots = np.where(known, self._slot[places], FREE)
        held = np.flatnonzero(slots >= 0)
        if len(held) == 0:
            raise unknown(int(handles[0]))
        return slots, int(self._model[handles[held[0]]])

    def all_right(self, handles: Ints, slots: Ints, model: int) -> bool:
        """Whether `faults` would find none, in fewer passes."""
        return (
            slots.min() >= 0
            and not np.count_nonzero(self._repeated(handles))
            and np.count_nonzero(self._model[handles] == model) == len(handles)
        )

    def faults(self, handles: Ints, slots: Ints, model: int) -> list[Fault]:
        """What is wrong with the handles of a message; an entry may have several faults, of which the first counts.

        Args:
            handles: [entries].
            slots: [entries], their rows.
            model: the number of the one that the message is for.
        """
        nobody = slots < 0
        held = np.flatnonzero(~nobody)
        other = ~nobody
        other[held] = self._model[handles[held]] != model
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
                    f"handle {handles[k]} stands more than once in the message; send its steps as one chunk",
                    pb.REASON_HANDLE_REPEATED,
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
    return NotFound(f"handle {handle} has no session on this stream; open it first", pb.REASON_HANDLE_UNKNOWN)
