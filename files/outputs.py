"""May a command write where it was told to? Asked before it does any work, so that nothing of the user's is lost."""

import os
import stat
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from gatestream.files.marks import Kind, is_made_here
from gatestream.files.names import shown
from gatestream.files.writing import is_written_through, standard_stream

_CALLED: dict[Kind, str] = {
    "artifact": "an artifact of gatestream's",
    "checkpoint": "a checkpoint of gatestream's",
    "picture": "a picture that gatestream drew",
    "report": "a report of gatestream's",
    "log": "a log of gatestream's",
    "port": "a port file",
}


class OutputError(ValueError):
    """A command may not write there; the message names the output and the file and says why."""


@dataclass(frozen=True, slots=True)
class Output:
    """A file that a command is about to write.

    Attributes:
        option: what it was given by, "--report", or what it is.
        path: of it.
        kind: of file.
        through: it may be a pipe, a device or standard output, which is written through (`writing.deliver`).
    """

    option: str
    path: Path
    kind: Kind
    through: bool = False


def check(
    outputs: Iterable[Output], inputs: Mapping[str, Path | None], *, force: bool = False, forcible: bool = True
) -> None:
    """Refuse outputs that would destroy something.

    Args:
        outputs: of one command.
        inputs: files that it reads, by the option or argument that they were given by; None: not given.
        force: overwrite files that gatestream did not make; never an input or another output.
        forcible: there is a way to say so.

    Raises:
        OutputError: an output is a folder, a device or the like; is one of the inputs, or another output, by whichever
            name; is a file that gatestream did not make, or of another kind; or its folder cannot be written to.
        OSError: what stands there cannot be looked at.
    """
    taken = {_identity(path): option for option, path in inputs.items() if path is not None}
    for output in outputs:
        found = _found(output.path)
        identity = _identity(output.path)
        if identity in taken and not (found and stat.S_ISCHR(found.st_mode)):
            raise OutputError(f"{output.option} {shown(output.path)} is the same file as {taken[identity]}")
        taken[identity] = output.option
        if found is None:
            _check_folder(output)
        elif not (output.through and is_written_through(found)):
            _check_file(output, found, force=force, forcible=forcible)


def exists(path: Path, kind: Kind) -> bool:
    """Whether there is a file of this kind that gatestream made.

    Raises:
        OSError: what stands there cannot be looked at.
    """
    return _found(path) is not None and is_made_here(path, kind)


def _check_file(output: Output, found: os.stat_result, *, force: bool, forcible: bool) -> None:
    name = f"{output.option} {shown(output.path)}"
    if not stat.S_ISREG(found.st_mode):
        what = "a folder" if stat.S_ISDIR(found.st_mode) else "not a regular file"
        raise OutputError(f"{name} is {what}; name a file to write")
    if standard_stream(found) is not None:
        raise OutputError(f"{name} is where this command's standard output or error goes; name another file")
    if found.st_size and not force and not is_made_here(output.path, output.kind):
        way = "name another file, or overwrite it with --force" if forcible else "name another file, or remove it"
        raise OutputError(f"{name} is there and is not {_CALLED[output.kind]}; {way}")
    if not found.st_mode & 0o222 and not force:
        raise OutputError(f"{name} is write-protected; name another file" + (", or use --force" if forcible else ""))
    _check_folder(output)


def _check_folder(output: Output) -> None:
    folder = Path(os.path.realpath(output.path)).parent
    while not os.path.lexists(folder):
        folder = folder.parent
    if not folder.is_dir():
        raise OutputError(f"{output.option} {shown(output.path)}: {shown(folder)} is not a folder")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise OutputError(f"{output.option} {shown(output.path)}: the folder {shown(folder)} cannot be written to")


def _found(path: Path) -> os.stat_result | None:
    """What stands there, at the end of its symbolic links; None: nothing as yet."""
    try:
        return path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return None


def _identity(path: Path) -> tuple[int, int] | str:
    """The same for all names of one file."""
    found = _found(path)
    return os.path.realpath(path) if found is None else (found.st_dev, found.st_ino)
