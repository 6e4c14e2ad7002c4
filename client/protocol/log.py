"""What a kept session was sent that its server may have to be told again, until a checkpoint covers it.

Steps stand here as they left, and their numbers are copied when they leave: the caller's arrays are the caller's.
"""

import itertools
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from gatestream.client.columns import Array
from gatestream.client.protocol.in_flight import InFlight
from gatestream.client.protocol.requests import Ints
from gatestream.protos.gatestream.v1 import gatestream_pb2 as pb

# What an entry takes besides its columns' numbers.
_ENTRY_BYTES = 512
_copy: Callable[[Array], Array] = np.ndarray.copy
_FOREVER = np.iinfo(np.int64).max


class Budget:
    """Bytes that the logs of one client may hold, all together.

    Attributes:
        limit: at which new work waits until a checkpoint lets something go.
        used: steps on their way included.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.used = 0

    @property
    def full(self) -> bool:
        """Whether new work has to wait."""
        return self.used >= self.limit


class Entry(NamedTuple):
    """Steps or a reset that left in one message and were answered.

    Attributes:
        offsets: of all members of the queue, as they were then, [n].
        members: who took part, in order, [rows].
        base: the position of each of them, [rows].
        lengths: steps of each that were taken; one number where all took as many.
        columns: per input, [rows, time, ...]; None: a reset.
        bytes: that it counts for.
        end: the sequence behind it, where the queue has one member; else 0.
    """

    offsets: Ints
    members: Ints
    base: Ints
    lengths: Ints | int
    columns: tuple[Array, ...] | None
    bytes: int
    end: int = 0

    def ends(self) -> Ints:
        """The sequence behind it, by row."""
        return self.base + self.offsets[self.members] + (1 if self.columns is None else self.lengths)

    def row(self, row: int) -> tuple[int, int]:
        """The sequences at which a row begins and ends."""
        begin = int(self.base[row]) + int(self.offsets[self.members[row]])
        if self.columns is None:
            return begin, begin + 1
        return begin, begin + int(self.lengths if isinstance(self.lengths, int) else self.lengths[row])


Piece = list[Array] | None
"""Per input, [steps, ...]; None: a reset."""


class Log:
    """Of one queue.

    Attributes:
        opens: how each member was opened; its epoch is the highest that was proposed.
        opened: members that a server has opened.
        durable: the sequence of each member before which nothing will be asked for again, [n].
        unsettled: members of which only the server knows where they stand: a state is being set, or somebody else
            has set it.
        aimed: the sequence at which a state was asked to be set last.
    """

    def __init__(self, budget: Budget, opens: Sequence[pb.Open]) -> None:
        self.budget = budget
        self.opens = list(opens)
        self.opened: set[int] = set()
        self.durable: Ints = np.zeros(len(opens), np.int64)
        self.unsettled: set[int] = set()
        self.aimed = 0
        # Entries as plain tuples of arrays, which the garbage collector passes over: there may be a hundred thousand.
        self._entries: deque[tuple[Any, ...]] = deque()
        # As far as the server was told by `Acknowledge` since the latest of them was opened, for all together.
        self._told: Ints | None = None

    # ---- What is sent and answered -----------------------------------------------------------------

    def leaving(self, columns: Sequence[Array], *, own: bool) -> tuple[tuple[Array, ...], int]:
        """Steps leave: their columns, copied unless they are our own, and the bytes that they count for."""
        kept = tuple(columns if own else map(_copy, columns))
        size = _ENTRY_BYTES
        for column in kept:
            size += column.nbytes
        self.budget.used += size
        return kept, size

    def answered(self, in_flight: InFlight, offsets: Ints) -> None:
        """Keep steps that were answered, as far as they were taken."""
        lengths: Ints | int = in_flight.length if in_flight.ragged is None else in_flight.ragged
        if in_flight.failures:
            lengths = in_flight.taken
        self._append(offsets, in_flight.members, in_flight.base, lengths, in_flight.columns, in_flight.logged)

    def was_reset(self, members: Ints, positions: Ints, offsets: Ints) -> None:
        """Keep a reset that was answered, to its members in any order."""
        order = members.argsort()
        self._append(offsets, members[order], positions[order], 0, None, _ENTRY_BYTES)
        self.budget.used += _ENTRY_BYTES

    def _append(
        self,
        offsets: Ints,
        members: Ints,
        base: Ints,
        lengths: Ints | int,
        columns: Sequence[Array] | None,
        size: int,
    ) -> None:
        end = 0
        if len(offsets) == 1:
            steps = 1 if columns is None else lengths if isinstance(lengths, int) else int(lengths[0])
            end = base.item(0) + offsets.item(0) + steps
        self._entries.append((offsets, members, base, lengths, columns, size, end))

    def is_durable(self, members: Ints, sequences: Ints) -> None:
        """A checkpoint covers so much."""
        self.durable[members] = np.maximum(self.durable[members], sequences)
        self.trim()

    def gone(self, members: Ints) -> None:
        """These members are closed: nothing will be asked for again."""
        self.durable[members] = _FOREVER
        self.trim()

    def trim(self) -> None:
        """Let go of what lies below the durable sequences."""
        entries = self._entries
        if len(self.durable) == 1:
            # As most queues are, each with as many entries as it takes steps between two checkpoints.
            durable = self.durable.item(0)
            while entries and entries[0][-1] <= durable:
                self.budget.used -= entries.popleft()[-2]
            return
        while entries and self._below(Entry._make(entries[0])):
            self.budget.used -= Entry._make(entries.popleft()).bytes
        if self.budget.full:
            # A member that was left out for long holds what stands behind its latest entry.
            before = self.bytes
            self._entries = deque(each for each in entries if not self._below(Entry._make(each)))
            self.budget.used -= before - self.bytes

    def _below(self, entry: Entry) -> bool:
        return bool((entry.ends() <= self.durable[entry.members]).all())

    @property
    def bytes(self) -> int:
        """That the entries count for."""
        return sum(Entry._make(each).bytes for each in self._entries)

    def untold(self, sequences: Ints) -> bool:
        """Whether to acknowledge these: there are entries, and the server was not told before."""
        if not self._entries or (self._told is not None and np.array_equal(self._told, sequences)):
            return False
        self._told = sequences
        return True

    # ---- Sending again -----------------------------------------------------------------------------

    def reopening(self, member: int) -> pb.Open:
        """A request that opens a member once more, with the next epoch."""
        # What was told may not have arrived, and steps that are sent again say that less is known.
        self._told = None
        again = self.opens[member]
        again.epoch += 1
        if member in self.opened:
            again.mode = pb.OPEN_MODE_RESUME
        return again

    def since(self, member: int, sequence: int, until: int, latest: Entry | None) -> list[Piece] | None:
        """What a member was sent from one sequence to another, in order; None: it is not all here.

        Args:
            member: of the queue.
            sequence: of the first.
            until: the sequence of the first that is not wanted.
            latest: what stands behind all entries, if anything does: steps that are answered in part.
        """
        pieces: list[Piece] = []
        at = until
        for entry in itertools.chain([] if latest is None else [latest], map(Entry._make, reversed(self._entries))):
            if at <= sequence:
                break
            row = int(np.searchsorted(entry.members, member))
            if row == len(entry.members) or entry.members[row] != member:
                continue
            begin, end = entry.row(row)
            if begin == end:
                continue
            if end != at:
                return None
            at = max(begin, sequence)
            # A message that was refused in part had more than was taken.
            taken = slice(at - begin, end - begin)
            pieces.append(None if entry.columns is None else [column[row, taken] for column in entry.columns])
        return pieces[::-1] if at == sequence else None
