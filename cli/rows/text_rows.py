"""Text, token by token, for one model."""

from collections import deque
from collections.abc import Generator, Iterable, Iterator
from typing import Any

from gatestream.cli.rows import RowsError, short
from gatestream.protos.gatestream.v1 import gatestream_pb2 as pb

_LINE_ENDS = "\r\n"


class TextRows:
    """Reads text as tokens of one model.

    At each place the longest token that stands there is taken. A token leaves at once, unless what has come is the
    beginning of a longer one. Line ends that are no tokens are passed over.
    """

    def __init__(self, spec: pb.ModelSpec, unknown: str | None) -> None:
        """Prepare to read.

        Args:
            spec: the model's.
            unknown: the token to take for a character that is none; None: such a one is an error.

        Raises:
            RowsError: the model has no vocabulary, or `unknown` is not in it.
        """
        vocabulary = spec.inputs[0].vocabulary
        if not vocabulary:
            raise RowsError(f"model '{spec.name}' has no vocabulary, so it cannot read text; use csv or jsonl")
        self._model = spec.name
        self._known = frozenset(vocabulary) - {""}
        self._shown = short(" ".join(sorted(self._known)))
        if unknown is not None and unknown not in self._known:
            raise RowsError(f"--unknown: {short(unknown)!r} is no token of model '{spec.name}'; it has {self._shown}")
        self._unknown = unknown
        self._longest = max(map(len, self._known))
        self._beginnings = frozenset(token[:end] for token in self._known for end in range(1, len(token)))
        # After how many tokens a line ended whose end is no token, oldest first.
        self._breaks: deque[int] = deque()
        self._line = self._column = 1
        self._count = 0

    def rows(self, texts: Iterable[str]) -> Iterator[tuple[int, Any]]:
        """Each token behind the number of its line.

        Raises:
            RowsError: a character that is no token; the tokens before it come out first.
        """
        rest = ""
        for text in texts:
            rest = yield from self._split(rest + text, final=False)
        yield from self._split(rest, final=True)

    def ended(self, tokens: int) -> int:
        """How many lines have ended after so many tokens, or fewer, and were not told yet."""
        lines = 0
        while self._breaks and self._breaks[0] <= tokens:
            self._breaks.popleft()
            lines += 1
        return lines

    def _split(self, text: str, *, final: bool) -> Generator[tuple[int, str], None, str]:
        """The tokens of what has come, and what is left: the beginning of a longer one, unless nothing follows."""
        place = 0
        while place < len(text) and (final or text[place : place + self._longest] not in self._beginnings):
            line, character = self._line, text[place]
            token = self._longest_at(text, place)
            skipped = token is None and character in _LINE_ENDS
            if skipped and character == "\n":
                self._breaks.append(self._count)
            if token is None and self._unknown is None and not skipped:
                raise RowsError(
                    f"line {line}, column {self._column}: {character!r} is no token of model '{self._model}'; it has "
                    f"{self._shown}; --unknown TOKEN takes one for it"
                )
            taken = token or character
            self._pass(taken)
            place += len(taken)
            if not skipped:
                self._count += 1
                yield line, token or self._unknown or ""
        return text[place:]

    def _longest_at(self, text: str, place: int) -> str | None:
        for end in range(min(place + self._longest, len(text)), place, -1):
            if text[place:end] in self._known:
                return text[place:end]
        return None

    def _pass(self, text: str) -> None:
        ends = text.count("\n")
        self._line += ends
        self._column = len(text) - text.rfind("\n") if ends else self._column + len(text)
