"""One model being served: what is accepted, the tick, and who is answered.

The step loop is `_turn`: take in, controls, schedule, run, complete. It lives on the event loop; a run that is not
known to be short is on another thread, and while it runs the next tick gathers. What comes while nothing is in line,
and is a short run, `_at_once` steps without a scheduler. Every accepted step is answered exactly once.
"""

import asyncio
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import groupby
from threading import Lock
from time import perf_counter
from typing import Any, Final

import numpy as np
import structlog

from gatestream.protos.layout import ModelLayout
from gatestream.server.arrays import Array, Ints
from gatestream.server.backend.runner import Runner
from gatestream.server.backend.state import StateRows
from gatestream.server.config import Limits, TickLimits
from gatestream.server.core.admission import Admission
from gatestream.server.core.intake import Intake, Packet
from gatestream.server.core.owner import Holder, Owner
from gatestream.server.core.requests import GATES, OUTPUTS, Control, Do, Entries, Fail, Refusals, Steps, gather
from gatestream.server.core.scheduler import Dropped, Scheduler, Tick
from gatestream.server.core.sessions import SessionTable
from gatestream.server.errors import OutOfStep, Reason, Refused, StepFailed
from gatestream.server.telemetry import ModelStats, RunStats, Where

_ANSWER_BYTES: Final = 2 * 2**20
_GATHERED_BYTES: Final = 2**20
# Turns of the loop in which what has come is read: gRPC's wake-up, the stream's reader, and what these schedule.
_READING_TURNS: Final = 4
# After so many ticks of one step the next one is expected to come alone too; of as many, one waits for company again.
_LONELY_TICKS: Final = 16
# As long the loop waits for the thread to begin a run: far longer than that takes, so that a lost thread stops nothing.
_BEGIN_SECONDS: Final = 0.01
_QUIET_SECONDS: Final = 0.001
# A run that is expected to be shorter than this is made on the event loop: the way to another thread and back costs a
# good part of it, and the loop can do without the time.
_SHORT_SECONDS: Final = 3e-3
# So long controls are done before the loop has its next turn.
_CONTROLS_SECONDS: Final = 2e-3
_FAILED_SECONDS: Final = 0.1
# What is known of so many runs is counted together.
_MOST_RUNS: Final = 512 * len(RunStats._fields)

_log = structlog.get_logger(__name__)


