"""The folder in which the processes of one server keep what they make of files that are no artifacts."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from gatestream.files.marks import is_made_here
from gatestream.server.config import ServerConfig
from gatestream.server.errors import ConfigError


@contextmanager
def adopted(config: ServerConfig) -> Iterator[Path | None]:
    """That folder, for the length of a block; None: nothing is made, since every file is an artifact.

    Raises:
        ConfigError: there is no such folder, or none can be made.
    """
    if config.models is None and not any(map(_is_strange, config.artifacts)):
        yield None
        return
    try:
        if config.adopt_cache is not None:
            config.adopt_cache.mkdir(exist_ok=True)
            yield config.adopt_cache
            return
        folder = tempfile.TemporaryDirectory(prefix="gatestream-adopted-")
    except OSError as error:
        where = config.adopt_cache or tempfile.gettempdir()
        raise ConfigError(f"adopt_cache: {where} is no folder that can be written to: {error.strerror}") from error
    with folder as name:
        yield Path(name)


def _is_strange(path: Path) -> bool:
    """Whether it is a file that is no artifact; what cannot be read is told by whoever loads it."""
    try:
        return not is_made_here(path, "artifact")
    except OSError:
        return False
