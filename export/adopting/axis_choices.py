"""Which axes are tried, and in which order: those first that the file calls by one name."""

from collections.abc import Iterator, Sequence
from itertools import product
from math import prod
from typing import Any, Final

from gatestream.export.adopting.signature import End, written
from gatestream.export.errors import AmbiguousError

_MOST: Final = 4096
"""Attempts; a graph of so many axes of size 1 has to be told which."""

Choice = tuple[int | None, ...]
"""An axis of each tensor; None: it has none."""


def preferred(end: End, axes: list[int]) -> list[int | None]:
    """Axes of any size before those of one size, and those of size 1 before the others."""
    return [*sorted(axes, key=lambda k: (isinstance(end.dims[k], int), end.base[k] != 1, k))]


def combinations(ends: Sequence[End], choices: Sequence[list[int | None]]) -> Iterator[Choice]:
    """One axis for each; first those that the file calls by one name.

    Raises:
        AmbiguousError: there are too many.
    """
    seen: set[Choice] = set()
    names: dict[Any, None] = {}
    for end, axes in zip(ends, choices, strict=True):
        names |= {end.dims[k]: None for k in axes if k is not None and isinstance(end.dims[k], str)}
    ways: list[list[list[int | None]]] = []
    for name in names:
        way: list[list[int | None]] = []
        for end, axes in zip(ends, choices, strict=True):
            own: list[int | None] = [k for k in axes if k is not None and end.dims[k] == name]
            way.append(own or axes)
        ways.append(way)
    for way in [*ways, list(choices)]:
        if prod(map(len, way)) > _MOST:
            unknown = max(zip(ends, way, strict=True), key=lambda pair: len(pair[1]))[0]
            raise AmbiguousError(
                f"too many axes may be the sessions' or time, most of them of '{unknown.name}' "
                f"{written(unknown.dims)}: say so with --batch {unknown.name}:AXIS and --time {unknown.name}:AXIS, for "
                "others too"
            )
        for choice in sorted(product(*way), key=lambda choice: sum(axis is None for axis in choice)):
            if choice not in seen:
                seen.add(choice)
                yield choice
