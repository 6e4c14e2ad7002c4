"""What becomes of rows in which values are missing."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gatestream.cli.rows import RowsError, short
from gatestream.cli.rows.options import Missing


def refused(line: int, column: str, cell: str, ways: str) -> RowsError:
    """About a value that is missing where none may be."""
    return RowsError(
        f"line {line}, column {short(column)!r}: {short(cell)!r} is a missing value; choose what becomes of it with "
        f"--missing {ways}"
    )


def settle(
    policy: Missing, columns: Sequence[str], values: NDArray[np.float64], lines: NDArray[np.int64]
) -> tuple[NDArray[np.float64], NDArray[np.int64], str]:
    """A whole table without missing values, its rows' lines, and what was done, in words ("": nothing).

    Args:
        policy: refuse; drop the row; hold: the value above; interpolate: between the values above and below.
        columns: their names.
        values: [rows, columns], NaN where one is missing.
        lines: of the rows, [rows].

    Raises:
        RowsError: `policy` refuses, or there is no value to take; naming line and column.
    """
    holes = np.isnan(values)
    if not holes.any():
        return values, lines, ""
    counts = {name: int(count) for name, count in zip(columns, holes.sum(axis=0), strict=True) if count}
    told = ", ".join(f"{count} in {short(name)}" for name, count in counts.items())
    row, place = (int(each) for each in np.argwhere(holes)[0])
    if policy == "refuse":
        raise RowsError(
            f"line {lines[row]}, column {short(columns[place])!r}: a missing value (missing: {told}); choose what "
            "becomes of it with --missing drop, hold or interpolate"
        )
    if policy == "drop":
        kept = ~holes.any(axis=1)
        return values[kept], lines[kept], f"missing: {told}; {int((~kept).sum())} rows dropped"
    for place in np.flatnonzero(holes.any(axis=0)).tolist():
        column, gaps = values[:, place], holes[:, place]
        known = np.flatnonzero(~gaps)
        ends = [0] if policy == "hold" else [0, len(column) - 1]
        if bare := [row for row in ends if gaps[row]]:
            side = "before" if bare[0] == 0 else "behind"
            raise RowsError(
                f"line {lines[bare[0]]}, column {short(columns[place])!r}: a missing value with no value {side} it, so "
                f"--missing {policy} has none to take; drop such rows, or mend the file"
            )
        if policy == "hold":
            column[gaps] = column[known[np.searchsorted(known, np.flatnonzero(gaps)) - 1]]
        else:
            column[gaps] = np.interp(np.flatnonzero(gaps), known, column[known])
    return values, lines, f"missing: {told}; {'held' if policy == 'hold' else 'interpolated'}"


class Holder:
    """The latest value of each column of a live source."""

    def __init__(self) -> None:
        self._latest: list[Any] | None = None

    def fill(self, row: list[Any]) -> list[Any] | None:
        """The row with the latest values where it has None; None: there are none yet."""
        if None in row:
            if self._latest is None:
                return None
            row = [old if new is None else new for new, old in zip(row, self._latest, strict=True)]
        self._latest = row
        return row
