"""The state rows of one model: which are fresh, what advances them, and how long that takes."""

from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt

from gatestream.protos.layout import ModelLayout
from gatestream.server.arrays import Array, Ints
from gatestream.server.backend.run_time import RunTime
from gatestream.server.backend.runner import Runner


class StateRows:
    """One row of state for each slot. Nothing else is called while a run is under way.

    Args:
        layout: of the model.
        runner: that has the rows.
        count: of rows.
        clock: seconds, monotonic.

    Attributes:
        runner: as given.
        run_time: expected, from the runs so far.
        began: when the latest run did, by the clock.
        seconds: that it took.
    """

    def __init__(self, layout: ModelLayout, runner: Runner, count: int, clock: Callable[[], float]):
        self.runner = runner
        self.run_time = RunTime()
        self.began = self.seconds = 0.0
        self._clock = clock
        # Their state is the initial one, whatever the row holds: it is set by the first run that they are in.
        self._fresh = np.zeros(count, np.bool_)
        self._states = layout.states
        self._initial = [state.first()[None] for state in layout.states]
        # Where constants stand among the states; and by slot their rows, which are in the initial state of each.
        self._constant = [(k, state) for k, state in enumerate(layout.states) if state.constant]
        self._constants: dict[int, Sequence[Array]] = {}

    def make_fresh(self, slots: int | Ints) -> None:
        """Put rows into the initial state before they are next looked at. They keep their constants."""
        self._fresh[slots] = True

    def begin(self, slot: int, constants: Sequence[bytes]) -> None:
        """Put a row into the initial state of a session with these constants, in the layout's order."""
        if self._constant:
            pairs = zip(self._constant, constants, strict=True)
            self._constants[slot] = [state.rows(data) for (_, state), data in pairs]
        self._fresh[slot] = True

    def constants(self, slot: int) -> tuple[bytes, ...]:
        """Those of a row, in the layout's order; nothing of a row that was never set."""
        return tuple(value.tobytes() for value in self._constants.get(slot, ()))

    def is_fresh(self, slot: int) -> bool:
        """Whether it has yet to be set."""
        return bool(self._fresh.item(slot))

    def read(self, slot: int) -> list[Array]:
        """A copy of a row, in the layout's order, each [1, *shape]."""
        if self._fresh[slot]:
            return self._first(np.array([slot]))
        return self.runner.read(np.array([slot]))

    def packed(self, slots: Ints) -> npt.NDArray[np.uint8]:
        """Copies of many rows, [slots, bytes], of each state one after another in the layout's order."""
        if not len(slots) or not self._states:
            return np.empty((len(slots), sum(each.row_bytes for each in self._states)), np.uint8)
        columns = self.runner.read(slots)
        if (fresh := self._fresh[slots]).any():
            for column, first in zip(columns, self._first(slots[fresh]), strict=True):
                column[fresh] = first
        parts = [np.ascontiguousarray(column).reshape(len(slots), -1).view(np.uint8) for column in columns]
        return parts[0] if len(parts) == 1 else np.concatenate(parts, axis=1)

    def unpacked(self, state: bytes) -> list[Array]:
        """A row, as `write` takes it, of bytes as `packed` gives them.

        Raises:
            ValueError: they are more or fewer than a row has.
        """
        sizes = [each.row_bytes for each in self._states]
        if len(state) != sum(sizes):
            raise ValueError(f"a state has {len(state)} bytes; expected {sum(sizes)}")
        ends = np.cumsum(sizes).tolist()
        pairs = zip(self._states, sizes, ends, strict=True)
        return [each.rows(state[end - size : end]) for each, size, end in pairs]

    def write(self, slot: int, state: Sequence[Array]) -> None:
        """Set a row; shapes as `read` gives them."""
        self.runner.write(np.array([slot]), state)
        self._fresh[slot] = False
        if self._constant:
            self._constants[slot] = [state[k].copy() for k, _ in self._constant]

    def step(
        self, slots: list[int] | Ints, inputs: Sequence[Array], lengths: Sequence[int] | Ints, *, gates: bool
    ) -> tuple[list[Array], list[Array]]:
        """As `Runner.step`; a list of slots is for `Runner.step_few`, and none of these rows is fresh."""
        started = self._clock()
        if isinstance(slots, list):
            result = self.runner.step_few(slots, inputs, gates)
            self._took(len(slots), 1, started)
            return result
        fresh = self._fresh[slots]
        if np.count_nonzero(fresh):
            # Whether or not the run fails, they hold the initial state from here on.
            anew = slots[fresh]
            self.runner.write(anew, self._first(anew))
            self._fresh[anew] = False
        result = self.runner.step(slots, inputs, np.asarray(lengths, np.int32), gates)
        self._took(len(slots), inputs[0].shape[1], started)
        return result

    def step_one(self, slot: int, columns: Sequence[bytes], *, gates: bool) -> tuple[list[bytes], list[bytes]] | None:
        """As `Runner.step_one`; None, and nothing has changed, of a fresh row too."""
        if self._fresh.item(slot):
            return None
        started = self._clock()
        made = self.runner.step_one(slot, columns, gates)
        if made is not None:
            # As `_took`, without the call.
            self.began = started
            self.seconds = seconds = self._clock() - started
            self.run_time.note(1, 1, seconds)
        return made

    def _first(self, slots: Ints) -> list[Array]:
        """The initial states of rows, in the layout's order, each [rows, *shape]."""
        first = [np.repeat(row, len(slots), axis=0) for row in self._initial]
        for place, (k, _) in enumerate(self._constant):
            first[k] = np.concatenate([self._constants[slot][place] for slot in slots.tolist()])
        return first

    def _took(self, batch: int, steps: int, started: float) -> None:
        self.began = started
        self.seconds = self._clock() - started
        self.run_time.note(batch, steps, self.seconds)
