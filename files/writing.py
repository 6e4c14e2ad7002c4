"""A file appears whole or not at all, also when the disk is full or the process is killed."""

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A draft that takes the place of a file when the block ends, and goes when it fails.

    A symbolic link is followed and stays. Folders on the way are made. A file that is there keeps its mode and owner.

    Args:
        path: of the file.

    Yields:
        Where to write the draft: in a folder of its own beside the file, with the file's suffix.

    Raises:
        OSError: the file cannot be written; its `filename` is never the draft's.
    """
    target = Path(os.path.realpath(path))
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        with TemporaryDirectory(dir=target.parent, prefix=".gatestream-") as folder:
            draft = Path(folder, "draft" + target.suffix)
            yield draft
            _settle(draft, target)
    except OSError as error:
        if error.errno is None or not _of_draft(error.filename, target.parent):
            raise
        raise OSError(error.errno, error.strerror, str(path)) from error


def write(path: Path, data: bytes) -> None:
    """Replace a file by one with these contents, as `replacing` does.

    Raises:
        OSError: it cannot be written.
    """
    with replacing(path) as draft:
        draft.write_bytes(data)


def deliver(path: Path, data: bytes) -> None:
    """As `write`; but what `is_written_through` is not replaced: the bytes go into it.

    Raises:
        OSError: it cannot be written; nobody reads the pipe.
    """
    found = _found(path)
    if found is None or not is_written_through(found):
        return write(path, data)
    standard = standard_stream(found)
    try:
        # Without waiting: a pipe that nobody reads is an error, not the end of all progress.
        descriptor = os.open(path, os.O_WRONLY | os.O_NONBLOCK) if standard is None else os.dup(standard)
        try:
            if standard is None:
                os.set_blocking(descriptor, True)
            rest = memoryview(data)
            while rest:
                rest = rest[os.write(descriptor, rest) :]
        finally:
            os.close(descriptor)
    except OSError as error:
        unread = error.errno in (errno.ENXIO, errno.EPIPE) and stat.S_ISFIFO(found.st_mode)
        # EIO, since EPIPE is about standard output.
        raise OSError(errno.EIO, "nobody reads it" if unread else error.strerror, str(path)) from error


def is_written_through(found: os.stat_result) -> bool:
    """Whether a file is a pipe, a device, or what is standard output or error already."""
    return stat.S_ISFIFO(found.st_mode) or stat.S_ISCHR(found.st_mode) or standard_stream(found) is not None


def standard_stream(found: os.stat_result) -> int | None:
    """Which of the process's output streams, 1 or 2, a file is."""
    for descriptor in (1, 2):
        with suppress(OSError):
            if os.path.samestat(os.fstat(descriptor), found):
                return descriptor
    return None


def _found(path: Path) -> os.stat_result | None:
    try:
        return path.stat()
    except FileNotFoundError:
        return None


def _settle(draft: Path, target: Path) -> None:
    """Put the draft in the file's place, on the disk before it has its name."""
    descriptor = os.open(draft, os.O_RDWR)
    try:
        with suppress(FileNotFoundError):
            found = target.stat()
            os.fchmod(descriptor, stat.S_IMODE(found.st_mode))
            if (found.st_uid, found.st_gid) != (os.geteuid(), os.getegid()):
                with suppress(PermissionError):
                    os.fchown(descriptor, found.st_uid, found.st_gid)
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    draft.replace(target)
    directory = os.open(target.parent, os.O_RDONLY)
    try:
        os.fsync(directory)  # The name, too, survives a loss of power.
    finally:
        os.close(directory)


def _of_draft(filename: object, parent: Path) -> bool:
    return filename is None or str(filename).startswith(f"{parent}{os.sep}.gatestream-")
