"""Arrays in, arrays out: what a caller passes, checked against the model's spec, and the wire's columns."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from gatestream.client.errors import GatestreamError, InputError, ModelError, ProtocolError
from gatestream.client.numbers import Unfit, as_column, numbers_of, shown
from gatestream.protos.gatestream.v1 import gatestream_pb2 as pb
from gatestream.protos.layout import Column, Input, LayoutError, ModelLayout

Array = NDArray[Any]
Inputs = ArrayLike | Mapping[str, ArrayLike]
"""One array; for a model of several inputs, one under each input's name."""

Outputs = Any
"""One array; of a model of several outputs, a dict with one under each output's name."""

Constants = Mapping[str, ArrayLike]
"""What a session is given when it is opened, by the names that the model has for it."""

_KINDS = {"f": "numbers", "i": "whole numbers", "u": "whole numbers", "b": "true or false, or 1 and 0,"}
# Bytes that an entry of one row needs besides its columns: handle, length and positions as varints.
_ENTRY_BYTES = 30


def layout_of(spec: pb.ModelSpec) -> ModelLayout:
    """The columns of a model.

    Raises:
        ModelError: one of a type that this client does not know.
    """
    try:
        return ModelLayout.of(spec)
    except LayoutError as error:
        raise ModelError(str(error)) from None


def array_of(
    said: str, column: Column, value: object, *, sessions: int = 0, wrong_shape: type[GatestreamError] = InputError
) -> Array:
    """What a caller passes for a row of its own, of a column's type and shape.

    Args:
        said: what to call it in an error.
        column: that it is a row of.
        value: numbers.
        sessions: so many rows may come too, [sessions, *shape]; 0: just one.
        wrong_shape: the error for another shape.

    Raises:
        InputError: numbers of another kind, NaN or infinity.
        GatestreamError: another shape.
    """
    kind = column.dtype.kind
    try:
        array = numbers_of(value, whole=kind != "f", truth=kind == "b")
        if array.shape != column.shape and not (sessions and array.shape == (sessions, *column.shape)):
            several = f", or {[sessions, *column.shape]}," if sessions else ""
            raise wrong_shape(f"{said}: shape {list(array.shape)} came; {list(column.shape)}{several} was expected")
        if array.dtype.kind == "U":
            raise Unfit("text", ())
        return as_column(array, column.dtype)
    except Unfit as error:
        where = f" at {list(error.place)}" if error.place else ""
        expected = error.expected or f"{_KINDS[kind]} were expected"
        raise error.kind(f"{said}: {error.what} came{where}; {expected}") from None


Lead = tuple[str | int, ...]
Ints = NDArray[np.int64]


class InputColumn:
    """One input of a model: turns what a caller passes into rows."""

    def __init__(self, model: str, column: Input) -> None:
        self.column = column
        self._model = model
        self._names = column.columns
        self._ids = {token: index for index, token in enumerate(column.vocabulary)}

    def encode(self, value: ArrayLike, lead: Lead, members: Ints | None = None, lengths: Ints | None = None) -> Array:
        """The rows as an array [*lead, *shape] of the input's type, contiguous.

        Args:
            value: numbers; for a model with a vocabulary, tokens also by name: a string is one token where
                one step is expected, and a sequence of one-character tokens where many are.
            lead: the leading axes expected, as sizes, or as names where any size will do.
            members: of a group, whose rows these are, [rows]; None: all members'.
            lengths: [rows], how many steps of each are taken; behind them any number may stand. None: all.

        Raises:
            InputError: another shape, numbers of another kind, an unknown token; it says where.
        """
        column = self.column
        # As most rows come, in a third of the calls.
        if not lead and type(value) is np.ndarray and value.dtype == column.dtype and value.shape == column.shape:
            row = value if value.flags.c_contiguous else value.copy()
            if column.takes(row.tobytes()):
                return row
        try:
            return self._encode(value, lead, lengths)
        except Unfit as error:
            raise self._refusal(error, lead, members) from None

    def _encode(self, value: ArrayLike, lead: Lead, lengths: Ints | None) -> Array:
        column = self.column
        fits = type(value) is np.ndarray and value.dtype == column.dtype
        array = np.asarray(value) if fits else self._numbers(value, lead)
        if column.shape == (1,) and array.ndim == len(lead):
            array = array[..., None]
        self._check_shape(array, lead)
        return as_column(array, column.dtype, column.limit, None if lengths is None else _behind(lengths, array.shape))

    def _numbers(self, value: ArrayLike, lead: Lead) -> Array:
        if isinstance(value, str) and lead:
            value = list(value)
        kind = self.column.dtype.kind
        array = numbers_of(value, whole=kind != "f", truth=kind == "b")
        return self._tokens(array) if array.dtype.kind == "U" else array

    def _tokens(self, names: Array) -> Array:
        if not self._ids:
            raise Unfit("text", (), "the model has no vocabulary; pass token ids or numbers")
        ids = [self._ids.get(name, -1) for name in names.ravel().tolist()]
        if -1 in ids:
            place = tuple(int(k) for k in np.unravel_index(ids.index(-1), names.shape))
            raise Unfit(shown(str(names[place])), place, f"one of {self._tokens_known} was expected")
        return np.array(ids, np.int64).reshape(names.shape)

    def _refusal(self, error: Unfit, lead: Lead, members: Ints | None) -> InputError:
        """What the caller hears: what is wrong, and where."""
        of_group = bool(lead) and isinstance(lead[0], int)
        member = error.place[0] if of_group and error.place else 0
        if of_group and members is not None:
            member = int(members[member])
        where = []
        for axis, k in enumerate(error.place):
            if axis < len(lead):
                where.append(f"session {member}" if axis == 0 and of_group else f"step {k}")
            elif axis == len(lead) and len(self._names) > k and len(self.column.shape) == 1:
                where.append(f"column '{self._names[k]}'")
            else:
                where.append(f"feature {k}")
        kind = _KINDS[self.column.dtype.kind]
        hint = f", or tokens of {self._tokens_known}," if self._ids else ""
        refusal = error.kind(
            f"{self._said}: {error.what} came{' at ' if where else ''}{', '.join(where)}; "
            f"{error.expected or f'{kind}{hint} were expected'}"
        )
        if error.place or not of_group:
            refusal.members = np.array([member])
        return refusal

    def _check_shape(self, array: Array, lead: Lead) -> None:
        if array.shape == lead + self.column.shape:
            return
        sizes = array.shape[: len(lead)]
        fits = len(sizes) == len(lead) and array.shape[len(lead) :] == self.column.shape
        if not fits or any(isinstance(want, int) and want != size for want, size in zip(lead, sizes, strict=True)):
            raise InputError(f"{self._said}: shape {list(array.shape)} came; {self._expected(lead)}")
        if 0 in sizes:
            raise InputError(f"{self._said}: shape {list(array.shape)} came, a chunk of nothing; pass one step or more")

    def _expected(self, lead: Lead) -> str:
        axes = ", ".join(str(axis) for axis in (*lead, *self.column.shape))
        names = f" ({', '.join(self._names)})" if self._names else ""
        return f"[{axes}] {self.column.dtype.name}{names} was expected"

    @property
    def _said(self) -> str:
        return f"input '{self.column.name}' of '{self._model}'"

    @property
    def _tokens_known(self) -> str:
        return _shorten(list(self._ids))


