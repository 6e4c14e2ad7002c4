"""What is taken back of messages that have not left: what they tell of sessions that another server has by now."""

from typing import Any

import numpy as np

from gatestream.protos.gatestream.v1 import gatestream_pb2 as pb
from gatestream.server.arrays import Ints


def without(message: bytes, handles: Ints) -> bytes | None:
    """A ServerMessage without what it tells of the steps and resets of some sessions; None: nothing is left of it.

    Args:
        message: as it would go over the wire.
        handles: of these sessions.
    """
    said = pb.ServerMessage.FromString(message)
    kind = str(said.WhichOneof("kind"))
    if kind not in ("results", "reset_done", "error"):
        return message
    part: Any = getattr(said, kind)
    stays = ~np.isin(np.array(part.handle, np.int64), handles)
    if stays.all():
        return message
    if kind == "error" and said.error.reason != pb.REASON_POSITION_MISMATCH:
        # What was refused stays refused; where these stood then counts steps that are not told of.
        part.ClearField("position")
        return said.SerializeToString()
    if not stays.any():
        return None
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
    return said.SerializeToString()


def _rows(column: bytes, which: Any) -> list[bytes]:
    size = len(column) // len(which)
    return [column[k * size : (k + 1) * size] for k in np.flatnonzero(which).tolist()]
