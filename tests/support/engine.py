"""An engine on a real model, with an owner that writes down what it is told."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from gatestream.server.arrays import Array, Ints
from gatestream.server.backend.artifact import Artifact
from gatestream.server.backend.run_time import RunTime
from gatestream.server.backend.runner import HostRunner
from gatestream.server.config import Limits, TickLimits
from gatestream.server.core.accounts import Account, Accounts
from gatestream.server.core.batches import OUTPUTS, Entries
from gatestream.server.core.checkpointer import Checkpointer
from gatestream.server.core.claims import NO_WISH, Wish
from gatestream.server.core.engine import Engine
from gatestream.server.core.lifecycle import Lifecycle
from gatestream.server.core.reply_sink import CloseReason
from gatestream.server.core.send_queue import SendQueue
from gatestream.server.core.sessions import Stands
from gatestream.server.durability.checkpoints import Store
from gatestream.server.errors import Refused


@dataclass(eq=False)
class Recorder:
    """An owner whose memory is a list."""

    rows: int = 0
    account: Account = field(default_factory=lambda: Accounts(Limits()).of("tenant"))
    heard: list[tuple[Any, ...]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.send_queue = SendQueue(self.account)

    def opened(self, handle: int, session_id: str, stands: Stands, created: bool) -> None:
        self.heard.append(("opened", handle, stands.position, created))
        self.stands = stands

    def not_opened(self, handle: int, error: Refused) -> None:
        self.heard.append(("not opened", handle, error.reason.name))

    def parked(self, handle: int) -> None:
        self.heard.append(("parked", handle))

    def durable(self, handles: Ints, sequences: Ints) -> None:
        self.heard.append(("durable", handles.tolist(), sequences.tolist()))

    def lost(self, handle: int) -> None:
        self.heard.append(("lost", handle))

    def moved(self, handles: Ints, model: int, sessions: Ints) -> None:
        self.heard.append(("moved", handles.tolist(), model, sessions.tolist()))

    def result(self, handle: int, first: int, length: int, outputs: Sequence[bytes], gates: Sequence[bytes]) -> None:
        columns = [[np.frombuffer(column, np.float32) for column in given] for given in (outputs, gates)]
        self.results(np.array([handle]), np.array([first]), np.array([length]), *columns)

    def results(self, handles: Ints, first: Ints, lengths: Ints, outputs: list[Array], gates: list[Array]) -> None:
        y = [] if not outputs else outputs[0].ravel()[::2].tolist()
        self.rows -= int(lengths.sum())
        # The parts of one chunk's answer as one: how it was cut is the scheduler's affair.
        if len(handles) == 1 and self.heard and self.heard[-1][:2] == ("results", handles.tolist()):
            _, _, begin, length, before = self.heard[-1]
            if begin[0] + length[0] == first[0]:
                self.heard[-1] = ("results", handles.tolist(), begin, [length[0] + int(lengths[0])], before + y)
                return
        self.heard.append(("results", handles.tolist(), first.tolist(), lengths.tolist(), y))

    def refused(self, error: Refused, handles: Ints, positions: Ints, first: Ints, lengths: Ints) -> None:
        name = error.reason.name
        self.heard.append((name, handles.tolist(), positions.tolist(), first.tolist(), lengths.tolist()))

    def reset_done(self, handles: Ints, positions: Ints) -> None:
        self.heard.append(("reset", handles.tolist(), positions.tolist()))

    def closed(self, handles: Ints, positions: Ints, reason: CloseReason) -> None:
        name = reason.name
        self.heard.append(("closed", name, handles.tolist(), positions.tolist()))

    def failed(self, error: Exception) -> None:
        self.heard.append(("failed", str(error)))

    def take(self) -> list[tuple[Any, ...]]:
        heard, self.heard = self.heard, []
        return heard


@dataclass
class Bench:
    """An engine, its lifecycle, and the clock that it goes by."""

    engine: Engine
    lifecycle: Lifecycle
    checkpointer: Checkpointer | None = None
    now: float = 0.0

    def open(
        self, owner: Recorder, handle: int, session_id: str = "", *, create: bool = True, wish: Wish = NO_WISH
    ) -> int:
        return self.lifecycle.opening.open(
            owner, "", session_id, handle, create=create, resume=True, reply_mask=OUTPUTS, wish=wish
        )

    def steps(self, owner: Recorder, handles: list[int], slots: list[int], values: list[list[float]]) -> None:
        lengths = np.array([len(chunk) for chunk in values])
        x = np.repeat(np.concatenate(values).astype(np.float32)[:, None], 2, axis=1)
        offsets = np.cumsum(lengths) - lengths
        entries = Entries.of(np.array(handles), np.array(slots), lengths, offsets, self.engine.reply_mask[slots])
        self.engine.submit(owner, entries, None, [x])


@asynccontextmanager
async def bench(
    path: Path, *, idle_timeout: float = 0.0, store: Store | None = None, before_answer: bool = False, **limits: Any
) -> AsyncIterator[Bench]:
    artifact = Artifact.load(path)
    bounds = Limits(**{"sessions": 8, "idle_timeout": idle_timeout, **limits})
    runner = HostRunner(artifact, bounds.sessions, 1)
    holder: list[Bench] = []
    parked = 0 if store is None else bounds.most_held - bounds.sessions
    tick = TickLimits(rows=4, steps=4)
    engine = Engine(artifact.layout, runner, bounds, tick, lambda: holder[0].now, parked=parked)
    checkpointer = None if store is None else Checkpointer(store, bounds, before_answer=before_answer)
    lifecycle = Lifecycle(engine, bounds, Accounts(bounds), checkpointer=checkpointer)
    holder.append(Bench(engine, lifecycle, checkpointer))
    if checkpointer is not None and lifecycle.kept is not None and lifecycle.residence is not None:
        await checkpointer.beat_once()
        checkpointer.add(lifecycle.kept, lifecycle.residence.reserve)
    task = asyncio.create_task(engine.run())
    try:
        yield holder[0]
        assert engine.check() == []
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


class Slow(RunTime):
    """However fast a run was, the next one is expected to be long."""

    def expected(self, batch: int, steps: int) -> float:
        return float("inf")


def expect_long_runs(engine: Engine) -> None:
    """Have the next runs made on the other thread, so that the loop goes on meanwhile."""
    engine.rows.run_time = Slow()
