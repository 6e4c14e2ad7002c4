"""What separates and surrounds the cells of a table: detected, declared by the file, or said by the user."""

import csv
import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from gatestream.cli.rows import RowsError
from gatestream.cli.rows.numbers import looks_numeric
from gatestream.cli.rows.options import TableOptions

# That a detection may answer; any other can be said with --delimiter.
_DELIMITERS = (",", ";", "\t", "|", " ")
_NAMES = {",": "comma", ";": "semicolon", "\t": "tab", "|": "bar", " ": "space"}
# Of a file's beginning: enough to know it by, and soon looked through.
_SAMPLE = 1 << 14


@dataclass(frozen=True, slots=True)
class Dialect:
    """What separates and surrounds cells.

    Attributes:
        delimiter: one character.
        quote: one character, doubled inside a quoted cell; "": none.
        sure: the user has said both, so that nothing is doubted.
    """

    delimiter: str
    quote: str = '"'
    sure: bool = False

    def __str__(self) -> str:
        quotes = {"": "no quotes", '"': "", "'": "single quotes"}.get(self.quote, f"quote {self.quote!r}")
        name = _NAMES.get(self.delimiter, repr(self.delimiter))
        return f"delimiter {name}" + (f", {quotes}" if quotes else "")

    def arguments(self) -> dict[str, Any]:
        """For `csv.reader`."""
        quoting = {"quotechar": self.quote} if self.quote else {"quoting": csv.QUOTE_NONE, "quotechar": None}
        # A space after a delimiter is no part of the cell, unless it is the delimiter.
        return {
            "delimiter": self.delimiter,
            "strict": True,
            "skipinitialspace": self.delimiter != " ",
            **quoting,
        }


def opened(
    blocks: Iterator[str], options: TableOptions, detect: Callable[[TableOptions, str], Dialect]
) -> tuple[Dialect, int, Iterator[str]] | None:
    """How a table is written, the line where it begins, and its blocks from there; None: it is empty.

    Args:
        blocks: of whole lines. A first line sep=; says the delimiter, as spreadsheets write it.
        options: what the user has said.
        detect: asked, with the block in which the table begins, where neither says the delimiter.

    Raises:
        RowsError: both say it, and not the same; or as `detect`.
    """
    delimiter = options.delimiter
    line = 1
    for block in blocks:
        first, _, rest = block.partition("\n")
        if line == 1 and len(first) == 5 and first[:4].lower() == "sep=":
            if delimiter not in (None, first[4]):
                raise RowsError(f"line 1 says {first}, and --delimiter says {delimiter!r}; leave one of them out")
            delimiter, line, block = first[4], 2, rest
        while block and not block.partition("\n")[0].strip():
            line, block = line + 1, block.partition("\n")[2]
        if block:
            quote = '"' if options.quote is None else options.quote
            said = Dialect(delimiter, quote, options.quote is not None) if delimiter else None
            return said or detect(options, block), line, itertools.chain([block], blocks)
    return None


def detect(options: TableOptions, block: str) -> Dialect:
    """The dialect of a file that begins with this block of lines.

    Raises:
        RowsError: clevercsv is not installed; no dialect fits, or two fit as well as each other.
    """
    sample = _sample(block)
    possible = [delimiter for delimiter in _DELIMITERS if delimiter != options.decimal]
    present = [delimiter for delimiter in possible if delimiter in sample]
    if len(present) < 2 and not any(quote in sample for quote in "\"'"):
        # Nothing to choose from.
        return Dialect((present or possible)[0], '"' if options.quote is None else options.quote)
    try:
        import clevercsv
    except ModuleNotFoundError as error:
        raise RowsError(
            f"finding out how a table separates its cells needs {error.name}, which is not installed: "
            "pip install 'gatestream[tables]', or say it with --delimiter"
        ) from error
    try:
        found = clevercsv.Detector().detect(sample, delimiters=possible)
    except clevercsv.Error:
        found = None
    if found is None:
        raise RowsError("line 1: what separates the cells cannot be told; say it with --delimiter")
    quote = found.quotechar or '"' if options.quote is None else options.quote
    dialect = Dialect(found.delimiter or possible[0], quote, options.quote is not None)
    for other in possible[:-1]:
        rival = Dialect(other, quote)
        if other != dialect.delimiter and (0, 0) < _worth(sample, rival) >= _worth(sample, dialect):
            raise RowsError(
                f"line 1: cells may be separated by {dialect.delimiter!r} or by {other!r}; say which with --delimiter"
            )
    return dialect


def _sample(block: str) -> str:
    if len(block) <= _SAMPLE:
        return block
    end = block.rfind("\n", 0, _SAMPLE) + 1
    # Two lines at least, however long.
    return block[: end if end and "\n" in block[: end - 1] else block.find("\n", block.find("\n") + 1) + 1 or None]


def _worth(sample: str, dialect: Dialect) -> tuple[int, int]:
    """How much a dialect explains: columns of numbers, the more the better, and others, the fewer the better."""
    try:
        rows = [row for row in csv.reader(sample.split("\n"), **dialect.arguments()) if row]
    except csv.Error:
        return (0, 0)
    if len({len(row) for row in rows}) != 1 or len(rows[0]) < 2:
        return (0, 0)
    numeric = sum(
        2 * sum(looks_numeric(cell) for cell in column) > len(column) for column in zip(*rows[1:] or rows, strict=True)
    )
    return (numeric, numeric - len(rows[0]))


def of_first_line(options: TableOptions, block: str, fits: Callable[[Sequence[str]], bool]) -> Dialect:
    """The dialect of a live source, of which one line has come: that under which the line is what the model takes.

    Args:
        options: of these, the quote.
        block: lines that have come.
        fits: whether cells may be the model's header or a row for it.

    Raises:
        RowsError: it is so under several.
    """
    line = block.partition("\n")[0]
    quote = '"' if options.quote is None else options.quote
    found: list[str] = []
    possible = [delimiter for delimiter in _DELIMITERS if delimiter != options.decimal]
    for delimiter in (each for each in possible if each in line):
        try:
            (cells,) = csv.reader([line], **Dialect(delimiter, quote).arguments())
        except csv.Error:
            continue
        # Between words there are spaces, too.
        if fits(cells) and not (delimiter == " " and found):
            found.append(delimiter)
    if len(found) > 1:
        raise RowsError(
            f"line 1: cells may be separated by {found[0]!r} or by {found[1]!r}; say which with --delimiter"
        )
    return Dialect((found or possible)[0], quote, options.quote is not None)
