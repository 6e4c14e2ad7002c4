"""The Python client of a gatestream server.

    from gatestream.client import connect

    with connect("localhost:50051") as gs, gs.session("reber", gates=True) as s:
        y = s.step("B")               # the model's output, a NumPy array
        forget = s.gates["forget"]    # activations of that step, [layers, hidden]
        ys = s.run("TXSE")            # a chunk: [time, ...] in, [time, ...] out

    with connect("localhost:50051") as gs, gs.group("reber", 512) as group:
        ys = group.step(xs)           # arrays for many sessions: [sessions, ...] in, [sessions, ...] out

`connect` blocks; `gatestream.client.aio.connect` is the same for asyncio. All sessions of one client share one
stream, on which their steps leave together (`protocol.batcher`). Errors are drawn in `errors`.
"""

from gatestream.client import aio, errors
from gatestream.client.results import Answer
from gatestream.client.sync import Client, Group, Session, connect
from gatestream.client.unary import State

__all__ = ["Answer", "Client", "Group", "Session", "State", "aio", "connect", "errors"]
