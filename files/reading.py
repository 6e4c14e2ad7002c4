"""Reading a file that somebody named: a regular one, and no larger than it can be."""

import errno
import os
import stat
from pathlib import Path


def read(path: Path, most: int) -> bytes:
    """All of a file.

    Args:
        path: of it; a symbolic link is followed.
        most: bytes that a right one may have.

    Raises:
        OSError: it cannot be read; it is a folder, a pipe, a device; it is larger.
    """
    # Without waiting for whoever may write to a pipe.
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        found = os.fstat(descriptor)
        if stat.S_ISDIR(found.st_mode):
            raise IsADirectoryError(errno.EISDIR, "is a folder, expected a file", str(path))
        if not stat.S_ISREG(found.st_mode):
            raise OSError(errno.EINVAL, "is not a regular file", str(path))
        if found.st_size > most:
            reason = f"is {found.st_size:,} bytes long, expected at most {most:,}"
            raise OSError(errno.EFBIG, reason, str(path))
        with os.fdopen(descriptor, "rb", closefd=False) as file:
            return file.read()
    finally:
        os.close(descriptor)
