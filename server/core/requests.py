"""What can stand in a session's line: chunks of steps, and controls."""

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

from gatestream.server.arrays import Array, Ints
from gatestream.server.core.admission import Admission
from gatestream.server.core.owner import Holder, Owner, tell
from gatestream.server.errors import Refused

OUTPUTS: Final = 1
GATES: Final = 2
"""What a session's owner wants back, as bits."""


class Entries(NamedTuple):
    """Whose sessions a message steps, and how far; one element of each array for each entry.

    Attributes:
        handles: what the owner calls the sessions.
        slots: their state rows, each at most once.
        lengths: steps of each, at least 1.
        offsets: where in the message's inputs each begins.
        rows: of all entries.
        longest: steps of the longest entry.
        kinds: OUTPUTS and GATES, in all combinations that one of them wants.
    """

    handles: Ints
    slots: Ints
    lengths: Ints
    offsets: Ints
    rows: int
    longest: int
    kinds: Sequence[int]

    @classmethod
    def of(cls, handles: Ints, slots: Ints, lengths: Ints, offsets: Ints, wants: npt.NDArray[np.uint8]) -> "Entries":
        """Of these columns, and what the owner wants back of each; good for as long as that."""
        kinds = [int(wants[0])] if np.count_nonzero(wants == wants[0]) == len(wants) else np.unique(wants).tolist()
        return cls(handles, slots, lengths, offsets, int(lengths.sum()), int(lengths.max()), kinds)


@dataclass(slots=True)
class Chunks:
    """The accepted entries of one message that want the same kind of answer.

    Attributes:
        admission: what let them in.
        inputs: in the spec's order, the rows of the whole message, each [rows, *shape].
        gates: whether any entry wants them.
        unfinished: entries not yet answered in full.
        admitted: OUTPUTS and GATES, as they were let in.
        since: when they came, or the latest run with some of them was over.
    """

    admission: Admission
    owner: Owner
    handles: Ints
    inputs: Sequence[Array]
    outputs: bool
    gates: bool
    unfinished: int
    admitted: int
    since: float

    def answer(
        self, entries: Ints | None, first: Ints, lengths: Ints, outputs: list[Array], gates: list[Array]
    ) -> None:
        """Tell the owner what came of some entries.

        Args:
            entries: which, [n]; None: all.
            first: position of each one's first step, [n].
            lengths: steps of each, [n].
            outputs: of these entries, in the spec's order, each [n, time, *shape].
            gates: the same; empty where no entry of the tick wants them.
        """
        handles = self.handles if entries is None else self.handles[entries]
        columns = [flatten(batch, lengths) for batch in outputs] if self.outputs else []
        gate_columns = [flatten(batch, lengths) for batch in gates] if self.gates else []
        self.admission.computed(self.owner, int(lengths.sum()), self.admitted)
        tell(self.owner, self.owner.results, handles, first, lengths, columns, gate_columns)

    def withdraw(self, entry: int, length: int) -> tuple[Owner, int]:
        """Steps of an entry, which had been accepted, are not taken: its owner, and what that calls the session."""
        self.admission.withdrawn(self.owner, length, self.admitted)
        return self.owner, int(self.handles[entry])

    def unanswered(self, error: Exception, entries: Ints | None, lengths: Ints) -> None:
        """Steps were taken, and no answer could be made of them; arguments as in `answer`."""
        self.admission.withdrawn(self.owner, int(lengths.sum()), self.admitted)
        self.owner.failed(error)


