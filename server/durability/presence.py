"""Which owners of a SQLite store are processes of this machine that run: by locks that end with the process."""

import fcntl
import os
import struct
from pathlib import Path
from typing import Final

# struct flock of 64-bit Linux: type, whence, start, length, process.
_FLOCK: Final = struct.Struct("@hhqqi4x")
# Of an open file, not of a process: two stores of one process tell each other apart, as those of two processes do.
_CAN: Final = hasattr(fcntl, "F_OFD_SETLK")


class Presence:
    """One byte of a file for each owner, locked while its process runs, in whatever container of this machine.

    Elsewhere than on Linux everybody counts as present, and the heartbeat alone decides.

    Args:
        path: of the file; it stays empty.

    Raises:
        OSError: it cannot be opened.
    """

    def __init__(self, path: Path):
        self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        self._own: set[int] = set()

    def enter(self, owner: int) -> None:
        """Be present as an owner, until `leave` or the process' end."""
        if owner not in self._own:
            self._lock(fcntl.F_WRLCK, owner)
            self._own.add(owner)

    def leave(self, owner: int) -> None:
        """No longer be present as that owner."""
        if owner in self._own:
            self._own.discard(owner)
            self._lock(fcntl.F_UNLCK, owner)

    def has(self, owner: int) -> bool:
        """Whether that owner is present."""
        if owner in self._own or not _CAN:
            return True
        asked = _FLOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, owner, 1, 0)
        kind, *_ = _FLOCK.unpack(fcntl.fcntl(self._file, fcntl.F_OFD_GETLK, asked))
        return bool(kind != fcntl.F_UNLCK)

    def close(self) -> None:
        """Leave as everybody."""
        self._own.clear()
        os.close(self._file)

    def _lock(self, kind: int, owner: int) -> None:
        if _CAN:
            fcntl.fcntl(self._file, fcntl.F_OFD_SETLK, _FLOCK.pack(kind, os.SEEK_SET, owner, 1, 0))
