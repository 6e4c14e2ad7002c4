"""Checksums of checkpoints, by which a damaged or misplaced one is known."""

import struct
import zlib
from collections.abc import Sequence
from typing import Final

import numpy as np

from gatestream.server.durability.checkpoints import Checkpoint, Key, Writes

_HEAD: Final = struct.Struct("<qq")


def seal(key: Key, checkpoint: Checkpoint) -> int:
    """CRC-32 over whose checkpoint it is, where it stands, and its state."""
    head = _HEAD.pack(checkpoint.sequence, checkpoint.position)
    return zlib.crc32(checkpoint.state, zlib.crc32(head, zlib.crc32(_name(key))))


def seals(keys: Sequence[Key], writes: Writes, piece: slice) -> list[int]:
    """The same of many.

    Args:
        keys: of the piece.
        writes: many checkpoints.
        piece: which of them.
    """
    heads = np.stack([writes.sequences[piece], writes.positions[piece]], 1).astype("<i8").view(np.uint8)
    rows = np.concatenate([heads, writes.states[piece]], 1)
    return [zlib.crc32(row, zlib.crc32(_name(key))) for key, row in zip(keys, rows, strict=True)]


def _name(key: Key) -> bytes:
    # None of the three holds a NUL.
    return "\0".join(key).encode()
