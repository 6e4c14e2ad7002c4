"""Whether line 1 names the columns, and what the columns are called."""

from collections.abc import Sequence

from gatestream.cli.rows import RowsError, short
from gatestream.cli.rows.numbers import Numbers, looks_numeric, roughly

# From so many rows on, the first one can be told from the others.
_ENOUGH = 10


def numbered(width: int) -> list[str]:
    """Names of columns that have none."""
    return [f"column{place + 1}" for place in range(width)]


def names(line: int, cells: Sequence[str]) -> list[str]:
    """Names of the columns under a header; one that is empty is called by its place.

    Raises:
        RowsError: a name that stands twice.
    """
    found = [cell.strip() or f"column{place + 1}" for place, cell in enumerate(cells)]
    seen: set[str] = set()
    for name in found:
        if name in seen:
            raise RowsError(
                f"line {line}: column {short(name)!r} stands in the header more than once; rename one, or, if that is "
                "no header, say --no-header"
            )
        seen.add(name)
    return found


def is_header(line: int, first: Sequence[str], rest: Sequence[Sequence[str]], numbers: Numbers) -> bool:
    """Whether the first row of a file names the columns.

    It does if it has no number, or text above numbers.

    Args:
        line: where it stands.
        first: its cells.
        rest: the rows behind it, or the first of them.
        numbers: what is missing there.

    Raises:
        RowsError: it holds numbers, but they are like none below them.
    """
    texts = [not looks_numeric(cell) and not numbers.is_missing(cell) for cell in first]
    if not any(looks_numeric(cell) for cell in first):
        return any(texts)
    apart = []
    for place, text in enumerate(texts):
        below = [row[place] for row in rest if not numbers.is_missing(row[place])]
        figures = [number for cell in below if (number := roughly(cell)) is not None]
        if 2 * len(figures) <= len(below) or not figures:
            continue
        if text:
            return True
        if (number := roughly(first[place])) is not None:
            apart.append(_apart(number, figures))
    if apart and all(apart) and len(rest) >= _ENOUGH:
        raise RowsError(
            f"line {line}: {short(', '.join(first))} may be names of columns, or numbers unlike those below; say which "
            "with --header or --no-header"
        )
    return False


def _apart(value: float, others: Sequence[float]) -> bool:
    """Whether a value is further from all the others than they are from each other."""
    least, most = min(others), max(others)
    return max(least - value, value - most) > most - least
