"""What is counted: of each run of a model, of sessions, streams and refusals. Plain numbers, which add up.

Counters of a process are added to in place, on its event loop. `Totals` is a copy of them, with what is there at that
moment, of one process or of all workers of a server together.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final, Literal, NamedTuple

import numpy as np

from gatestream.server.errors import Code, Reason, ServerError

Where = Literal["alone", "at_once", "loop", "thread"]
"""Where a run was made: of one step that came alone; of what came while nothing was queued; of what was queued, on
the event loop or on the model's thread."""

Protocol = Literal["gatestream", "open_inference"]

SECONDS: Final = (5e-5, 1e-4, 2e-4, 5e-4, 1e-3, 2e-3, 5e-3, 1e-2, 2e-2, 5e-2, 0.1, 0.2, 0.5, 1.0)
"""Upper bounds of the buckets that times are counted in."""

DISCONNECTED: Final = "DISCONNECTED"
"""Why a session has ended whose stream has."""

_WORKER_DIED: Final = "WORKER_DIED"
_ENDS: Final = (
    "REQUESTED",
    "ADMINISTERED",
    "IDLE",
    "DRAINED",
    "PARKED",
    "FENCED",
    "LOST",
    DISCONNECTED,
    _WORKER_DIED,
)
_NONE: Final = (0, 0.0)
_BOUNDS: Final = np.array(SECONDS)


class RunStats(NamedTuple):
    """One run of a model that has succeeded.

    Attributes:
        entries: sessions that were stepped.
        rows: steps of all of them.
        waited: seconds from when the first of them came, or had its run before this one, until the run began.
        seconds: that it took.
        where: it was made.
    """

    entries: int
    rows: int
    waited: float
    seconds: float
    where: Where


@dataclass(slots=True)
class Times:
    """A histogram of seconds.

    Attributes:
        counts: in each bucket of `SECONDS`, and beyond the last.
        seconds: all together.
    """

    counts: list[int] = field(default_factory=lambda: [0] * (len(SECONDS) + 1))
    seconds: float = 0.0

    def count(self, seconds: Any, weights: Any = None) -> None:
        """Count times, [n] of float64, each as often as its weight says, [n] of int64; None: once."""
        found = np.bincount(_BOUNDS.searchsorted(seconds), weights, len(self.counts))
        self.counts = [mine + int(more) for mine, more in zip(self.counts, found.tolist(), strict=True)]
        self.seconds += float(seconds.sum() if weights is None else seconds @ weights)

    def add(self, other: "Times") -> None:
        """Count what the other has counted."""
        self.counts = [mine + theirs for mine, theirs in zip(self.counts, other.counts, strict=True)]
        self.seconds += other.seconds


