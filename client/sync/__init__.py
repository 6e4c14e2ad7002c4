"""The blocking client: `connect(address)`.

It stands on gRPC's blocking API, not on the asyncio client in a thread: measured against a bare echo server
(256-byte messages, one stream in lock-step, 2 cores), a round trip took 320 to 430 µs and 220 to 300 µs of
client CPU this way, 310 to 330 µs and 200 to 220 µs with asyncio itself, but 490 to 520 µs and 375 µs with a
coroutine handed to a loop in another thread, and 380 to 430 µs and 280 to 310 µs with a bare hand-over. Of that API's
threads two are passed by where grpcio's insides are known: see `wire`.
"""

from gatestream.client.sync.client import Client, connect
from gatestream.client.sync.session import Group, Session

__all__ = ["Client", "Group", "Session", "connect"]
