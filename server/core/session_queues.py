"""What stands in the queues of one model's sessions."""

import asyncio
from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np

from gatestream.server.arrays import Ints
from gatestream.server.core.batches import Batch
from gatestream.server.core.controls import Control
from gatestream.server.core.scheduler import Dropped, Scheduler


class Place(NamedTuple):
    """One entry's place in a queue that it is taken out of.

    Attributes:
        session: whose queue it is.
        item: a batch or a control.
        entry: which of its entries.
        left: steps that were not taken; 0 of a control.
    """

    session: int
    item: Any
    entry: int
    left: int


class SessionQueues:
    """Batches and controls; the scheduler knows them by number.

    Args:
        scheduler: says whose turn it is.

    Attributes:
        scheduler: as given.
        wake: set whenever there may be something to do.
        items: that are queued, by number.
    """

    def __init__(self, scheduler: Scheduler):
        self.scheduler = scheduler
        self.wake = asyncio.Event()
        self.items: dict[int, Batch | Control] = {}
        self._last = 0

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, number: int) -> Any:
        return self.items[number]

    def add(self, batch: Batch) -> None:
        """Put a batch's entries into the queues of their sessions."""
        batch.unfinished = count = len(batch.sessions)
        self._number(batch)
        self.scheduler.add(batch.number, batch.sessions, batch.lengths, batch.offsets, np.arange(count))

    def add_control(self, control: Control, sessions: Ints) -> None:
        """Put a control into the queues of its sessions."""
        self._number(control)
        self.scheduler.add_controls(control.number, sessions, np.arange(len(sessions)))

    def blocks(self, sessions: int | Ints) -> bool:
        """Whether steps of these sessions would overtake something if they were taken now."""
        return bool(self.items) and (self.scheduler.ready or not self.scheduler.idle(sessions).all())

    def places(self, dropped: Iterable[Dropped]) -> list[Place]:
        """What the scheduler has dropped."""
        return [Place(each.session, self.items[each.work], each.entry, each.left) for each in dropped]

    def count_off(self, item: Batch | Control, finished: int) -> None:
        """Note that so many of an item's entries are done with."""
        item.unfinished -= finished
        if item.unfinished == 0:
            del self.items[item.number]

    def _number(self, item: Batch | Control) -> None:
        self._last = item.number = self._last + 1
        self.items[item.number] = item
        self.wake.set()
