"""How many threads one run of a model gets: measured at the start, by runs of the model itself."""

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Final

import numpy as np

from gatestream.protos.layout import ModelLayout
from gatestream.server.backend.runner import CPU, Runner

_BATCHES: Final = (1, 32, 128)
# The batch that a count is chosen for: of as many sessions as keep a server busy.
_BUSY: Final = 128
# A doubling must pay at that batch: what it does not save in time, it takes from the event loop in CPU.
_WORTH: Final = 0.8
# And a session alone may not wait for much longer.
_TOLERATED: Final = 1.1
_SECONDS: Final = 0.25
_FEWEST_ROUNDS: Final = 3
_MOST_ROUNDS: Final = 50


@dataclass(frozen=True, slots=True)
class Measured:
    """What a model runs with.

    Attributes:
        threads: of one run.
        seconds: of one step, by count and batch, where it was measured.
    """

    threads: int
    seconds: Mapping[int, Mapping[int, float]] = field(default_factory=dict)


def measure(make: Callable[[int], Runner], layout: ModelLayout, largest: int, cpus: int) -> tuple[Runner, Measured]:
    """Time single steps with 1, 2, 4 and so on threads and choose (see `choose`).

    It takes a quarter of a second; a model so large that four steps of every kind take longer, as long as those.

    Args:
        make: a runner with so many threads.
        layout: of the model.
        largest: batch that the server runs, within the state rows of a runner.
        cpus: that this process may use.

    Returns:
        A runner with as many threads as were chosen, and what was measured.
    """
    runners = {1: make(1)}
    counts = sorted({2**k for k in range(cpus.bit_length())} | {cpus})
    if runners[1].provider != CPU or len(counts) == 1:
        return runners[1], Measured(1)
    runners |= {count: make(count) for count in counts[1:]}
    batches = sorted({min(batch, largest) for batch in (*_BATCHES, largest)})
    steps = {batch: _step(layout, batch) for batch in batches}
    taken: dict[int, dict[int, list[float]]] = {count: {batch: [] for batch in batches} for count in counts}
    # The first round warms up.
    began = time.perf_counter()
    for done in range(_MOST_ROUNDS + 1):
        if done > _FEWEST_ROUNDS and time.perf_counter() - began > _SECONDS:
            break
        for batch, step in steps.items():
            for count, runner in runners.items():
                start = time.perf_counter()
                step(runner)
                if done:
                    taken[count][batch].append(time.perf_counter() - start)
    seconds = {count: {batch: statistics.median(runs) for batch, runs in of.items()} for count, of in taken.items()}
    count = choose(seconds)
    return runners[count], Measured(count, seconds)


def choose(seconds: Mapping[int, Mapping[int, float]]) -> int:
    """The number of threads for these times of one step, by count and batch.

    Going up from 1, a count is taken when a step of a busy server's batch (128, or the largest that there is) takes at
    most 0.8 of its time with the count taken before, and a step of one session alone at most 1.1 of its time with 1.
    """
    taken = 1
    for count in sorted(seconds):
        times, before = seconds[count], seconds[taken]
        busy = min(_BUSY, max(times))
        if times[busy] <= _WORTH * before[busy] and times[1] <= _TOLERATED * seconds[1][1]:
            taken = count
    return taken


def _step(layout: ModelLayout, batch: int) -> Callable[[Runner], object]:
    inputs = [np.zeros((batch, 1, *item.shape), item.dtype) for item in layout.inputs]
    slots, lengths = np.arange(batch), np.ones(batch, np.int32)
    return lambda runner: runner.step(slots, inputs, lengths, False)
