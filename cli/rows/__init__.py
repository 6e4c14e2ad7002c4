"""Rows as text, in and out: tables (CSV), JSON lines, text. `train series` reads them, `stream` reads and writes them.

bytes -> `lines` -> blocks of whole lines -> a form -> rows

`records` reads the blocks of a table by its `dialect`; `header`, `numbers` and `missing` say what its cells are. A
whole file (`table`) and a live source (`csv_rows`) share all of these, so that both read the same numbers.
"""

from typing import Literal

Form = Literal["csv", "jsonl", "text"]
FORMS: tuple[Form, ...] = ("csv", "jsonl", "text")

_SHOWN = 60


class RowsError(ValueError):
    """A row cannot be read, or a form does not fit the model; the message names the line."""


def short(text: str) -> str:
    """What an error quotes of its input."""
    return text if len(text) <= _SHOWN else text[: _SHOWN - 3] + "..."
