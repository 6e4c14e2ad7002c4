"""Controls: what is done to sessions between two runs, to each when its turn in the session's queue has come."""

from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any

from gatestream.server.arrays import Ints
from gatestream.server.core.reply_sink import Holder, ReplySink
from gatestream.server.errors import Refused

Do = Callable[[ReplySink | None, Ints, Ints], None]
"""Does something for an owner to some of its sessions: which, and what it calls them."""

Then = Callable[[], None]
"""Does to a session what was waited for."""

Await = Callable[[], Coroutine[Any, Any, Then]]
"""Begins to wait for something outside. What is awaited touches nothing of the session's: that may end meanwhile, and
`Then` is not called in that case. Both calls come while no run is under way."""

Fail = Callable[[Refused, ReplySink | None, Ints, Ints], None]
"""Says why it will not be done."""


@dataclass(slots=True)
class Control:
    """Something to do to sessions. It counts as a row for each.

    Attributes:
        do: does it to those whose turn has come, together with those of other controls that do the same; None where
            something is waited for.
        fail: answers whoever asked.
        owner: who asked, if it is to know.
        holder: whose rows they are.
        handles: what the owner calls the sessions.
        must: done even when what stood before it in a queue failed.
        unfinished: sessions that it has yet to be done to.
        wait: waits for something, for one session; what stands behind it in the queue waits too.
        moves: what stands behind it counts from where it puts its sessions, wherever they stood.
        number: by which the scheduler knows it.
    """

    do: Do | None
    fail: Fail
    owner: ReplySink | None
    holder: Holder
    handles: Ints
    must: bool
    unfinished: int
    wait: Await | None = None
    moves: bool = False
    number: int = field(init=False, default=0)
