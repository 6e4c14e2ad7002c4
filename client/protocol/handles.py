"""What the handles of one stream stand for: sessions of queues, and the members of those."""

import itertools
from collections.abc import Iterator, Sequence

import numpy as np

from gatestream.client.errors import ProtocolError
from gatestream.client.protocol.queue import SessionQueue
from gatestream.client.protocol.requests import Ints


class Handles:
    """Of a stream that may have so many sessions."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._freed: list[int] = []
        self._next = 0
        # By handle: the queue's number, or -1, and the member's.
        self._queue_of: Ints = np.full(limit, -1)
        self._member_of: Ints = np.zeros(limit, np.int64)
        self._queues: dict[int, SessionQueue] = {}
        self._numbers: dict[SessionQueue, int] = {}
        self._next_number = 0
        # Handles whose session the server closed while a message of ours was on its way to it: that message will
        # be refused, and until then the handle cannot be used again.
        self._crossed: set[int] = set()
        # Handles whose sessions were opened once more, by others; the server closes them.
        self._left: set[int] = set()

    @property
    def free(self) -> int:
        """How many sessions more it may have."""
        return len(self._freed) + self._limit - self._next

    def take(self, count: int) -> Ints:
        """So many of the free ones."""
        return np.array([self._freed.pop() if self._freed else self._new() for _ in range(count)], np.int64)

    def give_back(self, handles: Ints) -> None:
        """They are not needed."""
        self._freed += handles.tolist()

    def assign(self, handles: Ints, session_queue: SessionQueue, members: Ints) -> None:
        """They stand for these members from now on."""
        if session_queue not in self._numbers:
            self._numbers[session_queue] = self._next_number
            self._queues[self._next_number] = session_queue
            self._next_number += 1
        self._queue_of[handles] = self._numbers[session_queue]
        self._member_of[handles] = members

    def release(self, session_queue: SessionQueue, members: Ints, crossing: Ints) -> None:
        """Members are not on this stream any more.

        Args:
            session_queue: whose they are.
            members: those that have no handle here are passed over.
            crossing: those of them for which a message is on its way that the server had not yet seen.
        """
        if session_queue not in self._numbers:
            return
        theirs = self._queue_of[session_queue.handles[members]] == self._numbers[session_queue]
        members = members[theirs]
        self._queue_of[session_queue.handles[members]] = -1
        crossed = np.isin(members, crossing)
        self._crossed.update(session_queue.handles[members[crossed]].tolist())
        self._freed += session_queue.handles[members[~crossed]].tolist()

    def leave(self, session_queue: SessionQueue, members: Ints) -> None:
        """Members are opened once more by other handles; theirs are free when the server has closed them."""
        handles = session_queue.handles[members]
        self._queue_of[handles] = -1
        self._left.update(handles.tolist())

    def closed(self, handles: Ints) -> Ints:
        """Where the end of handles is about sessions that are there, and not of what was opened by others since."""
        return self._but(self._left, handles)

    def forget(self, session_queue: SessionQueue) -> None:
        """None of its members is on this stream."""
        number = self._numbers.pop(session_queue, None)
        if number is not None:
            del self._queues[number]

    def refused(self, handles: Ints) -> Ints:
        """Where a refusal of handles is about sessions that are there, and not of what crossed their end."""
        return self._but(self._crossed, handles)

    def known(self, handles: Ints) -> Ints:
        """Where handles stand for sessions."""
        return np.flatnonzero((handles < self._limit) & (self._queue_of[np.minimum(handles, self._limit - 1)] >= 0))

    def runs(self, handles: Sequence[int] | Ints) -> Iterator[tuple[SessionQueue, Ints, slice]]:
        """Neighbouring entries of one queue: the queue, its members, where they stand in the message.

        Raises:
            ProtocolError: a handle stands for nothing.
        """
        array = ints(handles)
        if len(array) == 1 and array[0] < len(self._queue_of) and self._queue_of[array[0]] >= 0:
            # One session a message, the quick way.
            yield self._queues[int(self._queue_of[array[0]])], self._member_of[array], slice(0, 1)
            return
        if not len(array):
            return
        numbers = self._queue_of[array] if array.max() < len(self._queue_of) else np.array([-1])
        if numbers.min() < 0:
            raise ProtocolError(f"an answer came for handles {array.tolist()[:8]}, not all of which are open")
        members = self._member_of[array]
        cuts = [0, *(np.flatnonzero(numbers[1:] != numbers[:-1]) + 1).tolist(), len(array)]
        for begin, end in itertools.pairwise(cuts):
            yield self._queues[int(numbers[begin])], members[begin:end], slice(begin, end)

    def _but(self, gone: set[int], handles: Ints) -> Ints:
        """Where handles are not among those that were gone; these are free from now on."""
        if not gone:
            return np.arange(len(handles))
        passed = np.isin(handles, list(gone))
        gone.difference_update(handles[passed].tolist())
        self._freed += handles[passed].tolist()
        return np.flatnonzero(~passed)

    def _new(self) -> int:
        self._next += 1
        return self._next - 1


def ints(values: Sequence[int] | Ints) -> Ints:
    """Numbers of a message."""
    # Both are right; which is quick differs by a factor of ten, either way.
    return np.fromiter(values, np.int64, len(values)) if len(values) < 8 else np.array(values, np.int64)
