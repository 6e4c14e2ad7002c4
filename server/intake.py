"""What came since the last tick."""

from collections.abc import Sequence
from itertools import compress
from typing import NamedTuple

import numpy as np

from gatestream.server.admission import Admission
from gatestream.server.inputs import Input, faults
from gatestream.server.owner import Owner
from gatestream.server.sessions import SessionTable
from gatestream.server.slots import Array, Ints
from gatestream.server.work import GATES, Singles, Steps, compact, refuse_one


class Packet(NamedTuple):
    """Accepted entries, which are computed together or put in line.

    Attributes:
        slots: [entries], each at most once.
        lengths: [entries], steps of each.
        offsets: [entries], where in the item's inputs each begins.
        steps: of the longest entry.
        rows: of all entries.
    """

    item: Steps
    slots: Ints
    lengths: Ints
    offsets: Ints
    steps: int
    rows: int


Step = tuple[Owner, int, int, int, Sequence[bytes], int]
"""A message of one entry: owner, handle, length, first, columns and wants, as `Engine.submit_one` has them. A plain
tuple, since one is made for each message."""


class Intake:
    """What came since the last tick: one message, or messages of one entry, whose numbers nobody has looked at yet.

    Args:
        inputs: of the model.
        sessions: of the model.
        admission: of the model; all that comes here was admitted.

    Attributes:
        message: of many entries, with nothing wrong; None: none.
        steps: messages of one entry, by slot.
    """

    def __init__(self, inputs: Sequence[Input], sessions: SessionTable, admission: Admission):
        self._inputs = inputs
        self._sessions = sessions
        self._admission = admission
        self.message: Packet | None = None
        self.steps: dict[int, Step] = {}

    def take(self) -> Packet | None:
        """All of it; owners hear what is wrong with single entries. None: there is nothing."""
        if self.message is not None:
            packet, self.message = self.message, None
            return packet
        if not self.steps:
            return None
        slots, steps = np.fromiter(self.steps, np.int64, len(self.steps)), list(self.steps.values())
        self.steps = {}
        owners, handles, lengths_given, firsts, columns, wants = zip(*steps, strict=True)
        inputs = [
            item.rows(b"".join(parts)) for item, parts in zip(self._inputs, zip(*columns, strict=True), strict=True)
        ]
        longest = max(lengths_given)
        lengths = np.array(lengths_given) if longest > 1 else np.ones(len(steps), np.int64)
        offsets = np.cumsum(lengths) - lengths if longest > 1 else np.arange(len(steps))
        accepted = meant = self._sessions.accepted[slots]
        if max(firsts) >= 0:
            first = np.array(firsts)
            meant = np.where(first < 0, accepted, first)
        if found := faults(self._inputs, inputs, lengths, offsets, accepted, meant):
            good = ~np.logical_or.reduce([bad for _, bad in found])
            for k in np.flatnonzero(~good).tolist():
                self._refuse(steps[k], int(accepted[k]), int(meant[k]), [column[offsets[k] :] for column in inputs])
            if not good.any():
                return None
            slots, lengths, offsets, accepted = (column[good] for column in (slots, lengths, offsets, accepted))
            owners, handles, wants = (tuple(compress(given, good)) for given in (owners, handles, wants))
            longest = int(lengths.max())
            inputs, offsets = [compact(column, offsets, lengths) for column in inputs], np.cumsum(lengths) - lengths
        self._sessions.accepted[slots] = accepted + lengths
        item = Singles(owners, handles, wants, inputs, max(wants) >= GATES, len(slots))
        return Packet(item, slots, lengths, offsets, longest, len(slots) if longest == 1 else int(lengths.sum()))

    def _refuse(self, step: Step, accepted: int, meant: int, inputs: Sequence[Array]) -> None:
        """Tell an owner what is wrong, of its own entry alone."""
        owner, handle, length, *_ = step
        own = [column[:length] for column in inputs]
        zero = np.zeros(1, np.int64)
        ((error, _),) = faults(self._inputs, own, np.array([length]), zero, np.array([accepted]), np.array([meant]))
        self._admission.rows -= length
        owner.rows -= length
        refuse_one(owner, error, handle, accepted, meant, length)
