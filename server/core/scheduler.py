"""Who runs in the next tick: plain data, no clock, no event loop, no model.

Each session has a queue of entries, in order of arrival; only the first of a queue can be ready. Ready entries wait in
one of two rings, of single steps and of chunks, and go to its end again after each turn. So:

1. A session's entries run in order and one at a time.
2. Sessions take turns, however much any of them has sent.
3. A single step never shares a run with a chunk, for which it would have to wait. Where both are ready they take
   turns; and while single steps come, a chunk's turns are cut shorter, for the step that comes in the middle of one.
4. Where the rows of a run have to be of one length, chunks are cut to what makes the fullest run with the first of
   them. Those that are shorter keep their places: each is the first when all that stood before it had a turn.

No operation here costs more than the entries that it names; nothing grows with the number of sessions or the backlog.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Final, NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt

from gatestream.server.arrays import Ints
from gatestream.server.config import TickLimits
from gatestream.server.core.slots import Ring, Slots

# Sessions whose chunks run together though `TickLimits.rows` says fewer: below this a run is mostly overhead.
_LEAST_CHUNKS: Final = 32
# A chunk's turn is cut to this part of `TickLimits.steps` while single steps come: until so many turns went without.
_CONTENDED_PART: Final = 4
_CALM_TURNS: Final = 64
# Controls that are done at once, and of how many works: a turn of the loop is to have time for several such lots.
_MOST_CONTROLS: Final = 512
_MOST_WORKS: Final = 32
_NONE: Final = -1
_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class Tick:
    """What one run of the model computes, one element of each array for each member.

    Attributes:
        ids: the members' places in the scheduler.
        sessions: the members.
        lengths: steps that each takes, 1 or more.
        offsets: where in its work's input columns each begins.
        entries: which entry of its work each is.
        parts: (work, start, stop): members start..stop-1 belong to that work.
    """

    ids: Ints
    sessions: Ints
    lengths: Ints
    offsets: Ints
    entries: Ints
    parts: list[tuple[int, int, int]]

    @property
    def steps(self) -> int:
        """The longest member's steps: the run's time axis."""
        return int(self.lengths.max())

    def part(self, which: npt.NDArray[np.bool_]) -> "Tick":
        """Of some of the members, [members]. A tick is completed, or abandoned, whole or in such parts."""
        columns = self.ids, self.sessions, self.lengths, self.offsets, self.entries
        ids, sessions, lengths, offsets, entries = (column[which] for column in columns)
        return Tick(ids, sessions, lengths, offsets, entries, within(self.parts, which))


class Turn(NamedTuple):
    """Controls of one work whose turn has come.

    Attributes:
        work: the caller's number for it.
        ids: their places in the scheduler.
        sessions: theirs.
        entries: which of the work's they are.
    """

    work: int
    ids: Ints
    sessions: Ints
    entries: Ints


class Dropped(NamedTuple):
    """An entry that will not run. A control has 0 steps left."""

    session: int
    work: int
    entry: int
    left: int


class Scheduler:
    """The queues of one model's sessions.

    An entry is a chunk of steps, or a control: something to be done to its session between two runs, when its turn
    comes.

    Args:
        sessions: how many there may be.
        entries: how many can be pending, and for each session one that was dropped; the caller admits no more.
        limits: of one tick.
        even: all members of a tick take as many steps.

    Attributes:
        turns_without_singles: runs, since the latest of single steps.
    """

    def __init__(self, sessions: int, entries: int, limits: TickLimits, *, even: bool = False):
        self._limits = limits
        self._even = even
        self._ids = Slots(entries)
        # Columns of the entries, by id. A dropped entry that still waits in a ring or a tick has the session _NONE.
        # One array for each: of a large one NumPy asks for huge pages, and one entry would take 2 MiB of each column.
        self._session, self._left, self._offset, self._entry, self._work, self._next = (
            np.empty(entries, np.int64) for _ in range(6)
        )
        # Ends of each session's queue; both _NONE when it is empty.
        self._first = np.full(sessions, _NONE, np.int32)
        self._last = np.full(sessions, _NONE, np.int32)
        self._singles = Ring(entries)
        self._chunks = Ring(entries)
        self._controls = Ring(entries)
        self._chunk_turn = False
        self.turns_without_singles = _CALM_TURNS

    def add(self, work: int, sessions: Ints, lengths: Ints, offsets: Ints, entries: Ints) -> None:
        """Append one entry to each session's queue.

        Args:
            work: the caller's number for what they belong to.
            sessions: each at most once.
            lengths: steps, at least 1; 0 for a control.
            offsets: as in `Tick`.
            entries: as in `Tick`.
        """
        ids = self._ids.take(len(sessions))
        self._session[ids] = sessions
        self._left[ids] = lengths
        self._offset[ids] = offsets
        self._entry[ids] = entries
        self._work[ids] = work
        self._next[ids] = _NONE
        before = self._last[sessions]
        self._last[sessions] = ids
        behind = before != _NONE
        self._next[before[behind]] = ids[behind]
        starts = ids[~behind]
        self._first[sessions[~behind]] = starts
        self._make_ready(starts)

    def add_controls(self, work: int, sessions: Ints, entries: Ints) -> None:
        """Append a control to each session's queue; arguments as in `add`."""
        zeros = np.zeros(len(sessions), np.int64)
        self.add(work, sessions, zeros, zeros, entries)

    def controls(self) -> list[Turn]:
        """Controls whose turn has come, each of another session; not all at once where there are many.

        They keep their places, and what stands behind them waits, until they are finished.
        """
        # Again where all that was taken out had been dropped.
        while len(self._controls):
            ids = self._controls.peek(_MOST_CONTROLS)
            cuts = np.flatnonzero(np.diff(self._work[ids])) + 1
            ids = self._pop(self._controls, int(cuts[_MOST_WORKS - 1]) if len(cuts) >= _MOST_WORKS else len(ids))
            if len(ids):
                work, sessions, entries = self._work[ids], self._session[ids], self._entry[ids]
                return [Turn(int(work[a]), ids[a:b], sessions[a:b], entries[a:b]) for a, b in pairwise(_bounds(work))]
        return []

    def wanted(self, ids: Ints) -> npt.NDArray[np.bool_]:
        """Whether each of these controls, which had their turn, was not dropped meanwhile."""
        wanted: npt.NDArray[np.bool_] = self._session[ids] != _NONE
        return wanted

    def finish(self, ids: Ints) -> None:
        """Note that controls which had their turn are done: what stands behind them is next."""
        wanted = self.wanted(ids)
        if wanted.all():
            self._finish(ids)
        else:
            self._ids.give_back(ids[~wanted])
            self._finish(ids[wanted])

    def tick(self) -> Tick | None:
        """The next run, or None when nothing is ready. It must be completed before the next one is asked for."""
        limits = self._limits
        ids = np.empty(0, np.int64)
        # Again where all that was taken out had been dropped.
        while len(ids) == 0:
            singles_wait, chunks_wait = len(self._singles) > 0, len(self._chunks) > 0
            if chunks_wait and (self._chunk_turn or not singles_wait):
                contended = singles_wait or not self.calm
                cut = max(1, limits.steps // _CONTENDED_PART) if contended else limits.steps
                ids = self._pop(self._chunks, max(limits.rows // cut, min(_LEAST_CHUNKS, limits.rows)))
                if self._even and len(ids):
                    ids, cut = self._of_one_length(ids, cut)
                self._chunk_turn = False
                self.turns_without_singles += 1
            elif singles_wait:
                ids = self._pop(self._singles, limits.rows)
                cut = 1
                self._chunk_turn = True
                self.turns_without_singles = 0
            else:
                return None
        work = self._work[ids]
        return Tick(
            ids=ids,
            sessions=self._session[ids],
            lengths=np.minimum(self._left[ids], cut),
            offsets=self._offset[ids],
            entries=self._entry[ids],
            parts=[(int(work[a]), a, b) for a, b in pairwise(_bounds(work))],
        )

    def pass_by(self, steps: int) -> bool:
        """Note a run of single steps, or of chunks, that is made while nothing is queued; whether it may be.

        Args:
            steps: of the longest chunk.
        """
        if steps == 1:
            self.turns_without_singles = 0
        return steps == 1 or self.calm

    @property
    def singles_wait(self) -> bool:
        """Whether the next run can be one of single steps."""
        return len(self._singles) > 0

    @property
    def calm(self) -> bool:
        """Whether no single steps have come for a while."""
        return self.turns_without_singles >= _CALM_TURNS

    def complete(self, tick: Tick) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.bool_]]:
        """Note that the tick's steps are taken.

        Returns:
            For each member, whether its entry is still wanted (was not dropped meanwhile), and whether it is finished.
        """
        ids = tick.ids
        self._left[ids] -= tick.lengths
        self._offset[ids] += tick.lengths
        wanted = self._session[ids] != _NONE
        finished = self._left[ids] == 0
        if finished.all() and wanted.all():
            self._finish(ids)
        else:
            self._ids.give_back(ids[~wanted])
            self._finish(ids[wanted & finished])
            self._make_ready(ids[wanted & ~finished])
        return wanted, finished

    def abandon(self, tick: Tick) -> list[Dropped]:
        """Note that the tick failed: drops its members' queues, since what stands behind a failed step cannot run."""
        sessions = tick.sessions[self._session[tick.ids] != _NONE]
        dropped = self.drop(sessions)
        self._ids.give_back(tick.ids)
        return dropped

    def drop(self, sessions: Ints) -> list[Dropped]:
        """Empty these sessions' queues, of entries in the running tick too; queue by queue, in order."""
        dropped, behind = [], []
        for session in sessions[~self.idle(sessions)].tolist():
            first = entry = int(self._first[session])
            while entry != _NONE:
                dropped.append(
                    Dropped(session, int(self._work[entry]), int(self._entry[entry]), int(self._left[entry]))
                )
                if entry != first:
                    behind.append(entry)
                self._session[entry] = _NONE
                entry = int(self._next[entry])
        # The first ones are in a ring or in the tick, and given back when they come out.
        self._ids.give_back(np.array(behind, np.int64))
        self._first[sessions] = self._last[sessions] = _NONE
        return dropped

    def drop_steps(
        self, sessions: Ints, running: Mapping[int, int], until: Callable[[int], bool]
    ) -> tuple[list[Dropped], list[Dropped], dict[int, int]]:
        """Take the steps out of these sessions' queues, but for those of the running tick; controls stay.

        Args:
            sessions: which.
            running: by id, the steps of each entry of the running tick.
            until: whether a work, by its number, is one that stays in its queue with all behind it.

        Returns:
            What is dropped, queue by queue, in order; what is cut from entries that run; and by session, where any of
            its steps stay, how many.
        """
        dropped, cut = [], []
        left: dict[int, int] = {}
        for session in sessions[~self.idle(sessions)].tolist():
            first = entry = int(self._first[session])
            stay = []
            stays = False
            while entry != _NONE:
                item = Dropped(session, int(self._work[entry]), int(self._entry[entry]), int(self._left[entry]))
                following = int(self._next[entry])
                stays = stays or until(item.work)
                if item.left and entry not in running and not stays:
                    dropped.append(item)
                    self._session[entry] = _NONE
                    # The first one is in a ring, and given back when it comes out.
                    if entry != first:
                        self._ids.give_back(np.array([entry]))
                else:
                    stay.append(entry)
                    if item.left > (most := running.get(entry, item.left)):
                        cut.append(item._replace(left=item.left - most))
                        self._left[entry] = most
                    left[session] = left.get(session, 0) + int(self._left[entry])
                entry = following
            self._first[session], self._last[session] = (stay[0], stay[-1]) if stay else (_NONE, _NONE)
            for before, behind in pairwise([*stay, _NONE]):
                self._next[before] = behind
            if stay and stay[0] != first:
                self._make_ready(np.array(stay[:1]))
        return dropped, cut, left

    @property
    def ready(self) -> bool:
        """Whether anything can have its turn now."""
        return bool(len(self._singles) or len(self._chunks) or len(self._controls))

    def steps(self, session: int) -> int:
        """Steps that stand in a session's queue, those of the running tick among them."""
        steps, entry = 0, int(self._first[session])
        while entry != _NONE:
            steps += int(self._left[entry])
            entry = int(self._next[entry])
        return steps

    def last(self, session: int) -> bool:
        """Whether a session's queue has no more than one entry."""
        return bool(self._first[session] == self._last[session])

    def idle(self, sessions: Ints | int) -> npt.NDArray[np.bool_]:
        """Whether each session's queue is empty."""
        empty: npt.NDArray[np.bool_] = self._first[sessions] == _NONE
        return empty

    def check(self) -> list[str]:
        """What does not add up, where nothing runs and every queue is empty or has its first entry in a ring."""
        waiting = len(self._singles) + len(self._chunks) + len(self._controls)
        if waiting == self._ids.taken:
            return []
        return [f"{self._ids.taken} entries are taken, {waiting} wait in queues"]

    def _pop(self, ring: Ring, count: int) -> Ints:
        ids = ring.pop(count)
        wanted = self._session[ids] != _NONE
        if not wanted.all():
            self._ids.give_back(ids[~wanted])
            ids = ids[wanted]
        return ids

    def _of_one_length(self, ids: Ints, most: int) -> tuple[Ints, int]:
        """Those of some chunks that make a run, and its steps; the others are in their ring again."""
        left = np.minimum(self._left[ids], most)
        steps = _fullest(left)
        taken = left >= steps
        self._chunks.put_back(ids[~taken])
        return ids[taken], steps

    def _finish(self, ids: Ints) -> None:
        sessions, following = self._session[ids], self._next[ids]
        self._first[sessions] = following
        ended = following == _NONE
        self._last[sessions[ended]] = _NONE
        self._ids.give_back(ids)
        self._make_ready(following[~ended])

    def _make_ready(self, ids: Ints) -> None:
        left = self._left[ids]
        single = left == 1
        if single.all():
            self._singles.push(ids)
            return
        self._singles.push(ids[single])
        self._chunks.push(ids[left > 1])
        self._controls.push(ids[left == 0])


def within(parts: Iterable[tuple[_T, int, int]], which: npt.NDArray[np.bool_]) -> list[tuple[_T, int, int]]:
    """Where (whose, start, stop) lie among some of the members; those of whom none is among them are left out."""
    before = np.concatenate(([0], np.cumsum(which))).tolist()
    found = [(whose, before[start], before[stop]) for whose, start, stop in parts]
    return [part for part in found if part[1] < part[2]]


def _fullest(left: Ints) -> int:
    """By how many steps a run takes most rows whose members take as many each, and of which the first is one.

    Args:
        left: [entries], steps that each could take.
    """
    steps = np.sort(left)
    rows = steps * np.arange(len(steps), 0, -1)
    return int(steps[rows[: np.searchsorted(steps, left[0], side="right")].argmax()])


def _bounds(work: Ints) -> list[int]:
    """Where in a column each stretch of one number begins, and where the last one ends."""
    return [0, *(np.flatnonzero(np.diff(work)) + 1).tolist(), len(work)]
