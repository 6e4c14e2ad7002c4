"""The flags of `gatestream adopt` that a config.pbtxt gives for its model's files."""

import shlex
from typing import Final

WITH_VALUE: Final = ("state", "constant", "time", "batch", "window", "context", "initial", "form")
_ALONE: Final = ("stateless",)

KEY: Final = "adopt"
WRITTEN: Final = f'parameters {{ key: "{KEY}" value {{ string_value: "FLAGS" }} }}'
"""How they stand there."""


def adopt_flags(text: str) -> list[str]:
    """The flags, each with its value in one, as `--window=input:512`.

    Args:
        text: as on a command line, with a shell's quotes.

    Raises:
        ValueError: what in it is no flag, or is one that the folder has no say in.
    """
    found: list[str] = []
    tokens = iter(shlex.split(text))
    for token in tokens:
        name, equals, value = token[2:].partition("=")
        if not token.startswith("--") or name not in (*WITH_VALUE, *_ALONE):
            known = ", ".join(f"--{each}" for each in (*WITH_VALUE, *_ALONE))
            raise ValueError(f"{token[:100]!r} is none of the flags that can stand there: {known}")
        if name in WITH_VALUE and not equals:
            value = next(tokens, "")
        if (name in _ALONE) == bool(value):
            raise ValueError(f"--{name} {'takes no value' if value else 'has no value'}")
        if value.endswith(".npy"):
            raise ValueError(f"--{name} names a file, {value[:100]!r}; adopt by hand with it: gatestream adopt")
        found.append(f"--{name}={value}" if value else f"--{name}")
    return found
