"""From bytes to blocks of whole lines. Bytes come in pieces, cut anywhere; a line leaves when its end has come."""

import codecs
from collections.abc import Iterable, Iterator
from io import RawIOBase

from gatestream.cli.rows import RowsError

MAX_LINE = 1 << 22
"""Characters of a line at most: as many as a row of the widest model that a server takes needs, and some."""

BYTE_ORDER_MARK = "\ufeff"
# A first piece of a file for looking at, and then large ones.
_FIRST_BYTES = 1 << 16
_PIECE_BYTES = 1 << 20

_UTF_16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)


def pieces_of(file: RawIOBase) -> Iterator[bytes]:
    """What can be read now, again and again; a read ends with what has come, so that a live source is not held up."""
    size = _FIRST_BYTES
    while piece := file.read(size):
        yield piece
        size = _PIECE_BYTES


def decoded(pieces: Iterable[bytes]) -> Iterator[str]:
    """UTF-8 in pieces. Byte order marks are dropped, and what precedes an error comes out before it.

    Raises:
        RowsError: a byte that is not UTF-8, or NUL, with its line and its place in the line.
    """
    decoder = codecs.getincrementaldecoder("utf-8")()
    place = _Place()
    first = True
    for piece in _ended(pieces):
        if first and piece and piece[:2] in _UTF_16:
            raise RowsError("line 1: the input is UTF-16; convert it to UTF-8 first")
        first = False
        fault: UnicodeDecodeError | None = None
        try:
            text = decoder.decode(piece or b"", final=piece is None)
        except UnicodeDecodeError as error:
            fault = error
            text = error.object[: error.start].decode()
        good, nul, _ = text.partition("\0")
        place.move(good)
        if BYTE_ORDER_MARK in good:
            good = good.replace(BYTE_ORDER_MARK, "")
        if good:
            yield good
        if nul:
            raise RowsError(f"line {place.line}: byte {place.byte} is NUL, which no text holds")
        if fault is not None:
            value = fault.object[fault.start]
            raise RowsError(f"line {place.line}: byte {place.byte} ({value:#04x}) is not UTF-8; convert it first")


class _Place:
    """Where the next byte stands.

    Attributes:
        line: its line, from 1.
        byte: its place in the line, from 1.
    """

    def __init__(self) -> None:
        self.line = self.byte = 1
        self._after_cr = False

    def move(self, text: str) -> None:
        if not text:
            return
        ends = text.count("\n")
        if "\r" in text:
            ends += text.count("\r") - text.count("\r\n")
        if self._after_cr and text[0] == "\n":
            ends -= 1
        self._after_cr = text[-1] == "\r"
        self.line += ends
        begun = text[max(text.rfind("\n"), text.rfind("\r")) + 1 :]
        self.byte = len(begun.encode()) + (1 if len(begun) < len(text) else self.byte)


def _ended(pieces: Iterable[bytes]) -> Iterator[bytes | None]:
    yield from pieces
    yield None


def blocks(texts: Iterable[str]) -> Iterator[str]:
    r"""Blocks of one or more whole lines, each ended by \n whatever ended it before; the last line may lack its end.

    Raises:
        RowsError: a line longer than `MAX_LINE`; the lines before it come out first.
    """
    rest: list[str] = []
    size = number = 0
    after_cr = False
    for text in texts:
        # A line that ended with \r has left at once; the \n that follows belongs to it.
        piece = text[1:] if after_cr and text[:1] == "\n" else text
        after_cr = text.endswith("\r") if text else after_cr
        if "\r" in piece:
            piece = piece.replace("\r\n", "\n").replace("\r", "\n")
        whole, end, begun = piece.rpartition("\n")
        if end:
            block = "".join((*rest, whole, end))
            rest, size = [], 0
            number += block.count("\n")
            yield block
        if begun:
            rest.append(begun)
            size += len(begun)
        if size > MAX_LINE:
            raise RowsError(f"line {number + 1}: longer than {MAX_LINE:,} characters")
    if rest:
        yield "".join(rest) + "\n"
