"""From text to the rows that a session steps. Text comes in pieces, cut anywhere, and each row leaves at once."""

import codecs
import csv
import json
import math
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from gatestream.client.rows import Form, RowsError
from gatestream.protos.gatestream.v1 import gatestream_pb2 as pb

_SHOWN = 60


def decoded(pieces: Iterable[bytes]) -> Iterator[str]:
    """UTF-8 in pieces, with or without a byte order mark.

    Raises:
        RowsError: it is not UTF-8.
    """
    decoder = codecs.getincrementaldecoder("utf-8-sig")()
    try:
        for piece in pieces:
            yield decoder.decode(piece)
        yield decoder.decode(b"", final=True)
    except UnicodeDecodeError as error:
        raise RowsError(f"the input is not UTF-8: {error}") from error


class Reader:
    """Reads rows for one model.

    Attributes:
        line: number of the line that the latest row stands in, from 1.
    """

    def __init__(self, spec: pb.ModelSpec, form: Form, columns: Sequence[str] = ()) -> None:
        """Prepare to read.

        Args:
            spec: the model's.
            form: of the text.
            columns: names of the CSV columns or JSON keys that hold the input's numbers, in the model's order; by
                default the names that the model gives them.

        Raises:
            RowsError: the form does not fit the model, or not so many columns.
        """
        self.line = 1
        # Of text: after how many rows a line ended whose end is no token, oldest first.
        self._breaks: deque[int] = deque()
        self._spec = spec
        self._form = form
        self._input = spec.inputs[0]
        self._width = math.prod(self._input.shape)
        self._columns = list(columns) or list(self._input.columns)
        if columns and len(columns) != self._width:
            raise RowsError(f"{len(columns)} columns were named; input '{self._input.name}' has {self._width}")
        if form == "text" and not self._input.vocabulary:
            raise RowsError(f"model '{spec.name}' has no vocabulary, so it cannot read text; use csv or jsonl")
        if form == "csv" and (len(spec.inputs) > 1 or len(self._input.shape) > 1):
            raise RowsError(
                f"a row of model '{spec.name}' is no plain list of numbers, so csv cannot hold it; use jsonl"
            )

    def rows(self, pieces: Iterable[str]) -> Iterator[Any]:
        """The rows, each as `Session.step` takes it.

        Raises:
            RowsError: a row cannot be read.
        """
        if self._form == "text":
            return self._characters(pieces)
        lines = self._lines(pieces)
        return self._csv(lines) if self._form == "csv" else self._jsonl(lines)

    def ended(self, rows: int) -> int:
        """How many lines of text have ended after so many rows, or fewer, and were not told yet."""
        lines = 0
        while self._breaks and self._breaks[0] <= rows:
            self._breaks.popleft()
            lines += 1
        return lines

    def error(self, what: str) -> RowsError:
        """About the latest row."""
        return RowsError(f"line {self.line}: {what}")

    def _lines(self, pieces: Iterable[str]) -> Iterator[str]:
        """Lines that are not blank; the last one may lack its end."""
        rest = ""
        number = 0
        for piece in pieces:
            *whole, rest = (rest + piece).split("\n")
            for text in whole:
                number += 1
                if text.strip():
                    self.line = number
                    yield text
        if rest.strip():
            self.line = number + 1
            yield rest

    # ---- CSV ----------------------------------------------------------------------------------

    def _csv(self, lines: Iterator[str]) -> Iterator[Any]:
        where: list[int] | None = None
        for text in lines:
            fields = self._fields(text)
            if where is None:
                where = self._header(fields)
                if where is not None:
                    continue
                if self._columns and self._width != len(fields):
                    raise self.error(self._not_found(fields))
                where = list(range(self._width))
                self._count = self._width
            if len(fields) != self._count:
                raise self.error(f"{len(fields)} fields came; {self._count} were expected")
            yield self._values([fields[place] for place in where])

    def _fields(self, text: str) -> list[str]:
        try:
            return [each.strip() for each in next(csv.reader([text]))]
        except csv.Error as error:
            raise self.error(f"not CSV: {error}") from error

    def _header(self, fields: list[str]) -> list[int] | None:
        """Where the inputs stand, if this is a header."""
        if all(self._is_value(each) for each in fields):
            return None
        self._count = len(fields)
        if self._columns:
            if set(self._columns) - set(fields):
                raise self.error(self._not_found(fields))
            return [fields.index(name) for name in self._columns]
        if len(fields) != self._width:
            raise self.error(
                f"{len(fields)} columns came, and input '{self._input.name}' takes {self._width} numbers without "
                "names; name the columns to use"
            )
        return list(range(len(fields)))

    def _not_found(self, fields: list[str]) -> str:
        return (
            f"no header with the columns {', '.join(self._columns)} that model '{self._spec.name}' takes; "
            f"{_short(', '.join(fields))} came; name the columns to use, in this order"
        )

    def _is_value(self, field: str) -> bool:
        if field in self._input.vocabulary:
            return True
        try:
            float(field)
        except ValueError:
            return False
        return True

    def _values(self, fields: list[str]) -> Any:
        if self._input.dtype == pb.DATA_TYPE_INT64:
            (field,) = fields
            return self._token(field)
        return [self._number(field, place) for place, field in enumerate(fields)]

    def _number(self, field: str, place: int) -> float:
        name = self._columns[place] if self._columns else str(place + 1)
        try:
            value = float(field)
        except ValueError:
            raise self.error(f"column {name}: {field!r} is not a number") from None
        if not math.isfinite(value):
            raise self.error(f"column {name}: {field!r} is not a finite number")
        return value

    def _token(self, field: str) -> str | int:
        if field in self._input.vocabulary:
            return field
        try:
            return int(field)
        except ValueError:
            raise self.error(f"{field!r} is no token of model '{self._spec.name}'") from None

    # ---- JSON lines ---------------------------------------------------------------------------

    def _jsonl(self, lines: Iterator[str]) -> Iterator[Any]:
        names = {each.name for each in self._spec.inputs}
        for text in lines:
            try:
                value = json.loads(text, parse_constant=self._refuse_constant)
            except json.JSONDecodeError as error:
                raise self.error(f"column {error.colno}: not JSON: {error.msg}") from None
            if isinstance(value, dict) and not names <= value.keys():
                missing = [name for name in self._columns if name not in value]
                if missing or not self._columns:
                    keys = self._columns or sorted(names)
                    raise self.error(f"keys {_short(', '.join(value))} came; {', '.join(keys)} were expected")
                value = [value[name] for name in self._columns]
            yield {name: value[name] for name in names} if isinstance(value, dict) else value

    def _refuse_constant(self, text: str) -> float:
        raise self.error(f"{text} is not a finite number")

    # ---- Text ---------------------------------------------------------------------------------

    def _characters(self, pieces: Iterable[str]) -> Iterator[str]:
        known = set(self._input.vocabulary)
        column = rows = 0
        for piece in pieces:
            for character in piece:
                column += 1
                if character in known:
                    rows += 1
                    yield character
                elif character == "\n":
                    self._breaks.append(rows)
                elif character != "\r":
                    tokens = _short(" ".join(sorted(known)))
                    raise RowsError(
                        f"line {self.line}, column {column}: {character!r} is no token of model '{self._spec.name}'; "
                        f"it has {tokens}"
                    )
                if character == "\n":
                    self.line += 1
                    column = 0


def _short(text: str) -> str:
    return text if len(text) <= _SHOWN else text[: _SHOWN - 3] + "..."
