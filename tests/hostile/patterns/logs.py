"""A log that takes nothing any more, while there is much to say."""

import time

from tests.hostile.calls import OIP, Call, infer, opening, stepping
from tests.hostile.http2 import Connection
from tests.hostile.target import Served, Target, channel, pattern


def log_much(target: Target) -> None:
    with channel(target) as opened:
        # A sequence that is left, and expires: the server says so.
        Call(target, opened, OIP + "ModelStreamInfer").send(infer(sequence="forgotten", start=True).SerializeToString())
        for _ in range(target.times(30)):
            call = Call(target, opened).send(opening(0), stepping([0]), b"\x12\xff")
            call.end(half_close=False)
        with Connection(target) as connection:
            for _ in range(target.times(500, 20)):
                connection.call("/x", [("grpc-timeout", "-1S")])
            time.sleep(0.2)
        time.sleep(3)
        call = Call(target, opened).send(opening(0), stepping([0]))
        assert call.answers(2) == {"opened": 1, "results": 1}
        call.leave()


LOGS: dict[str, Served] = {"on a full disk": "log full", "whose reader is gone": "log closed"}
for where, served in LOGS.items():
    pattern(f"a log {where}", "INVALID_ARGUMENT", "INTERNAL", served=served, hold_ms=20)(log_much)
