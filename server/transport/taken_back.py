"""What is taken back of messages that have not left: what they tell of sessions that another server has by now."""

from collections.abc import Sequence
from itertools import compress, repeat
from typing import Any, Final

import numpy as np

from gatestream.protos.gatestream.v1 import gatestream_pb2 as pb

_WHY: Final = "the session was let go of before this was stored"


def without(message: bytes, void: Sequence[bool]) -> list[bytes]:
    """What to say instead of a ServerMessage: the same of other sessions, and that of some nothing was done after all.

    Args:
        message: as it would go over the wire.
        void: for each of its handles, whether nothing was done of that session.

    Returns:
        Messages as they go over the wire, at least one; the same object, where it tells of none of these.
    """
    said = pb.ServerMessage.FromString(message)
    kind = str(said.WhichOneof("kind"))
    if kind not in ("results", "reset_done", "error"):
        return [message]
    part: Any = getattr(said, kind)
    if not any(void):
        return [message]
    refused = pb.Error(reason=pb.REASON_SESSION_CLOSED, message=_WHY, handle=compress(part.handle, void))
    if kind == "error" and said.error.reason != pb.REASON_POSITION_MISMATCH:
        # It stays refused; only where it stood then counts steps that are not told of.
        refused.reason, refused.message = part.reason, part.message
        refused.retry_after_ms, refused.epoch = part.retry_after_ms, part.epoch
    if kind != "reset_done" and len(part.first):
        # Numbers as they came, which may be of any size.
        refused.first.extend(compress(part.first, void))
        refused.length.extend(compress(part.length or repeat(1), void))
    instead = pb.ServerMessage(error=refused).SerializeToString()
    if all(void):
        return [instead]
    rows = stays = ~np.array(void, np.bool_)
    if kind == "results":
        rows = np.repeat(stays, np.array(part.length, np.int64) if part.length else 1)
    for field, column in part.ListFields():
        if field.type == field.TYPE_BYTES:
            kept = [b"".join(_rows(each, rows)) for each in column]
        elif field.is_repeated:
            kept = list(compress(column, stays.tolist()))
        else:
            continue
        del column[:]
        column.extend(kept)
    return [said.SerializeToString(), instead]


def _rows(column: bytes, which: Any) -> list[bytes]:
    size = len(column) // len(which)
    return [column[k * size : (k + 1) * size] for k in np.flatnonzero(which).tolist()]
