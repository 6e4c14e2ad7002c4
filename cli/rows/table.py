"""A whole table: the numeric columns of a CSV file."""

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from gatestream.cli.rows import RowsError, short
from gatestream.cli.rows import dialect as dialects
from gatestream.cli.rows import header as headers
from gatestream.cli.rows import missing as missings
from gatestream.cli.rows.dialect import Dialect
from gatestream.cli.rows.lines import blocks, decoded, pieces_of
from gatestream.cli.rows.numbers import LARGEST, CellError, Numbers, looks_numeric
from gatestream.cli.rows.options import TableOptions
from gatestream.cli.rows.records import LOOKED_AT, Records

# Of the changes from row to row, the share that float32 may lose.
_LOST = 0.01


@dataclass(frozen=True, slots=True)
class Table:
    """What was read.

    Attributes:
        columns: names of the columns used; column1, column2, ... where the file has no header.
        values: float32 [rows, columns].
        skipped: names of the columns not used.
        notes: what was detected and done, for a person to read.
    """

    columns: tuple[str, ...]
    values: NDArray[np.float32]
    skipped: tuple[str, ...]
    notes: tuple[str, ...]


def read_table(path: Path, options: TableOptions) -> Table:
    """Read a CSV file (docs/training.md, Tables).

    Args:
        path: the file.
        options: what need not be detected.

    Raises:
        RowsError: whatever is ambiguous, ragged, missing or no number: the message names the line, the column and the
            option that settles it.
        OSError: it cannot be read.
    """
    try:
        with path.open("rb", buffering=0) as file:
            return _read(blocks(decoded(pieces_of(file))), options)
    except RowsError as error:
        raise RowsError(f"{path}: {error}") from error


def _read(source: Iterator[str], options: TableOptions) -> Table:
    begun = dialects.opened(source, options, dialects.detect)
    if begun is None:
        raise RowsError("empty, expected rows of numbers")
    dialect, line, source = begun
    first = next(source)
    # A header says nothing of the types below it.
    while first.count("\n") < 2 and (more := next(source, "")):
        first += more
    numbers = Numbers(options.decimal, dialect.delimiter, options.missing_values)
    layout = _Layout(Records(dialect, line), first, options, numbers)
    records = Records(dialect, line, keep_empty=options.missing == "hold")
    column = _Column(layout, dialect, records, numbers)
    for block in itertools.chain([first], source):
        column.read(block)
    records.finish()
    values, lines = column.whole()
    if not len(values):
        raise RowsError(f"no rows under the header in line {layout.header}" if layout.header else "no rows")
    values, lines, filled = missings.settle(options.missing, layout.columns, values, lines)
    narrow, lost = _narrowed(layout.columns, values, lines)
    marks = {".": "", ",": ", decimal comma", None: ""}[numbers.decimal]
    head = f"header in line {layout.header}" if layout.header else "no header"
    trailing = f"{records.trailing} rows of empty cells at the end: not read" if records.trailing else ""
    notes = tuple(note for note in (f"read with {dialect}{marks}, {head}", filled, trailing, lost) if note)
    return Table(layout.columns, narrow, layout.skipped, notes)


class _Layout:
    """Names and places of the columns.

    Attributes:
        header: the line of the header, 0: none.
        columns: names of those to use.
        places: where these stand.
        skipped: names of the others.
    """

    def __init__(self, records: Records, block: str, options: TableOptions, numbers: Numbers) -> None:
        head = list(itertools.islice(records.feed(block), LOOKED_AT))
        if len(head) < 2:
            # A quote that is open still, after so much, was not meant.
            records.finish()
        if not head:
            raise RowsError("no rows of numbers")
        line, cells = head[0]
        rest = [row for _, row in head[1:]]
        named = headers.is_header(line, cells, rest, numbers) if options.header is None else options.header
        self.header = line if named else 0
        names = headers.names(line, cells) if named else headers.numbered(len(cells))
        if unknown := [name for name in options.columns if name not in names]:
            raise RowsError(f"no column {short(unknown[0])!r}; it has {short(', '.join(names))}")
        if named and not rest:
            raise RowsError(f"no rows under the header in line {line}")
        rows = rest if named else [cells, *rest]
        self.places = [names.index(name) for name in options.columns] or [
            place for place in range(len(names)) if _mostly_numbers([row[place] for row in rows], numbers)
        ]
        if not self.places:
            raise RowsError(
                f"no numeric column among {short(', '.join(names))}; if cells are separated otherwise than by "
                f"{numbers.delimiter!r}, say so with --delimiter, and the decimal mark with --decimal"
            )
        numbers.settle((at, [row[place] for place in self.places]) for at, row in (head[1:] if named else head))
        self.columns = tuple(names[place] for place in self.places)
        self.skipped = tuple(name for place, name in enumerate(names) if place not in self.places)


