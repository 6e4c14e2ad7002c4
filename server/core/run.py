"""One call of the model: whose steps it takes, and where their numbers lie."""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from gatestream.server.arrays import Array, Ints
from gatestream.server.core.batches import Batch, gather
from gatestream.server.core.scheduler import Tick, within
from gatestream.server.telemetry import Where

# A NamedTuple's own is Python, and felt where there is one for each message.
_new = tuple.__new__


class Run(NamedTuple):
    """One call of the model. Its members are the sessions that it steps, one element of each array for each.

    Attributes:
        sessions: the members. Of few single steps that have just come this and the lengths are tuples, and the slots a
            list, for arrays of a few numbers cost too much.
        slots: their rows of state.
        lengths: steps that each takes.
        members: how many there are.
        steps: of the longest member.
        rows: steps of all members.
        gates: whether any of them wants them.
        since: when the first of them came, or was over its run before this one.
        where: it is made.
        inputs: in the spec's order, each [members, steps, *shape]; None: they have yet to be gathered.
        parts: (batch, start, stop): members start..stop-1 are of that batch.
        offsets: where in its batch's inputs each member's steps begin; None: they need no gathering.
        tick: what the scheduler said; None where nothing was queued: the run is all of one batch.
    """

    sessions: tuple[int, ...] | Ints
    slots: list[int] | Ints
    lengths: tuple[int, ...] | Ints
    members: int
    steps: int
    rows: int
    gates: bool
    since: float
    where: Where
    inputs: Sequence[Array] | None
    parts: Sequence[tuple[Any, int, int]]
    offsets: Ints | None = None
    tick: Tick | None = None

    @classmethod
    def whole(cls, batch: Batch, slots: Ints) -> "Run":
        """Of a batch that has just come."""
        members, steps, rows = len(batch.sessions), batch.longest, batch.rows
        inputs = None
        if rows == members * steps:
            # Rows of one length lie in order already.
            inputs = [column.reshape(members, steps, *column.shape[1:]) for column in batch.inputs]
        parts = ((batch, 0, members),)
        who = batch.sessions, slots, batch.lengths, members
        return _new(cls, (*who, steps, rows, batch.gates, batch.since, "at_once", inputs, parts, batch.offsets, None))

    def gathered(self, inputs: int) -> Sequence[Array]:
        """The rows of each of so many inputs, [members, steps, *shape]; past a member's length they are unspecified."""
        offsets = self.offsets
        assert offsets is not None, "only what lies in order has none"
        columns = []
        for k in range(inputs):
            pieces = [gather(batch.inputs[k], offsets[start:stop], self.steps) for batch, start, stop in self.parts]
            columns.append(pieces[0] if len(pieces) == 1 else np.concatenate(pieces))
        return columns

    def halves(self) -> tuple["Run", "Run"]:
        """Two runs that together compute the same, of a run of several queued entries."""
        first = np.arange(self.members) < self.members // 2
        return self.part(first), self.part(~first)

    def part(self, which: npt.NDArray[np.bool_]) -> "Run":
        """A run of some of the members of a queued run, [members]."""
        assert self.tick is not None, "what was never queued is, before it is cut"
        tick, parts = self.tick.part(which), within(self.parts, which)
        return self._replace(
            sessions=tick.sessions,
            slots=np.asarray(self.slots)[which],
            lengths=tick.lengths,
            members=len(tick.sessions),
            steps=tick.steps,
            rows=int(tick.lengths.sum()),
            gates=any(batch.gates for batch, _, _ in parts),
            parts=parts,
            offsets=tick.offsets,
            tick=tick,
        )

    def pieces(self, rows: int) -> Iterator[tuple[Batch, int, int]]:
        """The parts, cut so that each has so many rows at most, or one member."""
        most = max(1, rows // self.steps)
        for batch, start, stop in self.parts:
            for begin in range(start, stop, most):
                yield batch, begin, min(begin + most, stop)
