"""Names and messages as they are printed: whatever they hold, a terminal shows them and does nothing else."""

import os
import unicodedata

_LONGEST = 1000
_TAIL = 200


def shown(text: str | os.PathLike[str]) -> str:
    """Text with every character escaped that is not for showing.

    Those are control characters, line ends, what turns the direction of writing, and bytes of a file's name that are no
    UTF-8.
    """
    text = os.fspath(text)
    return text if text.isascii() and text.isprintable() else "".join(map(_character, text))


def line(text: str | os.PathLike[str]) -> str:
    """As `shown`, of at most 1,000 characters: of longer text the middle is left out."""
    text = shown(text)
    if len(text) <= _LONGEST:
        return text
    return f"{text[: _LONGEST - _TAIL]}[...]{text[-_TAIL:]}"


def _character(character: str) -> str:
    # Control, format, surrogate, private use, unassigned; separators of lines and paragraphs.
    if character == " " or unicodedata.category(character) not in ("Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"):
        return character
    if "\udc80" <= character <= "\udcff":
        return f"\\x{ord(character) - 0xDC00:02x}"  # a byte that is no UTF-8, as Python keeps it
    return character.encode("unicode_escape").decode()
