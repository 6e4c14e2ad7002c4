"""How a file says that gatestream made it: by what stands in it, never by its name.

artifact     ONNX with the key `gatestream.spec` in its metadata
checkpoint   safetensors with the key `gatestream.checkpoint` in its metadata
picture      PNG with the mark as its Software; SVG with the mark near its beginning
report       a JSON object with a gatestream_version, as `export --report` writes it
log          its first line is a comment with the mark
port         nothing but a port's number
"""

import json
import os
import re
import stat
import struct
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO, Final, Literal

import gatestream

Kind = Literal["artifact", "checkpoint", "picture", "report", "log", "port"]

_MADE_BY: Final = "made by gatestream"
MARK: Final = f"{_MADE_BY} {gatestream.__version__}"
"""What a picture or a log says of itself."""

_SPEC_ENTRY: Final = b"\x0a\x0fgatestream.spec\x12"
_METADATA_PROPS: Final = 14
_LARGEST_HEADER: Final = 100_000_000
_BEGINNING: Final = 4096


def picture_metadata(suffix: str) -> dict[str, str | None]:
    """What to hand to matplotlib's `savefig` as `metadata`, by the file's suffix (.png or .svg)."""
    return {"Creator": MARK, "Date": None} if suffix.lower() == ".svg" else {"Software": MARK}


def is_made_here(path: Path, kind: Kind) -> bool:
    """Whether a regular file says of itself that gatestream made it, and that it is of this kind.

    Raises:
        OSError: it cannot be read.
    """
    # Without waiting for whoever may write to a pipe.
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    with os.fdopen(descriptor, "rb") as file:
        return stat.S_ISREG(os.fstat(descriptor).st_mode) and _READERS[kind](file)


def _artifact(file: BinaryIO) -> bool:
    """Go from field to field of the message, over the weights without reading them."""
    end = file.seek(0, os.SEEK_END)
    file.seek(0)
    while (tag := _varint(file)) is not None:
        number, form = tag >> 3, tag & 7
        if form == 0:
            size = 0 if _varint(file) is not None else end
        elif form == 2:
            found = _varint(file)
            size = end if found is None else found
        else:
            size = {1: 8, 5: 4}.get(form, end)
        start = file.tell()
        if number == 0 or size > end - start:
            return False
        if number == _METADATA_PROPS and form == 2 and file.read(len(_SPEC_ENTRY)) == _SPEC_ENTRY:
            return True
        file.seek(start + size)
    return False


def _varint(file: BinaryIO) -> int | None:
    value = 0
    for shift in range(0, 70, 7):
        byte = file.read(1)
        if not byte:
            return None
        value |= (byte[0] & 0x7F) << shift
        if byte[0] < 0x80:
            return value
    return None


def _checkpoint(file: BinaryIO) -> bool:
    first = file.read(8)
    size = struct.unpack("<Q", first)[0] if len(first) == 8 else 0
    if not 2 <= size <= _LARGEST_HEADER:
        return False
    try:
        header = json.loads(file.read(size))
        return "gatestream.checkpoint" in header["__metadata__"]
    except (ValueError, KeyError, TypeError, RecursionError):
        return False


def _picture(file: BinaryIO) -> bool:
    first = file.read(8)
    if first != b"\x89PNG\r\n\x1a\n":
        beginning = first + file.read(_BEGINNING)
        return beginning.startswith((b"<svg", b"<?xml")) and b"<svg" in beginning and _MADE_BY.encode() in beginning
    mark = b"Software\0" + _MADE_BY.encode()
    while len(head := file.read(8)) == 8:
        size, name = struct.unpack(">I4s", head)
        if name == b"tEXt" and file.read(len(mark)) == mark:
            return True
        if name == b"IDAT":
            break
        # The rest of the chunk, and its checksum.
        file.seek(size + 4 - (len(mark) if name == b"tEXt" else 0), os.SEEK_CUR)
    return False


def _report(file: BinaryIO) -> bool:
    beginning = file.read(_BEGINNING)
    return re.match(rb'\{\s*"passed": (true|false),', beginning) is not None and b'"gatestream_version": ' in beginning


def _log(file: BinaryIO) -> bool:
    return file.readline(_BEGINNING).startswith(f"# {_MADE_BY}".encode())


def _port(file: BinaryIO) -> bool:
    return re.fullmatch(rb"[0-9]{1,5}\n?", file.read(8)) is not None


_READERS: Final[dict[Kind, Callable[[BinaryIO], bool]]] = {
    "artifact": _artifact,
    "checkpoint": _checkpoint,
    "picture": _picture,
    "report": _report,
    "log": _log,
    "port": _port,
}
