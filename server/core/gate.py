"""Answers that wait until what they tell is stored."""

import asyncio
from collections.abc import Callable, Collection, Iterable
from typing import Final, Protocol

from gatestream.server.durability.checkpoints import Key

# Turns of the loop in which nothing has come to wait, after which nothing is under way.
_TURNS: Final = 6


class Held(Protocol):
    """What has messages that wait."""

    def let_out(self, group: int) -> None:
        """Send what waits for this group of checkpoints, or for an earlier one, without what is void of it."""

    def fail(self, error: Exception) -> None:
        """End, since something went wrong at that."""


class Void:
    """The names of the sessions of which something that was told is void, since they were let go of unstored.

    Args:
        fenced_at: by name, the fence at which each was let go of last.
        fences: that there were when it was told.
    """

    __slots__ = ("_fenced_at", "_fences")

    def __init__(self, fenced_at: dict[Key, int], fences: int):
        self._fenced_at = fenced_at
        self._fences = fences

    def __contains__(self, key: Key | None) -> bool:
        return key is not None and self._fenced_at.get(key, -1) >= self._fences

    def has_any(self, keys: Collection[Key | None]) -> bool:
        """Whether any of the names may be among these; no certainty, and quick."""
        return not self._fenced_at.keys().isdisjoint(keys)


class Gate:
    """Says which group of checkpoints covers what was computed up to now, and lets out what waits for it.

    Attributes:
        group: the next one.
        fences: how often sessions were let go of that were not stored.
    """

    def __init__(self) -> None:
        self.group = 0
        self.fences = 0
        self._held: set[Held] = set()
        # By name, the fence at which a session was let go of last, of those that something waiting may tell of.
        self._fenced_at: dict[Key, int] = {}
        self._fences_before_group = 0

    def hold(self, queue: Held) -> None:
        """Note that a queue has messages that wait for the next group."""
        self._held.add(queue)

    def __len__(self) -> int:
        return len(self._held)

    def begin(self) -> int:
        """The group that is written now; what is computed from now on waits for the next one."""
        self._fences_before_group = self.fences
        self.group += 1
        return self.group - 1

    def stored(self, group: int) -> None:
        """A group is stored."""
        held, self._held = self._held, set()
        for queue in held:
            try:
                queue.let_out(group)
            except Exception as error:
                # The others go on.
                queue.fail(error)
        if self._fenced_at:
            # What still waits came when the group had begun.
            self._fenced_at = {key: at for key, at in self._fenced_at.items() if at >= self._fences_before_group}

    def fence(self, keys: Iterable[Key]) -> None:
        """Sessions are let go of: what was computed of them since their last checkpoints is void."""
        self._fenced_at.update(dict.fromkeys(keys, self.fences))
        self.fences += 1

    def void(self, fences: int) -> Void | None:
        """What is void of what was told when there were so many fences; None: nothing."""
        return Void(self._fenced_at, fences) if self._fenced_at else None


class WakingGate(Gate):
    """A gate that says when something waits at it.

    Args:
        due: is told.

    Attributes:
        came: how often something came to wait.
    """

    def __init__(self, due: Callable[[], None]):
        super().__init__()
        self._due = due
        self.came = 0
        self._came_before = 0
        self._alone = True

    def hold(self, queue: Held) -> None:
        """As `Gate`."""
        super().hold(queue)
        self.came += 1
        self._due()

    def begin(self) -> int:
        """As `Gate`."""
        self._alone = self._one_came()
        self._came_before = self.came
        return super().begin()

    def _one_came(self) -> bool:
        return self.came <= self._came_before + 1

    async def company(self, seconds: float) -> None:
        """Wait until what is under way has come to wait too, for so long at most; not where each comes alone.

        What the loop works on while a group is written is in that writing's way, and needs a group of its own.
        """
        if self._alone and self._one_came():
            return
        loop = asyncio.get_running_loop()
        end = loop.time() + seconds
        turns, came = 0, self.came
        while turns < _TURNS and loop.time() < end:
            await asyncio.sleep(0)
            turns, came = (turns + 1, came) if self.came == came else (0, self.came)
