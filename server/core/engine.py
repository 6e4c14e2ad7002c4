"""One model being served: what is accepted, the runs, and who is answered.

A step is submitted, admitted, planned into a run, run and completed. `core.planner` says what the next run computes.
`_step` makes a run on the event loop; one that is not known to be short is made on another thread, and while it runs
the next one gathers. `_complete` moves the sessions on. `core.answers` answers what was computed and refuses what will
not be, each accepted step exactly once; `core.queue_edits` takes out of the queues what is not to have its turn.
"""

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from threading import Lock
from typing import Any, Final, TypeVar

import numpy as np
import structlog

from gatestream.protos.layout import ModelLayout
from gatestream.server.arrays import Array, Ints
from gatestream.server.backend.run_time import SHORT_SECONDS
from gatestream.server.backend.runner import Runner
from gatestream.server.backend.state import StateRows
from gatestream.server.config import Limits, TickLimits
from gatestream.server.core.admission import Admission
from gatestream.server.core.alone import Alone
from gatestream.server.core.answers import Answers
from gatestream.server.core.apart import Apart
from gatestream.server.core.batches import OUTPUTS, Entries
from gatestream.server.core.control_runner import ControlRunner
from gatestream.server.core.controls import Await, Control, Do, Fail
from gatestream.server.core.few import FewEntries
from gatestream.server.core.intake import Intake
from gatestream.server.core.planner import Planner, rows_of_one_answer
from gatestream.server.core.queue_edits import QueueEdits
from gatestream.server.core.reply_sink import Holder, ReplySink
from gatestream.server.core.run import Run
from gatestream.server.core.scheduler import Scheduler
from gatestream.server.core.session_queues import Place, SessionQueues
from gatestream.server.core.sessions import SessionTable
from gatestream.server.errors import OutOfStep, Reason, StepFailed, session_closed
from gatestream.server.telemetry import ModelStats, RunStats

_GATHERED_BYTES: Final = 2**20
# Turns of the loop in which what has come is read: gRPC's wake-up, the stream's reader, and what these schedule.
_READING_TURNS: Final = 4
# After so many lonely runs the next one is expected to be one too; of as many, one waits for company again.
_LONELY_RUNS: Final = 64
# As long the loop waits for the thread to begin a run: far longer than that takes, so that a lost thread stops nothing.
_BEGIN_SECONDS: Final = 0.01
_QUIET_SECONDS: Final = 0.001
_FAILED_SECONDS: Final = 0.1
# What is known of so many runs is counted together.
_MOST_RUNS: Final = 512 * len(RunStats._fields)

_T = TypeVar("_T")
_Results = tuple[list[Array], list[Array]]
"""The outputs and the gates of a run, as `Runner.step` gives them."""

_log = structlog.get_logger(__name__)


