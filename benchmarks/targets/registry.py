"""What is measured, in the order of the table."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from benchmarks.harness.bench import Bench
from benchmarks.harness.report import Section
from benchmarks.targets import (
    adopted,
    chunks,
    client,
    curves,
    deterministic,
    durability,
    gates,
    models,
    neighbours,
    open_sessions,
    own_times,
    packed,
    profile,
    sequences,
    single,
    start,
    stores,
    streams,
    weights,
)


@dataclass(frozen=True, slots=True)
class Target:
    """Something to measure.

    Attributes:
        number: of the target; 0: it has none.
        measure: does it.
        bounded: there are bounds to hit; else it is looked at where everything is.
    """

    number: int
    measure: Callable[[Bench], Section]
    bounded: bool = True


TARGETS: Final = {
    "single": Target(1, single.measure),
    "sequences": Target(2, sequences.measure),
    "packed": Target(3, packed.measure),
    "chunks": Target(4, chunks.measure),
    "own-times": Target(5, own_times.measure),
    "open-sessions": Target(6, open_sessions.measure),
    "neighbours": Target(7, neighbours.measure),
    "start": Target(8, start.measure),
    "gates": Target(9, gates.measure),
    "profile": Target(10, profile.measure),
    "streams": Target(0, streams.measure),
    "client": Target(0, client.measure),
    "models": Target(0, models.measure, bounded=False),
    "weights": Target(0, weights.measure, bounded=False),
    "deterministic": Target(0, deterministic.measure, bounded=False),
    "adopted": Target(0, adopted.measure),
    "stores": Target(0, stores.measure),
    "durability": Target(0, durability.measure),
    "curves": Target(0, curves.measure, bounded=False),
}