class Engine:
    """The step loop of one model. All methods are called on the event loop.

    Args:
        layout: of the model.
        runner: its state rows, `limits.sessions` of them.
        limits: what is taken on.
        tick: what one run takes on.
        clock: seconds, monotonic.
        straight: put every step in line.

    Raises:
        ConfigError: not even one row fits the limits.

    Attributes:
        rows: of state.
        sessions: which there are.
        wants: by slot, OUTPUTS and GATES as its owner asked.
        admission: how much is pending.
        stats: what is counted, but for the latest runs: `counted` has these.
    """

    def __init__(
        self,
        layout: ModelLayout,
        runner: Runner,
        limits: Limits,
        tick: TickLimits,
        clock: Callable[[], float],
        *,
        straight: bool = False,
    ):
        self.layout = layout
        self.rows = StateRows(layout, runner, limits.sessions, clock)
        self.clock = clock
        self.sessions = SessionTable(limits.sessions)
        self.wants = np.zeros(limits.sessions, np.uint8)
        # One answer stays below what every gRPC client takes by default (4 MiB).
        self._row_bytes = layout.output_bytes, layout.output_bytes + layout.gate_bytes
        self.admission = Admission(layout, limits)
        self.stats = ModelStats()
        self._limits = replace(tick, steps=max(1, min(tick.steps, _ANSWER_BYTES // self._row_bytes[True])))
        # Besides the rows admitted, a slot can have its close in line, and an entry that was dropped while ready.
        self._scheduler = Scheduler(limits.sessions, limits.rows + 2 * limits.sessions, self._limits)
        self._work: dict[int, Steps | Control] = {}
        self._last_work = 0
        self._intake = Intake(layout.inputs, self.sessions, self.admission, self.wants, clock)
        # Rows of single steps that are put together, at most: those of a run, and no more than are copied in no time.
        self._gathered = max(1, min(tick.rows, _GATHERED_BYTES // layout.input_bytes))
        self._called = False
        self._straight = straight
        # So many ticks in a row had one step.
        self._alone_ticks = 0
        self._running = False
        # Of the latest run.
        self._rows = 0
        # Not in `stats` yet: what RunStats has of each, one after another. No object is kept for each run, which the
        # garbage collector would have to look at.
        self._runs: list[Any] = []
        self._leaving: list[Ints] = []
        self._ended = False
        self._wake = asyncio.Event()
        self._thread = ThreadPoolExecutor(1, f"tick-{layout.name}")

    async def quiet(self) -> None:
        """Return when everything accepted has been answered."""
        # An event would have to be cleared and set with every step.
        while self.admission.rows or self._running:  # noqa: ASYNC110
            await asyncio.sleep(_QUIET_SECONDS)

    def counted(self) -> ModelStats:
        """All that is counted."""
        self.stats.ran(self._runs)
        self._runs.clear()
        return self.stats

    def count_anew(self) -> None:
        """Forget what was counted."""
        self._runs.clear()
        self.stats = ModelStats()

    def check(self) -> list[str]:
        """What does not add up, of an engine that has nothing to do; nothing of one that has."""
        if self._work or self._running or self._leaving or self._intake.steps or self._intake.message is not None:
            return []
        pending = [f"{self.admission.rows} rows are pending, none are in line"] if self.admission.rows else []
        return [*pending, *self._scheduler.check(), *self.sessions.check()]

    # ---- What is accepted ---------------------------------------------------------------------

    def submit(self, owner: Owner, entries: Entries, first: Ints | None, inputs: Sequence[Array]) -> None:
        """Take a message's chunks; `owner` hears of each entry that is refused.

        Args:
            owner: who holds the sessions.
            entries: of the message.
            first: [entries], the position that each is meant for; None: whatever position it is.
            inputs: in the spec's order, each [rows, *shape].
        """
        self._take_in()
        packets = self._intake.accept(owner, entries, first, inputs)
        if len(packets) == 1 and not self._straight:
            (self._intake.message,) = packets
            self._call()
        else:
            for packet in packets:
                self._put_in_line(packet)

    def submit_one(
        self, owner: Owner, handle: int, slot: int, length: int, first: int, columns: Sequence[bytes], wants: int
    ) -> bool:
        """As `submit`, for a message with one entry; what is wrong with its numbers is found when it is taken in.

        Args:
            owner: who holds the session.
            handle: what the owner calls it.
            slot: its state row.
            length: steps, at least 1.
            first: the position that it is meant for; -1: whatever position it is.
            columns: in the spec's order, the bytes of `length` rows.
            wants: OUTPUTS and GATES.

        Returns:
            Whether there was room for it.
        """
        intake = self._intake
        if slot in intake.steps or intake.message is not None or intake.rows >= self._gathered:
            self._take_in()
        if not intake.accept_one(owner, handle, slot, length, first, columns, wants):
            return False
        if self._straight:
            self._take_in()
        elif not self._called:
            # To wait for company costs a turn of the loop. Where there was none for long, it is only tried at times.
            alone = self._alone_ticks > _LONELY_TICKS and self._alone_ticks % _LONELY_TICKS
            if not (alone and self._lone()):
                self._call()
        return True

    def _call(self) -> None:
        # Not now: what else has arrived is read first.
        if not self._called:
            self._called = True
            asyncio.get_running_loop().call_soon(self._at_once)

    def _take_in(self) -> None:
        """Put what came since the last tick in line."""
        if (packet := self._intake.take()) is not None:
            self._put_in_line(packet)

    def _put_in_line(self, packet: Packet) -> None:
        item, slots, lengths, offsets, _, _ = packet
        self._scheduler.add(self._number(item), slots, lengths, offsets, np.arange(len(slots)))

    def control(
        self,
        slots: Ints,
        do: Do,
        fail: Fail,
        owner: Owner | None = None,
        handles: Ints | None = None,
        *,
        holder: Holder | None = None,
        must: bool = False,
        unlimited: bool = False,
    ) -> None:
        """Put something to do into the lines of sessions.

        Args:
            slots: of the sessions, each once.
            do: as in `Control`, and the others.
            fail: answers whoever asked, when it will not be done.
            owner: who asked, if it is to know.
            handles: what the owner calls the sessions, if `do` or `fail` is to know.
            holder: whose rows they are, if not the owner's.
            must: do it even when what stands before it in a line fails.
            unlimited: take it however much is pending; at most one such control stands in a line.

        Raises:
            Exhausted: too much is pending.
        """
        self._take_in()
        holder = owner if holder is None else holder
        assert holder is not None, "somebody has the rows"
        self.admission.take(holder, len(slots), unlimited=unlimited)
        handles = slots if handles is None else handles
        work = self._number(Control(do, fail, owner, holder, handles, must, len(slots)))
        self._scheduler.add_controls(work, slots, np.arange(len(slots)))

    def _number(self, item: Steps | Control) -> int:
        self._last_work += 1
        self._work[self._last_work] = item
        self._wake.set()
        return self._last_work

    # ---- The step loop ------------------------------------------------------------------------

    async def run(self) -> None:
        """Step sessions until cancelled, or until `end`."""
        try:
            while not self._ended:
                await self._wake.wait()
                self._wake.clear()
                try:
                    while await self._turn():
                        pass
                except Exception:
                    # Whatever it was, the other sessions are to go on.
                    _log.exception("a turn failed", model=self.layout.name)
                    await asyncio.sleep(_FAILED_SECONDS)
                    self._wake.set()
        finally:
            self._thread.shutdown(wait=True)

    def end(self) -> None:
        """Have `run` return; nothing is in line."""
        self._ended = True
        self._wake.set()

    async def _turn(self) -> bool:
        self._take_in()
        more = self._run_controls()
        tick = self._scheduler.tick()
        if tick is None:
            if more:
                await asyncio.sleep(0)
            return more
        self._running = True
        parts: list[tuple[Any, int, int]] = [(self._work[work], start, stop) for work, start, stop in tick.parts]
        since = min(item.since for item, _, _ in parts)
        short = self.rows.run_time.expected(len(tick.slots), tick.steps) < _SHORT_SECONDS
        try:
            if short:
                outputs, gates = self._compute(tick, parts)
            else:
                outputs, gates = await self._elsewhere(tick, parts)
        except Exception as error:
            self._fail(tick, error)
        else:
            ended = self.rows.began + self.rows.seconds
            for item, _, _ in parts:
                item.since = ended
            self._ran(len(tick.slots), self._rows, since, "loop" if short else "thread")
            self._complete(tick, outputs, gates)
        finally:
            self._running = False
            while self._leaving:
                self.sessions.free(self._leaving.pop())
        if short:
            # What came meanwhile is to be in the next tick. To read it takes the loop some turns; where a single step
            # may be among it, no chunk's run comes in between.
            waits = tick.steps == 1 or self._scheduler.calm or self._scheduler.singles_wait
            for _ in range(1 if waits else _READING_TURNS):
                await asyncio.sleep(0)
        return True

    def _at_once(self) -> None:
        """Take the steps that came while nothing stood in line, if that is a short run; else leave them to `_turn`."""
        self._called = False
        if self._lone():
            return
        self._alone_ticks = 0
        if self._work or self._running:
            self._wake.set()
            return
        packet = self._intake.take()
        if packet is None:
            return
        if not self._brief(packet):
            self._put_in_line(packet)
            return
        item, slots, lengths, offsets, steps, rows = packet
        inputs = [
            # Rows of one length lie in order already.
            column.reshape(len(slots), steps, *column.shape[1:])
            if rows == len(slots) * steps
            else gather(column, offsets, steps)
            for column in item.inputs
        ]
        try:
            outputs, gates = self._run(slots, lengths, inputs, item.gates, rows)
        except Exception as error:
            self._fail_at_once(packet, error)
            return
        self._ran(len(slots), rows, item.since, "at_once")
        table = self.sessions
        first = table.position[slots]
        table.position[slots] = first + lengths
        table.answered_at[slots] = self.clock()
        try:
            item.answer(None, first, lengths, outputs, gates)
        except Exception as error:
            item.unanswered(error, None, lengths)

    def _lone(self) -> bool:
        """As `_at_once` for the only step that came, without arrays of one number; False: it is not as simple."""
        waiting = self._intake.steps
        if len(waiting) != 1 or self._work or self._running:
            return False
        ((slot, (owner, handle, length, first, columns, wants)),) = waiting.items()
        table = self.sessions
        position = int(table.accepted[slot])
        if (
            length > 1
            or first not in (-1, position)
            or self.rows.is_fresh(slot)
            or self.rows.run_time.expected(1, 1) > _SHORT_SECONDS
        ):
            return False
        inputs = []
        for item, column in zip(self.layout.inputs, columns, strict=True):
            rows = item.rows(column)
            if not item.all_good(rows):
                return False
            inputs.append(rows[None])
        try:
            outputs, gates = self.rows.step_one(slot, inputs, gates=wants >= GATES)
        except Exception as error:
            packet = self._intake.take()
            assert packet is not None, "it was just looked at"
            self._fail_at_once(packet, error)
            return True
        self._intake.clear()
        self._ran(1, 1, self._intake.since, "alone")
        self._scheduler.pass_by(1)
        self._alone_ticks += 1
        table.position[slot] = table.accepted[slot] = position + 1
        table.answered_at[slot] = self.clock()
        self.admission.computed(owner, 1, wants)
        try:
            owner.result(
                handle,
                position,
                1,
                [batch.tobytes() for batch in outputs] if wants & OUTPUTS else (),
                [batch.tobytes() for batch in gates],
            )
        except Exception as error:
            owner.failed(error)
        return True

    def _fail_at_once(self, packet: Packet, error: Exception) -> None:
        self._put_in_line(packet)
        tick = self._scheduler.tick()
        assert tick is not None, "what was to run is in line now"
        self._fail(tick, error)

    def _brief(self, packet: Packet) -> bool:
        """Whether these steps make a tick of their own, in which nobody waits for long."""
        limits, batch, steps = self._limits, len(packet.slots), packet.steps
        return (
            batch * steps <= limits.rows
            and steps <= limits.steps
            and batch * steps * self._row_bytes[packet.item.gates] <= _ANSWER_BYTES
            and self.rows.run_time.expected(batch, steps) < _SHORT_SECONDS
            and self._scheduler.pass_by(steps)
        )

    async def _elsewhere(self, tick: Tick, parts: Sequence[tuple[Any, int, int]]) -> tuple[list[Array], list[Array]]:
        """Run on the other thread."""
        begun = Lock()
        begun.acquire()

        def compute() -> tuple[list[Array], list[Array]]:
            begun.release()
            return self._compute(tick, parts)

        future = asyncio.get_running_loop().run_in_executor(self._thread, compute)
        # Else the thread would wait for the interpreter until the loop has nothing to do, and the model with it.
        begun.acquire(timeout=_BEGIN_SECONDS)
        return await future

    def _compute(self, tick: Tick, parts: Sequence[tuple[Any, int, int]]) -> tuple[list[Array], list[Array]]:
        inputs = []
        for k in range(len(self.layout.inputs)):
            pieces = [gather(item.inputs[k], tick.offsets[start:stop], tick.steps) for item, start, stop in parts]
            inputs.append(pieces[0] if len(pieces) == 1 else np.concatenate(pieces))
        gates = any(item.gates for item, _, _ in parts)
        return self._run(tick.slots, tick.lengths, inputs, gates, int(tick.lengths.sum()))

    def _run(
        self, slots: Ints, lengths: Ints, inputs: Sequence[Array], gates: bool, rows: int
    ) -> tuple[list[Array], list[Array]]:
        result = self.rows.step(slots, inputs, lengths, gates=gates)
        self.admission.seconds_per_row = self.rows.seconds / rows
        self._rows = rows
        return result

    def _ran(self, entries: int, rows: int, since: float, where: Where) -> None:
        """Count the latest run."""
        done, runs = self.rows, self._runs
        runs += (entries, rows, done.began - since, done.seconds, where)
        if len(runs) >= _MOST_RUNS:
            self.counted()

    def _complete(self, tick: Tick, outputs: list[Array], gates: list[Array]) -> None:
        now = self.clock()
        wanted, finished = self._scheduler.complete(tick)
        first = self.sessions.position[tick.slots]
        if wanted.all():
            whole, slots = True, tick.slots
        else:
            whole, slots = False, tick.slots[wanted]
        self.sessions.position[slots] += tick.lengths[wanted]
        self.sessions.answered_at[slots] = now
        for work, start, stop in self._answers(tick):
            members: slice | Ints = slice(start, stop) if whole else start + np.flatnonzero(wanted[start:stop])
            lengths = tick.lengths[members]
            item = self._work.get(work)
            if item is None or len(lengths) == 0:
                continue
            assert not isinstance(item, Control)
            try:
                item.answer(
                    tick.entries[members],
                    first[members],
                    lengths,
                    [batch[members] for batch in outputs],
                    [batch[members] for batch in gates],
                )
            except Exception as error:
                item.unanswered(error, tick.entries[members], lengths)
            self._count_off(work, item, int(finished[members].sum()))

    def _answers(self, tick: Tick) -> Iterator[tuple[int, int, int]]:
        most = max(1, _ANSWER_BYTES // (self._row_bytes[True] * tick.steps))
        for work, start, stop in tick.parts:
            for begin in range(start, stop, most):
                yield work, begin, min(begin + most, stop)

    def _fail(self, tick: Tick, error: Exception) -> None:
        # What came meanwhile stands behind these steps.
        self._take_in()
        self.stats.failed(len(tick.slots))
        _log.error("tick failed", model=self.layout.name, members=len(tick.slots), exc_info=error)
        failed = {(work, int(entry)) for work, a, b in tick.parts for entry in tick.entries[a:b]}
        reason = StepFailed(f"the model failed on this tick, no state has changed: {error}")
        behind = OutOfStep("the step before this one in the session failed", Reason.PRECEDING_FAILED)
        self._answer_dropped(
            self._scheduler.abandon(tick),
            lambda entry: reason if (entry.work, entry.entry) in failed else behind,
            keep_musts=True,
        )

    def _run_controls(self) -> bool:
        """Do what has its turn, for no longer than the loop can do without; whether there is more."""
        until = perf_counter() + _CONTROLS_SECONDS
        while perf_counter() < until:
            slots, parts = self._scheduler.controls()
            if not parts:
                return False
            begin = 0
            items = [(item, entries) for work, entries in parts if isinstance(item := self._work[work], Control)]
            for (work, entries), (item, _) in zip(parts, items, strict=True):
                self._count_off_control(work, item, len(entries))
            # What many messages ask for, one after another, is done and answered as one.
            for (do, owner), group in groupby(items, lambda part: (part[0].do, part[0].owner)):
                members = list(group)
                handles = np.concatenate([item.handles[entries] for item, entries in members])
                mine = slots[begin : begin + len(handles)]
                begin += len(handles)
                try:
                    do(owner, mine, handles)
                except Exception as error:
                    _log.exception("control failed", model=self.layout.name)
                    members[0][0].fail(
                        StepFailed(f"the server failed between two ticks: {error}"), owner, mine, handles
                    )
        return True

    # ---- What the sessions' book needs ---------------------------------------------------------

    def remove(self, slots: Ints) -> None:
        """Forget sessions; what stands in their lines is answered as not taken."""
        self._take_in()
        closed = OutOfStep("the session was closed before this step's turn came", Reason.SESSION_CLOSED)
        self._answer_dropped(self._scheduler.drop(slots), lambda _: closed, keep_musts=False)
        self.sessions.remove(slots)
        if not self._running:
            self.sessions.free(slots)
        else:
            # A running tick will still write its members' rows: nobody else may have them before.
            self._leaving.append(slots)

    def at_rest(self, slot: int) -> bool:
        """Whether a session has nothing in line and no tick runs: what a control would do can be done now."""
        intake = self._intake
        return not (self._running or intake.message is not None or slot in intake.steps) and bool(
            self._scheduler.idle(slot)
        )

    def idle(self, slots: Ints) -> Ints:
        """Those of the slots that have nothing in line."""
        self._take_in()
        return slots[self._scheduler.idle(slots)]

    def _answer_dropped(self, dropped: list[Dropped], why: Callable[[Dropped], Refused], *, keep_musts: bool) -> None:
        refusals = Refusals()
        for slot, line in groupby(dropped, lambda entry: entry.slot):
            position = first = int(self.sessions.position[slot])
            self.sessions.accepted[slot] = position
            for entry in line:
                item = self._work[entry.work]
                if not isinstance(item, Control):
                    owner, handle = item.withdraw(entry.entry, entry.left)
                    refusals.add(owner, why(entry), handle, position, first, entry.left)
                    first += entry.left
                    self._count_off(entry.work, item, 1)
                elif item.must and keep_musts:
                    self._scheduler.add_controls(entry.work, np.array([slot]), np.array([entry.entry]))
                else:
                    # Of one session, what comes first is said first.
                    refusals.send()
                    self._count_off_control(entry.work, item, 1)
                    item.fail(why(entry), item.owner, np.array([slot]), item.handles[[entry.entry]])
        refusals.send()

    def _count_off(self, work: int, item: Steps | Control, finished: int) -> None:
        item.unfinished -= finished
        if item.unfinished == 0:
            del self._work[work]

    def _count_off_control(self, work: int, item: Control, finished: int) -> None:
        self.admission.withdrawn(item.holder, finished)
        self._count_off(work, item, finished)
