"""What the synchronous and the asyncio session have in common: everything but waiting."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from gatestream.client.columns import Array, Inputs, Outputs
from gatestream.client.errors import GatestreamError, InputError
from gatestream.client.numbers import Unfit, ids_of, numbers_of
from gatestream.client.protocol.queue import SessionQueue
from gatestream.client.protocol.requests import Chunk, Control, Ints, Kind
from gatestream.client.results import Answer

GATHERED = 1024
"""Rows of a live source that are read ahead at most, and that leave together at most."""


# Which of [members, time] a call returns.
Index = Any
ONE_STEP: Index = (0, 0)
ONE_RUN: Index = 0
ALL_STEP: Index = (slice(None), 0)
ALL_RUN: Index = slice(None)
_NOTHING = np.empty(0, np.float32)
_NOTHING_CHOSEN: Ints = np.empty(0, np.int64)


class LaneView:
    """A session, or a group, apart from how its caller waits."""

    def __init__(self, session_queue: SessionQueue) -> None:
        self._queue = session_queue
        # What `last` is made from when somebody asks for it, or one step of it.
        self._kept: tuple[list[Array], Ints, Index] | Answer | None = None

    @property
    def model(self) -> str:
        """Name of the model."""
        return self._queue.layout.model

    @property
    def last(self) -> Answer:
        """All that came back for the latest answered call: every output, and the gates.

        Raises:
            InputError: nothing was stepped yet.
        """
        kept = self._kept
        if kept is None:
            raise InputError("nothing was stepped yet, so there are no gates and outputs to look at")
        return kept if isinstance(kept, Answer) else self._answer(*kept)

    @property
    def gates(self) -> Mapping[str, Array]:
        """Gate activations of the latest answered call: see `Answer.gates`.

        Raises:
            InputError: nothing was stepped yet.
        """
        return self.last.gates

    def _keep(self, chunk: Chunk, index: Index) -> Outputs:
        """Remember the answer, of which each array is indexed by `index`, and return the output, or all by name."""
        results, outputs = chunk.results(), self._queue.layout.outputs
        self._kept = results, chunk.first, index
        if len(outputs) > 1:
            return {each.name: column[index] for each, column in zip(outputs, results, strict=False)}
        return results[0][index] if outputs else _NOTHING

    def _answer(self, results: list[Array], first: Ints, index: Index) -> Answer:
        layout = self._queue.layout
        columns = [each[index] for each in results]
        outputs = {each.name: array for each, array in zip(layout.outputs, columns, strict=False)}
        gates = {each.gate: array for each, array in zip(layout.gates, columns[len(outputs) :], strict=True)}
        one = index in (ONE_STEP, ONE_RUN)
        return Answer(int(first[0]) if one else first, outputs, gates)

    def _salvage(self, chunk: Chunk, index: Index, error: GatestreamError) -> None:
        """Give the error what was taken all the same."""
        if chunk.taken is not None and chunk.taken.any():
            error.taken = chunk.taken
            error.answer = self._answer(chunk.results(), chunk.first, index)

    def _control(self, kind: Kind) -> Control:
        return Control(kind=kind, members=self._queue.members)


class SessionView(LaneView):
    """One session: a queue of one member."""

    @property
    def id(self) -> str:
        """The session's id, made by the server where none was given."""
        return self._queue.ids[0]

    @property
    def position(self) -> int:
        """Steps that the session has consumed, as far as the answers tell."""
        return int(self._queue.positions[0])

    def _of_step(self, x: Inputs) -> Chunk:
        session_queue = self._queue
        columns = session_queue.layout.encode(x, ())
        for k, array in enumerate(columns):
            columns[k] = array[np.newaxis, np.newaxis]
        return Chunk(members=session_queue.members, columns=columns, length=1)

    def _of_run(self, xs: Inputs) -> Chunk:
        return self._of_time(self._queue.layout.encode(xs, ("time",)))

    def _encode_row(self, x: Inputs, row: int) -> list[Array]:
        """One row of a live source."""
        try:
            return self._queue.layout.encode(x, ())
        except InputError as error:
            error.args = (f"row {row}: {error}",)
            raise

    def _of_rows(self, rows: Sequence[list[Array]]) -> Chunk:
        """Work from encoded rows, one for each step."""
        return self._of_time([np.stack(each) for each in zip(*rows, strict=True)])

    def _of_time(self, columns: list[Array]) -> Chunk:
        """Work from encoded columns, [time, ...]."""
        time = len(columns[0])
        return Chunk(members=self._queue.members, columns=[array[np.newaxis] for array in columns], length=time)

    def _keep_each(self, answer: Answer, steps: int) -> Iterator[Outputs]:
        """The first steps of a chunk's answer, one by one."""
        for step in range(steps):
            self._kept = one = answer.at(step)
            yield one.returned

    def _keep_taken(self, error: GatestreamError) -> Iterator[Outputs]:
        """The answers to the steps of a chunk that were taken before one that was not."""
        return iter(()) if error.answer is None else self._keep_each(error.answer, int(error.taken[0]))


class GroupView(LaneView):
    """Sessions that step together: a queue of many members."""

    def __len__(self) -> int:
        return len(self._queue.members)

    @property
    def ids(self) -> list[str]:
        """The members' session ids."""
        return list(self._queue.ids)

    @property
    def positions(self) -> Ints:
        """Steps that each member has consumed, as far as the answers tell, [members]."""
        return self._queue.positions.copy()

    def _of_step(self, xs: Inputs, members: Sequence[int] | Ints | None) -> Chunk:
        chosen = self._chosen(members)
        columns = [array[:, np.newaxis] for array in self._queue.layout.encode(xs, (len(chosen),), chosen)]
        return Chunk(members=chosen, columns=columns, length=1)

    def _of_run(self, xs: Inputs, members: Sequence[int] | Ints | None, lengths: Sequence[int] | Ints | None) -> Chunk:
        chosen = self._chosen(members)
        steps = None if lengths is None else _whole_numbers(lengths)
        counted = steps is not None and steps.shape == chosen.shape
        rows = self._queue.layout.encode(xs, (len(chosen), "time"), chosen, steps if counted else None)
        time = rows[0].shape[1]
        chunk = Chunk(members=chosen, columns=rows, length=time)
        if steps is not None:
            if not counted or steps.min() < 1 or steps.max() > time:
                raise InputError(
                    f"lengths: {lengths!r} came; one for each of {len(chosen)} members, from 1 to {time}, was "
                    "expected; leave out with `members` who takes no step"
                )
            chunk.lengths, chunk.length = steps, int(steps.max())
            chunk.padding = time - chunk.length
        return chunk

    def _chosen(self, members: Sequence[int] | Ints | None) -> Ints:
        if members is None:
            return self._queue.members
        chosen = _whole_numbers(members)
        whole = chosen.ndim == 1 and len(chosen) > 0
        if not whole or (np.diff(chosen) <= 0).any() or chosen[0] < 0 or chosen[-1] >= len(self):
            raise InputError(
                f"members: {members!r} came; indices from 0 to {len(self) - 1}, each greater than the one before, "
                "were expected"
            )
        return chosen


def _whole_numbers(values: Sequence[int] | Ints) -> Ints:
    """As int64; what is none of them is empty, which no caller takes."""
    try:
        array = numbers_of(values, whole=True)
        return ids_of(array, np.dtype(np.int64), 0) if array.dtype.kind in "iu" else _NOTHING_CHOSEN
    except Unfit:
        return _NOTHING_CHOSEN
