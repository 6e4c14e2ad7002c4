"""Arrays in, arrays out: what a caller passes, checked against the model's spec, and the wire's columns."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from gatestream.client.errors import InputError, ModelError, ProtocolError
from gatestream.protos.gatestream.v1 import gatestream_pb2 as pb

Array = NDArray[Any]
Inputs = ArrayLike | Mapping[str, ArrayLike]
"""One array; for a model of several inputs, one under each input's name."""

_DTYPES: dict[pb.DataType, np.dtype[Any]] = {
    pb.DATA_TYPE_FLOAT32: np.dtype("<f4"),
    pb.DATA_TYPE_INT64: np.dtype("<i8"),
}
# Bytes that an entry of one row needs besides its columns: handle, length and positions as varints.
_ENTRY_BYTES = 30


def dtype_of(name: str, dtype: pb.DataType) -> np.dtype[Any]:
    """The NumPy type of a tensor on the wire.

    Raises:
        ModelError: a type that this client does not know.
    """
    if dtype not in _DTYPES:
        raise ModelError(f"'{name}' is of data type {dtype}, which this client does not know: install a newer one")
    return _DTYPES[dtype]


@dataclass(frozen=True, slots=True)
class Column:
    """One input, output or gate: what a row of it is.

    Attributes:
        size: numbers in a row, which is one time step of one session.
        row_bytes: bytes of it.
    """

    name: str
    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    size: int = field(init=False)
    row_bytes: int = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "size", math.prod(self.shape))
        object.__setattr__(self, "row_bytes", self.dtype.itemsize * self.size)

    def decode(self, data: bytes, rows: int) -> Array:
        """Read a column of the wire, [rows, *shape]; the array is read-only.

        Raises:
            ProtocolError: it does not hold that many rows.
        """
        if len(data) != rows * self.row_bytes:
            raise ProtocolError(
                f"the server's column '{self.name}' holds {len(data)} bytes; "
                f"{rows} rows of {self.row_bytes} were expected"
            )
        return np.frombuffer(data, self.dtype).reshape(rows, *self.shape)


class InputColumn:
    """One input of a model: turns what a caller passes into rows."""

    def __init__(self, model: str, spec: pb.TensorSpec) -> None:
        self.column = Column(spec.name, dtype_of(spec.name, spec.dtype), tuple(spec.shape))
        self._model = model
        self._names = list(spec.columns)
        self._ids = {token: index for index, token in enumerate(spec.vocabulary)}

    def encode(self, value: ArrayLike, lead: tuple[str | int, ...]) -> Array:
        """The rows as an array [*lead, *shape] of the input's type, contiguous.

        Args:
            value: numbers; for a model with a vocabulary, tokens also by name: a string is one token where
                one step is expected, and a sequence of one-character tokens where many are.
            lead: the leading axes expected, as sizes, or as names where any size will do.

        Raises:
            InputError: another shape, numbers of another kind, an unknown token.
        """
        fits = type(value) is np.ndarray and value.dtype == self.column.dtype
        array = np.asarray(value) if fits else self._numbers(value, lead)
        if self.column.shape == (1,) and array.ndim == len(lead):
            array = array[..., None]
        self._check_shape(array, lead)
        return np.asarray(array, self.column.dtype, order="C")

    def _numbers(self, value: ArrayLike, lead: tuple[str | int, ...]) -> Array:
        if isinstance(value, str) and lead:
            value = list(value)
        try:
            array = np.asarray(value)
        except ValueError as error:
            raise InputError(f"{self._said}: not an array: {error}; {self._expected(lead)}") from error
        if array.dtype.kind == "U":
            return self._tokens(array)
        if array.dtype.kind not in ("iu" if self.column.dtype.kind == "i" else "iuf"):
            kind = "whole numbers" if self.column.dtype.kind == "i" else "numbers"
            hint = f", or tokens of {self._tokens_known}" if self._ids else ""
            raise InputError(f"{self._said}: {array.dtype} came; {kind}{hint} were expected")
        return array

    def _tokens(self, names: Array) -> Array:
        if not self._ids:
            raise InputError(f"{self._said}: text came, but the model has no vocabulary; pass token ids or numbers")
        try:
            ids = [self._ids[name] for name in names.ravel().tolist()]
        except KeyError as error:
            raise InputError(f"{self._said}: no token {error} in {self._tokens_known}") from None
        return np.array(ids, np.int64).reshape(names.shape)

    def _check_shape(self, array: Array, lead: tuple[str | int, ...]) -> None:
        if array.shape == lead + self.column.shape:
            return
        sizes = array.shape[: len(lead)]
        fits = len(sizes) == len(lead) and array.shape[len(lead) :] == self.column.shape
        if not fits or any(isinstance(want, int) and want != size for want, size in zip(lead, sizes, strict=True)):
            raise InputError(f"{self._said}: shape {list(array.shape)} came; {self._expected(lead)}")
        if 0 in sizes:
            raise InputError(f"{self._said}: shape {list(array.shape)} came, a chunk of nothing; pass one step or more")

    def _expected(self, lead: tuple[str | int, ...]) -> str:
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
        self.model = spec.name
        self.inputs = [InputColumn(spec.name, tensor) for tensor in spec.inputs]
        every_output = [
            Column(tensor.name, dtype_of(tensor.name, tensor.dtype), tuple(tensor.shape)) for tensor in spec.outputs
        ]
        every_gate = [Column(gate.name, np.dtype("<f4"), (spec.layers, spec.hidden)) for gate in spec.gates]
        self.outputs = every_output if outputs else []
        self.gates = every_gate if gates else []
        self.request_bytes = _ENTRY_BYTES + sum(each.column.row_bytes for each in self.inputs)
        # As the server counts: all that a row could return, asked for or not.
        self.reply_bytes = _ENTRY_BYTES + sum(each.row_bytes for each in [*every_output, *every_gate])

    def encode(self, value: Inputs, lead: tuple[str | int, ...]) -> list[Array]:
        """Rows of every input, each [*lead, *shape].

        Raises:
            InputError: naming the input, what came and what was expected.
        """
        if len(self.inputs) == 1 and (type(value) is np.ndarray or not isinstance(value, Mapping)):
            return [self.inputs[0].encode(value, lead)]
        names = [each.column.name for each in self.inputs]
        if isinstance(value, Mapping):
            if sorted(value) != sorted(names):
                raise InputError(f"inputs {_shorten(value)} of '{self.model}' came; {_shorten(names)} were expected")
            arrays = [each.encode(value[each.column.name], lead) for each in self.inputs]
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
        columns = [each.decode(data, rows) for each, data in zip(self.outputs, outputs, strict=True)]
        return columns + [each.decode(data, rows) for each, data in zip(self.gates, gates, strict=True)]


def _shorten(names: Iterable[str], limit: int = 12) -> str:
    quoted = [repr(name) for name in names]
    return ", ".join(quoted[:limit]) + (f" and {len(quoted) - limit} more" if len(quoted) > limit else "")