class Layout:
    """The columns of one session's messages: those of its model, and what it asked to get back."""

    def __init__(self, spec: pb.ModelSpec, *, outputs: bool, gates: bool) -> None:
        """Read the spec.

        Raises:
            ModelError: a tensor of a type that this client does not know.
        """
        model = layout_of(spec)
        self.model = model.name
        # Steps of sessions that go into one message are of one version of one model.
        self.key = f"{spec.name}\0{spec.version}"
        self.inputs = [InputColumn(model.name, each) for each in model.inputs]
        self.outputs = model.outputs if outputs else ()
        self.gates = model.gates if gates else ()
        self.request_bytes = _ENTRY_BYTES + model.input_bytes
        # As the server counts: all that a row could return, asked for or not.
        self.reply_bytes = _ENTRY_BYTES + model.output_bytes + model.gate_bytes

    def encode(
        self, value: Inputs, lead: Lead, members: Ints | None = None, lengths: Ints | None = None
    ) -> list[Array]:
        """Rows of every input, each [*lead, *shape].

        Args:
            value: one array, or for several inputs one by each name.
            lead: as for `InputColumn.encode`, and the others too.
            members: of a group.
            lengths: of its rows.

        Raises:
            InputError: naming the input, what came and what was expected.
        """
        if len(self.inputs) == 1 and (type(value) is np.ndarray or not isinstance(value, Mapping)):
            return [self.inputs[0].encode(value, lead, members, lengths)]
        names = [each.column.name for each in self.inputs]
        if isinstance(value, Mapping):
            if sorted(value) != sorted(names):
                raise InputError(f"inputs {_shorten(value)} of '{self.model}' came; {_shorten(names)} were expected")
            arrays = [each.encode(value[each.column.name], lead, members, lengths) for each in self.inputs]
        else:
            raise InputError(f"'{self.model}' has the inputs {_shorten(names)}: pass a mapping with an array for each")
        leads = {array.shape[: len(lead)] for array in arrays}
        if len(leads) > 1:
            raise InputError(f"the inputs of '{self.model}' came with unlike leading axes: {sorted(leads)}")
        return arrays

    def decode(self, outputs: Sequence[bytes], gates: Sequence[bytes], rows: int) -> list[Array]:
        """Columns of a Results message, outputs then gates, each [rows, *shape], read-only.

        Raises:
            ProtocolError: not the columns that were asked for.
        """
        if len(outputs) != len(self.outputs) or len(gates) != len(self.gates):
            raise ProtocolError(
                f"{len(outputs)} output and {len(gates)} gate columns of '{self.model}' came; "
                f"{len(self.outputs)} and {len(self.gates)} were expected"
            )
        columns = [_decode(each, data, rows) for each, data in zip(self.outputs, outputs, strict=True)]
        return columns + [_decode(each, data, rows) for each, data in zip(self.gates, gates, strict=True)]


def _decode(column: Column, data: bytes, rows: int) -> Array:
    if len(data) != rows * column.row_bytes:
        raise ProtocolError(
            f"the server's column '{column.name}' holds {len(data)} bytes; "
            f"{rows} rows of {column.row_bytes} were expected"
        )
    return column.rows(data)


def _behind(lengths: Ints, shape: tuple[int, ...]) -> NDArray[np.bool_]:
    """Of rows [rows, time, ...]: what nobody takes."""
    behind = np.arange(shape[1]) >= lengths[:, None]
    return np.broadcast_to(behind.reshape(*behind.shape, *(1 for _ in shape[2:])), shape)


def _shorten(names: Iterable[str], limit: int = 12) -> str:
    quoted = [repr(name) for name in names]
    return ", ".join(quoted[:limit]) + (f" and {len(quoted) - limit} more" if len(quoted) > limit else "")
