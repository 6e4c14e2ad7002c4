"""Controls: what is done to sessions between two runs, to each when its turn in the session's line has come."""

from collections.abc import Callable
from dataclasses import dataclass, field

from gatestream.server.arrays import Ints
from gatestream.server.core.owner import Holder, Owner
from gatestream.server.errors import Refused

Do = Callable[[Owner | None, Ints, Ints], None]
"""Does something for an owner to some of its sessions: which, and what it calls them."""

Fail = Callable[[Refused, Owner | None, Ints, Ints], None]
"""Says why it will not be done."""


@dataclass(slots=True)
class Control:
    """Something to do to sessions. It counts as a row for each.

    Attributes:
        do: does it to those whose turn has come, together with those of other controls that do the same.
        fail: answers whoever asked.
        owner: who asked, if it is to know.
        holder: whose rows they are.
        handles: what the owner calls the sessions.
        must: done even when what stood before it in a line failed.
        unfinished: sessions that it has yet to be done to.
        number: by which the scheduler knows it.
    """

    do: Do
    fail: Fail
    owner: Owner | None
    holder: Holder
    handles: Ints
    must: bool
    unfinished: int
    number: int = field(init=False, default=0)