def _mostly_numbers(cells: Sequence[str], numbers: Numbers) -> bool:
    known = [cell for cell in cells if not numbers.is_missing(cell)]
    return 2 * sum(looks_numeric(cell) for cell in known) > len(known)


class _Column:
    """Collects the numbers of the columns used."""

    def __init__(self, layout: _Layout, dialect: Dialect, records: Records, numbers: Numbers) -> None:
        self._layout = layout
        self._dialect = dialect
        self._records = records
        self._numbers = numbers
        self._values: list[NDArray[np.float64]] = []
        self._lines: list[NDArray[np.int64]] = []

    def read(self, block: str) -> None:
        """Take the rows of a block: at once where each line is one of plain numbers, else one by one."""
        begin = self._records.line
        values = self._plain(block)
        if values is not None:
            self._records.skip(len(values))
            self._add(values, np.arange(begin, begin + len(values)))
            return
        lines, rows = [], []
        for line, cells in self._records.feed(block):
            if line != self._layout.header:
                lines.append(line)
                rows.append(self._row(line, cells))
        if rows:
            self._add(np.array(rows, np.float64), np.array(lines, np.int64))

    def whole(self) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
        """All values [rows, columns], NaN where one is missing, and the rows' lines [rows]."""
        if not self._values:
            return np.empty((0, len(self._layout.places))), np.empty(0, np.int64)
        return np.concatenate(self._values), np.concatenate(self._lines)

    def _add(self, values: NDArray[np.float64], lines: NDArray[np.int64]) -> None:
        self._values.append(values)
        self._lines.append(lines)

    def _row(self, line: int, cells: list[str]) -> list[float]:
        row = []
        for name, place in zip(self._layout.columns, self._layout.places, strict=True):
            cell = cells[place]
            try:
                row.append(np.nan if self._numbers.is_missing(cell) else self._numbers.number(cell, line))
            except CellError as error:
                raise RowsError(
                    f"line {line}, column {short(name)!r}: {error}; mend it, or choose other columns with --columns"
                ) from error
        return row

    def _plain(self, block: str) -> NDArray[np.float64] | None:
        """The numbers of a block of plain rows, [rows, columns]; None: they must be looked at one by one."""
        if not self._records.plain(block):
            return None
        block, sure = self._numbers.with_points(block)
        # NumPy warns, on the user's standard error, of a block without anything.
        if not sure or block.isspace():
            return None
        try:
            # NumPy reads numbers as Python does, by the same function, and is strict about what is none.
            values = np.loadtxt(
                block.split("\n")[:-1],
                np.float64,
                comments=None,
                delimiter=self._dialect.delimiter,
                quotechar=self._dialect.quote or None,
                usecols=self._layout.places,
                ndmin=2,
            )
        except ValueError:
            return None
        # It passes over lines that are blank.
        return values if len(values) == block.count("\n") and (np.abs(values) <= LARGEST).all() else None


def _narrowed(
    columns: Sequence[str], values: NDArray[np.float64], lines: NDArray[np.int64]
) -> tuple[NDArray[np.float32], str]:
    """The table as float32, and a warning ("": none).

    Raises:
        RowsError: a column of which float32 loses more changes than a few.
    """
    narrow = values.astype(np.float32)
    warnings: list[str] = []
    for place, name in enumerate(columns):
        changes = values[1:, place] != values[:-1, place]
        lost = changes & (narrow[1:, place] == narrow[:-1, place])
        if not lost.any():
            continue
        line = int(lines[1:][lost][0])
        what = f"column {short(name)!r}: {int(lost.sum())} of {int(changes.sum())} changes are lost in float32"
        if lost.sum() > _LOST * changes.sum():
            raise RowsError(
                f"line {line}, {what}, which holds 7 digits; subtract what its numbers have in common, or leave it out "
                "with --columns"
            )
        warnings.append(f"warning: {what} (first in line {line})")
    return narrow, "; ".join(warnings)
