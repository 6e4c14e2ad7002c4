"""Rows as text, in and out: CSV, JSON lines, characters. What `gatestream stream` reads and writes."""

from typing import Literal

Form = Literal["csv", "jsonl", "text"]
FORMS: tuple[Form, ...] = ("csv", "jsonl", "text")


class RowsError(ValueError):
    """A row cannot be read, or a form does not fit the model; the message names the line."""
