"""Answers that wait until what they tell is stored."""

from typing import Protocol

from gatestream.server.durability.checkpoints import Key


class Held(Protocol):
    """What has messages that wait."""

    def let_out(self, group: int) -> None:
        """Send what waits for this group of checkpoints, or for an earlier one."""

    def fenced(self, key: Key) -> None:
        """Take back what waits and tells of a session that another server has by now."""


class Gate:
    """Says which group of checkpoints covers what was computed up to now, and lets out what waits for it.

    Attributes:
        group: the next one.
    """

    def __init__(self) -> None:
        self.group = 0
        self._held: set[Held] = set()

    def hold(self, queue: Held) -> None:
        """Note that a queue has messages that wait for the next group."""
        self._held.add(queue)

    def __len__(self) -> int:
        return len(self._held)

    def begin(self) -> int:
        """The group that is written now; what is computed from now on waits for the next one."""
        self.group += 1
        return self.group - 1

    def stored(self, group: int) -> None:
        """A group is stored."""
        held, self._held = self._held, set()
        for queue in held:
            queue.let_out(group)

    def fenced(self, key: Key) -> None:
        """Another server has a session: what was computed of it here since its last checkpoint is not so."""
        for queue in self._held:
            queue.fenced(key)
