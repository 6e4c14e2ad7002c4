"""The names that sequences of the Open Inference Protocol have as sessions.

The sequence 5 is the session `sequence:5`, the sequence "5" is `sequence:s:5`: a string stands there percent-encoded,
so that a session id has no other characters than before.
"""

from typing import Final
from urllib.parse import quote, unquote

MOST_BYTES: Final = 128
"""Of a string that names a sequence, in UTF-8."""
SEQUENCE_SESSION: Final = rf"sequence:s:(?:[A-Za-z0-9._-]|%[0-9A-F]{{2}}){{1,{MOST_BYTES}}}"
"""What the session of a string matches."""

_NUMBER: Final = "sequence:"
_STRING: Final = "sequence:s:"


def sequence_session(sequence_id: int | str) -> str:
    """The session that a sequence is."""
    if isinstance(sequence_id, int):
        return f"{_NUMBER}{sequence_id}"
    # It is the one character that `quote` leaves and a session id does not have.
    return _STRING + quote(sequence_id, safe="").replace("~", "%7E")


def sequence_shown(session_id: str) -> str:
    """The sequence_id that a session has for its callers, as an error quotes it; empty where it is none."""
    if session_id.startswith(_STRING):
        return repr(unquote(session_id.removeprefix(_STRING)))
    return session_id.removeprefix(_NUMBER) if session_id.startswith(_NUMBER) else ""
