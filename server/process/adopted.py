"""The folder in which the processes of one server keep what they make of files that are no artifacts."""

import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from gatestream.files.marks import is_made_here
from gatestream.server.config import ServerConfig
from gatestream.server.errors import ConfigError

PREFIX: Final = "gatestream-cache-"


@contextmanager
def adopted(config: ServerConfig) -> Iterator[Path | None]:
    """That folder, for the length of a block; None: nothing is made, since every file is an artifact.

    Folders that killed servers left are removed first: a server keeps its own locked, and the kernel lets go of it.

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
        _sweep()
        folder, lock = _locked()
    except OSError as error:
        where = config.adopt_cache or tempfile.gettempdir()
        raise ConfigError(f"adopt_cache: {where} is no folder that can be written to: {error.strerror}") from error
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        os.close(lock)


def _locked() -> tuple[Path, int]:
    """A new folder, and the descriptor that keeps it locked."""
    while True:
        folder = Path(tempfile.mkdtemp(prefix=PREFIX))
        lock = _lock(folder)
        # Before it was locked, another server may have taken it for one that was left.
        if lock is not None and folder.exists():
            return folder, lock
        if lock is not None:
            os.close(lock)


def _sweep() -> None:
    for folder in Path(tempfile.gettempdir()).glob(f"{PREFIX}*"):
        if (lock := _lock(folder)) is not None:
            shutil.rmtree(folder, ignore_errors=True)
            os.close(lock)


def _lock(folder: Path) -> int | None:
    """A descriptor of a folder of ours that nobody has locked; None: it is somebody's, or gone."""
    try:
        lock = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        if os.fstat(lock).st_uid == os.geteuid():
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return lock
    except BlockingIOError:
        pass
    os.close(lock)
    return None


def _is_strange(path: Path) -> bool:
    """Whether it is a file that is no artifact; what cannot be read is told by whoever loads it."""
    try:
        return not is_made_here(path, "artifact")
    except OSError:
        return False
