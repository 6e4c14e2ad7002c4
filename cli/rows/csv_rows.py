"""A table as it comes, row by row, for one model."""

import contextlib
import functools
import itertools
import math
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np

from gatestream.cli.rows import RowsError, short
from gatestream.cli.rows import dialect as dialects
from gatestream.cli.rows import header as headers
from gatestream.cli.rows.dialect import Dialect
from gatestream.cli.rows.missing import Holder, refused
from gatestream.cli.rows.numbers import CellError, Numbers, looks_numeric
from gatestream.cli.rows.options import TableOptions
from gatestream.cli.rows.records import LOOKED_AT, Records
from gatestream.protos.dtypes import DTYPES
from gatestream.protos.gatestream.v1 import gatestream_pb2 as pb

_NUMBERED = re.compile(r"column[1-9]\d*", re.ASCII)
_WHOLE = re.compile(r"[+-]?\d{1,19}", re.ASCII)
_TRUTH = {"true": True, "false": False}


class CsvRows:
    """Reads a table for one model.

    A file's dialect is detected as `read_table` does. A live source's is the one under which its first line is a header
    with the model's columns, or a row for the model: a row does not wait for those behind it.
    """

    def __init__(self, spec: pb.ModelSpec, options: TableOptions, *, live: bool, note: Callable[[str], None]) -> None:
        """Prepare to read.

        Args:
            spec: the model's.
            options: what need not be detected.
            live: rows come as they are made; else the source is a whole file.
            note: gets what was detected and done, where it does not go without saying.

        Raises:
            RowsError: a row of the model is no list of numbers and no token, or a live source cannot be read so.
        """
        self._model = spec.name
        self._input = spec.inputs[0]
        if len(spec.inputs) > 1 or len(self._input.shape) > 1:
            raise RowsError(
                f"a row of model '{spec.name}' is no plain list of numbers, so csv cannot hold it; use jsonl"
            )
        if options.missing == "interpolate":
            raise RowsError(
                "--missing interpolate: a stream does not know the value that follows; choose refuse, drop or hold"
            )
        # "f" for floats, "b" for what is true or false, else whole numbers.
        self._kind = DTYPES[self._input.dtype].kind
        self._vocabulary = frozenset(self._input.vocabulary)
        self._width = math.prod(self._input.shape)
        self._options = options
        self._wanted = options.columns or tuple(self._input.columns)
        self._live = live
        self._note = note
        self._numbers = Numbers(options.decimal, "", options.missing_values)
        self._names: list[str] = []
        self._places: list[int] = []
        self._holder = Holder()
        self._previous: list[float] = []
        self._warned: set[int] = set()
        self._dropped: list[int] = []

    def rows(self, blocks: Iterable[str]) -> Iterator[tuple[int, Any]]:
        """Each row, as `Session.step` takes it, behind the number of its line.

        Raises:
            RowsError: a row cannot be read; the rows before it come out first.
        """
        detect = functools.partial(dialects.of_first_line, fits=self._fits) if self._live else dialects.detect
        begun = dialects.opened(iter(blocks), self._options, detect)
        if begun is None:
            return
        dialect, line, source = begun
        if dialect != Dialect(",", dialect.quote, dialect.sure) and self._options.delimiter is None:
            self._note(f"read with {dialect}")
        self._numbers = Numbers(self._options.decimal, dialect.delimiter, self._options.missing_values)
        if not self._live:
            source = self._settled(dialect, line, source)
        records = Records(dialect, line, keep_empty=self._options.missing == "hold")
        for block in source:
            for at, cells in records.feed(block):
                if not self._places and self._begin(at, cells):
                    continue
                row = self._row(at, [cells[place] for place in self._places])
                if row is not None:
                    yield at, row
        records.finish()
        if records.trailing:
            self._note(f"{records.trailing} rows of empty cells at the end: not read")
        if self._dropped:
            self._note(f"{len(self._dropped)} rows with missing values dropped, the first in line {self._dropped[0]}")

    def _settled(self, dialect: Dialect, line: int, source: Iterator[str]) -> Iterator[str]:
        """The blocks of a file whose decimal mark has been looked for in the first."""
        first = next(source)
        rows = itertools.islice(Records(dialect, line).feed(first), LOOKED_AT)
        # What cannot be read is told in its turn.
        with contextlib.suppress(RowsError):
            for at, cells in rows:
                if self._places or not self._begin(at, cells):
                    self._settle(at, [cells[place] for place in self._places])
        self._places = []
        return itertools.chain([first], source)

    def _settle(self, line: int, cells: list[str]) -> None:
        """See whether a row settles the decimal mark."""
        if self._kind != "f" or self._numbers.decimal is not None:
            return
        self._numbers.settle([(line, cells)])
        if self._numbers.decimal == ",":
            self._note(f"read with decimal comma, as a number in line {line} has it")

    # ---- The first row ------------------------------------------------------------------------

    def _fits(self, cells: Sequence[str]) -> bool:
        """Whether they may be the header or a row that the model takes."""
        cells = [cell.strip() for cell in cells]
        if self._named(cells):
            return set(self._wanted) <= set(cells) if self._wanted else len(cells) == self._width
        if self._by_place(cells):
            return all(self._is_value(cells[headers.numbered(len(cells)).index(name)]) for name in self._wanted)
        return len(cells) == self._width and all(map(self._is_value, cells))

    def _begin(self, line: int, cells: list[str]) -> bool:
        """Find the columns by the first row; whether it is a header."""
        cells = [cell.strip() for cell in cells]
        named = self._named(cells)
        self._names = headers.names(line, cells) if named else headers.numbered(len(cells))
        if self._wanted and set(self._wanted) <= set(self._names):
            self._places = [self._names.index(name) for name in self._wanted]
        elif len(cells) == self._width and not self._options.columns and not (named and self._wanted):
            self._places = list(range(self._width))
            self._names = list(self._wanted) or self._names
        elif self._wanted:
            raise RowsError(
                f"line {line}: no header with the columns {short(', '.join(self._wanted))} that model '{self._model}' "
                f"takes; {short(', '.join(cells))} came; name the columns to use with --columns, in this order"
            )
        else:
            raise RowsError(
                f"line {line}: {len(cells)} columns came, and input '{self._input.name}' takes {self._width} numbers "
                "without names; name the columns to use with --columns"
            )
        self._names = [self._names[place] for place in self._places]
        return named

    def _named(self, cells: list[str]) -> bool:
        """Whether they are a header: no value stands there, or the names that are wanted do."""
        if self._options.header is not None:
            return self._options.header
        if self._wanted and set(self._wanted) <= set(cells):
            return True
        return not self._by_place(cells) and not any(self._is_value(cell) for cell in cells)

    def _by_place(self, cells: list[str]) -> bool:
        """Whether the columns wanted are those of a table without a header: column1, column2, ..."""
        return (
            bool(self._wanted)
            and all(map(_NUMBERED.fullmatch, self._wanted))
            and set(self._wanted) <= set(headers.numbered(len(cells)))
        )

    def _is_value(self, cell: str) -> bool:
        if self._kind != "f":
            return cell in self._vocabulary or self._whole(cell) is not None
        return looks_numeric(cell) or self._numbers.is_missing(cell)

    # ---- Rows ---------------------------------------------------------------------------------

    def _row(self, line: int, cells: list[str]) -> Any:
        """The row; None: dropped."""
        self._settle(line, cells)
        row = [self._value(line, name, cell) for name, cell in zip(self._names, cells, strict=True)]
        if None in row:
            place = row.index(None)
            if self._options.missing == "drop":
                self._dropped.append(line)
                return None
            if self._options.missing == "refuse":
                raise refused(line, self._names[place], cells[place], "drop or hold")
        held = self._holder.fill(row)
        if held is None:
            name = self._names[row.index(None)]
            raise RowsError(
                f"line {line}, column {short(name)!r}: a missing value with none before it for --missing hold to take"
            )
        if self._input.dtype == pb.DATA_TYPE_FLOAT32:
            self._compare(line, held)
        return held if self._input.shape else held[0]

    def _value(self, line: int, name: str, cell: str) -> float | int | str | None:
        text = cell.strip()
        try:
            if self._kind != "f" and text in self._vocabulary:
                return text
            if self._numbers.is_missing(cell):
                return None
            if self._kind == "f":
                return self._numbers.number(cell, line)
            if (whole := self._whole(text)) is not None:
                return whole
            if self._vocabulary:
                raise CellError(f"{short(cell)!r} is no token of model '{self._model}'")
            expected = "true, false, 1 or 0" if self._kind == "b" else "a whole number"
            raise CellError(f"{short(cell)!r} is not {expected}")
        except CellError as error:
            raise RowsError(f"line {line}, column {short(name)!r}: {error}") from error

    def _whole(self, text: str) -> int | None:
        """The whole number, or the truth, that a cell is; None: it is none."""
        if self._kind == "b" and text.lower() in _TRUTH:
            return _TRUTH[text.lower()]
        return int(text) if _WHOLE.fullmatch(text) else None

    def _compare(self, line: int, row: list[float]) -> None:
        """Say, once of each column, that float32 does not hold what sets its numbers apart."""
        for place, (old, new) in enumerate(zip(self._previous, row, strict=False)):
            if old != new and place not in self._warned and np.float32(old) == np.float32(new):
                self._warned.add(place)
                self._note(
                    f"warning: line {line}, column {short(self._names[place])!r}: {new!r} and {old!r} before it are "
                    "one number in float32, which holds 7 digits"
                )
        self._previous = row
