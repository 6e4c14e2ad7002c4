"""Random messages of any kind, built from its descriptor: of the right structure, with values that hurt."""

import random
from typing import Any, Final

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass

from tests.hostile.model import FEATURES, NAME

_INTEGERS: Final = [
    0,
    1,
    2,
    3,
    5,
    7,
    64,
    100,
    255,
    9_999,
    16_384,
    16_385,
    2**31 - 1,
    2**31,
    2**32 - 1,
    2**62,
    2**63 - 1,
]
_UNSIGNED: Final = [*_INTEGERS, 2**63, 2**64 - 1]
_SIGNED: Final = [*_INTEGERS, -1, -2, -(2**31), -(2**63)]
_FLOATS: Final = [0.0, -0.0, 1.0, -1.5, 1e-45, 3.4e38, float("nan"), float("inf"), -float("inf")]
_STRINGS: Final = [
    *("", NAME, "nobody", "x", "y", "i", "f", "g", "o", "h", "c", "1", "FP32", "FP64", "INT64", "BYTES", "BOOL"),
    *("sequence_id", "sequence_start", "sequence_end", "priority", "binary_data_output", "classification", "0:-1"),
    *("s0", "s1", "s2", "sequence:s0", "good/s0", "../s0", "é\0\n", "🦀" * 10, "x" * 129, "%s%n{0}", " "),
]
_ROW: Final = 4 * FEATURES
_SIZES: Final = [0, 1, 4, _ROW - 1, _ROW, _ROW + 1, 2 * _ROW, 5 * _ROW, 64 * _ROW, 100 * _ROW]
_RANGES: Final = {
    FieldDescriptor.TYPE_INT32: (-(2**31), 2**31),
    FieldDescriptor.TYPE_INT64: (-(2**63), 2**63),
    FieldDescriptor.TYPE_UINT32: (0, 2**32),
    FieldDescriptor.TYPE_UINT64: (0, 2**64),
}
_COUNTS: Final = [0, 1, 1, 1, 1, 2, 2, 3]
_DEEPEST: Final = 3


class Messages:
    """A seeded source of them."""

    def __init__(self, seed: int) -> None:
        self.rng = random.Random(seed)

    def of(self, kind: type[Message], density: float = 0.5) -> Any:
        """Any message of a kind: each field is set with this probability."""
        return self._message(kind.DESCRIPTOR, density, 0)

    def changed(self, message: Any) -> Any:
        """The same message with one field, somewhere in it, as it may not be."""
        field = self.rng.choice(message.DESCRIPTOR.fields)
        inner = field.message_type
        if inner is not None and not field.is_repeated and self.rng.random() < 0.8:
            self.changed(getattr(message, field.name))
            return message
        if inner is not None and field.is_repeated and not _is_map(field) and self.rng.random() < 0.6:
            items = getattr(message, field.name)
            if len(items):
                self.changed(self.rng.choice(list(items)))
                return message
        if self.rng.random() < 0.3:
            message.ClearField(field.name)
        else:
            self._fill(message, field, 0.5, 0)
        return message

    def spoiled(self, data: bytes) -> bytes:
        """Bytes with some of them changed, taken out, put in, or repeated."""
        octets, rng = bytearray(data), self.rng
        for _ in range(rng.choice([1, 1, 2, 8])):
            at = rng.randrange(len(octets) + 1)
            how = rng.randrange(4)
            if how == 0 and at < len(octets):
                octets[at] ^= 1 << rng.randrange(8)
            elif how == 1:
                del octets[at : at + rng.randrange(1, 9)]
            elif how == 2:
                octets[at:at] = rng.randbytes(rng.randrange(1, 9))
            else:
                octets[at:at] = octets[: rng.randrange(len(octets) + 1)]
        return bytes(octets)

    def _message(self, descriptor: Any, density: float, depth: int) -> Any:
        made = GetMessageClass(descriptor)()
        for field in descriptor.fields:
            if self.rng.random() < density:
                self._fill(made, field, density, depth)
        return made

    def _fill(self, message: Any, field: FieldDescriptor, density: float, depth: int) -> None:
        inner: Any = field.message_type
        if _is_map(field):
            entries = getattr(message, field.name)
            value = inner.fields_by_name["value"]
            for _ in range(self._count()):
                key = self._scalar(inner.fields_by_name["key"])
                if value.message_type is not None:
                    entries[key].CopyFrom(self._message(value.message_type, density, depth + 1))
                else:
                    entries[key] = self._scalar(value)
        elif field.is_repeated:
            items = getattr(message, field.name)
            for _ in range(self._count()):
                if inner is None:
                    items.append(self._scalar(field))
                elif depth < _DEEPEST:
                    items.append(self._message(inner, density, depth + 1))
        elif inner is not None:
            if depth < _DEEPEST:
                getattr(message, field.name).CopyFrom(self._message(inner, density, depth + 1))
        else:
            setattr(message, field.name, self._scalar(field))

    def _count(self) -> int:
        return self.rng.choice(_COUNTS) if self.rng.random() < 0.999 else self.rng.randrange(2_000)

    def _scalar(self, field: Any) -> Any:
        rng, kind = self.rng, field.type
        if kind in _RANGES:
            low, high = _RANGES[kind]
            return rng.choice([each for each in (_SIGNED if low else _UNSIGNED) if low <= each < high])
        if kind == FieldDescriptor.TYPE_BOOL:
            return rng.random() < 0.5
        if kind == FieldDescriptor.TYPE_STRING:
            return rng.choice(_STRINGS) if rng.random() < 0.999 else "x" * 100_000
        if kind == FieldDescriptor.TYPE_BYTES:
            size = rng.choice(_SIZES)
            return bytes(size) if rng.random() < 0.7 else rng.randbytes(size)
        if kind == FieldDescriptor.TYPE_ENUM:
            return rng.choice([*(each.number for each in field.enum_type.values), 99, -1])
        return rng.choice(_FLOATS)


def _is_map(field: FieldDescriptor) -> bool:
    return field.message_type is not None and field.message_type.GetOptions().map_entry
