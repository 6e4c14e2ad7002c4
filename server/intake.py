"""What comes: what is wrong with it, what is accepted of it, and what of that came since the last tick."""

from collections.abc import Sequence
from functools import reduce
from itertools import compress
from operator import or_
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from gatestream.server.admission import Admission
from gatestream.server.errors import Refused
from gatestream.server.inputs import Input, faults
from gatestream.server.owner import Owner
from gatestream.server.sessions import SessionTable
from gatestream.server.slots import Array, Ints
from gatestream.server.work import GATES, OUTPUTS, Chunks, Entries, Singles, Steps, compact, refuse_one


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
        admission: of the model.
        wants: by slot, OUTPUTS and GATES as its owner asked.

    Attributes:
        message: of many entries, with nothing wrong; None: none.
        steps: messages of one entry, by slot.
    """

    def __init__(
        self, inputs: Sequence[Input], sessions: SessionTable, admission: Admission, wants: npt.NDArray[np.uint8]
    ):
        self._inputs = inputs
        self._sessions = sessions
        self._admission = admission
        self._wants = wants
        self.message: Packet | None = None
        self.steps: dict[int, Step] = {}

    def accept(self, owner: Owner, entries: Entries, first: Ints | None, inputs: Sequence[Array]) -> list[Packet]:
        """Check and admit a message's chunks; the owner hears of each entry that is refused.

        Args:
            owner: who holds the sessions.
            entries: of the message.
            first: [entries], the position that each is meant for; None: whatever position it is.
            inputs: in the spec's order, each [rows, *shape].

        Returns:
            What was accepted, a packet for each kind of answer.
        """
        accepted = self._sessions.accepted[entries.slots]
        meant = accepted if first is None else first
        if refusals := faults(self._inputs, inputs, entries.lengths, entries.offsets, accepted, meant):
            good = np.ones(len(accepted), np.bool_)
            for error, bad in refusals:
                owner.refused(error, entries.handles[bad], accepted[bad], meant[bad], entries.lengths[bad])
                good &= ~bad
            if not good.any():
                return []
            accepted, meant, entries = accepted[good], meant[good], self._only(good, entries)
        # As if all wanted all that any wants.
        admitted = reduce(or_, entries.kinds)
        try:
            self._admission.take(owner, entries.rows, admitted)
        except Refused as error:
            owner.refused(error, entries.handles, accepted, meant, entries.lengths)
            return []
        if entries.rows < len(inputs[0]):
            # Without the refused rows: a message must not stay in memory for the sake of a few.
            inputs = [compact(column, entries.offsets, entries.lengths) for column in inputs]
            entries = entries._replace(offsets=np.cumsum(entries.lengths) - entries.lengths)
        self._sessions.accepted[entries.slots] = accepted + entries.lengths
        if len(entries.kinds) == 1:
            return [self._packet(owner, entries, inputs, admitted)]
        wants = self._wants[entries.slots]
        return [self._packet(owner, self._only(wants == kind, entries), inputs, admitted) for kind in entries.kinds]

    def accept_one(
        self, owner: Owner, handle: int, slot: int, length: int, first: int, columns: Sequence[bytes], wants: int
    ) -> bool:
        """Admit a message of one entry, as `Engine.submit_one`; whether there was room for it."""
        try:
            self._admission.take(owner, length, wants)
        except Refused as error:
            accepted = int(self._sessions.accepted[slot])
            refuse_one(owner, error, handle, accepted, accepted if first < 0 else first, length)
            return False
        self.steps[slot] = (owner, handle, length, first, columns, wants)
        return True

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
                own = [column[offsets[k] : offsets[k] + lengths[k]] for column in inputs]
                # Large messages are mostly alone: their numbers are looked at once.
                error = found[0][0] if len(steps) == 1 else self._fault(own, int(accepted[k]), int(meant[k]))
                owner, handle, length, *_, kind = steps[k]
                self._admission.withdrawn(owner, length, kind)
                refuse_one(owner, error, handle, int(accepted[k]), int(meant[k]), length)
            if not good.any():
                return None
            slots, lengths, offsets, accepted = (column[good] for column in (slots, lengths, offsets, accepted))
            owners, handles, wants = (tuple(compress(given, good)) for given in (owners, handles, wants))
            longest = int(lengths.max())
            inputs, offsets = [compact(column, offsets, lengths) for column in inputs], np.cumsum(lengths) - lengths
        self._sessions.accepted[slots] = accepted + lengths
        item = Singles(self._admission, owners, handles, wants, inputs, max(wants) >= GATES, len(slots))
        return Packet(item, slots, lengths, offsets, longest, len(slots) if longest == 1 else int(lengths.sum()))

    def _only(self, which: npt.NDArray[np.bool_], entries: Entries) -> Entries:
        handles, slots, lengths, offsets = (column[which] for column in entries[:4])
        return Entries.of(handles, slots, lengths, offsets, self._wants[slots])

    def _fault(self, inputs: Sequence[Array], accepted: int, meant: int) -> Refused:
        """What is wrong with an entry, by its own place and numbers alone."""
        length, zero = np.array([len(inputs[0])]), np.zeros(1, np.int64)
        ((error, _),) = faults(self._inputs, inputs, length, zero, np.array([accepted]), np.array([meant]))
        return error

    def _packet(self, owner: Owner, entries: Entries, inputs: Sequence[Array], admitted: int) -> Packet:
        """Of entries of which all want the same kind of answer."""
        handles, slots, lengths, offsets, rows, longest, (kind,) = entries
        outputs, gates = bool(kind & OUTPUTS), bool(kind & GATES)
        item = Chunks(self._admission, owner, handles, inputs, outputs, gates, len(slots), admitted)
        return Packet(item, slots, lengths, offsets, longest, rows)
