"""The part of a lane that is on its way, and the account of its answers."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from gatestream.client.columns import Array
from gatestream.client.errors import ExhaustedError, GatestreamError, ProtocolError
from gatestream.client.work import Chunk, Control, Ints, Kind

Bools = NDArray[np.bool_]


class Entries(NamedTuple):
    """Columns of a Steps message.

    Attributes:
        firsts: position of each entry's first step.
        lengths: steps of each entry.
        inputs: per input, the rows of all entries.
    """

    firsts: list[int]
    lengths: list[int]
    inputs: list[bytes]


class Flight:
    """Work that is on its way: one control, or the steps of one or more chunks together.

    A row is one member's entry.

    Attributes:
        ends: per work, where its steps end among the flight's `length`; a control counts as one.
        base: position of each row's first step.
        taken: steps of each row that were answered.
        open: rows that still lack an answer; `waiting` of them.
        again: rows that were refused for lack of room.
        due: the caller wants those sent again.
        failure: of the first row that failed.
        results: per column (outputs, then gates), [rows, length, ...]; zero where not taken.
    """

    def __init__(self, works: Sequence[Chunk | Control], ends: list[int], columns: list[Array], base: Ints) -> None:
        self.works = works
        self.ends = ends
        self.length = ends[-1]
        self.members = works[0].members
        self.columns = columns
        self.base = base
        self.taken: Ints = np.zeros(len(base), np.int64)
        self.open: Bools = np.ones(len(base), np.bool_)
        self.waiting = len(base)
        self.again: Bools = np.zeros(len(base), np.bool_)
        self.due = False
        self.refusal: ExhaustedError | None = None
        self.failure: GatestreamError | None = None
        self.results: list[Array] | None = None
        self._all: Ints = np.arange(len(base))

    @property
    def control(self) -> Control | None:
        """The control that this is, if it is one."""
        work = self.works[0]
        return work if isinstance(work, Control) else None

    @property
    def paused(self) -> bool:
        """Whether it stands for a pause, which nobody answers."""
        return self.control is not None and self.control.kind is Kind.PAUSE

    @property
    def sendable(self) -> Ints:
        """The rows that the next message carries."""
        return np.flatnonzero(self.again) if self.due else self._all

    def left(self, rows: Ints) -> int:
        """Steps of these rows that were not answered."""
        if not self.due and self.results is None:
            return self.length * len(rows)
        return int((self.length - self.taken[rows]).sum())

    def send(self) -> Ints:
        """Note that a message carries the `sendable` rows, and return them."""
        rows = self.sendable
        if self.due:
            self.again[rows] = False
            self.open[rows] = True
            self.waiting += len(rows)
            self.due = False
        return rows

    def entries(self) -> Entries:
        """What the next message carries: the steps of the `sendable` rows that were not answered."""
        if not self.due:
            columns = [column.tobytes() for column in self.columns]
            return Entries(self.base.tolist(), [self.length] * len(self.members), columns)
        rows = self.sendable
        taken = self.taken[rows]
        columns = [
            b"".join(column[row, first:].tobytes() for row, first in zip(rows, taken, strict=True))
            for column in self.columns
        ]
        return Entries((self.base[rows] + taken).tolist(), (self.length - taken).tolist(), columns)

    def rows_of(self, members: Ints) -> Ints:
        """The members' rows.

        Raises:
            ProtocolError: one is not in it, or lacks no answer.
        """
        if len(members) == len(self.members) == self.waiting and bool((members == self.members).all()):
            return self._all
        rows = np.searchsorted(self.members, members)
        inside = bool((rows < len(self.members)).all())
        if not inside or (self.members[rows] != members).any() or not self.open[rows].all():
            raise ProtocolError("an answer came for a session that waits for none")
        if len(rows) > 1 and (np.diff(np.sort(rows)) == 0).any():
            raise ProtocolError("one message answered a session twice")
        return rows

    def take(self, rows: Ints, lengths: Ints, firsts: Ints, columns: list[Array]) -> None:
        """Steps were answered.

        Args:
            rows: distinct.
            lengths: steps answered, by row.
            firsts: position of the first of them, by row.
            columns: outputs, then gates: the answers to all rows' steps, one after another.

        Raises:
            ProtocolError: not the steps that come next.
        """
        fresh = rows is self._all and self.results is None
        if fresh and bool((lengths == self.length).all()) and bool((firsts == self.base).all()):
            self._take_all(columns)
            return
        begin = self.taken[rows]
        end = begin + lengths
        expected = self.base[rows] + begin
        if not ((firsts == expected) & (lengths > 0) & (end <= self.length)).all():
            raise ProtocolError(
                f"steps were answered from positions {firsts.tolist()}, as many as {lengths.tolist()}; "
                f"those from {expected.tolist()} come next"
            )
        self._scatter(rows, begin, lengths, columns)
        self.taken[rows] = end
        self._shut(rows[end == self.length])

    def _take_all(self, columns: list[Array]) -> None:
        """All of it at once, the usual case."""
        shape = len(self.members), self.length
        # Copied, since the wire's buffer is read-only.
        self.results = [each.reshape(*shape, *each.shape[1:]).copy() for each in columns]
        self.taken[:] = self.length
        self.open[:] = False
        self.waiting = 0

    def _scatter(self, rows: Ints, begin: Ints, lengths: Ints, columns: list[Array]) -> None:
        if self.results is None:
            shape = (len(self.members), self.length)
            self.results = [np.zeros((*shape, *each.shape[1:]), each.dtype) for each in columns]
        ends = np.cumsum(lengths)
        row = np.repeat(rows, lengths)
        step = np.arange(ends[-1]) + np.repeat(begin - ends + lengths, lengths)
        for result, column in zip(self.results, columns, strict=True):
            result[row, step] = column

    def acknowledge(self, rows: Ints) -> None:
        """A control was carried out for these rows."""
        self.taken[rows] = 1
        self._shut(rows)

    def fail(self, rows: Ints, error: GatestreamError) -> None:
        """These rows get no more."""
        if len(rows):
            self._shut(rows)
            self.again[rows] = False
            self.failure = self.failure or error

    def refuse(self, rows: Ints, refusal: ExhaustedError) -> None:
        """There was no room for these rows; they may be sent again later."""
        self._shut(rows)
        self.again[rows] = True
        self.refusal = refusal

    def _shut(self, rows: Ints) -> None:
        self.waiting -= int(np.count_nonzero(self.open[rows]))
        self.open[rows] = False
