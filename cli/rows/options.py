"""What a user can say about a table, instead of having it detected."""

from dataclasses import dataclass
from typing import Literal

Missing = Literal["refuse", "drop", "hold", "interpolate"]
MISSING: tuple[Missing, ...] = ("refuse", "drop", "hold", "interpolate")

MISSING_VALUES = ("", "NA", "N/A", "n/a", "#N/A", "NaN", "nan", "NAN", "NULL", "Null", "null", "None", "-", "?")
"""Cells that stand for a value that is missing, unless the user names others; the empty cell always does."""


@dataclass(frozen=True, slots=True)
class TableOptions:
    """How to read a table; None: detected.

    Attributes:
        delimiter: the character between cells.
        quote: the character around cells that hold delimiters, quotes or line ends; "": none.
        decimal: the decimal mark, "." or ",".
        header: whether line 1 names the columns.
        missing: what to do where a value is missing.
        missing_values: cells that stand for a missing value, besides the empty one.
        columns: names of the columns to use, in this order; none: all numeric ones, or those of the model.
    """

    delimiter: str | None = None
    quote: str | None = None
    decimal: str | None = None
    header: bool | None = None
    missing: Missing = "refuse"
    missing_values: tuple[str, ...] = MISSING_VALUES
    columns: tuple[str, ...] = ()
