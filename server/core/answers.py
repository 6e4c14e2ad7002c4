"""The end of everything that was accepted: an answer, or a refusal.

What admission reserved is given back here, and nowhere else.
"""

from collections.abc import Callable, Iterable, Sequence
from itertools import groupby
from typing import Any

import numpy as np

from gatestream.server.arrays import Array, Ints
from gatestream.server.core.admission import Admission
from gatestream.server.core.batches import Batch, OneEntry
from gatestream.server.core.controls import Control
from gatestream.server.core.few import FewEntries
from gatestream.server.core.reply_sink import Refusals, refuse_one
from gatestream.server.core.session_queues import Place, SessionQueues
from gatestream.server.core.sessions import UNKNOWN, SessionTable
from gatestream.server.errors import Refused


class Answers:
    """Tells the owners of one model's sessions what became of what they asked for.

    Args:
        admission: of the model.
        sessions: of the model.
        queues: of these sessions.
    """

    def __init__(self, admission: Admission, sessions: SessionTable, queues: SessionQueues):
        self._admission = admission
        self._sessions = sessions
        self._queues = queues

    def complete(
        self,
        batch: Batch | FewEntries,
        entries: Ints | None,
        first: Any,
        lengths: Any,
        outputs: Sequence[Array],
        gates: Sequence[Array],
    ) -> None:
        """Answer steps that were taken.

        Args:
            batch: whose they are.
            entries: which of its entries, [n]; None: all.
            first: position of each one's first step, [n].
            lengths: steps of each, [n].
            outputs: of these entries, in the spec's order, each [n, time, *shape].
            gates: the same; empty where no entry of the run wants them.
        """
        try:
            columns: Any = batch.cut(lengths, outputs, gates)
        except Exception as error:
            which = range(len(batch.places())) if entries is None else entries.tolist()
            for entry, length in zip(which, np.asarray(lengths).tolist(), strict=True):
                owner, _, reply_mask = batch.entry(entry)
                self._admission.withdrawn(owner, length, reply_mask)
                owner.failed(error)
            return
        batch.release(self._admission, entries, lengths)
        batch.answer(entries, first, lengths, columns)

    def refuse(self, places: Iterable[Place], why: Callable[[Place], Refused], *, keep_musts: bool = False) -> None:
        """Refuse steps and controls that will not be done.

        Args:
            places: that they had, session by session, each session's in order.
            why: for each of them.
            keep_musts: put controls that must be done into the queues again.
        """
        refusals = Refusals()
        for session, mine in groupby(places, lambda place: place.session):
            position = first = int(self._sessions.position[session])
            # Not of one that waits to be told where it stands.
            self._sessions.accepted[session] = position if self._sessions.accepted[session] >= 0 else UNKNOWN
            for place in mine:
                _, item, entry, left = place
                if not isinstance(item, Control):
                    owner, handle, reply_mask = item.entry(entry)
                    self._admission.withdrawn(owner, left, reply_mask)
                    refusals.add(owner, why(place), handle, position, first, left)
                    first += left
                    if item.number:
                        self._queues.count_off(item, 1)
                elif item.must and keep_musts:
                    self._queues.scheduler.add_controls(item.number, np.array([session]), np.array([entry]))
                else:
                    # Of one session, what comes first is said first.
                    refusals.send()
                    self.done(item, 1)
                    item.fail(why(place), item.owner, np.array([session]), item.handles[[entry]])
        refusals.send()

    def shorten(self, places: Iterable[Place]) -> None:
        """Give back what was reserved for the last steps of entries that are under way, which nobody waits for."""
        for place in places:
            owner, _, reply_mask = place.item.entry(place.entry)
            self._admission.withdrawn(owner, place.left, reply_mask)

    def refuse_one(self, one: OneEntry, error: Refused, accepted: int, meant: int) -> None:
        """Refuse a message of one entry, before it is queued.

        Args:
            one: the message.
            error: why.
            accepted: where the session takes its next step.
            meant: the position that the message was meant for.
        """
        self._admission.withdrawn(one.owner, one.length, one.reply_mask)
        refuse_one(one.owner, error, one.handle, accepted, meant, one.length)

    def done(self, control: Control, count: int) -> None:
        """A control is done to so many of its sessions, or will not be."""
        self._admission.withdrawn(control.holder, count)
        self._queues.count_off(control, count)
