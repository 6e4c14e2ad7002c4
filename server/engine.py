"""One model being served: what is accepted, the tick, and who is answered.

The step loop is `_turn`: take in, controls, schedule, run, complete. It lives on the event loop; a run of any length is
on another thread, and while it runs the next tick gathers. Every accepted step is answered exactly once.
"""

import asyncio
import math
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import groupby
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import structlog

from gatestream.protos.gatestream.v1 import gatestream_pb2 as pb
from gatestream.server.config import Limits, TickLimits
from gatestream.server.errors import ConfigError, Exhausted, InvalidRequest, OutOfStep, Refused, StepFailed
from gatestream.server.owner import Owner
from gatestream.server.runner import DTYPES, Runner
from gatestream.server.scheduler import Dropped, Scheduler, Tick
from gatestream.server.sessions import SessionTable
from gatestream.server.slots import Ints
from gatestream.server.work import (
    GATES,
    OUTPUTS,
    Array,
    Chunks,
    Control,
    Singles,
    Steps,
    compact,
    gather,
    refuse_one,
)

_ANSWER_BYTES: Final = 2 * 2**20
# A run that is expected to be shorter than this is made on the event loop: the way to another thread and back costs
# about as much, and the loop can do without the time.
_SHORT_SECONDS: Final = 300e-6
_SMOOTHING: Final = 0.1

_log = structlog.get_logger(__name__)