@dataclass(slots=True)
class ModelStats:
    """What is counted of one model.

    Attributes:
        runs: that succeeded, by where they were made.
        sizes: by the entries of a run: how many runs, and the seconds that they took.
        rows: of all runs.
        run: seconds of each run.
        wait: seconds that each run waited.
        step: seconds from when each step came until its run was over.
        waited: seconds that runs waited, counted for each of their entries.
        failed_runs, failed_entries: that failed, and their entries.
        opened: sessions that were made.
        ended: sessions that have ended, by why.
    """

    runs: dict[Where, int] = field(default_factory=lambda: {"alone": 0, "at_once": 0, "loop": 0, "thread": 0})
    sizes: dict[int, tuple[int, float]] = field(default_factory=dict)
    rows: int = 0
    run: Times = field(default_factory=Times)
    wait: Times = field(default_factory=Times)
    step: Times = field(default_factory=Times)
    waited: float = 0.0
    failed_runs: int = 0
    failed_entries: int = 0
    opened: int = 0
    ended: Counter[str] = field(default_factory=lambda: Counter(dict.fromkeys(_ENDS, 0)))

    def ran(self, runs: Sequence[Any]) -> None:
        """Count runs, many at once: one by one they would cost several times as much.

        Args:
            runs: what RunStats has of each, one after another.
        """
        if not runs:
            return
        each = len(RunStats._fields)
        entries, rows, waited, seconds = (np.array(runs[k::each]) for k in range(4))
        places = runs[4::each]
        for where in self.runs:
            self.runs[where] += places.count(where)
        self.rows += int(rows.sum())
        self.waited += float(waited @ entries)
        sizes, which = np.unique(entries, return_inverse=True)
        counts, times = np.bincount(which).tolist(), np.bincount(which, seconds).tolist()
        for size, count, took in zip(sizes.tolist(), counts, times, strict=True):
            mine = self.sizes.get(size, _NONE)
            self.sizes[size] = mine[0] + count, mine[1] + took
        self.run.count(seconds)
        self.wait.count(waited)
        self.step.count(waited + seconds, rows)

    def failed(self, entries: int) -> None:
        """Count a run that failed, for so many entries for good: those of several are made again, apart."""
        self.failed_runs += 1
        self.failed_entries += entries

    @property
    def entries(self) -> int:
        """Of all runs that succeeded."""
        return sum(entries * runs for entries, (runs, _) in self.sizes.items())

    def add(self, other: "ModelStats") -> None:
        """Count what the other has counted."""
        for where, runs in other.runs.items():
            self.runs[where] += runs
        for entries, (runs, seconds) in other.sizes.items():
            mine = self.sizes.get(entries, _NONE)
            self.sizes[entries] = mine[0] + runs, mine[1] + seconds
        self.rows += other.rows
        self.run.add(other.run)
        self.wait.add(other.wait)
        self.step.add(other.step)
        self.waited += other.waited
        self.failed_runs += other.failed_runs
        self.failed_entries += other.failed_entries
        self.opened += other.opened
        self.ended.update(other.ended)


@dataclass(slots=True)
class ModelNow:
    """What there is of one model at a moment, in all its versions. Of several workers: of all together.

    Attributes:
        versions: that there are, each with the provider that its runs are made on.
        attached: sessions that a stream holds.
        detached: sessions that none holds.
        sequences: of the Open Inference Protocol.
        parked: sessions whose state is in a store.
        most_sessions: that there may be.
        state_bytes: of the states of all sessions.
        rows: steps and controls accepted and not done yet.
        most_rows: that there may be.
    """

    versions: dict[str, str]
    attached: int
    detached: int
    sequences: int
    parked: int
    most_sessions: int
    state_bytes: int
    rows: int
    most_rows: int

    def add(self, other: "ModelNow") -> None:
        """Have what the other has."""
        self.versions = self.versions | other.versions
        self.attached += other.attached
        self.detached += other.detached
        self.sequences += other.sequences
        self.parked += other.parked
        self.most_sessions += other.most_sessions
        self.state_bytes += other.state_bytes
        self.rows += other.rows
        self.most_rows += other.most_rows


@dataclass(slots=True)
class CheckpointStats:
    """What is counted of checkpoints.

    Attributes:
        written: of sessions.
        bytes: of their states.
        seconds: that the store took to write them.
        failures: rounds that the store did not take.
        left: sessions that have ended, and of which the store was not told.
    """

    written: int = 0
    bytes: int = 0
    seconds: float = 0.0
    failures: int = 0
    left: int = 0

    def wrote(self, sessions: int, size: int, seconds: float) -> None:
        """Count what was written together."""
        self.written += sessions
        self.bytes += size
        self.seconds += seconds

    def add(self, other: "CheckpointStats") -> None:
        """Count what the other has counted."""
        self.written += other.written
        self.bytes += other.bytes
        self.seconds += other.seconds
        self.failures += other.failures
        self.left += other.left


@dataclass(slots=True)
class CheckpointsNow:
    """What there is to be written.

    Attributes:
        dirty: sessions whose state is not stored.
        age: seconds since all of them were.
    """

    dirty: int = 0
    age: float = 0.0

    def add(self, other: "CheckpointsNow") -> None:
        """Have what the other has."""
        self.dirty += other.dirty
        self.age = max(self.age, other.age)


