"""The numeric columns of a CSV file."""

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from gatestream.model.tasks.task import DataError

_LARGEST = float(np.finfo(np.float32).max)


@dataclass(frozen=True, slots=True)
class Table:
    """What was read.

    Attributes:
        columns: names of the numeric columns; column1, column2, ... where the file has no header.
        values: float32 [rows, columns].
        skipped: names of the columns that are not numbers.
    """

    columns: tuple[str, ...]
    values: NDArray[np.float32]
    skipped: tuple[str, ...]


def read_table(path: Path, columns: Sequence[str] = ()) -> Table:
    """Read a CSV file, separated by commas, semicolons or tabs.

    The first row is a header if it holds no number. A column counts as numeric if most of its cells are
    numbers; then all of them must be.

    Args:
        path: the file.
        columns: names of those to read; none: all numeric ones.

    Raises:
        DataError: it is not UTF-8, has no such column or no numeric one, rows of unlike length, or a cell
            in a numeric column that is no finite number: the message names the line and the column.
        OSError: it cannot be read.
    """
    names, rows, lines = _read(path)
    if unknown := [name for name in columns if name not in names]:
        raise DataError(f"{path}: no column {unknown[0]!r}; it has {', '.join(names)}")
    cells = list(zip(*rows, strict=True))
    numeric = [_mostly_numbers(column) for column in cells]
    chosen = [names.index(name) for name in columns] or [k for k, is_numeric in enumerate(numeric) if is_numeric]
    if not chosen:
        raise DataError(f"{path}: no numeric column among {', '.join(names)}; numbers are written with a decimal point")
    values = np.empty((len(rows), len(chosen)), dtype=np.float32)
    for place, k in enumerate(chosen):
        for row, cell in enumerate(cells[k]):
            number = _number(cell)
            if number is None or not abs(number) <= _LARGEST:
                raise DataError(
                    f"{path}: line {lines[row]}, column {names[k]!r}: {cell!r} is not a finite number; "
                    "mend the file, or choose other columns with --columns"
                )
            values[row, place] = number
    skipped = tuple(name for k, name in enumerate(names) if k not in chosen)
    return Table(tuple(names[k] for k in chosen), values, skipped)


def _read(path: Path) -> tuple[list[str], list[list[str]], list[int]]:
    """Column names, rows of cells, and each row's line in the file."""
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: not UTF-8 (at offset {error.start}); convert it first") from error
    first_line = text.partition("\n")[0]
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=max(",;\t", key=first_line.count))
    numbered = [(reader.line_num, row) for row in reader if row]
    if not numbered:
        raise DataError(f"{path}: empty, expected rows of numbers")
    lines, rows = [line for line, _ in numbered], [row for _, row in numbered]
    for line, row in numbered:
        if len(row) != len(rows[0]):
            raise DataError(f"{path}: line {line} has {len(row)} cells, but line {lines[0]} has {len(rows[0])}")
    if any(_number(cell) is not None for cell in rows[0]):
        return [f"column{k + 1}" for k in range(len(rows[0]))], rows, lines
    names = [cell.strip() for cell in rows[0]]
    if repeated := [name for name in names if names.count(name) > 1]:
        raise DataError(f"{path}: column {repeated[0]!r} stands in the header more than once; rename one")
    return names, rows[1:], lines[1:]


def _number(cell: str) -> float | None:
    try:
        return float(cell)
    except ValueError:
        return None


def _mostly_numbers(column: Sequence[str]) -> bool:
    return 2 * sum(_number(cell) is not None for cell in column) > len(column)
