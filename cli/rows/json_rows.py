"""JSON lines, row by row, for one model."""

import json
import math
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from gatestream.cli.rows import RowsError, short
from gatestream.protos.gatestream.v1 import gatestream_pb2 as pb


class JsonRows:
    """Reads JSON lines for one model: on each line an array, or an object with the model's names as keys."""

    def __init__(self, spec: pb.ModelSpec, columns: Sequence[str]) -> None:
        """Prepare to read.

        Args:
            spec: the model's.
            columns: keys that hold the input's numbers, in the model's order; none: its own names for them.
        """
        self._inputs = [each.name for each in spec.inputs]
        self._columns = list(columns) or list(spec.inputs[0].columns)
        self._line = 0
        self._decoder = json.JSONDecoder(
            parse_constant=self._refuse, parse_float=self._float, parse_int=self._int, object_pairs_hook=self._object
        )

    def rows(self, blocks: Iterable[str]) -> Iterator[tuple[int, Any]]:
        """Each row, as `Session.step` takes it, behind the number of its line; blank lines are none.

        Raises:
            RowsError: a row cannot be read; the rows before it come out first.
        """
        for block in blocks:
            for text in block.split("\n")[:-1]:
                self._line += 1
                if text.strip():
                    yield self._line, self._row(text)

    def _row(self, text: str) -> Any:
        try:
            value = self._decoder.decode(text)
        except json.JSONDecodeError as error:
            raise self._error(f"column {error.colno}: not JSON: {error.msg}") from None
        except RecursionError:
            raise self._error("nested too deeply for a row") from None
        if not isinstance(value, dict):
            return value
        if set(self._inputs) <= value.keys():
            return {name: value[name] for name in self._inputs}
        if not self._columns or any(name not in value for name in self._columns):
            keys = self._columns or sorted(self._inputs)
            raise self._error(f"keys {short(', '.join(value))} came; {short(', '.join(keys))} were expected")
        return [value[name] for name in self._columns]

    def _object(self, pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        value = dict(pairs)
        if len(value) < len(pairs):
            keys = [key for key, _ in pairs]
            raise self._error(f"key {next(short(key) for key in keys if keys.count(key) > 1)!r} came more than once")
        return value

    def _int(self, text: str) -> int | float:
        # Python's int() refuses thousands of digits.
        return int(text) if len(text) <= 20 else self._float(text)

    def _float(self, text: str) -> float:
        value = float(text)
        return value if math.isfinite(value) else self._refuse(text)

    def _refuse(self, text: str) -> float:
        raise self._error(f"{short(text)} is not a finite number")

    def _error(self, what: str) -> RowsError:
        return RowsError(f"line {self._line}: {what}")