@dataclass(slots=True)
class StreamStats:
    """What is counted of the streams of one protocol.

    Attributes:
        opened: how many.
        ended: how many, by the name of the status that they ended with.
        received, sent: messages.
    """

    opened: int = 0
    ended: Counter[str] = field(default_factory=Counter)
    received: int = 0
    sent: int = 0

    def add(self, other: "StreamStats") -> None:
        """Count what the other has counted."""
        self.opened += other.opened
        self.ended.update(other.ended)
        self.received += other.received
        self.sent += other.sent

    @property
    def open(self) -> int:
        """How many are."""
        return self.opened - self.ended.total()


@dataclass(slots=True)
class ServerStats:
    """What is counted of a whole server.

    Attributes:
        streams: by their protocol.
        calls: that came and were let in, by method; none of those that are streams of sessions.
        refusals: by the names of their code and reason.
        differences: found where something must add up.
        deaths: of workers.
        checkpoints: of its sessions.
    """

    streams: dict[Protocol, StreamStats] = field(
        default_factory=lambda: {"gatestream": StreamStats(), "open_inference": StreamStats()}
    )
    calls: Counter[str] = field(default_factory=Counter)
    refusals: Counter[tuple[str, ...]] = field(default_factory=Counter)
    differences: int = 0
    deaths: int = 0
    checkpoints: CheckpointStats = field(default_factory=CheckpointStats)

    def refused(self, error: ServerError) -> None:
        """Count what somebody is told by one error."""
        code: Code = getattr(error, "code", Code.INTERNAL)
        reason: Reason = getattr(error, "reason", Reason.UNSPECIFIED)
        self.refusals[code.name, reason.value.removeprefix("REASON_")] += 1

    def add(self, other: "ServerStats") -> None:
        """Count what the other has counted."""
        for protocol, streams in other.streams.items():
            self.streams[protocol].add(streams)
        self.calls.update(other.calls)
        self.refusals.update(other.refusals)
        self.differences += other.differences
        self.deaths += other.deaths
        self.checkpoints.add(other.checkpoints)


@dataclass(slots=True)
class Totals:
    """All that there is to say, of one process or of all workers of a server.

    Attributes:
        server: what was counted of it.
        models: what was counted of each, by name.
        now: what there is of each, by name.
        processes: that serve.
        reply_bytes: of answers not yet sent, and of rows not yet computed.
        most_reply_bytes: that they may be.
        checkpoints: that are to be written.
    """

    server: ServerStats = field(default_factory=ServerStats)
    models: dict[str, ModelStats] = field(default_factory=dict)
    now: dict[str, ModelNow] = field(default_factory=dict)
    processes: int = 0
    reply_bytes: int = 0
    most_reply_bytes: int = 0
    checkpoints: CheckpointsNow = field(default_factory=CheckpointsNow)

    def add(self, other: "Totals") -> None:
        """Have what the other has, and count what it has counted."""
        self.server.add(other.server)
        for name, stats in other.models.items():
            self.models.setdefault(name, ModelStats()).add(stats)
        for name, now in other.now.items():
            if name in self.now:
                self.now[name].add(now)
            else:
                self.now[name] = replace(now)
        self.processes += other.processes
        self.reply_bytes += other.reply_bytes
        self.most_reply_bytes += other.most_reply_bytes
        self.checkpoints.add(other.checkpoints)

    def bury(self, other: "Totals") -> None:
        """Count what a process has counted that is there no more; its streams and sessions have ended with it."""
        self.server.add(other.server)
        for streams in self.server.streams.values():
            streams.ended["UNAVAILABLE"] += streams.open
        for name, stats in other.models.items():
            mine = self.models.setdefault(name, ModelStats())
            mine.add(stats)
            mine.ended[_WORKER_DIED] += mine.opened - mine.ended.total()


def summed(totals: Iterable[Totals]) -> Totals:
    """All of them together, which stay as they are."""
    found = Totals()
    for each in totals:
        found.add(each)
    return found
