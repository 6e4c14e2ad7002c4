"""Parsing what a peer sent, of which nothing is known yet: bounded before protobuf makes anything of it.

protobuf makes an object of every field, of two bytes too: a message of 16 MB would become gigabytes. Here its fields
are counted first, along its wire format (https://protobuf.dev/programming-guides/encoding), which makes nothing.
"""

from functools import cache
from typing import Any, Final, TypeVar

from google.protobuf.message import DecodeError, Message

from gatestream.server.errors import InvalidRequest, Malformed
from gatestream.server.transport.wire import varint_at

M = TypeVar("M", bound=Message)
_Table = dict[int, "_Table"]

# What a message of so few bytes can become is small.
_SMALL: Final = 4096
# As protobuf bounds it.
_DEEPEST: Final = 100
_VARINT, _FIXED64, _BYTES, _GROUP, _END_GROUP, _FIXED32 = range(6)
# Inside a group, which no message of ours has: all fields are unknown.
_UNKNOWN: Final[_Table] = {}


class _NoMessage(Exception):
    """The bytes are no message of any type."""


def parse(message_type: type[M], data: bytes, *, fields: int) -> M:
    """The message that these bytes are.

    Args:
        message_type: what they are expected to be.
        data: as they came.
        fields: how many fields it may have, with those of the messages in it and those that are unknown. A packed
            column is one. A message of less than 4 KiB may have more.

    Raises:
        InvalidRequest: they are no such message, or one of more fields.
    """
    try:
        # A field takes two bytes or more.
        if len(data) >= _SMALL and len(data) >= 2 * fields and _has_more(data, _table(message_type.DESCRIPTOR), fields):
            name = message_type.DESCRIPTOR.name
            raise InvalidRequest(f"the {name} has too many fields; expected at most {fields}")
        return message_type.FromString(data)
    except (DecodeError, _NoMessage) as error:
        raise malformed(message_type, data) from error


def malformed(message_type: type[Message], data: bytes) -> Malformed:
    """That these bytes are no message of a type."""
    return Malformed(f"what came is not a {message_type.DESCRIPTOR.name}: its {len(data)} bytes cannot be parsed")


def _has_more(data: bytes, table: _Table, fields: int) -> bool:
    """Whether there are more fields than that; not looked at beyond so many.

    Raises:
        _NoMessage: what was looked at is no message.
    """
    at, stop = 0, len(data)
    outer: list[tuple[_Table, int]] = []
    try:
        while True:
            while at < stop:
                if fields == 0:
                    return True
                fields -= 1
                tag = data[at]
                at += 1
                if tag >= 0x80:
                    tag, at = varint_at(data, at - 1)
                kind = tag & 7
                if kind == _BYTES:
                    size = data[at]
                    at += 1
                    if size >= 0x80:
                        size, at = varint_at(data, at - 1)
                    if at + size > stop:
                        raise _NoMessage
                    inner = table.get(tag >> 3)
                    if inner is None:
                        at += size
                    else:
                        outer.append((table, stop))
                        table, stop = inner, at + size
                elif kind == _VARINT:
                    _, at = varint_at(data, at)
                elif kind == _FIXED32:
                    at += 4
                elif kind == _FIXED64:
                    at += 8
                elif kind == _GROUP:
                    outer.append((table, stop))
                    table = _UNKNOWN
                elif kind == _END_GROUP and table is _UNKNOWN:
                    table, stop = outer.pop()
                else:
                    raise _NoMessage
                if len(outer) > _DEEPEST:
                    raise _NoMessage
            if at > stop or table is _UNKNOWN:
                raise _NoMessage
            if not outer:
                return False
            table, stop = outer.pop()
    except (IndexError, ValueError):
        raise _NoMessage from None


@cache
def _table(descriptor: Any) -> _Table:
    """The messages that can be in one of this type: by field number, those that can be in them."""
    known: dict[Any, _Table] = {}

    def of(descriptor: Any) -> _Table:
        if descriptor not in known:
            known[descriptor] = table = {}
            for item in descriptor.fields:
                if item.message_type is not None:
                    table[item.number] = of(item.message_type)
        return known[descriptor]

    return of(descriptor)
