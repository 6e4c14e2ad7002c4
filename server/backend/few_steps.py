"""Single steps of few rows on the CPU: what a live session waits for, and a handful of them."""

from collections.abc import Callable, Sequence
from typing import Any, Final

import numpy as np

from gatestream.protos.layout import ModelLayout
from gatestream.server.arrays import Array

FEW: Final = 16
"""Rows of a run that is made in buffers which are bound once. With more the run itself is most of it."""

_to_bytes: Callable[[Array], bytes] = np.ndarray.tobytes

ValueOf = Callable[[Array], Any]


class FewSteps:
    """Runs of one step of each of up to `FEW` rows, in buffers that are bound once for each number of rows.

    To have a run's inputs checked, and its outputs made, takes a third of the time of such a run.

    Args:
        session: of the model, in onnxruntime.
        value_of: onnxruntime's value that lies where an array does.
        layout: of the model.
        arenas: the rows of state, for each state [slots, *shape].
    """

    def __init__(self, session: Any, value_of: ValueOf, layout: ModelLayout, arenas: Sequence[Array]):
        self._session = session
        self._bound_to = value_of, layout, arenas
        # By rows and gates, each from the first such run on.
        self._buffers: dict[tuple[int, bool], _Buffers] = {}

    def run(self, slots: Sequence[int], inputs: Sequence[Array], gates: bool) -> tuple[list[Array], list[Array]]:
        """As `Runner.step_few`; the arrays are good until the next run.

        Args:
            slots: [batch], each at most once.
            inputs: in the layout's order, each [batch, 1, *shape].
            gates: whether the gate activations are wanted.
        """
        buffers = self._buffers.get((len(slots), gates)) or self._bind(len(slots), gates)
        for buffer, rows in zip(buffers.inputs, inputs, strict=True):
            buffer[:] = rows
        first = slots[0]
        where = slice(first, first + 1) if len(slots) == 1 else np.array(slots)
        for buffer, arena in buffers.gathered:
            buffer[:] = arena[where]
        self._session.run_with_iobinding(buffers.binding)
        for arena, buffer in buffers.scattered:
            arena[where] = buffer
        return buffers.outputs, buffers.gates

    def run_one(self, slot: int, columns: Sequence[bytes], gates: bool) -> tuple[list[bytes], list[bytes]] | None:
        """As `Runner.step_one`."""
        buffers = self._buffers.get((1, gates)) or self._bind(1, gates)
        for (takes, buffer), column in zip(buffers.input_rows, columns, strict=True):
            if not takes(column):
                return None
            buffer[:] = column
        for state, arena in buffers.gathered:
            state[0] = arena[slot]
        self._session.run_with_iobinding(buffers.binding)
        # Before the state is written: there may be too little memory for it.
        made = list(map(_to_bytes, buffers.outputs)), list(map(_to_bytes, buffers.gates))
        for arena, state in buffers.scattered:
            arena[slot] = state[0]
        return made

    def _bind(self, rows: int, gates: bool) -> "_Buffers":
        made = _Buffers(self._session.io_binding(), *self._bound_to, rows, gates)
        self._buffers[rows, gates] = made
        return made


class _Buffers:
    """What a run of one step of each of so many rows reads and writes, bound once.

    Args:
        binding: of the model's session in onnxruntime.
        value_of: onnxruntime's value that lies where an array does.
        layout: of the model.
        arenas: the rows of state, for each state [slots, *shape].
        rows: of a run.
        gates: whether it shows them.

    Attributes:
        binding: as given.
        inputs: in the layout's order, each [rows, 1, *shape].
        input_rows: of each whether the model takes a row's bytes, and where these go if it is the only one.
        outputs, gates: in the layout's order, each [rows, 1, *shape].
        gathered: of each state where it is read, and its arena, each [rows].
        scattered: of each state its arena, and where it is written.
    """

    def __init__(
        self,
        binding: Any,
        value_of: ValueOf,
        layout: ModelLayout,
        arenas: Sequence[Array],
        rows: int,
        gates: bool,
    ):
        self.binding = binding
        self._value_of = value_of
        self.inputs = [self._bound("input", i.name, i.dtype, (rows, 1, *i.shape)) for i in layout.inputs]
        self.input_rows = [(i.takes, _bytes_of(array)) for i, array in zip(layout.inputs, self.inputs, strict=True)]
        # What is bound is kept here: until 1.30 the binding of onnxruntime does not keep it.
        self._length = [self._bound("input", name, np.dtype(np.int32), (rows,)) for name in (layout.length,) if name]
        for length in self._length:
            length[:] = 1
        before = [self._bound("input", s.name, s.dtype, (rows, *s.shape)) for s in layout.states]
        self.outputs = [self._bound("output", o.name, o.dtype, (rows, 1, *o.shape)) for o in layout.outputs]
        after = [self._bound("output", s.after, s.dtype, (rows, *s.shape)) for s in layout.states]
        shown = layout.gates if gates else ()
        self.gates = [self._bound("output", g.name, g.dtype, (rows, 1, *g.shape)) for g in shown]
        arena_rows, before_rows, after_rows = (list(map(_whole_rows, arrays)) for arrays in (arenas, before, after))
        self.gathered = list(zip(before_rows, arena_rows, strict=True))
        self.scattered = list(zip(arena_rows, after_rows, strict=True))

    def _bound(self, kind: str, name: str, dtype: np.dtype[Any], shape: tuple[int, ...]) -> Array:
        array = np.zeros(shape, dtype)
        getattr(self.binding, f"bind_ortvalue_{kind}")(name, self._value_of(array))
        return array


def _bytes_of(array: Array) -> memoryview:
    """The same memory, [bytes]."""
    return array.reshape(-1).view(np.uint8).data


def _whole_rows(array: Array) -> Array:
    """The same memory, [rows], each row one element: so few rows are copied in a tenth of the time."""
    return array.reshape(len(array), -1).view(np.dtype((np.void, array[0].nbytes))).reshape(len(array))
