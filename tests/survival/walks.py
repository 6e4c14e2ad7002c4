"""Sessions that step without end, and what an undisturbed server answers to the same steps."""

import asyncio
import random
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from gatestream.client import aio, connect

Floats = npt.NDArray[np.float32]
Inputs = npt.NDArray[Any]

_CYCLE = 4099
_PIECE = 8192
PATIENCE = 240.0
"""Seconds that a call may take before it counts as lost: machines stall."""


@dataclass(frozen=True)
class Model:
    """One that is served.

    Attributes:
        name: its name.
        tokens: that it knows; 0: its inputs are numbers.
        features: of an input, where they are numbers.
    """

    name: str
    tokens: int = 0
    features: int = 0


@dataclass(frozen=True)
class Plan:
    """How a walk steps.

    Attributes:
        model: that it steps.
        members: sessions; 1: no group.
        length: steps of one call at most; 1: `step`.
        pause: seconds between two calls, at most.
        seed: of its inputs.
    """

    model: Model
    members: int
    length: int
    pause: float
    seed: int

    @property
    def inputs(self) -> Inputs:
        """Of each member, [members, cycle, ...]; they begin again where they end."""
        rng = np.random.default_rng(self.seed)
        if self.model.tokens:
            return rng.integers(0, self.model.tokens, (self.members, _CYCLE))
        return rng.normal(size=(self.members, _CYCLE, self.model.features)).astype(np.float32)


@dataclass
class Member:
    """What one session has been answered.

    Attributes:
        answers: in order, each [steps, width].
        segments: steps up to each reset, and those since the last.
    """

    answers: list[Floats] = field(default_factory=list)
    segments: list[int] = field(default_factory=lambda: [0])

    @property
    def steps(self) -> int:
        """In all."""
        return sum(self.segments)


class Walk:
    """A session, or a group, and who steps it.

    Attributes:
        plan: as given.
        members: what each has been answered.
        calls: when each call that was answered began and ended, seconds of the monotonic clock.
        lost: steps that were answered and of which the position knows nothing.
        doubled: steps that the position has twice.
        ids: of the sessions, once they are open.
    """

    def __init__(self, plan: Plan):
        self.plan = plan
        self.members = [Member() for _ in range(plan.members)]
        self.calls: list[tuple[float, float]] = []
        self.lost = 0
        self.doubled = 0
        self.ids: list[str] = []
        self._inputs = plan.inputs
        self._random = random.Random(plan.seed)

    async def go(self, client: aio.Client, stopped: asyncio.Event) -> None:
        """Open the sessions, and step them until told to stop; they are closed then.

        Raises:
            GatestreamError: a call failed.
        """
        together, name = self.plan.members > 1, self.plan.model.name
        opened: Any = client.group(name, self.plan.members) if together else client.session(name)
        async with opened as session:
            self.ids = list(session.ids) if together else [session.id]
            while not stopped.is_set():
                began = time.monotonic()
                if self._random.random() < 0.01:
                    await session.reset(timeout=PATIENCE)
                    for member in self.members:
                        member.segments.append(0)
                elif together:
                    await self._group_step(session)
                else:
                    await self._session_step(session)
                self.calls.append((began, time.monotonic()))
                self._check(session.positions if together else [session.position])
                await asyncio.sleep(self._random.random() * self.plan.pause)

    async def _session_step(self, session: aio.Session) -> None:
        steps = self._random.randint(1, self.plan.length)
        xs = self._next(0, steps)
        ys = await (session.step(xs[0], timeout=PATIENCE) if steps == 1 else session.run(xs, timeout=PATIENCE))
        self._took(0, np.asarray(ys).reshape(steps, -1))

    async def _group_step(self, group: aio.Group) -> None:
        chosen = sorted(self._random.sample(range(len(self.members)), self._random.randint(1, len(self.members))))
        steps = self._random.randint(1, self.plan.length)
        xs = np.stack([self._next(member, steps) for member in chosen])
        ys = np.asarray(await group.run(xs, members=chosen, timeout=PATIENCE))
        for row, member in enumerate(chosen):
            self._took(member, ys[row])

    def _next(self, member: int, steps: int) -> Inputs:
        first = self.members[member].steps
        xs: Inputs = self._inputs[member, np.arange(first, first + steps) % _CYCLE]
        return xs

    def _took(self, member: int, ys: Floats) -> None:
        self.members[member].answers.append(ys.copy())
        self.members[member].segments[-1] += len(ys)

    def _check(self, positions: Sequence[int]) -> None:
        for member, position in zip(self.members, positions, strict=True):
            self.lost += max(member.steps - int(position), 0)
            self.doubled += max(int(position) - member.steps, 0)


def different(walks: Sequence[Walk], undisturbed: str) -> list[int]:
    """How many answers of each walk are not, bit for bit, those of the server at an address that nothing happens to."""
    counts = []
    with connect(undisturbed, timeout=PATIENCE) as client:
        for walk in walks:
            inputs, count = walk.plan.inputs, 0
            for member, answered in enumerate(walk.members):
                with client.session(walk.plan.model.name) as session:
                    expected, first = [], 0
                    for segment in answered.segments:
                        until = first + segment
                        for begin in range(first, until, _PIECE):
                            at = np.arange(begin, min(begin + _PIECE, until)) % _CYCLE
                            expected.append(np.asarray(session.run(inputs[member, at])))
                        first = until
                        session.reset()
                if expected:
                    same = np.concatenate(expected).view(np.uint32) == np.concatenate(answered.answers).view(np.uint32)
                    count += int((~same.all(axis=1)).sum())
            counts.append(count)
    return counts
