"""The options that say how a table is written, for every command that reads one."""

import csv
from collections.abc import Callable
from typing import Any

import click

from gatestream.cli.rows.options import MISSING, MISSING_VALUES, TableOptions

_SPELLED = {"tab": "\t", "\\t": "\t", "comma": ",", "semicolon": ";", "bar": "|", "space": " "}
# What numbers are written with, and what ends a line.
_NO_DELIMITERS = set(".+-_\r\n\0")


def table_options(*, columns: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Give a command these options; it gets them as the `TableOptions` `table`.

    Args:
        columns: help of --columns.
    """
    options = [
        click.option("--columns", default="", metavar="A,B,...", callback=_names, help=columns),
        click.option(
            "--delimiter", metavar="C", callback=_delimiter,
            help="CSV: what separates cells: one character, or tab, space, comma, semicolon, bar. By default detected.",
        ),
        click.option(
            "--quote", metavar="C", callback=_quote,
            help="CSV: what surrounds cells that hold delimiters: one character, or none. By default detected.",
        ),
        click.option(
            "--decimal", type=click.Choice([".", ","]),
            help="CSV: the decimal mark. By default that of the first number that has one and is not as 1,234.",
        ),
        click.option(
            "--header/--no-header", default=None, help="CSV: line 1 names the columns, or not. By default detected."
        ),
        click.option(
            "--missing", type=click.Choice(MISSING), default="refuse", show_default=True,
            help="CSV: where a value is missing: end with an error; drop the row; hold the value above; or take one "
            "between those above and below (of a whole file).",
        ),
        click.option(
            "--missing-values", metavar="A,B,...", callback=_values, show_default=False,
            help=f"CSV: cells that stand for a missing value, as an empty one does. By default "
            f"{' '.join(filter(None, MISSING_VALUES))}",
        ),
    ]  # fmt: skip

    def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
        def command(**given: Any) -> Any:
            names = ("columns", "delimiter", "quote", "decimal", "header", "missing", "missing_values")
            said = {name: given.pop(name) for name in names}
            if said["missing_values"] is None:
                del said["missing_values"]
            for one, other in (("decimal", "delimiter"), ("delimiter", "quote"), ("decimal", "quote")):
                if said[one] is not None and said[one] == said[other]:
                    raise click.UsageError(f"--{one} and --{other} are both {said[one]!r}")
            return function(table=TableOptions(**said), **given)

        command.__doc__ = function.__doc__
        command.__name__ = function.__name__
        # What decorators nearer to the function have put there.
        command.__click_params__ = list(getattr(function, "__click_params__", ()))  # type: ignore[attr-defined]
        for option in reversed(options):
            command = option(command)
        return command

    return decorate


def _list(text: str) -> list[str]:
    try:
        return [each.strip() for each in next(csv.reader([text], strict=True, skipinitialspace=True), [])]
    except csv.Error as error:
        raise click.BadParameter(f"{text!r} is no list A,B,...: {error}") from error


def _names(context: click.Context, parameter: click.Parameter, text: str) -> tuple[str, ...]:
    del context, parameter
    names = [name for name in _list(text) if name]
    if repeated := [name for name in names if names.count(name) > 1]:
        raise click.BadParameter(f"{repeated[0]!r} stands there more than once")
    return tuple(names)


def _values(context: click.Context, parameter: click.Parameter, text: str | None) -> tuple[str, ...] | None:
    del context, parameter
    return None if text is None else tuple(_list(text))


def _delimiter(context: click.Context, parameter: click.Parameter, text: str | None) -> str | None:
    del context, parameter
    if text is None:
        return None
    delimiter = _SPELLED.get(text.lower(), text)
    if len(delimiter) != 1 or delimiter.isalnum() or delimiter in _NO_DELIMITERS:
        raise click.BadParameter(
            f"{text!r} came; one character that is no part of a number or word, or {', '.join(_SPELLED)} were expected"
        )
    return delimiter


def _quote(context: click.Context, parameter: click.Parameter, text: str | None) -> str | None:
    del context, parameter
    if text is None:
        return None
    if text == "none":
        return ""
    if len(text) != 1 or text.isalnum() or text.isspace() or text in _NO_DELIMITERS:
        raise click.BadParameter(f"{text!r} came; one character, or none, was expected")
    return text
