"""Accepted steps, from the message that asked for them to its answer.

A batch is what one message asks for (`StepBatch`), or what several messages of one entry (`OneEntry`) do that came
together (`Gathered`; single steps of a few: `core.few`). It says to the engine who has reserved what, and tells owners.
"""

import itertools
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt

from gatestream.server.arrays import Array, Ints
from gatestream.server.core.admission import Admission
from gatestream.server.core.reply_sink import ReplySink, tell

OUTPUTS: Final = 1
GATES: Final = 2
"""A reply mask: what a session's owner wants back, as bits."""


class Entries(NamedTuple):
    """Whose sessions a message steps, and how far; one element of each array for each entry.

    Attributes:
        handles: what the owner calls the sessions.
        sessions: each at most once.
        lengths: steps of each, at least 1.
        offsets: where in the message's inputs each begins.
        rows: of all entries.
        longest: steps of the longest entry.
        kinds: OUTPUTS and GATES, in all combinations that one of them wants.
    """

    handles: Ints
    sessions: Ints
    lengths: Ints
    offsets: Ints
    rows: int
    longest: int
    kinds: Sequence[int]

    @classmethod
    def of(cls, handles: Ints, sessions: Ints, lengths: Ints, offsets: Ints, masks: npt.NDArray[np.uint8]) -> "Entries":
        """Of these columns, and the reply mask of each entry; good for as long as that."""
        alike = np.count_nonzero(masks == masks[0]) == len(masks)
        kinds = [int(masks[0])] if alike else np.unique(masks).tolist()
        return cls(handles, sessions, lengths, offsets, int(lengths.sum()), int(lengths.max()), kinds)


class OneEntry(NamedTuple):
    """A message of one entry, for which there was room. Its numbers have yet to be looked at.

    Attributes:
        owner: who holds the session.
        handle: what the owner calls it.
        session: that it steps.
        length: steps, at least 1.
        first: the position that it is meant for; -1: whatever position it is.
        columns: in the spec's order, the bytes of `length` rows.
        reply_mask: OUTPUTS and GATES.
    """

    owner: ReplySink
    handle: int
    session: int
    length: int
    first: int
    columns: Sequence[bytes]
    reply_mask: int


@dataclass(slots=True)
class Batch(ABC):
    """Accepted entries, which are computed together or are queued; one element of each array for each entry.

    Attributes:
        sessions: each at most once.
        lengths: steps of each.
        offsets: where in the inputs each begins.
        rows: of all entries.
        longest: steps of the longest entry.
        inputs: in the spec's order, the rows, each [rows, *shape].
        gates: whether any entry wants them.
        since: when they came, or the latest run with some of them was over.
        number: by which the scheduler knows it; 0: it is not queued.
        unfinished: of those that are queued, the entries not yet answered in full.
    """

    sessions: Ints
    lengths: Ints
    offsets: Ints
    rows: int
    longest: int
    inputs: Sequence[Array]
    gates: bool
    since: float
    number: int = field(init=False, default=0)
    unfinished: int = field(init=False, default=0)

    @abstractmethod
    def entry(self, entry: int) -> tuple[ReplySink, int, int]:
        """Of one entry: its owner, what that calls the session, and OUTPUTS and GATES as it was admitted."""

    def one(self, entry: int) -> OneEntry:
        """One entry that nothing was computed of, as a message of its own, meant for wherever its session stands."""
        owner, handle, reply_mask = self.entry(entry)
        begin, length = int(self.offsets[entry]), int(self.lengths[entry])
        columns = [column[begin : begin + length].tobytes() for column in self.inputs]
        return OneEntry(owner, handle, int(self.sessions[entry]), length, -1, columns, reply_mask)

    def places(self) -> list[tuple[int, int, int]]:
        """Of each entry the session, its number and its steps."""
        return list(zip(self.sessions.tolist(), itertools.count(), self.lengths.tolist(), strict=False))

    @abstractmethod
    def release(self, admission: Admission, entries: Ints | None, lengths: Ints) -> None:
        """Give back what was reserved for some entries' steps, which were taken.

        Args:
            admission: that it is given back to.
            entries: which, [n]; None: all.
            lengths: steps of each, [n].
        """

    @abstractmethod
    def cut(self, lengths: Ints, outputs: Sequence[Array], gates: Sequence[Array]) -> Any:
        """What the owners of some entries are to be told.

        Args:
            lengths: steps of each, [n].
            outputs: of these entries, in the spec's order, each [n, time, *shape].
            gates: the same; empty where no entry of the run wants them.
        """

    @abstractmethod
    def answer(self, entries: Ints | None, first: Ints, lengths: Ints, columns: Any) -> None:
        """Tell the owners what came of some entries. Raises nothing.

        Args:
            entries: which, [n]; None: all.
            first: position of each one's first step, [n].
            lengths: steps of each, [n].
            columns: as `cut` made them.
        """


