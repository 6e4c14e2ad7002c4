"""What is taken back of messages that have not left: what they tell of sessions that another server has by now."""

from collections.abc import Callable
from typing import Any, Final

import numpy as np

from gatestream.protos.gatestream.v1 import gatestream_pb2 as pb

_WHY: Final = "the session was let go of before this was stored"


def without(message: bytes, is_void: Callable[[int], bool]) -> list[bytes]:
    """What to say instead of a ServerMessage: the same of other sessions, and that of some nothing was done after all.

    Args:
        message: as it would go over the wire.
        is_void: whether nothing was done of the session of a handle.

    Returns:
        Messages as they go over the wire, at least one; the same object, where it tells of none of these.
    """
    said = pb.ServerMessage.FromString(message)
    kind = str(said.WhichOneof("kind"))
    if kind not in ("results", "reset_done", "error"):
        return [message]
    part: Any = getattr(said, kind)
    every = np.array(part.handle, np.int64)
    stays = np.array([not is_void(handle) for handle in part.handle], np.bool_)
    if stays.all():
        return [message]
    refused = pb.Error(reason=pb.REASON_SESSION_CLOSED, message=_WHY, handle=every[~stays].tolist())
    if kind == "error" and said.error.reason != pb.REASON_POSITION_MISMATCH:
        # It stays refused; only where it stood then counts steps that are not told of.
        refused.reason, refused.message, refused.retry_after_ms = part.reason, part.message, part.retry_after_ms
    if kind != "reset_done" and len(part.first):
        refused.first.extend(np.array(part.first, np.int64)[~stays].tolist())
        lengths = np.array(part.length, np.int64) if len(part.length) else np.ones(len(every), np.int64)
        refused.length.extend(lengths[~stays].tolist())
    instead = pb.ServerMessage(error=refused).SerializeToString()
    if not stays.any():
        return [instead]
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
    return [said.SerializeToString(), instead]


def _rows(column: bytes, which: Any) -> list[bytes]:
    size = len(column) // len(which)
    return [column[k * size : (k + 1) * size] for k in np.flatnonzero(which).tolist()]
