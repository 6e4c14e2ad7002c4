"""What the next run of a model computes: what has just come, or those queued whose turn it is."""

from typing import Any, Final

from gatestream.protos.layout import ModelLayout
from gatestream.server.backend.few_steps import FEW
from gatestream.server.backend.run_time import SHORT_SECONDS
from gatestream.server.backend.state import StateRows
from gatestream.server.config import TickLimits
from gatestream.server.core.apart import Apart
from gatestream.server.core.batches import Batch
from gatestream.server.core.few import run_of_few
from gatestream.server.core.intake import Intake
from gatestream.server.core.run import Run
from gatestream.server.core.session_queues import SessionQueues
from gatestream.server.core.sessions import SessionTable

# To put so many steps together gains nothing: runs of one each take no longer.
_LONELY_ROWS: Final = 2
# One answer stays below what every gRPC client takes by default (4 MiB).
_ANSWER_BYTES: Final = 2 * 2**20


def rows_of_one_answer(layout: ModelLayout) -> int:
    """Steps, with gates, that one answer tells at most; one at least."""
    return max(1, _ANSWER_BYTES // (layout.output_bytes + layout.gate_bytes))


class Planner:
    """Nothing here is called while a run is under way.

    Args:
        layout: of the model.
        rows: its states, and how long its runs take.
        sessions: which there are.
        intake: what has just come.
        queues: of the sessions.
        apart: runs that are to be made again, and whose.
        limits: what a run takes on.

    Attributes:
        lonely_runs: so many runs in a row had too few steps to wait for each other.
        answer_rows: as `rows_of_one_answer`.
    """

    def __init__(
        self,
        layout: ModelLayout,
        rows: StateRows,
        sessions: SessionTable,
        intake: Intake,
        queues: SessionQueues,
        apart: Apart,
        limits: TickLimits,
    ):
        self.lonely_runs = 0
        # Without gates, and with them.
        self._row_bytes = layout.output_bytes, layout.output_bytes + layout.gate_bytes
        self.answer_rows = rows_of_one_answer(layout)
        self._inputs = layout.inputs
        # A graph that is not told how long its rows are takes all of a run to be of one length.
        self._even = not layout.length
        self._rows = rows
        self._sessions = sessions
        self._intake = intake
        self._queues = queues
        self._scheduler = queues.scheduler
        self._apart = apart
        self._limits = limits
        # As many single steps are taken without arrays.
        self._few = max(1, min(FEW, limits.rows, self.answer_rows))

    def at_once(self) -> Run | None:
        """A run of what has just come, where nothing is queued and it is a short one; else it is queued."""
        if (run := self.few()) is not None:
            return run
        self.lonely_runs = 0
        if self._queues and self._scheduler.ready:
            self._queues.wake.set()
            return None
        batch = self._intake.take()
        if batch is None:
            return None
        if self._queues.blocks(batch.sessions) or not self._brief(batch) or self._apart.mixes(batch.sessions):
            self._queues.add(batch)
            return None
        return Run.whole(batch, self._sessions.slot[batch.sessions])

    def few(self) -> Run | None:
        """A run of the single steps that came, where they are few; None: it is not as simple."""
        intake = self._intake
        steps = intake.steps
        count = len(steps)
        if (
            not 0 < count <= self._few
            or (self._queues and any(map(self._queues.blocks, steps)))
            or self._rows.run_time.expected(count, 1) > SHORT_SECONDS
            or (count > 1 and self._apart.mixes(list(steps)))
        ):
            return None
        run = run_of_few(steps.values(), intake.since, self._inputs, self._sessions, self._rows)
        if run is not None:
            intake.clear()
            self._scheduler.pass_by(1)
            self.lonely_runs = self.lonely_runs + 1 if count <= _LONELY_ROWS else 0
        return run

    def _brief(self, batch: Batch) -> bool:
        """Whether these steps make a run of their own, for which nobody waits for long."""
        limits, members, steps = self._limits, len(batch.sessions), batch.longest
        return (
            members * steps <= limits.rows
            and steps <= limits.steps
            and (not self._even or batch.rows == members * steps)
            and members * steps * self._row_bytes[batch.gates] <= _ANSWER_BYTES
            and self._rows.run_time.expected(members, steps) < SHORT_SECONDS
            and self._scheduler.pass_by(steps)
        )

    def queued(self) -> Run | None:
        """The run of those whose turn it is."""
        tick = self._scheduler.tick()
        if tick is None:
            return None
        parts: list[tuple[Any, int, int]] = [(self._queues[work], start, stop) for work, start, stop in tick.parts]
        steps = tick.steps
        run = Run(
            tick.sessions,
            self._sessions.slot[tick.sessions],
            tick.lengths,
            len(tick.sessions),
            steps,
            int(tick.lengths.sum()),
            any(batch.gates for batch, _, _ in parts),
            min(batch.since for batch, _, _ in parts),
            "loop" if self._rows.run_time.expected(len(tick.sessions), steps) < SHORT_SECONDS else "thread",
            None,
            parts,
            tick.offsets,
            tick,
        )
        return self._apart.without_suspects(run)
