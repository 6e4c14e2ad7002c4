"""The scheduler against a slow reading of its rules: one list of entries for each session."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from gatestream.server.config import TickLimits
from gatestream.server.core.scheduler import Scheduler, Tick, Turn

SLOTS = 6
LIMITS = TickLimits(rows=4, steps=8)


@dataclass
class Entry:
    work: int
    number: int
    offset: int
    left: int


def ints(*values: int) -> "np.ndarray[tuple[int], np.dtype[np.int64]]":
    return np.array(values, np.int64)


class Lines(RuleBasedStateMachine):
    even = False

    def __init__(self) -> None:
        super().__init__()
        self.scheduler = Scheduler(SLOTS, 1000, LIMITS, even=self.even)
        self.lines: dict[int, list[Entry]] = defaultdict(list)
        self.work = 0
        self.running: Tick | None = None
        self.running_entries: dict[int, Entry] = {}
        # Sessions whose control has had its turn and is not finished.
        self.held: list[tuple[Turn, dict[int, Entry]]] = []

    @rule(entries=st.dictionaries(st.integers(0, SLOTS - 1), st.integers(1, 20), min_size=1))
    def add(self, entries: dict[int, int]) -> None:
        self.work += 1
        slots, lengths = ints(*entries), ints(*entries.values())
        offsets = np.cumsum(lengths) - lengths
        self.scheduler.add(self.work, slots, lengths, offsets, np.arange(len(slots)))
        for number, (slot, length) in enumerate(entries.items()):
            self.lines[slot].append(Entry(self.work, number, int(offsets[number]), length))

    @rule(slots=st.sets(st.integers(0, SLOTS - 1), min_size=1))
    def add_controls(self, slots: set[int]) -> None:
        self.work += 1
        self.scheduler.add_controls(self.work, ints(*slots), np.arange(len(slots)))
        for number, slot in enumerate(slots):
            self.lines[slot].append(Entry(self.work, number, 0, 0))

    @precondition(lambda self: self.running is None)
    @rule(some_wait=st.booleans())
    def controls(self, some_wait: bool) -> None:
        held = [entry for _, entries in self.held for entry in entries.values()]
        due = {slot: line[0] for slot, line in self.lines.items() if line and line[0].left == 0}
        due = {slot: entry for slot, entry in due.items() if not any(entry is other for other in held)}
        turns = self.scheduler.controls()
        slots = [slot for turn in turns for slot in turn.sessions.tolist()]
        assert sorted(slots) == sorted(due), "there are not so many that some are left for later"
        for k, turn in enumerate(turns):
            entries = {slot: due[slot] for slot in turn.sessions.tolist()}
            assert [(turn.work, number) for number in turn.entries.tolist()] == [
                (entry.work, entry.number) for entry in entries.values()
            ]
            self.held.append((turn, entries))
            if not (some_wait and k % 2):
                self.finish(len(self.held) - 1)

    @precondition(lambda self: self.held)
    @rule(which=st.integers(0, 5))
    def finish(self, which: int) -> None:
        turn, entries = self.held.pop(which % len(self.held))
        there = [bool(self.lines[slot]) and self.lines[slot][0] is entry for slot, entry in entries.items()]
        assert self.scheduler.wanted(turn.ids).tolist() == there
        self.scheduler.finish(turn.ids)
        for slot in [slot for slot, is_there in zip(entries, there, strict=True) if is_there]:
            self.lines[slot].pop(0)

    @precondition(lambda self: self.running is None)
    @rule()
    def tick(self) -> None:
        ready = {slot: line[0] for slot, line in self.lines.items() if line and line[0].left > 0}
        tick = self.scheduler.tick()
        assert (tick is None) == (not ready)
        if tick is None:
            return
        slots = tick.sessions.tolist()
        assert len(set(slots)) == len(slots), "a session stands once in a run"
        assert 1 <= len(slots) <= LIMITS.rows
        assert tick.steps <= LIMITS.steps
        assert not self.even or len(set(tick.lengths.tolist())) == 1, "all of a run take as many steps"
        single = [ready[slot].left == 1 for slot in slots]
        assert all(single) or not any(single), "single steps and chunks do not share a run"
        for work, start, stop in tick.parts:
            for k in range(start, stop):
                entry = ready[slots[k]]
                assert (entry.work, entry.number, entry.offset) == (work, tick.entries[k], tick.offsets[k])
                assert 1 <= tick.lengths[k] <= entry.left
        assert tick.parts[-1][2] == len(slots)
        self.running = tick
        self.running_entries = {slot: ready[slot] for slot in slots}

    @precondition(lambda self: self.running is not None)
    @rule()
    def complete(self) -> None:
        assert self.running is not None
        wanted, finished = self.scheduler.complete(self.running)
        for k, (slot, length) in enumerate(
            zip(self.running.sessions.tolist(), self.running.lengths.tolist(), strict=True)
        ):
            entry = self.running_entries[slot]
            line = self.lines[slot]
            assert wanted[k] == (bool(line) and line[0] is entry)
            if wanted[k]:
                entry.left -= length
                entry.offset += length
                assert finished[k] == (entry.left == 0)
                if entry.left == 0:
                    line.pop(0)
        self.running = None

    @precondition(lambda self: self.running is not None)
    @rule()
    def abandon(self) -> None:
        assert self.running is not None
        members = [
            slot for slot, entry in self.running_entries.items() if self.lines[slot] and self.lines[slot][0] is entry
        ]
        self._check_dropped(members, self.scheduler.abandon(self.running))
        self.running = None

    @rule(slots=st.sets(st.integers(0, SLOTS - 1), min_size=1))
    def drop(self, slots: set[int]) -> None:
        ordered = sorted(slots)
        self._check_dropped(ordered, self.scheduler.drop(ints(*ordered)))

    def _check_dropped(self, slots: list[int], dropped: Sequence[tuple[int, int, int, int]]) -> None:
        expected = [(slot, entry.work, entry.number, entry.left) for slot in slots for entry in self.lines[slot]]
        assert [tuple(entry) for entry in dropped] == expected
        for slot in slots:
            self.lines[slot] = []

    @invariant()
    def idle_slots_are_those_with_an_empty_line(self) -> None:
        idle = self.scheduler.idle(np.arange(SLOTS)).tolist()
        assert idle == [not self.lines[slot] for slot in range(SLOTS)]

    def teardown(self) -> None:
        if self.running is not None:
            self.complete()
        rounds = 0
        while any(self.lines.values()) or self.held:
            while self.held:
                self.finish(0)
            self.controls(some_wait=False)
            self.tick()
            if self.running is not None:
                self.complete()
            rounds += 1
            assert rounds < 10_000, "everything that is in line runs in the end"
        # What was dropped while it was ready leaves its queue when its turn comes.
        assert self.scheduler.controls() == []
        assert self.scheduler.tick() is None
        assert self.scheduler._ids.free == 1000, "no entry is left behind"


class EvenLines(Lines):
    even = True


TestLines = Lines.TestCase
TestLines.settings = settings(max_examples=60, stateful_step_count=40)
TestEvenLines = EvenLines.TestCase
TestEvenLines.settings = settings(max_examples=60, stateful_step_count=40)


def test_chunks_of_unlike_lengths_are_cut_to_the_fullest_run_with_the_first() -> None:
    scheduler = Scheduler(8, 1000, TickLimits(rows=16, steps=32), even=True)
    scheduler.add(1, np.arange(6), ints(9, 3, 20, 8, 8, 40), np.zeros(6, np.int64), np.arange(6))
    runs = []
    while (tick := scheduler.tick()) is not None:
        scheduler.complete(tick)
        runs.append((tick.sessions.tolist(), tick.lengths.tolist()))
    # 8 of five are more than 3 of six, or 9 of three. What is left over is a step of one, and of none a chunk of one.
    assert runs[0] == ([0, 2, 3, 4, 5], [8] * 5)
    assert runs[1] == ([0], [1]), "a single step never waits for a chunk"
    assert runs[2] == ([1, 2, 5], [3] * 3), "who has waited is the first"
    assert sum(len(members) * lengths[0] for members, lengths in runs) == 9 + 3 + 20 + 8 + 8 + 40


def test_a_chunk_that_fits_no_run_of_the_others_has_its_turn_all_the_same() -> None:
    scheduler = Scheduler(40, 4000, TickLimits(rows=64, steps=16), even=True)
    scheduler.add(0, ints(0), ints(2), ints(0), ints(0))
    for turn in range(1, 10):
        scheduler.add(turn, np.arange(1, 40), np.full(39, 16), np.arange(39) * 16, np.arange(39))
    scheduler.add(10, ints(0), ints(2), ints(0), ints(0))
    turns = []
    for turn in range(30):
        tick = scheduler.tick()
        assert tick is not None
        scheduler.complete(tick)
        if 0 in tick.sessions:
            turns.append(turn)
    # The first of all, and then behind those that stood before it: 39 chunks, 4 of them or more in each run.
    assert turns[0] == 0
    assert turns[1] <= 12


def test_sessions_take_turns_however_much_one_has_sent() -> None:
    scheduler = Scheduler(8, 1000, TickLimits(rows=2, steps=8))
    for work in range(50):
        scheduler.add(work, ints(0), ints(1), ints(0), ints(0))
    scheduler.add(50, ints(1, 2, 3), ints(1, 1, 1), ints(0, 1, 2), ints(0, 1, 2))
    seen: list[int] = []
    while not {1, 2, 3} <= set(seen):
        tick = scheduler.tick()
        assert tick is not None
        scheduler.complete(tick)
        seen += tick.sessions.tolist()
    assert seen.count(0) <= 2


def test_single_steps_run_between_the_parts_of_a_long_chunk() -> None:
    scheduler = Scheduler(8, 1000, TickLimits(rows=512, steps=64))
    scheduler.add(1, ints(0), ints(10_000), ints(0), ints(0))
    lengths = []
    for step in range(20):
        scheduler.add(2 + step, ints(1), ints(1), ints(0), ints(0))
        for _ in range(2):
            tick = scheduler.tick()
            assert tick is not None
            scheduler.complete(tick)
            lengths.append(tick.steps)
    assert sorted(set(lengths)) == [1, 16], "a step waits for a short part of the chunk at most"
    assert all({a, b} == {1, 16} for a, b in zip(lengths[::2], lengths[1::2], strict=True))


def test_of_many_controls_some_are_left_for_the_next_turn() -> None:
    scheduler = Scheduler(2000, 4000, LIMITS)
    scheduler.add_controls(1, np.arange(1000), np.arange(1000))
    for slot in range(1000, 1100):
        scheduler.add_controls(slot, ints(slot), ints(0))
    taken = []
    while turns := scheduler.controls():
        taken.append((sum(len(turn.sessions) for turn in turns), len(turns)))
        for turn in turns:
            scheduler.finish(turn.ids)
    assert taken[0] == (512, 1)
    assert sum(slots for slots, _ in taken) == 1100
    assert max(parts for _, parts in taken) <= 32
