"""Cells of a table as numbers: by one grammar, with one decimal mark, and none that float32 cannot hold."""

import re
from collections.abc import Iterable, Sequence

import numpy as np

from gatestream.cli.rows import short

LARGEST = float(np.finfo(np.float32).max)

_MARKS = {".": "a decimal point", ",": "a decimal comma"}
# Digits, decimal mark, exponent. Not what Python's float() also takes: 2024_01, nan, inf, digits of other scripts.
_NUMBER = re.compile(r"[+-]?(?:\d+([.,]?)\d*|([.,])\d+)(?:[eE][+-]?\d+)?", re.ASCII)
# With separators between thousands, which would have to be told from decimal marks: no number, but meant as one.
_THOUSANDS = re.compile(
    r"[+-]?(?:\d{1,3}(?:,\d{3})+\.\d*|\d{1,3}(?:\.\d{3})+,\d*|\d{1,3}(?:,\d{3}){2,})",
    re.ASCII,
)
# One comma before three digits, as before the last thousand: 1,234 is 1234 to some and 1.234 to others.
_GROUPED = re.compile(r"[+-]?[1-9]\d{0,2},\d{3}", re.ASCII)
_INFINITE = re.compile(r"[+-]?inf(inity)?", re.IGNORECASE)


class CellError(ValueError):
    """A cell is no number; the message quotes it, and what stands around adds line and column."""


def looks_numeric(cell: str) -> bool:
    """Whether it is meant as a number, with either decimal mark."""
    text = cell.strip()
    return any(kind.fullmatch(text) for kind in (_NUMBER, _THOUSANDS, _INFINITE))


def roughly(cell: str) -> float | None:
    """The number that a cell would be with either decimal mark; None: it is none."""
    text = cell.strip().replace(",", ".")
    return float(text) if _NUMBER.fullmatch(text) or _INFINITE.fullmatch(text) else None


class Numbers:
    """Reads the cells of one table.

    The decimal mark is settled by the first number that has one and cannot be read otherwise, unless it is given or
    cells are separated by commas. All numbers must agree with it.

    Attributes:
        decimal: the mark, or None while it is not settled.
        delimiter: what separates cells.
    """

    def __init__(self, decimal: str | None, delimiter: str, missing_values: tuple[str, ...]) -> None:
        self.delimiter = delimiter
        self.decimal = decimal or ("." if delimiter == "," else None)
        self._settled_by = "--decimal" if decimal else "the delimiter"
        self._missing = frozenset(missing_values)
        self._plain_missing = not any(looks_numeric(each) for each in missing_values)

    def is_missing(self, cell: str) -> bool:
        """Whether the cell stands for a missing value."""
        return not (text := cell.strip()) or text in self._missing

    def settle(self, rows: Iterable[tuple[int, Sequence[str]]]) -> None:
        """Look for what settles the decimal mark before the rows are read.

        Args:
            rows: their lines and cells.
        """
        for line, cells in rows:
            for cell in cells:
                if self.decimal is not None:
                    return
                text = cell.strip()
                found = _NUMBER.fullmatch(text)
                if (
                    found
                    and (mark := found[1] or found[2])
                    and not _GROUPED.fullmatch(text)
                    and text not in self._missing
                ):
                    self._agree(cell, mark, line)

    def number(self, cell: str, line: int) -> float:
        """The cell as float64.

        Raises:
            CellError: it is no number, has another decimal mark or one that may be none, or float32 cannot hold it.
        """
        text = cell.strip()
        found = _NUMBER.fullmatch(text)
        if found is None:
            what = "not a finite number" if _INFINITE.fullmatch(text) else "not a number"
            hint = "; write it without separators between thousands" if _THOUSANDS.fullmatch(text) else ""
            raise CellError(f"{short(cell)!r} is {what}{hint}")
        if mark := found[1] or found[2]:
            if self.decimal is None and _GROUPED.fullmatch(text):
                raise CellError(
                    f"{short(cell)!r} may have a decimal comma or a separator between thousands; say --decimal , "
                    "for the one, and write it without for the other"
                )
            self._agree(cell, mark, line)
            text = text.replace(",", ".")
        value = float(text)
        if abs(value) > LARGEST:
            raise CellError(f"{short(cell)!r} is not a finite number in float32, which ends at 3.4e38")
        return value

    def with_points(self, block: str) -> tuple[str, bool]:
        """A block of rows with decimal points, for another reader of numbers, and whether it would read them alike.

        Where commas are decimal, points become commas, and so no part of a number.
        """
        if not self._plain_missing or (self.decimal is None and ("," in block or "." in block)):
            return block, False
        if self.decimal == ",":
            block = block.translate({44: 46, 46: 44})
        return block, True

    def _agree(self, cell: str, mark: str, line: int) -> None:
        if self.decimal is None:
            self.decimal, self._settled_by = mark, f"line {line}"
        elif mark != self.decimal:
            raise CellError(
                f"{short(cell)!r} has {_MARKS[mark]}, and by {self._settled_by} numbers have {_MARKS[self.decimal]}; "
                "say which with --decimal"
            )