class Engine:
    """The step loop of one model. All methods are called on the event loop.

    Args:
        spec: of the model.
        runner: its state rows, `limits.sessions` of them.
        limits: what is taken on.
        tick: what one run takes on.
        clock: seconds, monotonic.

    Raises:
        ConfigError: not even one row fits the limits.

    Attributes:
        sessions: which there are.
        wants: by slot, OUTPUTS and GATES as its owner asked.
        input_bytes: of one row of each input.
    """

    def __init__(
        self, spec: pb.ModelSpec, runner: Runner, limits: Limits, tick: TickLimits, clock: Callable[[], float]
    ):
        self.spec = spec
        self.runner = runner
        self.clock = clock
        self.sessions = SessionTable(limits.sessions)
        self.wants = np.zeros(limits.sessions, np.uint8)
        self.input_bytes = [math.prod(item.shape) * DTYPES[item.dtype].itemsize for item in spec.inputs]
        self._limits = limits
        # One answer stays below what every gRPC client takes by default (4 MiB).
        self._row_bytes = _row_bytes(spec)
        if limits.reply_bytes_per_stream < self._row_bytes[True]:
            raise ConfigError(
                f"reply_bytes_per_stream is {limits.reply_bytes_per_stream}; the answer to one row of model "
                f"{spec.name!r} is {self._row_bytes[True]} bytes"
            )
        tick = replace(tick, steps=max(1, min(tick.steps, _ANSWER_BYTES // self._row_bytes[True])))
        # Besides the rows admitted, a slot can have its close in line, and an entry that was dropped while ready.
        self._scheduler = Scheduler(limits.sessions, limits.rows + 2 * limits.sessions, tick)
        self._work: dict[int, Steps | Control] = {}
        self._last_work = 0
        self._rows = 0
        self._seconds_per_row = 0.0
        # Slots whose state is the initial one, whatever their row holds: it is set by the first tick that they are in.
        self._fresh = np.zeros(limits.sessions, np.bool_)
        # Steps that came one entry to a message, by slot, until they are taken in together.
        self._inbox: dict[int, tuple[Owner, int, int, int, Sequence[bytes], int]] = {}
        self._running = False
        self._leaving: list[Ints] = []
        self._wake = asyncio.Event()
        self._quiet = asyncio.Event()
        self._quiet.set()
        self._thread = ThreadPoolExecutor(1, f"tick-{spec.name}")
        self._initial = [np.full((1, *state.shape), state.initial, DTYPES[state.dtype]) for state in spec.states]

    async def quiet(self) -> None:
        """Return when everything accepted has been answered."""
        await self._quiet.wait()

    # ---- What is accepted ---------------------------------------------------------------------

    def submit(
        self,
        owner: Owner,
        handles: Ints,
        slots: Ints,
        lengths: Ints,
        offsets: Ints,
        first: Ints | None,
        inputs: Sequence[Array],
    ) -> None:
        """Put a message's chunks in their sessions' lines; `owner` hears of each entry that is refused.

        Args:
            owner: who holds the sessions.
            handles: [entries], what the owner calls them.
            slots: [entries], each at most once.
            lengths: [entries], steps of each, at least 1.
            offsets: [entries], where in the inputs each begins.
            first: [entries], the position that each is meant for; None: whatever position it is.
            inputs: in the spec's order, each [rows, *shape].
        """
        self._take_in()
        accepted = self.sessions.accepted[slots]
        meant = accepted if first is None else first
        refusals = self._faults(lengths, accepted, meant, offsets, inputs)
        good = np.ones(len(slots), np.bool_)
        for error, bad in refusals:
            owner.refused(error, handles[bad], accepted[bad], meant[bad], lengths[bad])
            good &= ~bad
        if refusals:
            handles, slots, lengths, offsets, accepted, meant = (
                column[good] for column in (handles, slots, lengths, offsets, accepted, meant)
            )
            if len(slots) == 0:
                return
        rows = int(lengths.sum())
        wants = self.wants[slots]
        try:
            self._admit(owner, rows, gates=bool((wants & GATES).any()))
        except Refused as error:
            owner.refused(error, handles, accepted, meant, lengths)
            return
        if rows < len(inputs[0]):
            # Without the refused rows: a message must not stay in memory for the sake of a few.
            inputs, offsets = [compact(column, offsets, lengths) for column in inputs], np.cumsum(lengths) - lengths
        self.sessions.accepted[slots] = accepted + lengths
        for want in np.unique(wants) if len(wants) > 1 else wants:
            which = np.flatnonzero(wants == want)
            item = Chunks(owner, handles[which], inputs, bool(want & OUTPUTS), bool(want & GATES), len(which))
            self._scheduler.add(self._number(item), slots[which], lengths[which], offsets[which], np.arange(len(which)))

    def submit_one(
        self, owner: Owner, handle: int, slot: int, length: int, first: int, columns: Sequence[bytes], wants: int
    ) -> None:
        """As `submit`, for a message with one entry; what is wrong with its numbers is found when it is taken in.

        Args:
            owner: who holds the session.
            handle: what the owner calls it.
            slot: its state row.
            length: steps, at least 1.
            first: the position that it is meant for; -1: whatever position it is.
            columns: in the spec's order, the bytes of `length` rows.
            wants: OUTPUTS and GATES.
        """
        if slot in self._inbox:
            self._take_in()
        try:
            self._admit(owner, length, gates=bool(wants & GATES))
        except Refused as error:
            accepted = int(self.sessions.accepted[slot])
            refuse_one(owner, error, handle, accepted, accepted if first < 0 else first, length)
            return
        self._inbox[slot] = (owner, handle, length, first, columns, wants)
        self._wake.set()
        self._quiet.clear()

    def _take_in(self) -> None:
        """Put what came one entry to a message in line, all of it at once."""
        if not self._inbox:
            return
        count = len(self._inbox)
        slots = np.fromiter(self._inbox, np.int64, count)
        owners, handles, lengths_given, firsts_given, columns, wants = zip(*self._inbox.values(), strict=True)
        self._inbox = {}
        lengths, firsts = np.array(lengths_given), np.array(firsts_given)
        offsets = np.cumsum(lengths) - lengths
        accepted = self.sessions.accepted[slots]
        meant = np.where(firsts < 0, accepted, firsts)
        inputs = [
            np.frombuffer(b"".join(parts), DTYPES[item.dtype]).reshape(-1, *item.shape)
            for item, parts in zip(self.spec.inputs, zip(*columns, strict=True), strict=True)
        ]
        entries = np.arange(count)
        if faults := self._faults(lengths, accepted, meant, offsets, inputs):
            good = ~np.logical_or.reduce([bad for _, bad in faults])
            for k in np.flatnonzero(~good).tolist():
                # One by one: an owner is told of its own entry alone.
                one, rows = slice(k, k + 1), slice(offsets[k], offsets[k] + lengths[k])
                own = [column[rows] for column in inputs]
                ((error, _),) = self._faults(lengths[one], accepted[one], meant[one], np.zeros(1, np.int64), own)
                self._rows -= lengths_given[k]
                owners[k].rows -= lengths_given[k]
                refuse_one(owners[k], error, handles[k], int(accepted[k]), int(meant[k]), lengths_given[k])
            if not good.any():
                return
            slots, lengths, offsets, accepted, entries = (
                column[good] for column in (slots, lengths, offsets, accepted, entries)
            )
            inputs, offsets = [compact(column, offsets, lengths) for column in inputs], np.cumsum(lengths) - lengths
        self.sessions.accepted[slots] = accepted + lengths
        item = Singles(owners, handles, wants, inputs, any(want & GATES for want in wants), len(slots))
        self._scheduler.add(self._number(item), slots, lengths, offsets, entries)

    def control(self, slot: int, control: Control, *, unlimited: bool = False) -> None:
        """Put a control in a session's line.

        Args:
            slot: of the session.
            control: what to do.
            unlimited: take it however much is pending; at most one such control stands in a line.

        Raises:
            Exhausted: too much is pending.
        """
        self._take_in()
        self._admit(control.owner, 1, unlimited=unlimited)
        self._scheduler.add_control(self._number(control), slot)

    def _faults(
        self, lengths: Ints, accepted: Ints, meant: Ints, offsets: Ints, inputs: Sequence[Array]
    ) -> list[tuple[Refused, npt.NDArray[np.bool_]]]:
        """What is wrong with which entries; each entry is in one fault at most."""
        faults: list[tuple[Refused, npt.NDArray[np.bool_]]] = []
        bad = accepted != meant
        if bad.any():
            k = int(bad.argmax())
            text = f"first is {meant[k]}; the session's next step is {accepted[k]}"
            faults.append((OutOfStep(text, pb.REASON_POSITION_MISMATCH), bad))
        for item, column in zip(self.spec.inputs, inputs, strict=True):
            tokens = item.dtype == pb.DATA_TYPE_INT64
            good = (column >= 0) & (column < len(item.vocabulary)) if tokens else np.isfinite(column)
            if good.all():
                continue
            bad_rows = np.logical_not(good.reshape(len(column), -1).all(axis=1))
            before = np.concatenate(([0], np.cumsum(bad_rows)))
            new = (before[offsets + lengths] > before[offsets]) & ~bad
            if not new.any():
                continue
            k = int(new.argmax())
            step = int(bad_rows[offsets[k] : offsets[k] + lengths[k]].argmax())
            if tokens:
                token = column[offsets[k] + step]
                text = f"is {token} at step {step} of the entry; expected 0 to {len(item.vocabulary) - 1}"
                fault = InvalidRequest(f"input {item.name!r} {text}", pb.REASON_TOKEN_OUT_OF_RANGE)
            else:
                text = f"holds NaN or infinity at step {step} of the entry; expected finite numbers"
                fault = InvalidRequest(f"input {item.name!r} {text}", pb.REASON_NOT_FINITE)
            faults.append((fault, new))
            bad = bad | new
        return faults

    def most_rows(self, gates: bool) -> int:
        """Rows that one stream may have in flight, answered with the gates or without."""
        return min(self._limits.rows_per_stream, self._limits.reply_bytes_per_stream // self._row_bytes[gates])

    def _admit(self, owner: Owner | None, rows: int, *, gates: bool = False, unlimited: bool = False) -> None:
        limits = self._limits
        wait = max(0.001, self._rows * self._seconds_per_row)
        if self._rows + rows > limits.rows and not unlimited:
            raise Exhausted(
                f"{rows} rows more than the {self._rows} pending would be over the server's {limits.rows}; "
                f"try again in {wait:.3f} s",
                retry_after=wait,
            )
        most = self.most_rows(gates)
        if owner is not None and owner.rows + rows > most and not unlimited:
            raise Exhausted(
                f"{rows} rows more than the {owner.rows} in flight would be over the stream's {most}; "
                + ("wait for answers" if rows <= most else "send less in a message"),
                retry_after=wait if rows <= most else 0.0,
            )
        self._rows += rows
        if owner is not None:
            owner.rows += rows

    def _number(self, item: Steps | Control) -> int:
        self._last_work += 1
        self._work[self._last_work] = item
        self._wake.set()
        self._quiet.clear()
        return self._last_work

    # ---- The step loop ------------------------------------------------------------------------

    async def run(self) -> None:
        """Step sessions until cancelled."""
        try:
            while True:
                await self._wake.wait()
                self._wake.clear()
                while await self._turn():
                    pass
        finally:
            self._thread.shutdown(wait=True)

    async def _turn(self) -> bool:
        self._take_in()
        self._run_controls()
        tick = self._scheduler.tick()
        if tick is None:
            if not self._work:
                self._quiet.set()
            return False
        self._running = True
        parts = [(self._work[work], start, stop) for work, start, stop in tick.parts]
        fresh = tick.slots[self._fresh[tick.slots]]
        short = self._seconds_per_row * int(tick.lengths.sum()) < _SHORT_SECONDS
        try:
            if short:
                outputs, gates = self._compute(tick, parts, fresh)
            else:
                loop = asyncio.get_running_loop()
                outputs, gates = await loop.run_in_executor(self._thread, self._compute, tick, parts, fresh)
        except Exception as error:
            _log.exception("tick failed", model=self.spec.name, members=len(tick.slots))
            self._fail(tick, error)
        else:
            self._fresh[fresh] = False
            self._complete(tick, outputs, gates)
        finally:
            self._running = False
            while self._leaving:
                self.sessions.free(self._leaving.pop())
        if short:
            # What came meanwhile is to be in the next tick.
            await asyncio.sleep(0)
        return True

    def _compute(
        self, tick: Tick, parts: Sequence[tuple[Any, int, int]], fresh: Ints
    ) -> tuple[list[Array], list[Array]]:
        started = self.clock()
        if len(fresh):
            self.runner.write(fresh, [np.repeat(row, len(fresh), axis=0) for row in self._initial])
        steps, size = tick.steps, len(tick.slots)
        inputs = [np.empty((size, steps, *item.shape), DTYPES[item.dtype]) for item in self.spec.inputs]
        gates = False
        for item, start, stop in parts:
            gates |= item.gates
            for batch, column in zip(inputs, item.inputs, strict=True):
                gather(column, tick.offsets[start:stop], steps, out=batch[start:stop])
        result = self.runner.step(tick.slots, inputs, tick.lengths.astype(np.int32), gates)
        seconds = (self.clock() - started) / int(tick.lengths.sum())
        self._seconds_per_row += _SMOOTHING * (seconds - self._seconds_per_row)
        return result

    def _complete(self, tick: Tick, outputs: list[Array], gates: list[Array]) -> None:
        now = self.clock()
        wanted, finished = self._scheduler.complete(tick)
        first = self.sessions.position[tick.slots]
        if wanted.all():
            whole, slots, rows = True, tick.slots, int(tick.lengths.sum())
        else:
            whole, slots, rows = False, tick.slots[wanted], int(tick.lengths[wanted].sum())
        self.sessions.position[slots] += tick.lengths[wanted]
        self.sessions.answered_at[slots] = now
        self._rows -= rows
        for work, start, stop in self._answers(tick):
            members: slice | Ints = slice(start, stop) if whole else start + np.flatnonzero(wanted[start:stop])
            lengths = tick.lengths[members]
            item = self._work.get(work)
            if item is None or len(lengths) == 0:
                continue
            assert not isinstance(item, Control)
            item.answer(
                tick.entries[members],
                first[members],
                lengths,
                [batch[members] for batch in outputs],
                [batch[members] for batch in gates],
            )
            self._count_off(work, item, int(finished[members].sum()))

    def _answers(self, tick: Tick) -> Iterator[tuple[int, int, int]]:
        most = max(1, _ANSWER_BYTES // (self._row_bytes[True] * tick.steps))
        for work, start, stop in tick.parts:
            for begin in range(start, stop, most):
                yield work, begin, min(begin + most, stop)

    def _fail(self, tick: Tick, error: Exception) -> None:
        failed = {(work, int(entry)) for work, a, b in tick.parts for entry in tick.entries[a:b]}
        reason = StepFailed(f"the model failed on this tick, no state has changed: {error}")
        behind = OutOfStep("the step before this one in the session failed", pb.REASON_PRECEDING_FAILED)
        self._answer_dropped(
            self._scheduler.abandon(tick),
            lambda entry: reason if (entry.work, entry.entry) in failed else behind,
            keep_musts=True,
        )

    def _run_controls(self) -> None:
        # One at a time: a control can close the session that others stand in line for.
        while (work := self._scheduler.next_control()) is not None:
            item = self._work.pop(work)
            assert isinstance(item, Control)
            self._count_off_control(item)
            try:
                item.run()
            except Exception as error:
                _log.exception("control failed", model=self.spec.name)
                item.fail(StepFailed(f"the server failed between two ticks: {error}"))

    # ---- What the sessions' book needs ---------------------------------------------------------

    def start_fresh(self, slot: int) -> None:
        """Have the slot's state set to the initial one before it is next looked at."""
        self._fresh[slot] = True

    def read_state(self, slot: int) -> list[Array]:
        """A copy of a slot's state, in the spec's order, each [1, *shape]. Not while a tick runs."""
        if self._fresh[slot]:
            return [row.copy() for row in self._initial]
        return self.runner.read(np.array([slot]))

    def write_state(self, slot: int, state: Sequence[Array]) -> None:
        """Set a slot's state; shapes as `read_state` gives them. Not while a tick runs."""
        self.runner.write(np.array([slot]), state)
        self._fresh[slot] = False

    def remove(self, slots: Ints) -> None:
        """Forget sessions; what stands in their lines is answered as not taken."""
        self._take_in()
        closed = OutOfStep("the session was closed before this step's turn came", pb.REASON_SESSION_CLOSED)
        self._answer_dropped(self._scheduler.drop(slots), lambda _: closed, keep_musts=False)
        self.sessions.remove(slots)
        if not self._running:
            self.sessions.free(slots)
        else:
            # A running tick will still write its members' rows: nobody else may have them before.
            self._leaving.append(slots)

    def idle(self, slots: Ints) -> Ints:
        """Those of the slots that have nothing in line."""
        self._take_in()
        return slots[self._scheduler.idle(slots)]

    def _answer_dropped(self, dropped: list[Dropped], why: Callable[[Dropped], Refused], *, keep_musts: bool) -> None:
        for slot, line in groupby(dropped, lambda entry: entry.slot):
            position = first = int(self.sessions.position[slot])
            self.sessions.accepted[slot] = position
            for entry in line:
                item = self._work[entry.work]
                if not isinstance(item, Control):
                    self._rows -= entry.left
                    item.refuse(why(entry), entry.entry, position, first, entry.left)
                    first += entry.left
                    self._count_off(entry.work, item, 1)
                elif item.must and keep_musts:
                    self._scheduler.add_control(entry.work, slot)
                else:
                    del self._work[entry.work]
                    self._count_off_control(item)
                    item.fail(why(entry))

    def _count_off(self, work: int, item: Steps, finished: int) -> None:
        item.unfinished -= finished
        if item.unfinished == 0:
            del self._work[work]

    def _count_off_control(self, control: Control) -> None:
        self._rows -= 1
        if control.owner is not None:
            control.owner.rows -= 1


def _row_bytes(spec: pb.ModelSpec) -> tuple[int, int]:
    """Bytes of the answer to one row, without gates and with them."""
    outputs = sum(int(np.prod(item.shape)) * DTYPES[item.dtype].itemsize for item in spec.outputs)
    return outputs, outputs + len(spec.gates) * spec.layers * spec.hidden * 4