@dataclass(slots=True)
class StepBatch(Batch):
    """The entries of one message that want the same kind of answer.

    Attributes:
        owner: who holds the sessions.
        handles: what the owner calls them.
        outputs: whether they want them.
        admitted: OUTPUTS and GATES, as they were let in.
    """

    owner: ReplySink
    handles: Ints
    outputs: bool
    admitted: int

    def entry(self, entry: int) -> tuple[ReplySink, int, int]:
        """As `Batch`."""
        return self.owner, int(self.handles[entry]), self.admitted

    def release(self, admission: Admission, entries: Ints | None, lengths: Ints) -> None:
        """As `Batch`."""
        admission.computed(self.owner, int(lengths.sum()), self.admitted)

    def cut(self, lengths: Ints, outputs: Sequence[Array], gates: Sequence[Array]) -> tuple[list[Array], list[Array]]:
        """As `Batch`: columns for the message's answer."""
        return (
            [flatten(batch, lengths) for batch in outputs] if self.outputs else [],
            [flatten(batch, lengths) for batch in gates] if self.gates else [],
        )

    def answer(
        self, entries: Ints | None, first: Ints, lengths: Ints, columns: tuple[list[Array], list[Array]]
    ) -> None:
        """As `Batch`."""
        handles = self.handles if entries is None else self.handles[entries]
        tell(self.owner, self.owner.results, handles, first, lengths, *columns)


@dataclass(slots=True)
class Gathered(Batch):
    """Entries that came alone in their messages, of any owners.

    Attributes:
        owners: of each entry.
        handles: what each one's owner calls its session.
        reply_mask: OUTPUTS and GATES, of each entry.
    """

    owners: Sequence[ReplySink]
    handles: Sequence[int]
    reply_mask: Sequence[int]

    def entry(self, entry: int) -> tuple[ReplySink, int, int]:
        """As `Batch`."""
        return self.owners[entry], self.handles[entry], self.reply_mask[entry]

    def release(self, admission: Admission, entries: Ints | None, lengths: Ints) -> None:
        """As `Batch`."""
        owners, reply_mask = self.owners, self.reply_mask
        if len({owner.account for owner in owners}) == 1 == len(set(reply_mask)):
            # Of one tenant, as they mostly are, they are counted off together: that is felt.
            admission.computed(owners[0], int(lengths.sum()), reply_mask[0])
            return
        which = range(len(owners)) if entries is None else entries.tolist()
        for k, length in zip(which, lengths.tolist(), strict=True):
            admission.computed(owners[k], length, reply_mask[k])

    def cut(self, lengths: Ints, outputs: Sequence[Array], gates: Sequence[Array]) -> Iterable[Any]:
        """As `Batch`: each entry's own rows, as bytes."""
        output_rows = zip(*[_each(batch, lengths) for batch in outputs], strict=True)
        gate_rows = zip(*[_each(batch, lengths) for batch in gates], strict=True) if gates else itertools.repeat(())
        return zip(output_rows, gate_rows, strict=False)

    def answer(self, entries: Ints | None, first: Ints, lengths: Ints, columns: Iterable[Any]) -> None:
        """As `Batch`."""
        owners, handles, wanted = self.owners, self.handles, self.reply_mask
        which = range(len(owners)) if entries is None else entries.tolist()
        for entry, position, length, (output, gate) in zip(
            which, first.tolist(), lengths.tolist(), columns, strict=False
        ):
            reply_mask, owner = wanted[entry], owners[entry]
            # Without `tell`, whose call is felt here.
            try:
                owner.result(
                    handles[entry],
                    position,
                    length,
                    output if reply_mask & OUTPUTS else (),
                    gate if reply_mask & GATES else (),
                )
            except Exception as error:
                owner.failed(error)


def gather(column: Array, offsets: Ints, steps: int) -> Array:
    """`steps` rows from each offset on, [batch, steps, *shape]; past the column's end its last row is repeated.

    Args:
        column: [rows, *shape].
        offsets: [batch].
        steps: time steps.
    """
    # Rows past an entry's length belong to its neighbour: the model ignores them.
    return column.take(offsets[:, None] + np.arange(steps), axis=0, mode="clip")


def compact(column: Array, offsets: Ints, lengths: Ints) -> Array:
    """A copy of some entries' rows, one entry after another.

    Args:
        column: [rows, *shape].
        offsets: [entries], where in the column each entry begins.
        lengths: [entries], its rows.
    """
    begins = np.cumsum(lengths) - lengths
    return column[np.repeat(offsets - begins, lengths) + np.arange(int(lengths.sum()))]


def flatten(batch: Array, lengths: Ints) -> Array:
    """The real rows of a ragged batch, one after another, contiguous: [rows, *shape].

    Args:
        batch: [batch, time, *shape].
        lengths: [batch].
    """
    steps = batch.shape[1]
    if steps == 1 or bool((lengths == steps).all()):
        return np.ascontiguousarray(batch.reshape(-1, *batch.shape[2:]))
    return batch[np.arange(steps) < lengths[:, None]]


def each_row(batch: Array) -> list[bytes]:
    """The bytes of each row, [rows, ...]."""
    whole, size = batch.tobytes(), batch.nbytes // len(batch)
    return [whole[at : at + size] for at in range(0, len(whole), size)]


def _each(batch: Array, lengths: Ints) -> list[bytes]:
    """Each row's real steps."""
    if batch.shape[1] == 1:
        return each_row(batch)
    return [batch[k, :length].tobytes() for k, length in enumerate(lengths.tolist())]