@dataclass(slots=True)
class Singles:
    """Entries that came alone in their messages, of any owners, put together.

    Attributes:
        wants: OUTPUTS and GATES, of each entry.
        admission, inputs, gates, unfinished: as in `Chunks`.
        since: as in `Chunks`, of the one that came first.
    """

    admission: Admission
    owners: Sequence[Owner]
    handles: Sequence[int]
    wants: Sequence[int]
    inputs: Sequence[Array]
    gates: bool
    unfinished: int
    since: float

    def answer(
        self, entries: Ints | None, first: Ints, lengths: Ints, outputs: list[Array], gates: list[Array]
    ) -> None:
        """As in `Chunks`: every owner is told of its entry."""
        owners, handles, wanted, computed = self.owners, self.handles, self.wants, self.admission.computed
        output_rows = zip(*(_each(batch, lengths) for batch in outputs), strict=True)
        gate_rows = zip(*(_each(batch, lengths) for batch in gates), strict=True) if gates else itertools.repeat(())
        which, rows = range(len(owners)) if entries is None else entries.tolist(), lengths.tolist()
        if len({owner.account for owner in owners}) == 1 == len(set(wanted)):
            # Of one tenant, as they mostly are, they are counted off together: that is felt.
            computed(owners[0], sum(rows), wanted[0])
        else:
            for entry, length in zip(which, rows, strict=True):
                computed(owners[entry], length, wanted[entry])
        each = zip(which, first.tolist(), rows, output_rows, gate_rows, strict=False)
        for entry, position, length, output, gate in each:
            wants, owner = wanted[entry], owners[entry]
            # Without `tell`, whose call is felt here.
            try:
                owner.result(
                    handles[entry], position, length, output if wants & OUTPUTS else (), gate if wants & GATES else ()
                )
            except Exception as error:
                owner.failed(error)

    def withdraw(self, entry: int, length: int) -> tuple[Owner, int]:
        """As in `Chunks`."""
        self.admission.withdrawn(self.owners[entry], length, self.wants[entry])
        return self.owners[entry], self.handles[entry]

    def unanswered(self, error: Exception, entries: Ints | None, lengths: Ints) -> None:
        """As in `Chunks`."""
        which = range(len(self.owners)) if entries is None else entries.tolist()
        for entry, length in zip(which, lengths.tolist(), strict=True):
            owner, _ = self.withdraw(entry, length)
            owner.failed(error)


Steps = Chunks | Singles


Do = Callable[[Owner | None, Ints, Ints], None]
"""Does something for an owner to some of its sessions: their slots, and what it calls them."""

Fail = Callable[[Refused, Owner | None, Ints, Ints], None]
"""Says why it will not be done."""


@dataclass(slots=True)
class Control:
    """Something to do to sessions between two runs, to each in its turn. It counts as a row for each.

    Attributes:
        do: does it to those whose turn has come, together with those of other controls that do the same.
        fail: answers whoever asked.
        owner: who asked, if it is to know.
        holder: whose rows they are.
        handles: what the owner calls the sessions.
        must: done even when what stood before it in a line failed.
        unfinished: sessions that it has yet to be done to.
    """

    do: Do
    fail: Fail
    owner: Owner | None
    holder: Holder
    handles: Ints
    must: bool
    unfinished: int


def refuse_one(owner: Owner, error: Refused, handle: int, position: int, first: int, length: int) -> None:
    """Tell an owner that one entry's steps are not taken."""
    columns = (np.array([number]) for number in (handle, position, first, length))
    tell(owner, owner.refused, error, *columns)


class Refusals:
    """Accepted steps that are not taken, put together for each owner and each reason."""

    def __init__(self) -> None:
        self._steps: dict[tuple[Owner, Refused], list[tuple[int, int, int, int]]] = {}

    def add(self, owner: Owner, error: Refused, handle: int, position: int, first: int, length: int) -> None:
        """One entry's steps, as `Owner.refused` has them."""
        self._steps.setdefault((owner, error), []).append((handle, position, first, length))

    def send(self) -> None:
        """Tell the owners."""
        for (owner, error), steps in self._steps.items():
            tell(owner, owner.refused, error, *np.array(steps).T)
        self._steps.clear()


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


def _each(batch: Array, lengths: Ints) -> list[bytes]:
    """Each row's real steps."""
    if batch.shape[1] == 1:
        whole, size = batch.tobytes(), batch.nbytes // len(batch)
        return [whole[at : at + size] for at in range(0, len(whole), size)]
    return [batch[k, :length].tobytes() for k, length in enumerate(lengths.tolist())]
