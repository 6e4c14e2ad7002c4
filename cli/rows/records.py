"""From blocks of lines to rows of cells, each with its line: strictly by the dialect, and none lost."""

import csv
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from gatestream.cli.rows import RowsError
from gatestream.cli.rows.dialect import Dialect

Record = tuple[int, list[str]]
"""The line where a row begins, from 1, and its cells."""

LOOKED_AT = 1000
"""Rows of a file by which header, types and decimal mark are told."""

# Else one quote too many holds everything behind it.
_LONGEST_CELL = csv.field_size_limit()
_LONGEST_ROW = 8 * _LONGEST_CELL


def _quoted(data: NDArray[np.uint8], delimiter: int, quote: int) -> NDArray[np.bool_] | None:
    """Which bytes of a block stand inside quotes; None: not every quote opens or closes a whole cell."""
    quotes = np.flatnonzero(data == quote)
    opening, closing = quotes[::2], quotes[1::2]
    if len(opening) != len(closing):
        return None
    edge = (data == delimiter) | (data == ord("\n"))
    # What is before the first byte is the block's last one, a line's end.
    if not (edge[opening - 1].all() and edge[closing + 1].all()):
        return None
    return np.bitwise_xor.accumulate(data == quote)


class Records:
    """Reads the rows of one table, block by block.

    All rows have as many cells as the first. Blank lines are no rows, but for a table of one column, where one with a
    row behind it is an empty cell. Rows of empty cells alone wait for a row behind them, since at the end they are none
    (a spreadsheet's selection that was too long).

    Attributes:
        line: the next block's first line.
        width: cells in a row; 0 before the first.
        trailing: rows of empty cells that the table ended with.
    """

    def __init__(self, dialect: Dialect, line: int = 1, *, keep_empty: bool = False) -> None:
        """Prepare to read.

        Args:
            dialect: what separates and surrounds cells.
            line: the first block's first line.
            keep_empty: rows of empty cells are rows like others, and do not wait.
        """
        self.line = line
        self.width = 0
        self.trailing = 0
        self._dialect = dialect
        self._first = 0
        self._keep_empty = keep_empty
        # Of a row whose quote is open still: its lines, and the first one's number.
        self._open: list[str] = []
        self._begun = line
        self._open_size = 0
        self._empty: list[Record] = []

    def plain(self, block: str) -> bool:
        """Whether each line of the block is a row of the width, and quoted so that every reader reads it alike."""
        delimiter, quote, inner = self._dialect.delimiter, self._dialect.quote, self.width - 1
        if self._open or self._empty or not self.width or not (delimiter + quote).isascii():
            return False
        data = np.frombuffer(block.encode(), np.uint8)
        ends = np.flatnonzero(data == ord("\n"))
        begins = np.concatenate(([0], ends[:-1] + 1))
        between = np.flatnonzero(data == ord(delimiter))
        if quote and quote in block:
            quoted = _quoted(data, ord(delimiter), ord(quote))
            if quoted is None or quoted[ends].any():
                return False
            between = between[~quoted[between]]
        if len(between) != len(ends) * inner or (begins == ends).any():
            return False
        if not inner:
            return True
        # As many as must be; are they where they must be?
        rows = between.reshape(len(ends), inner)
        return bool((rows[:, 0] >= begins).all() and (rows[:, -1] < ends).all())

    def skip(self, lines: int) -> None:
        """Leave out a block of so many lines that was read otherwise."""
        self.line += lines

    def feed(self, block: str) -> Iterator[Record]:
        """The rows that end in this block.

        Raises:
            RowsError: naming the line; the rows before it come out first.
        """
        lines = block.split("\n")[:-1]
        if self._open and self._dialect.quote not in block:
            self._open.extend(lines)
            self._carry(block, len(block))
            return
        start = self._begun if self._open else self.line
        lines = self._open + lines
        self._open, self._open_size = [], 0
        # Lines that the row being read has taken.
        taken = 0
        position = 0

        def supply() -> Iterator[str]:
            nonlocal position, taken
            while position < len(lines):
                position += 1
                taken += 1
                yield lines[position - 1] + "\n"

        reader = csv.reader(supply(), **self._dialect.arguments())
        while position < len(lines):
            taken = 0
            begin = position
            try:
                cells = next(reader)
            except csv.Error as error:
                if position == len(lines) and "unexpected end" in str(error):
                    self._open, self._begun = lines[begin:], start + begin
                    self._carry(block, sum(map(len, self._open)))
                    return
                raise self._refused(error, start + begin, taken) from error
            yield from self._row(start + begin, cells, lines[begin:position])
        self.line = start + len(lines)

    def finish(self) -> None:
        """Nothing comes any more.

        Raises:
            RowsError: a quote is open still.
        """
        if self._open:
            column = len(next(csv.reader(self._open[:1], **{**self._dialect.arguments(), "strict": False})))
            raise RowsError(
                f"line {self._begun}, column {column}: the quote that opens here is never closed; mend it, or read "
                "quotes as they stand with --quote none"
            )
        self.trailing = len(self._empty)

    def _carry(self, block: str, size: int) -> None:
        """Go on to the next block with a row that is open, and by so many characters longer."""
        self.line += block.count("\n")
        self._open_size += size
        if self._open_size > _LONGEST_ROW:
            raise self._too_long(self._begun)

    def _row(self, line: int, cells: list[str], lines: list[str]) -> Iterator[Record]:
        blank = not cells or (len(cells) == 1 and not cells[0].strip() and not lines[0].strip())
        if not self.width:
            if blank or not any(cell.strip() for cell in cells):
                return
            self.width, self._first = len(cells), line
        elif blank:
            if self.width == 1:
                self._empty.append((line, [""]))
            return
        if len(cells) != self.width:
            raise RowsError(self._ragged(line, cells))
        if len(lines) > 1:
            self._check_spread(line, lines)
        if not self._keep_empty and not any(cell.strip() for cell in cells):
            self._empty.append((line, cells))
            return
        if self._empty:
            yield from self._empty
            self._empty = []
        yield line, cells

    def _ragged(self, line: int, cells: list[str]) -> str:
        here = f"{len(cells)} cell{'s' * (len(cells) != 1)}"
        return (
            f"line {line} has {here}, but line {self._first} has {self.width}; mend it, or, if cells are separated "
            f"otherwise than by {self._dialect.delimiter!r}, say so with --delimiter"
        )

    def _check_spread(self, line: int, lines: list[str]) -> None:
        """A stray quote makes rows into one cell, if another one closes it."""
        if self._dialect.sure or self.width == 1:
            return
        for each in lines[1:]:
            if each.count(self._dialect.delimiter) >= self.width - 1:
                raise RowsError(
                    f"line {line}: a quoted cell goes on to line {line + len(lines) - 1} and holds what looks like "
                    f"rows; if it is one cell, say so with --quote '{self._dialect.quote}'; if quotes mean nothing, "
                    "with --quote none"
                )

    def _refused(self, error: csv.Error, line: int, taken: int) -> RowsError:
        text = str(error)
        if "field larger" in text:
            return self._too_long(line)
        return RowsError(f"line {line + taken - 1}: not CSV: {text}; read quotes as they stand with --quote none")

    def _too_long(self, line: int) -> RowsError:
        return RowsError(
            f"line {line}: a cell that begins here is longer than {_LONGEST_CELL:,} characters; mend a quote that "
            "stands there by mistake, or read quotes as they stand with --quote none"
        )
