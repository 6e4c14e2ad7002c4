"""The part of a queue that is on its way, and the account of its answers.

Most answers come whole: all that left together is answered together, and one call takes it. Only where they do not is
an account kept row by row.
"""

from collections.abc import Sequence
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from gatestream.client.columns import Array
from gatestream.client.errors import GatestreamError, ProtocolError, Retried
from gatestream.client.protocol.codec import varint, varints
from gatestream.client.protocol.requests import Chunk, Control, Ints, Kind

Bools = NDArray[np.bool_]


class InFlight:
    """Work that is on its way: one control, or the steps of one or more chunks together.

    A row is one member's entry.

    Attributes:
        works: what was asked, in order.
        ends: per work, where its steps end among the `length` steps; a control counts as one.
        members: by row.
        base: position of each row's first step.
        columns: per input, [rows, length, ...]; of each row its first `lengths` steps leave.
        steps: of all rows.
        parcel: the message that it left in, while nothing was heard of it.
        waiting: rows that still lack an answer.
        due: those rows are to leave again that were refused, or were on their way when a stream ended.
        logged: the bytes that it counts for in the queue's log, if the queue has one.
        failures: by member, why it gets no more.
        results: per column (outputs, then gates), [rows, length, ...]; zero where not taken.
    """

    def __init__(
        self,
        works: Sequence[Chunk | Control],
        ends: Sequence[int],
        members: Ints,
        base: Ints,
        columns: Sequence[Array],
        lengths: Ints | None = None,
    ) -> None:
        """Begin with no answer.

        Args:
            works: see above.
            ends: see above.
            members: see above.
            base: see above.
            columns: see above.
            lengths: steps of each row, where they are not all the same.
        """
        self.works = works
        self.ends = ends
        self.length = ends[-1]
        self.members = members
        self.base = base
        self.columns = columns
        self.ragged = lengths
        self.steps = self.length * len(base) if lengths is None else int(lengths.sum())
        self.waiting = len(base)
        self.parcel: object | None = None
        self.due = False
        self.logged = 0
        self.refusal: Retried | None = None
        self.failures: dict[int, GatestreamError] = {}
        self.results: list[Array] | None = None

    # ---- The account, once it is needed ---------------------------------------------------------

    @cached_property
    def lengths(self) -> Ints:
        """Steps of each row."""
        return np.full(len(self.base), self.length) if self.ragged is None else self.ragged

    @cached_property
    def taken(self) -> Ints:
        """Steps of each row that were answered."""
        return np.zeros(len(self.base), np.int64)

    @cached_property
    def open(self) -> Bools:
        """Rows that still lack an answer."""
        return np.ones(len(self.base), np.bool_)

    @cached_property
    def again(self) -> Bools:
        """Rows that have to leave again."""
        return np.zeros(len(self.base), np.bool_)

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
    def opening(self) -> bool:
        """Whether it opens its sessions: their end answers it too."""
        return self.control is not None and self.control.kind is Kind.OPEN

    @property
    def closing(self) -> bool:
        """Whether it closes its sessions."""
        return self.control is not None and self.control.kind is Kind.CLOSE

    @property
    def sendable(self) -> Ints:
        """The rows that the next message carries."""
        return np.flatnonzero(self.again) if self.due else np.arange(len(self.base))

    @property
    def sendable_steps(self) -> int:
        """The steps of those rows."""
        return self.left(self.sendable) if self.due else self.steps

    def left(self, rows: Ints) -> int:
        """Steps of these rows that were not answered."""
        return int((self.lengths[rows] - self.taken[rows]).sum())

    # ---- Sending --------------------------------------------------------------------------------

    def send(self) -> Ints:
        """Note that a message carries the `sendable` rows, and return them."""
        rows = self.sendable
        if self.due:
            self.again[rows] = False
            self.open[rows] = True
            self.waiting += len(rows)
            self.due = False
        return rows

    def entries(self) -> tuple[bytes, bytes, list[Array]]:
        """Lengths and positions of all rows, as the wire has them, and per input all their steps, one after another."""
        if self.ragged is None:
            count = len(self.base)
            first = varint(self.base.item(0)) if count == 1 else varints(self.base)
            return varint(self.length) * count, first, list(map(np.ascontiguousarray, self.columns))
        real = _real(self.ragged, self.length)
        return varints(self.ragged), varints(self.base), [column[real] for column in self.columns]

    def entries_again(self, rows: Ints) -> tuple[bytes, bytes, list[Array]]:
        """Lengths, positions and inputs of what these rows lack."""
        taken = self.taken[rows]
        lacking = self.lengths[rows] - taken
        inputs = [
            np.concatenate(
                [column[row, first:end] for row, first, end in zip(rows, taken, self.lengths[rows], strict=True)]
            )
            for column in self.columns
        ]
        return varints(lacking), varints(self.base[rows] + taken), inputs

    # ---- Answers --------------------------------------------------------------------------------

    def rows_of(self, members: Ints) -> Ints:
        """The members' rows.

        Raises:
            ProtocolError: one is not in it, or lacks no answer.
        """
        rows = np.searchsorted(self.members, members)
        inside = bool((rows < len(self.members)).all())
        if not inside or (self.members[rows] != members).any() or not self.open[rows].all():
            raise ProtocolError("an answer came for a session that waits for none")
        if len(rows) > 1 and (np.diff(np.sort(rows)) == 0).any():
            raise ProtocolError("one message answered a session twice")
        return rows

    def is_whole(self, members: Ints, lengths: Ints, firsts: Ints) -> bool:
        """Whether an answer to so many steps of these members is the answer to everything."""
        if self.results is not None or not len(members) == len(self.base) == self.waiting:
            return False
        if len(members) == 1:
            return bool(members[0] == self.members[0] and lengths[0] == self.steps and firsts[0] == self.base[0])
        same = (members == self.members) & (firsts == self.base)
        return bool((same & (lengths == (self.length if self.ragged is None else self.ragged))).all())

    def take_all(self, columns: list[Array]) -> None:
        """Everything was answered at once.

        Args:
            columns: outputs, then gates: the answers to all rows' steps, one after another.
        """
        self.waiting = 0
        # Copied, since the wire's buffer is read-only.
        if self.ragged is not None:
            self.results = self._empty(columns)
            real = _real(self.ragged, self.length)
            for result, column in zip(self.results, columns, strict=True):
                result[real] = column
        else:
            shape = len(self.base), self.length
            self.results = [each.reshape(shape + each.shape[1:]).copy() for each in columns]

    def take_one(self, rows: list[Array]) -> None:
        """The only step of the only row was answered.

        Args:
            rows: outputs, then gates: its row of each.
        """
        self.waiting = 0
        # Copied: the wire's buffer is read-only, and holds the answers of others too.
        self.results = [row.copy()[np.newaxis, np.newaxis] for row in rows]

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
        begin = self.taken[rows]
        end = begin + lengths
        expected = self.base[rows] + begin
        if not ((firsts == expected) & (lengths > 0) & (end <= self.lengths[rows])).all():
            raise ProtocolError(
                f"steps were answered from positions {firsts.tolist()}, as many as {lengths.tolist()}; "
                f"those from {expected.tolist()} come next"
            )
        self._scatter(rows, begin, lengths, columns)
        self.taken[rows] = end
        self._shut(rows[end == self.lengths[rows]])

    def acknowledge(self, rows: Ints) -> None:
        """A control was carried out for these rows."""
        self.taken[rows] = 1
        self.again[rows] = False
        self._shut(rows)

    def fail(self, rows: Ints, error: GatestreamError) -> None:
        """These rows get no more."""
        if len(rows):
            self._shut(rows)
            self.again[rows] = False
            self.failures |= dict.fromkeys(self.members[rows].tolist(), error)

    def refuse(self, rows: Ints, refusal: Retried) -> None:
        """There was no room for these rows; they may be sent again later."""
        self._shut(rows)
        self.again[rows] = True
        self.refusal = refusal

    def put_back(self, rows: Ints) -> None:
        """Nothing will be heard of these rows any more: what they lack leaves once more."""
        if len(rows):
            self._shut(rows)
            self.again[rows] = True
            self.due = True

    def _empty(self, columns: list[Array]) -> list[Array]:
        return [np.zeros((len(self.base), self.length, *each.shape[1:]), each.dtype) for each in columns]

    def _scatter(self, rows: Ints, begin: Ints, lengths: Ints, columns: list[Array]) -> None:
        if self.results is None:
            self.results = self._empty(columns)
        ends = np.cumsum(lengths)
        row = np.repeat(rows, lengths)
        step = np.arange(ends[-1]) + np.repeat(begin - ends + lengths, lengths)
        for result, column in zip(self.results, columns, strict=True):
            result[row, step] = column

    def _shut(self, rows: Ints) -> None:
        self.waiting -= int(np.count_nonzero(self.open[rows]))
        self.open[rows] = False


def _real(lengths: Ints, length: int) -> Bools:
    """Which of [rows, length] are steps."""
    real: Bools = np.arange(length) < lengths[:, None]
    return real
