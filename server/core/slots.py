"""Integers to hand out and take back: state rows, entries of the scheduler. And rings of them."""

import numpy as np

from gatestream.server.arrays import Ints


class Slots:
    """The free list of 0..capacity-1, each held by one holder at a time.

    The one that was given back last is handed out first: its row is the likeliest to be in the cache.
    """

    def __init__(self, capacity: int):
        self._free = np.arange(capacity - 1, -1, -1, dtype=np.int64)
        self.free = capacity

    def __len__(self) -> int:
        return len(self._free)

    @property
    def taken(self) -> int:
        """How many are held."""
        return len(self._free) - self.free

    def take(self, count: int) -> Ints:
        """That many slots; the caller has made sure that so many are free."""
        if count > self.free:
            raise AssertionError(f"{count} slots wanted, {self.free} free: admission let too much in. This is a bug.")
        self.free -= count
        return self._free[self.free : self.free + count][::-1].copy()

    def give_back(self, slots: Ints) -> None:
        """Make these slots free again. Each must be taken now."""
        end = self.free + len(slots)
        if end > len(self._free):
            raise AssertionError(f"{end} slots free of {len(self._free)}: one was given back twice. This is a bug.")
        self._free[self.free : end] = slots
        self.free = end


class Ring:
    """First in, first out, for at most `capacity` integers at a time."""

    def __init__(self, capacity: int):
        self._ring = np.empty(capacity, np.int64)
        self._begin = 0
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def push(self, values: Ints) -> None:
        """Append values, in order."""
        end = self._begin + self._count
        self._ring.put(np.arange(end, end + len(values)), values, mode="wrap")
        self._count += len(values)

    def peek(self, count: int) -> Ints:
        """The oldest `count` values, fewer where there are fewer."""
        return self._ring.take(np.arange(self._begin, self._begin + min(count, self._count)), mode="wrap")

    def pop(self, count: int) -> Ints:
        """Take them out."""
        values = self.peek(count)
        self._begin = (self._begin + len(values)) % len(self._ring)
        self._count -= len(values)
        return values

    def put_back(self, values: Ints) -> None:
        """Have values that were taken out be the oldest again, in order."""
        self._begin = (self._begin - len(values)) % len(self._ring)
        self._ring.put(np.arange(self._begin, self._begin + len(values)), values, mode="wrap")
        self._count += len(values)
