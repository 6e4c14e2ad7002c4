"""Protobuf's text format with fields that a message type does not have: which they are, and the text without them.

The parser's own `allow_unknown_field` does not take all that can stand in a field: `state [ { ... } ]` it refuses.
"""

import re
from typing import Any, Final, NamedTuple

_TOKEN: Final = re.compile(
    r"""(?:\s|\#[^\n]*)*(?:(?P<text>"(?:[^"\\\n]|\\.)*"|'(?:[^'\\\n]|\\.)*')|(?P<word>[\w.+-]+)|(?P<mark>.))""",
    re.DOTALL | re.ASCII,
)
_OPEN, _CLOSE = "{<[", "}>]"


class Known(NamedTuple):
    """A text and what was taken out of it.

    Attributes:
        text: with spaces in place of the fields that are not known: what is left is where it was.
        unknown: their names, with dots, each once, in the order in which they come first.
    """

    text: str
    unknown: tuple[str, ...]


def known_part(text: str, descriptor: Any) -> Known:
    """Take out of a message's text what its type does not have.

    Args:
        text: of the message. Where it is none, the rest is left for the parser to refuse.
        descriptor: of the type.
    """
    scanner = _Scanner(text)
    scanner.message(descriptor, "")
    left = list(text)
    for start, stop in scanner.spans:
        left[start:stop] = [each if each == "\n" else " " for each in text[start:stop]]
    return Known("".join(left), tuple(dict.fromkeys(scanner.unknown)))


class _Scanner:
    """Goes through the fields of a text once.

    Args:
        text: of a message.

    Attributes:
        spans: where the fields that are not known begin and end.
        unknown: their names.
    """

    def __init__(self, text: str):
        found = [match for match in _TOKEN.finditer(text) if match.lastgroup is not None]
        self._kinds = [str(match.lastgroup) for match in found]
        self._tokens = [match[str(match.lastgroup)] for match in found]
        self._spans = [match.span(str(match.lastgroup)) for match in found]
        self._at = 0
        self.spans: list[tuple[int, int]] = []
        self.unknown: list[str] = []

    def message(self, descriptor: Any, prefix: str) -> None:
        """Go to the end of the message that stands here, whose type is known."""
        while self._at < len(self._tokens):
            if self._tokens[self._at] in (",", ";"):
                self._at += 1
                continue
            if self._kinds[self._at] != "word":
                return
            begin, name = self._at, self._tokens[self._at]
            known = descriptor.fields_by_name.get(name)
            self._at += 1
            self._value(None if known is None else known.message_type, f"{prefix}{name}.")
            if known is None:
                self.unknown.append(f"{prefix}{name}")
                self.spans.append((self._spans[begin][0], self._spans[self._at - 1][1]))

    def _value(self, descriptor: Any, prefix: str) -> None:
        if self._here == ":":
            self._at += 1
        if self._kind == "text":
            # Several that stand side by side are one.
            while self._kind == "text":
                self._at += 1
        elif self._here in _OPEN and self._here:
            if descriptor is None:
                self._skip()
            elif self._here == "[":
                self._at += 1
                while self._here and self._here in "{<,":
                    self._nested(descriptor, prefix)
                self._at += self._here == "]"
            else:
                self._nested(descriptor, prefix)
        elif self._kind == "word":
            self._at += 1

    def _nested(self, descriptor: Any, prefix: str) -> None:
        self._at += 1
        if self._tokens[self._at - 1] != ",":
            self.message(descriptor, prefix)
            self._at += self._here in _CLOSE and bool(self._here)

    def _skip(self) -> None:
        """Go behind the bracket that belongs to the one that stands here."""
        depth = 0
        while self._here:
            if self._kind == "mark":
                depth += (self._here in _OPEN) - (self._here in _CLOSE)
            self._at += 1
            if depth == 0:
                return

    @property
    def _here(self) -> str:
        return self._tokens[self._at] if self._at < len(self._tokens) else ""

    @property
    def _kind(self) -> str:
        return self._kinds[self._at] if self._at < len(self._tokens) else ""