class Engine:
    """The step loop of one model. All methods are called on the event loop.

    Args:
        layout: of the model.
        runner: its state rows, `limits.sessions` of them.
        limits: what is taken on.
        tick: what one run takes on.
        clock: seconds, monotonic.
        straight: queue every step.
        parked: sessions that there may be besides those that have a row of state.

    Raises:
        ConfigError: not even one row fits the limits.

    Attributes:
        rows: of state.
        sessions: which there are.
        reply_mask: by session, OUTPUTS and GATES as its owner asked.
        admission: how much is pending.
        edits: what is taken out of the queues.
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
        parked: int = 0,
    ):
        capacity = limits.sessions + parked
        self.layout = layout
        self.rows = StateRows(layout, runner, limits.sessions, clock)
        self.clock = clock
        self.sessions = SessionTable(limits.sessions, parked)
        self.reply_mask = np.zeros(capacity, np.uint8)
        self.admission = Admission(layout, limits)
        self.stats = ModelStats()
        tick = replace(tick, steps=min(tick.steps, rows_of_one_answer(layout)))
        # Besides the rows admitted, a session can have its close queued, or its move to another version, and an entry
        # that was dropped while ready, and its coming back, or from another version; and with a slot, its giving it up.
        entries = limits.rows + 3 * capacity + limits.sessions
        self._scheduler = Scheduler(capacity, entries, tick, even=not layout.length)
        self._queues = SessionQueues(self._scheduler)
        self._answers = Answers(self.admission, self.sessions, self._queues)
        self._controls = ControlRunner(layout.name, self._queues, self._answers)
        self._intake = Intake(
            layout.inputs, self.sessions, self.admission, self.reply_mask, clock, self._answers.refuse_one
        )
        # Rows of single steps that are put together, at most: those of a run, and no more than are copied in no time.
        self._gathered = max(1, min(tick.rows, _GATHERED_BYTES // layout.input_bytes))
        self._called = False
        self._straight = straight
        # On the thread.
        self._running = False
        self._thread_runs: list[Run] = []
        self._apart = Apart(layout.name, capacity, clock)
        self.edits = QueueEdits(
            self.sessions, self._intake, self._queues, self._answers, (self._thread_runs, self._apart)
        )
        self._planner = Planner(layout, self.rows, self.sessions, self._intake, self._queues, self._apart, tick)
        # Not in `stats` yet: what RunStats has of each, one after another. No object is kept for each run, which the
        # garbage collector would have to look at.
        self._runs: list[Any] = []
        self._alone = Alone(self.rows, self.sessions, self.admission)
        self._leaving: list[Ints] = []
        # To be done when no run is under way.
        self._between: list[Callable[[], None]] = []
        self._ended = False
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
        if (
            self._queues
            or self._running
            or self._apart
            or self._leaving
            or self._intake.steps
            or self._intake.message is not None
        ):
            return []
        pending = [f"{self.admission.rows} rows are pending, none are queued"] if self.admission.rows else []
        return [*pending, *self._scheduler.check(), *self.sessions.check()]

    # ---- What is accepted ---------------------------------------------------------------------

    def submit(self, owner: ReplySink, entries: Entries, first: Ints | None, inputs: Sequence[Array]) -> None:
        """Take a message's chunks; `owner` hears of each entry that is refused.

        Args:
            owner: who holds the sessions.
            entries: of the message.
            first: [entries], the position that each is meant for; None: whatever position it is.
            inputs: in the spec's order, each [rows, *shape].
        """
        self.edits.take_in()
        batches = self._intake.accept(owner, entries, first, inputs)
        if len(batches) == 1 and not self._straight:
            (self._intake.message,) = batches
            self._call()
        else:
            for batch in batches:
                self._queues.add(batch)

    def submit_one(
        self,
        owner: ReplySink,
        handle: int,
        session: int,
        length: int,
        first: int,
        columns: Sequence[bytes],
        reply_mask: int,
    ) -> bool:
        """As `submit`, for a message with one entry; what is wrong with its numbers is found when it is taken in.

        Args:
            owner: who holds the session.
            handle: what the owner calls it.
            session: that is stepped.
            length: steps, at least 1.
            first: the position that it is meant for; -1: whatever position it is.
            columns: in the spec's order, the bytes of `length` rows.
            reply_mask: OUTPUTS and GATES.

        Returns:
            Whether there was room for it.
        """
        intake = self._intake
        # To wait for company costs a turn of the loop. Where there was none for long, it is only tried at times.
        lonely = self._planner.lonely_runs
        at_once = lonely > _LONELY_RUNS and lonely % _LONELY_RUNS != 0 and not (self._running or self._straight)
        if at_once and length == 1 and not (intake.steps or intake.message is not None or self._queues.items):
            taken = self._alone.step(owner, session, first, columns, reply_mask)
            if taken is not None:
                # As `_complete`, without the call.
                seconds = self.rows.seconds
                # After one that was long, how long the next one takes is to be looked at.
                self._planner.lonely_runs = lonely + 1 if seconds < SHORT_SECONDS else 0
                self._scheduler.turns_without_singles = 0
                self.admission.seconds_per_row = seconds
                self._runs += (1, 1, 0.0, seconds, "alone")
                if len(self._runs) >= _MOST_RUNS:
                    self.counted()
                position, outputs, gates = taken
                try:
                    owner.result(handle, position, 1, outputs if reply_mask & OUTPUTS else (), gates)
                except Exception as error:
                    owner.failed(error)
                return True
        if session in intake.steps or intake.message is not None or intake.rows >= self._gathered:
            self.edits.take_in()
        if not intake.accept_one(owner, handle, session, length, first, columns, reply_mask):
            return False
        if self._straight:
            self.edits.take_in()
        elif not self._called:
            if at_once and (run := self._planner.few()):
                self._step(run)
            else:
                self._call()
        return True

    def control(
        self,
        sessions: Ints,
        do: Do,
        fail: Fail,
        owner: ReplySink | None = None,
        handles: Ints | None = None,
        *,
        holder: Holder | None = None,
        must: bool = False,
        moves: bool = False,
        unlimited: bool = False,
    ) -> None:
        """Put something to do into the queues of sessions.

        Args:
            sessions: each once.
            do: as in `Control`, and the others.
            fail: answers whoever asked, when it will not be done.
            owner: who asked, if it is to know.
            handles: what the owner calls the sessions, if `do` or `fail` is to know.
            holder: whose rows they are, if not the owner's.
            must: do it even when what stands before it in a queue fails.
            moves: as in `Control`.
            unlimited: take it however much is pending; at most one such control stands in a queue.

        Raises:
            Exhausted: too much is pending.
        """
        holder = owner if holder is None else holder
        assert holder is not None, "somebody has the rows"
        handles = sessions if handles is None else handles
        control = Control(do, fail, owner, holder, handles, must, len(sessions), moves=moves)
        self._control(control, sessions, unlimited=unlimited)

    def wait_for(
        self,
        session: int,
        wait: Await,
        fail: Fail,
        holder: Holder,
        *,
        must: bool = False,
        moves: bool = False,
        unlimited: bool = False,
    ) -> None:
        """Put something to wait for into a session's queue; what stands behind it waits too.

        Args:
            session: which.
            wait: as in `Control`.
            fail: answers whoever asked, when it will not be done, or could not be.
            holder: whose row it is.
            must: do it even when what stands before it in the queue fails.
            moves: as in `Control`.
            unlimited: take it however much is pending; at most one such stands in a queue.

        Raises:
            Exhausted: too much is pending.
        """
        sessions = np.array([session])
        self._control(
            Control(None, fail, None, holder, sessions, must, 1, wait, moves=moves), sessions, unlimited=unlimited
        )

    def _control(self, control: Control, sessions: Ints, *, unlimited: bool) -> None:
        self.edits.take_in()
        self.admission.take(control.holder, len(sessions), unlimited=unlimited)
        self._queues.add_control(control, sessions)

    # ---- The step loop ------------------------------------------------------------------------

    async def run(self) -> None:
        """Step sessions until cancelled, or until `end`."""
        try:
            while not self._ended:
                await self._queues.wake.wait()
                self._queues.wake.clear()
                try:
                    while await self._turn():
                        pass
                except Exception:
                    # Whatever it was, the other sessions are to go on.
                    _log.exception("a turn failed", model=self.layout.name)
                    await asyncio.sleep(_FAILED_SECONDS)
                    self._queues.wake.set()
        finally:
            self._controls.cancel()
            self._thread.shutdown(wait=True)

    def end(self) -> None:
        """Have `run` return; nothing is queued."""
        self._ended = True
        self._queues.wake.set()

    async def _turn(self) -> bool:
        """Do the controls whose turn it is, and then make a run; whether there is more."""
        self.edits.take_in()
        more = self._controls.run()
        run = self._planner.queued()
        if run is not None:
            await self._make(run)
        elif not self._apart:
            if more:
                await asyncio.sleep(0)
            return more
        if self._apart:
            await self._make(self._apart.take())
            self._free()
        return True

    async def _make(self, run: Run) -> None:
        if run.where == "thread":
            await self._step_on_thread(run)
            return
        self._step(run)
        # What came meanwhile is to be in the next run. To read it takes the loop some turns; where a single step
        # may be among it, no chunk's run comes in between.
        waits = run.steps == 1 or self._scheduler.calm or self._scheduler.singles_wait
        for _ in range(1 if waits else _READING_TURNS):
            await asyncio.sleep(0)

    def _call(self) -> None:
        # Not now: what else has arrived is read first.
        if not self._called:
            self._called = True
            asyncio.get_running_loop().call_soon(self._at_once)

    def _at_once(self) -> None:
        """Step what has just come; where it has to be queued, `_turn` will."""
        self._called = False
        if self._running:
            self._planner.lonely_runs = 0
            self._queues.wake.set()
        elif (run := self._planner.at_once()) is not None:
            self._step(run)

    def _step(self, run: Run) -> None:
        """Make a run on the event loop, and tell those whose steps it has."""
        try:
            outputs, gates = self._compute(run)
        except Exception as error:
            self._not_made(run, error)
        else:
            self._complete(run, outputs, gates)

    async def _step_on_thread(self, run: Run) -> None:
        """As `_step`, while the event loop goes on."""
        self._running = True
        self._thread_runs.append(run)
        try:
            outputs, gates = await self._on_thread(run)
        except Exception as error:
            self._not_made(run, error)
        else:
            self._complete(run, outputs, gates)
        finally:
            self._running = False
            self._thread_runs.clear()
            self._free()
            between, self._between = self._between, []
            for do in between:
                do()

    def _free(self) -> None:
        """Let others have the rows of sessions that have ended, if no run will still write them."""
        while self._leaving and not self._running and not self._apart:
            self.sessions.free(self._leaving.pop())

    # ---- Run, complete ------------------------------------------------------------------------

    def _compute(self, run: Run) -> _Results:
        inputs = run.gathered(len(self.layout.inputs)) if run.inputs is None else run.inputs
        return self.rows.step(run.slots, inputs, run.lengths, gates=run.gates)

    async def _on_thread(self, run: Run) -> _Results:
        """As `_compute`, on the other thread."""
        begun = Lock()
        begun.acquire()

        def compute() -> _Results:
            begun.release()
            return self._compute(run)

        future = asyncio.get_running_loop().run_in_executor(self._thread, compute)
        # Else the thread would wait for the interpreter until the loop has nothing to do, and the model with it.
        begun.acquire(timeout=_BEGIN_SECONDS)
        return await future

    def _complete(self, run: Run, outputs: list[Array], gates: list[Array]) -> None:
        """Count a run, move its sessions on, and tell the owners what came of their steps."""
        done = self.rows
        self.admission.seconds_per_row = done.seconds / run.rows
        self._runs += (run.members, run.rows, done.began - run.since, done.seconds, run.where)
        if len(self._runs) >= _MOST_RUNS:
            self.counted()
        now = self.clock()
        if run.tick is None:
            first = self.sessions.advance(run.sessions, run.lengths, now)
            ((batch, _, _),) = run.parts
            self._answers.complete(batch, None, first, run.lengths, outputs, gates)
            return
        tick = run.tick
        for batch, _, _ in run.parts:
            batch.since = done.began + done.seconds
        wanted, finished = self._scheduler.complete(tick)
        whole = bool(wanted.all())
        first = self.sessions.position[tick.sessions]
        self.sessions.advance(tick.sessions if whole else tick.sessions[wanted], tick.lengths[wanted], now)
        for batch, start, stop in run.pieces(self._planner.answer_rows):
            members: slice | Ints = slice(start, stop) if whole else start + np.flatnonzero(wanted[start:stop])
            entries = tick.entries[members]
            if len(entries):
                got = ([column[members] for column in columns] for columns in (outputs, gates))
                self._answers.complete(batch, entries, first[members], tick.lengths[members], *got)
                self._queues.count_off(batch, int(finished[members].sum()))

    def _not_made(self, run: Run, error: Exception) -> None:
        """A run failed, and no state has changed: have it made again in parts, or refuse its one member's steps."""
        self.stats.failed(int(run.members == 1))
        if run.members == 1:
            self._fail(run, error)
        elif run.tick is not None:
            self._apart.halve(run)
        else:
            # As if it had been queued.
            ((batch, _, _),) = run.parts
            self._queues.add(batch.gathered(self.layout.inputs) if isinstance(batch, FewEntries) else batch)

    def _fail(self, run: Run, error: Exception) -> None:
        """Refuse the steps of a run of one member, and what stands behind them."""
        self._apart.failed(int(np.asarray(run.sessions).item()), error)
        # What came meanwhile stands behind these steps.
        self.edits.take_in()
        reason = StepFailed(f"the model failed on these steps, no state has changed: {error}")
        if run.tick is None:
            ((batch, _, _),) = run.parts
            places = (Place(session, batch, entry, length) for session, entry, length in batch.places())
            self._answers.refuse(places, lambda _: reason)
            return
        failed = {(work, int(entry)) for work, a, b in run.tick.parts for entry in run.tick.entries[a:b]}
        behind = OutOfStep("the step before this one in the session failed", Reason.PRECEDING_FAILED)
        self._answers.refuse(
            self._queues.places(self._scheduler.abandon(run.tick)),
            lambda place: reason if (place.item.number, place.entry) in failed else behind,
            keep_musts=True,
        )

    # ---- What the life cycle needs ------------------------------------------------------------

    def remove(self, sessions: Ints) -> None:
        """Forget sessions; what stands in their queues is answered as not taken."""
        self.edits.empty(sessions, session_closed())
        self.sessions.remove(sessions)
        # A run that is under way, or is to be made again, will still write its members' rows.
        self._leaving.append(sessions)
        self._free()

    async def between_runs(self, do: Callable[[], _T]) -> _T:
        """Do something now, or as soon as no run is under way: then rows of state and positions belong together.

        Returns:
            What came of it.
        """
        if not self._running:
            return do()
        done: asyncio.Future[_T] = asyncio.get_running_loop().create_future()

        def now() -> None:
            if not done.done():
                try:
                    done.set_result(do())
                except Exception as error:
                    done.set_exception(error)

        self._between.append(now)
        return await done

    @property
    def running(self) -> bool:
        """Whether a run is under way: no row of state is to be touched."""
        return self._running

    def at_rest(self, session: int) -> bool:
        """Whether a session has nothing queued and no tick runs: what a control would do can be done now."""
        intake = self._intake
        return not (self._running or intake.message is not None or session in intake.steps) and bool(
            self._scheduler.idle(session)
        )
