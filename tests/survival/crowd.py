"""Many walks on some connections, and what they went through."""

import asyncio
import statistics
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from unittest.mock import patch

from gatestream.client import aio
from gatestream.client.protocol.resuming import Resumption
from gatestream.protos.gatestream.v1 import gatestream_pb2 as pb
from tests.survival.walks import PATIENCE, Model, Plan, Walk, different

_CONNECTIONS = 4


@dataclass
class Crowd:
    """Walks that are under way.

    Attributes:
        walks: all.
        faults: when each began, seconds of the monotonic clock.
        kinds: how often there was one of each.
        resumes: sessions that were opened again.
        replayed: steps that had been answered, and were sent again.
    """

    walks: list[Walk]
    faults: list[float] = field(default_factory=list)
    kinds: Counter[str] = field(default_factory=Counter)
    resumes: int = 0
    replayed: int = 0
    tasks: list[asyncio.Task[None]] = field(default_factory=list)

    def fault(self, kind: str) -> None:
        """Note that one begins now."""
        self.faults.append(time.monotonic())
        self.kinds[kind] += 1

    async def answered(self) -> None:
        """Wait until each walk has an answer to what it asked from now on.

        Raises:
            GatestreamError: a call of a walk failed.
        """
        now = time.monotonic()
        while not all(walk.calls and walk.calls[-1][0] > now for walk in self.walks):
            self.check()
            await asyncio.sleep(0.02)

    def check(self) -> None:
        """Raise what a walk failed of, if one did."""
        for task in self.tasks:
            if task.done():
                task.result()

    def waits(self) -> list[float]:
        """Seconds that calls took which were under way when a fault began."""
        found = []
        for walk in self.walks:
            calls = iter(walk.calls)
            call = next(calls, None)
            for fault in self.faults:
                while call is not None and call[1] <= fault:
                    call = next(calls, None)
                if call is not None and call[0] <= fault:
                    found.append(call[1] - call[0])
        return found


@dataclass(frozen=True)
class Outcome:
    """What came of a crowd."""

    steps: int
    kinds: Counter[str]
    resumes: int
    replayed: int
    lost: int
    doubled: int
    different: int
    waits: Sequence[float]

    @property
    def whole(self) -> bool:
        """Whether each answer came once, in order, and as it would have come undisturbed."""
        return self.steps > 0 and not (self.lost or self.doubled or self.different)

    def __str__(self) -> str:
        waits = self.waits or [0.0]
        kinds = ", ".join(f"{count:,} {kind}" for kind, count in sorted(self.kinds.items()))
        return (
            f"{kinds}; {self.steps:,} steps, {self.resumes:,} resumes, {self.replayed:,} steps "
            f"replayed; {self.lost:,} lost, {self.doubled:,} doubled, {self.different:,} different; without an answer "
            f"{statistics.median(waits):.2f} s at the median, {max(waits):.2f} s at most"
        )


def plans(models: Sequence[Model], sessions: int) -> list[Plan]:
    """Walks of so many sessions, divided among the models: single steps, chunks, and groups of a sixth each.

    Args:
        models: that are served.
        sessions: of all.
    """
    found: list[Plan] = []
    for model in models:
        each = sessions // len(models)
        grouped = max(each // 4, 2)
        singles = (each - grouped + 1) // 2
        found += [Plan(model, 1, 1, 0.05, len(found) + k) for k in range(singles)]
        found += [Plan(model, 1, 40, 0.1, len(found) + k) for k in range(each - grouped - singles)]
        found += [Plan(model, grouped, 8, 0.1, len(found))]
    return found


@asynccontextmanager
async def crowd(address: str, chosen: Sequence[Plan]) -> AsyncIterator[Crowd]:
    """Walks from the block's beginning to its end; they are all answered when it has ended."""
    stopped = asyncio.Event()
    made = Crowd([Walk(plan) for plan in chosen])
    clients = [await aio.connect(address, timeout=PATIENCE) for _ in range(_CONNECTIONS)]
    with _counted(made):
        made.tasks = [
            asyncio.create_task(walk.go(clients[k % _CONNECTIONS], stopped)) for k, walk in enumerate(made.walks)
        ]
        try:
            await made.answered()
            yield made
            await made.answered()
            stopped.set()
            await asyncio.gather(*made.tasks)
        finally:
            for task in made.tasks:
                task.cancel()
            await asyncio.gather(*made.tasks, return_exceptions=True)
            for client in clients:
                await client.close()


def outcome(made: Crowd, undisturbed: str) -> Outcome:
    """Compare all answers with those of an undisturbed server, which listens at an address."""
    return Outcome(
        steps=sum(member.steps for walk in made.walks for member in walk.members),
        kinds=made.kinds,
        resumes=made.resumes,
        replayed=made.replayed,
        lost=sum(walk.lost for walk in made.walks),
        doubled=sum(walk.doubled for walk in made.walks),
        different=sum(different(made.walks, undisturbed)),
        waits=made.waits(),
    )


@contextmanager
def _counted(made: Crowd) -> Iterator[None]:
    """Count what clients of this process do to go on; nobody else is told."""
    opened = Resumption.opened

    def counting(resumption: Resumption, message: pb.Opened) -> None:
        before = int(resumption.session_queue.positions[resumption.member])
        made.resumes += 1
        made.replayed += max(before - message.position, 0)
        opened(resumption, message)

    with patch.object(Resumption, "opened", counting):
        yield
