"""A server of which a part fails where what comes tells it to.

`start_under(FAULTY, ...)` runs `gatestream serve` with such parts in it, in the same process.
"""

import struct
import sys
from typing import Any, Final

FAULTY: Final = (sys.executable, "-m", "tests.support.faulty")

UNANSWERABLE: Final = 31337.0
"""An answer that holds this number, as little-endian float32, cannot be put where it waits to be sent."""
UNCOUNTED: Final = "uncounted"
"""When a session of this id has been closed, a row of its model is pending for ever."""
UNSPEAKABLE: Final = "unspeakable"
"""A session of this id cannot be looked for."""


def _main(command: list[str]) -> None:
    from gatestream.server.core.named import NamedSessions
    from gatestream.server.core.send_queue import SendQueue
    from gatestream.server.core.tenants import Tenants

    put, get, close = SendQueue.put, Tenants.get, NamedSessions.close
    mark = struct.pack("<f", UNANSWERABLE)

    def put_or_fail(send_queue: SendQueue, message: bytes, *more: Any, **named: Any) -> None:
        if mark in message:
            raise MemoryError("no room for an answer")
        put(send_queue, message, *more, **named)

    def get_or_fail(tenants: Tenants, tenant: str, session_id: str) -> int | None:
        if session_id.endswith(UNSPEAKABLE):
            raise RuntimeError("a table is broken")
        return get(tenants, tenant, session_id)

    async def close_and_miscount(sessions: NamedSessions, tenant: str, session_id: str) -> int:
        position = await close(sessions, tenant, session_id)
        sessions._engine.admission.rows += session_id == UNCOUNTED
        return position

    NamedSessions.close = close_and_miscount  # type: ignore[assignment, method-assign]
    SendQueue.put = put_or_fail  # type: ignore[assignment, method-assign]
    Tenants.get = get_or_fail  # type: ignore[assignment, method-assign]

    from gatestream.cli.main import main

    main(command[command.index("gatestream.cli") + 1 :], prog_name="gatestream")


if __name__ == "__main__":
    _main(sys.argv)
