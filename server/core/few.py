"""A few single steps that have just come: a run of them without arrays of a few numbers.

NumPy takes about as long to make an array of two numbers as the model to take a step more. What is the same for many
steps in columns is done here for each of a few.
"""

import itertools
from collections.abc import Collection, Iterable, Sequence
from typing import Any, Final

import numpy as np

from gatestream.protos.layout import Input
from gatestream.server.arrays import Array, Ints
from gatestream.server.backend.state import StateRows
from gatestream.server.core.admission import Admission
from gatestream.server.core.batches import GATES, OUTPUTS, Gathered, OneEntry, each_row
from gatestream.server.core.reply_sink import ReplySink
from gatestream.server.core.run import Run
from gatestream.server.core.sessions import SessionTable

# A NamedTuple's own is Python, and felt where there is one for each message.
_new = tuple.__new__


class FewEntries:
    """Single steps of a few sessions, which are computed together.

    Args:
        entries: messages of one step, each of another session.
        since: when the first of them came.
    """

    __slots__ = ("_since", "entries")

    number: Final = 0
    """As `Batch`: it is not queued."""

    def __init__(self, entries: Sequence[OneEntry], since: float):
        self.entries = entries
        self._since = since

    def entry(self, entry: int) -> tuple[ReplySink, int, int]:
        """As `Batch`."""
        one = self.entries[entry]
        return one.owner, one.handle, one.reply_mask

    def places(self) -> list[tuple[int, int, int]]:
        """As `Batch`."""
        return [(one.session, k, 1) for k, one in enumerate(self.entries)]

    def release(self, admission: Admission, entries: Ints | None, lengths: Any) -> None:
        """As `Batch`, of all entries."""
        for one in self.entries:
            admission.computed(one.owner, 1, one.reply_mask)

    def cut(self, lengths: Any, outputs: Sequence[Array], gates: Sequence[Array]) -> Iterable[Any]:
        """As `Batch`, of all entries: each one's own rows, as bytes."""
        output_rows = zip(*map(each_row, outputs), strict=True)
        gate_rows = zip(*map(each_row, gates), strict=True) if gates else itertools.repeat(())
        return zip(output_rows, gate_rows, strict=False)

    def answer(self, entries: Ints | None, first: Sequence[int], lengths: Any, columns: Iterable[Any]) -> None:
        """As `Batch`, of all entries."""
        for (owner, handle, _, _, _, _, reply_mask), position, (output, gate) in zip(
            self.entries, first, columns, strict=True
        ):
            # Without `tell`, whose call is felt here.
            try:
                owner.result(
                    handle, position, 1, output if reply_mask & OUTPUTS else (), gate if reply_mask & GATES else ()
                )
            except Exception as error:
                owner.failed(error)

    def gathered(self, inputs: Sequence[Input]) -> Gathered:
        """The same as a batch that can be queued.

        Args:
            inputs: of the model.
        """
        owners, handles, sessions, _, _, columns, reply_mask = zip(*self.entries, strict=True)
        count = len(owners)
        return Gathered(
            np.array(sessions),
            np.ones(count, np.int64),
            np.arange(count),
            count,
            1,
            [item.rows(b"".join(data)) for item, data in zip(inputs, zip(*columns, strict=True), strict=True)],
            max(reply_mask) >= GATES,
            self._since,
            owners,
            handles,
            reply_mask,
        )


def run_of_few(
    steps: Collection[OneEntry], since: float, inputs: Sequence[Input], table: SessionTable, rows: StateRows
) -> Run | None:
    """A run of single steps, which are then accepted; None: something is wrong with one, or it is not as simple.

    Args:
        steps: messages of one entry, each of another session, of which none has anything queued.
        since: when the first of them came.
        inputs: of the model.
        table: its sessions.
        rows: their state.
    """
    entries = list(steps)
    _, _, sessions, lengths, firsts, columns, masks = zip(*entries, strict=True)
    accepted = table.accepted
    slots, positions = list(map(table.slot.item, sessions)), tuple(map(accepted.item, sessions))
    if (
        max(lengths) > 1
        or (firsts != positions and any(first not in (-1, at) for first, at in zip(firsts, positions, strict=True)))
        or any(map(rows.is_fresh, slots))
    ):
        return None
    values = []
    for item, data in zip(inputs, zip(*columns, strict=True), strict=True):
        column = item.rows(b"".join(data))
        if not item.all_good(column):
            return None
        values.append(column[:, None])
    for session, position in zip(sessions, positions, strict=True):
        accepted[session] = position + 1
    count = len(entries)
    parts = ((FewEntries(entries, since), 0, count),)
    who = sessions, slots, lengths, count
    where = "alone" if count == 1 else "at_once"
    return _new(Run, (*who, 1, count, max(masks) >= GATES, since, where, values, parts, None, None))
