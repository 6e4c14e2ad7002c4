"""From bytes to the rows that a session steps, each at once, with the line that it stands in."""

import math
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from gatestream.cli.rows import Form, RowsError
from gatestream.cli.rows.csv_rows import CsvRows
from gatestream.cli.rows.json_rows import JsonRows
from gatestream.cli.rows.lines import blocks, decoded
from gatestream.cli.rows.options import TableOptions
from gatestream.cli.rows.text_rows import TextRows
from gatestream.protos.gatestream.v1 import gatestream_pb2 as pb


class Reader:
    """Reads rows for one model."""

    def __init__(
        self,
        spec: pb.ModelSpec,
        form: Form,
        options: TableOptions,
        *,
        unknown: str | None = None,
        live: bool = True,
        note: Callable[[str], None],
    ) -> None:
        """Prepare to read.

        Args:
            spec: the model's.
            form: of the rows.
            options: of a table; the columns are the keys of JSON lines, too.
            unknown: of text: see `TextRows`.
            live: see `CsvRows`.
            note: gets what was detected and done, where it does not go without saying.

        Raises:
            RowsError: the form or an option does not fit the model.
        """
        columns, first = options.columns, spec.inputs[0]
        if columns and len(columns) != math.prod(first.shape):
            raise RowsError(f"{len(columns)} columns were named; input '{first.name}' has {math.prod(first.shape)}")
        if unknown is not None and form != "text":
            raise RowsError(f"--unknown is about the characters of text; {form} is read")
        self._text = TextRows(spec, unknown) if form == "text" else None
        self._read: Callable[[Iterable[str]], Iterator[tuple[int, Any]]]
        if self._text:
            self._read = self._text.rows
        elif form == "csv":
            table = CsvRows(spec, options, live=live, note=note)
            self._read = lambda texts: table.rows(blocks(texts))
        else:
            lines = JsonRows(spec, columns)
            self._read = lambda texts: lines.rows(blocks(texts))
        # Lines of the rows that have left and were not answered yet, oldest first.
        self._lines: deque[int] = deque()
        self._answered = 0

    def rows(self, pieces: Iterable[bytes]) -> Iterator[Any]:
        """The rows, each as `Session.step` takes it.

        Raises:
            RowsError: a row cannot be read; the rows before it come out first.
        """
        for line, row in self._read(decoded(pieces)):
            self._lines.append(line)
            yield row

    def answered(self) -> None:
        """The oldest row that was not answered yet is now."""
        self._lines.popleft()
        self._answered += 1

    def ended(self, rows: int) -> int:
        """How many lines of text have ended after so many rows, or fewer, and were not told yet."""
        return self._text.ended(rows) if self._text else 0

    def error(self, what: str) -> RowsError:
        """About the oldest row that was not answered."""
        # A row's number says less than its line.
        what = what.removeprefix(f"row {self._answered}: ")
        return RowsError(f"line {self._lines[0]}: {what}" if self._lines else what)
