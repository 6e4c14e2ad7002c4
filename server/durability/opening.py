"""The store that the text of `--store` names."""

from pathlib import Path
from typing import Literal

from gatestream.server.durability.checkpoints import Store
from gatestream.server.durability.memory import MemoryStore
from gatestream.server.durability.sqlite import SqliteStore
from gatestream.server.errors import ConfigError, cut

_EXPECTED = "expected memory, or sqlite:PATH"


def open_store(text: str, durability: Literal["behind", "before-answer"] = "behind", *, create: bool = True) -> Store:
    """Make a store. It connects to what it needs when it is first asked for something.

    Args:
        text: as `--store`.
        durability: before-answer: what is said to be written survives a power cut too.
        create: a SQLite file that is not there is made.

    Raises:
        ConfigError: the text names none, or what it names cannot be there.
    """
    kind, colon, rest = text.partition(":")
    if text == "memory":
        return MemoryStore()
    if kind == "sqlite" and colon:
        path = _sqlite_path(text, rest, create)
        return SqliteStore(path, create=create, synchronous="FULL" if durability == "before-answer" else "NORMAL")
    raise ConfigError(f"store is {cut(text)!r}; {_EXPECTED}")


def _sqlite_path(text: str, name: str, create: bool) -> Path:
    path = Path(name)
    if not name or "\0" in name:
        raise ConfigError(f"store is {cut(text)!r}; {_EXPECTED}")
    if path.exists() and not path.is_file():
        raise ConfigError(f"store is {cut(text)!r}; {path} is no file")
    if not create and not path.exists():
        raise ConfigError(f"store is {cut(text)!r}; there is no file {path}")
    if not path.parent.is_dir():
        raise ConfigError(f"store is {cut(text)!r}; there is no folder {path.parent}")
    return path
