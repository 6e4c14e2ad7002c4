"""The asyncio client: `async with connect(address) as gs, gs.session() as s: y = await s.step(x)`.

As `gatestream.client.sync`, method for method, with `await`; the docstrings there hold here too. Everything
belongs to the event loop that connected.
"""

from gatestream.client.aio.client import Client, connect
from gatestream.client.aio.session import Group, Session

__all__ = ["Client", "Group", "Session", "connect"]
