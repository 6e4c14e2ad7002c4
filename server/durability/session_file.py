"""One session as a file: written by one server's operator, read by another's."""

import base64
import binascii
import hashlib
import json
from pathlib import Path
from typing import Any, Final

from gatestream.server.durability.checkpoints import Checkpoint, Key, Meaning, Stored

_FORMAT: Final = "gatestream session"
_VERSION: Final = 1
_MOST_BYTES: Final = 256 * 2**20
_MOST: Final = 2**53 - 1
_LONGEST_NAME: Final = 1024
_TEXTS: Final = ("tenant", "model", "session_id", "weights_fingerprint", "states", "version")


class SessionFileError(ValueError):
    """The file is no session that can be taken; the message says why."""


def encode(stored: Stored) -> bytes:
    """A session as JSON, with the SHA-256 of all else that it says."""
    said = {
        "format": _FORMAT,
        "format_version": _VERSION,
        **stored.key._asdict(),
        "epoch": stored.epoch,
        "weights_fingerprint": stored.meaning.fingerprint,
        "states": stored.meaning.states,
        "version": stored.meaning.version,
        "checkpoints": [
            {"sequence": item.sequence, "position": item.position, "state": base64.b64encode(item.state).decode()}
            for item in stored.checkpoints
        ],
    }
    return (json.dumps(said | {"sha256": _digest(said)}, indent=1) + "\n").encode()


def read(path: Path) -> Stored:
    """A session from its file.

    Raises:
        SessionFileError: it is none, damaged, or too large.
        OSError: it cannot be read.
    """
    with path.open("rb") as file:
        content = file.read(_MOST_BYTES + 1)
    if len(content) > _MOST_BYTES:
        raise SessionFileError(f"it has more than {_MOST_BYTES:,} bytes")
    return decode(content)


def decode(content: bytes) -> Stored:
    """As `read`, of the file's content.

    Raises:
        SessionFileError: it is none, or damaged.
    """
    try:
        said = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise SessionFileError("it is no JSON") from error
    if not isinstance(said, dict) or said.get("format") != _FORMAT:
        raise SessionFileError(f"it is no session: format is not {_FORMAT!r}")
    if said.get("format_version") != _VERSION:
        raise SessionFileError(f"format_version is {said.get('format_version')!r:.40}; expected {_VERSION}")
    if said.pop("sha256", None) != _digest(said):
        raise SessionFileError("it is damaged: its sha256 is another")
    texts = [_text(said, name) for name in _TEXTS]
    found = said.get("checkpoints")
    if not isinstance(found, list) or len(found) not in (1, 2):
        raise SessionFileError("checkpoints: expected one or two")
    checkpoints = [_checkpoint(item) for item in found]
    if len({len(item.state) for item in checkpoints}) > 1:
        raise SessionFileError("checkpoints: expected states of one size")
    if len(checkpoints) == 2 and checkpoints[0].sequence >= checkpoints[1].sequence:
        raise SessionFileError("checkpoints: expected a growing sequence")
    # One below the most: who takes the session up gets a higher one.
    return Stored(Key(*texts[:3]), _number(said, "epoch", _MOST - 2), "", Meaning(*texts[3:]), checkpoints)


def _digest(said: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()


def _text(said: dict[str, Any], name: str) -> str:
    value = said.get(name)
    if not isinstance(value, str) or "\0" in value or len(value) > _LONGEST_NAME or not _is_unicode(value):
        raise SessionFileError(f"{name}: expected a text of at most {_LONGEST_NAME} characters")
    if name in ("model", "session_id") and not value:
        raise SessionFileError(f"{name} is empty")
    return value


def _is_unicode(value: str) -> bool:
    return not any("\ud800" <= character <= "\udfff" for character in value)


def _number(said: dict[str, Any], name: str, most: int) -> int:
    value = said.get(name)
    if type(value) is not int or not 0 <= value <= most:
        raise SessionFileError(f"{name}: expected a whole number from 0 to {most}")
    return value


def _checkpoint(said: object) -> Checkpoint:
    if not isinstance(said, dict):
        raise SessionFileError("checkpoints: expected objects")
    try:
        state = base64.b64decode(said.get("state", ""), validate=True)
    except (TypeError, ValueError, binascii.Error) as error:
        raise SessionFileError("state: expected base64") from error
    return Checkpoint(_number(said, "sequence", _MOST), _number(said, "position", _MOST), state)
