"""Many more sessions than slots: memory, what a resident one pays for them, and how long one waits for its slot."""

from typing import Any, Final

from benchmarks.harness.bench import Bench, Case
from benchmarks.harness.processes import Gatestream
from benchmarks.harness.report import Section, Verdict
from benchmarks.harness.statistics import Spread, column, ratios, summarise
from benchmarks.models import Form

MODEL: Final = "lstm128"
FORM: Final[Form] = "fused"
SLOTS: Final = 10_000
# So few that all keep their slots; and so many that one which is stepped in its turn has lost it, as streams may hold.
FEW: Final = 9_000
HELD: Final = 19_000
LEFT_AT_ONCE: Final = 5_000
RESIDENT_BOUND: Final = 1.1
RESTORE_BOUND_MS: Final = 5.0
MEMORY_BOUND_MIB: Final = 2048


def measure(bench: Bench, section: Section) -> None:
    left = bench.pace.crowd
    parked = f"{left:,} parked"
    cases: dict[str, Case] = {}
    memory: dict[str, float] = {}
    for name, leave, held in (("none parked", 0, FEW), (parked, left, HELD)):
        room: dict[str, Any] = {"sessions": SLOTS, "sessions_per_stream": held, "parked_sessions": 2 * (leave + held)}
        server = bench.gatestream(MODEL, FORM, store=f"sqlite:{bench.folder() / 'sessions.db'}", **room)
        _leave(bench, server, leave)
        in_turn = bench.load(server, MODEL, blocks=held, keep=True)
        in_turn.count(1)
        memory[name] = server.resident_bytes() / 2**20
        cases[f"resident, {name}"] = bench.closed(bench.load(server, MODEL, keep=True))
        cases[f"in turn, {name}"] = bench.closed(in_turn)
    windows = bench.interleave(cases, bench.pace.sweeps)
    section.contenders |= {name: summarise(windows[name]) for name in cases}
    with_them, without = (column(windows[f"resident, {name}"], "p50_us") for name in (parked, "none parked"))
    restores = Spread.of([each / 1e3 for each in column(windows[f"in turn, {parked}"], "p50_us")])
    claim = f"{parked}: p50 of a resident session over none parked"
    section.verdicts += [
        Verdict(claim, ratios(with_them, without), RESIDENT_BOUND, at_most=True),
        Verdict(f"{parked}: p50 of a step without a slot", restores, RESTORE_BOUND_MS, at_most=True, unit="ms"),
        Verdict(
            f"{parked}, {SLOTS:,} resident: memory",
            Spread.of([memory[parked]]),
            MEMORY_BOUND_MIB,
            at_most=True,
            unit="MiB",
        ),
    ]
    section.notes.append(
        f"Parked: {left:,} that no stream holds and {HELD - SLOTS:,} that one does. In turn: {HELD:,} sessions, one "
        f"after another, so that the next has lost its slot. Memory with {FEW:,} sessions and none parked: "
        f"{memory['none parked']:.0f} MiB."
    )


def _leave(bench: Bench, server: Gatestream, count: int) -> None:
    """Have streams end that held so many sessions."""
    for begin in range(0, count, LEFT_AT_ONCE):
        load = bench.load(server, MODEL, idle=min(LEFT_AT_ONCE, count - begin) - 1, keep=True)
        load.count(1)
        load.close()
