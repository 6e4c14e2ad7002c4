"""The store that the text of `--store` names."""

from pathlib import Path
from typing import Final, Literal

from gatestream.server.durability.checkpoints import Store
from gatestream.server.durability.memory import MemoryStore
from gatestream.server.durability.sqlite import SqliteStore
from gatestream.server.errors import ConfigError, cut

_EXPECTED: Final = "expected memory, sqlite:PATH, or valkey://HOST:PORT/DB"
_SCHEMES: Final = ("valkey", "redis", "valkeys", "rediss")


def open_store(text: str, durability: Literal["behind", "before-answer"] = "behind", *, create: bool = True) -> Store:
    """Make a store. It connects to what it needs when it is first asked for something.

    Args:
        text: as `--store`.
        durability: before-answer: what is said to be written survives a power cut too.
        create: a SQLite file that is not there is made.

    Raises:
        ConfigError: the text names none, what it names cannot be there, or what it needs is not installed.
    """
    kind, colon, rest = text.partition(":")
    if text == "memory":
        return MemoryStore()
    if kind == "sqlite" and colon:
        path = _sqlite_path(text, rest, create)
        return SqliteStore(path, create=create, synchronous="FULL" if durability == "before-answer" else "NORMAL")
    if kind in _SCHEMES and rest.startswith("//"):
        # The client's package is an extra, and takes its time to be imported.
        try:
            from gatestream.server.durability.valkey import ValkeyStore
            from gatestream.server.durability.valkey_url import connect
        except ModuleNotFoundError as error:
            if error.name != "redis":
                raise
            raise ConfigError(f"store {kind}:// needs a package: pip install 'gatestream[valkey]'") from error
        return ValkeyStore(*connect(text))
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
