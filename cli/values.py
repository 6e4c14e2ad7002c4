"""Flags of a name and what it is to be."""

from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from numpy.typing import NDArray


def split(text: str, separator: str, metavar: str) -> tuple[str, str]:
    """At the last separator: names may have it too."""
    name, found, value = text.rpartition(separator)
    if not found or not name or not value:
        raise click.BadParameter(f"{text!r}; expected {metavar}")
    return name, value


class Value(click.ParamType):  # type: ignore[type-arg]  # generic only in newer ones than the oldest
    """A name with numbers, or with a file that NumPy has saved; or a name alone.

    Args:
        metavar: what the help calls it.
        alone: whether the name may stand alone.
    """

    def __init__(self, metavar: str, *, alone: bool) -> None:
        self.name = metavar
        self._alone = alone

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> "tuple[str, NDArray[Any] | None]":
        """The name, and its value; None where it stands alone."""
        import numpy as np

        if isinstance(value, tuple):
            return value
        if self._alone and "=" not in value:
            return value, None
        name, text = split(value, "=", self.name)
        if text in ("true", "false"):
            return name, np.array(text == "true")
        try:
            if text.endswith(".npy"):
                found: NDArray[Any] = np.load(text, allow_pickle=False)
                return name, found
            numbers = [float(part) if set(part) & set(".eEnN") else int(part) for part in text.split(",")]
        except (OSError, ValueError) as error:
            raise click.BadParameter(
                f"{value!r}: {error}; expected numbers with commas between them, true, false, or a .npy file"
            ) from error
        return name, np.array(numbers[0] if len(numbers) == 1 else numbers)
