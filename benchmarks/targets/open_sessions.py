"""Target 6: what sessions cost that are open."""

from collections.abc import Callable
from typing import Any

from benchmarks.harness.bench import Bench
from benchmarks.harness.processes import Gatestream, Instrument
from benchmarks.harness.report import Section, Verdict
from benchmarks.harness.statistics import Figures, Spread, column, ratios, summarise
from benchmarks.models import SHAPES, Form

MODEL = "lstm128"
FORM: Form = "fused"
PACKED = 500
FEW = 1_000
MOST_EXTRA_BYTES = 200


def measure(bench: Bench) -> Section:
    crowd = bench.pace.crowd
    section = Section(
        "open-sessions",
        6,
        f"{crowd:,} open sessions",
        f"Hidden 128, fused, messages of {PACKED} sessions. In turn: every open session is stepped, {PACKED} at a "
        f"time; the states of {crowd:,} do not fit the caches. Idle: the same {PACKED} step all the time.",
    )
    room: dict[str, Any] = {"sessions": crowd, "sessions_per_stream": crowd}
    servers: dict[str, Gatestream] = {}
    cases: dict[str, Callable[[], Figures]] = {}
    # To open so many takes long, and is done on all servers at once.
    begun: list[Instrument] = []
    for open_sessions in (FEW, crowd):
        server = bench.gatestream(MODEL, FORM, **room)
        servers[f"{open_sessions:,} in turn"] = server
        load = bench.load(server, MODEL, sessions=PACKED, blocks=open_sessions // PACKED)
        # Every session once: what follows finds the memory of all of them in use.
        load.begin_count(open_sessions // PACKED)
        begun.append(load)
        cases[f"{open_sessions:,} in turn"] = bench.closed(load)
        server = bench.gatestream(MODEL, FORM, **room)
        load = bench.load(server, MODEL, sessions=PACKED, idle=open_sessions - PACKED)
        load.begin_count(1)
        begun.append(load)
        cases[f"{open_sessions:,}, all but {PACKED} idle"] = bench.closed(load)
    for load in begun:
        load.finish()
    windows = bench.interleave(cases)
    section.contenders = {name: summarise(windows[name]) for name in cases}
    for kind in ("{:,} in turn", f"{{:,}}, all but {PACKED} idle"):
        few, many = (column(windows[kind.format(count)], "steps_per_s") for count in (FEW, crowd))
        name = "time a step, " + kind.format(crowd) + f", over {FEW:,}"
        section.verdicts.append(Verdict(name, ratios(few, many), 1.1, at_most=True))
    few_bytes, many_bytes = (servers[f"{count:,} in turn"].resident_bytes() for count in (FEW, crowd))
    extra = (many_bytes - few_bytes) / (crowd - FEW) - SHAPES[MODEL].state_bytes
    section.verdicts.append(
        Verdict(
            f"memory of a session besides its state of {SHAPES[MODEL].state_bytes} bytes",
            Spread.of([extra]),
            MOST_EXTRA_BYTES,
            at_most=True,
            unit="bytes",
        )
    )
    section.notes.append(
        f"Resident: {few_bytes / 2**20:.0f} MiB with {FEW:,} sessions, {many_bytes / 2**20:.0f} MiB with {crowd:,}; "
        "memory of the server process that it shares with no other."
    )
    return section
