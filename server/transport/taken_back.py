"""What is taken back of messages that have not left: what they tell of sessions that another server has by now."""

from typing import Any, NamedTuple

import numpy as np

from gatestream.protos.gatestream.v1 import gatestream_pb2 as pb
from gatestream.server.arrays import Ints

_NOTHING: Ints = np.empty(0, np.int64)


class TakenBack(NamedTuple):
    """What was asked for, and is not answered after all.

    Attributes:
        handles: [entries].
        first: [entries], position of each one's first step; empty: these were resets.
        lengths: [entries], steps of each; empty in the same case.
    """

    handles: Ints
    first: Ints
    lengths: Ints


def without(message: bytes, handles: Ints) -> tuple[bytes | None, TakenBack | None]:
    """A ServerMessage without what it tells of the steps and resets of some sessions, and what that was.

    Args:
        message: as it would go over the wire.
        handles: of these sessions.

    Returns:
        What is left of the message, None: nothing; and what is not, None: nothing.
    """
    said = pb.ServerMessage.FromString(message)
    kind = str(said.WhichOneof("kind"))
    if kind not in ("results", "reset_done", "error"):
        return message, None
    part: Any = getattr(said, kind)
    every = np.array(part.handle, np.int64)
    stays = ~np.isin(every, handles)
    if stays.all():
        return message, None
    if kind == "error" and said.error.reason != pb.REASON_POSITION_MISMATCH:
        # What was refused stays refused; where these stood then counts steps that are not told of.
        part.ClearField("position")
        return said.SerializeToString(), None
    first, lengths = _NOTHING, _NOTHING
    if kind != "reset_done" and len(part.first):
        first = np.array(part.first, np.int64)[~stays]
        lengths = (np.array(part.length, np.int64) if len(part.length) else np.ones(len(every), np.int64))[~stays]
    gone = TakenBack(every[~stays], first, lengths)
    if not stays.any():
        return None, gone
    rows = stays
    if kind == "results":
        rows = np.repeat(stays, np.array(part.length, np.int64) if part.length else 1)
    for field, column in part.ListFields():
        if field.type == field.TYPE_BYTES:
            kept = [b"".join(_rows(each, rows)) for each in column]
        elif field.is_repeated:
            kept = [number for number, stay in zip(column, stays.tolist(), strict=True) if stay]
        else:
            continue
        del column[:]
        column.extend(kept)
    return said.SerializeToString(), gone


def _rows(column: bytes, which: Any) -> list[bytes]:
    size = len(column) // len(which)
    return [column[k * size : (k + 1) * size] for k in np.flatnonzero(which).tolist()]
