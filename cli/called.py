"""What a model or a version is called, as a flag."""

from typing import Any

import click


class Called(click.ParamType):  # type: ignore[type-arg]  # generic only in newer ones than the oldest
    """A name that can be printed, with something in it."""

    name = "text"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """As it is, or refused."""
        text = str(value)
        if not text.strip() or not text.isprintable():
            self.fail(f"{text!r}; expected a name of printable characters, which is not empty", param, ctx)
        return text
