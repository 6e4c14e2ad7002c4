"""Target 9: what it costs to be told the gates."""

from typing import Any

from benchmarks.harness.bench import Bench, Case
from benchmarks.harness.report import Section, Verdict
from benchmarks.harness.statistics import column, ratios, summarise

MODEL = "lstm128"
LOADS: dict[str, dict[str, Any]] = {
    "512 sessions packed": {"sessions": 512},
    "8 sessions, chunks of 64": {"sessions": 8, "steps": 64},
    "64 streams": {"streams": 64},
}


def measure(bench: Bench) -> Section:
    section = Section(
        "gates",
        9,
        "With the gates requested",
        "Hidden 128, form gates: 2 KiB of activations a step beside 256 bytes of output.",
    )
    server = bench.gatestream(MODEL, "gates")
    cases: dict[str, Case] = {}
    for name, options in LOADS.items():
        cases[f"{name}, without"] = bench.closed(bench.load(server, MODEL, **options))
        cases[f"{name}, with gates"] = bench.closed(bench.load(server, MODEL, gates=True, **options))
    windows = bench.interleave(cases)
    section.contenders = {name: summarise(windows[name]) for name in cases}
    for name in LOADS:
        with_gates = column(windows[f"{name}, with gates"], "steps_per_s")
        without = column(windows[f"{name}, without"], "steps_per_s")
        section.verdicts.append(
            Verdict(f"{name}, steps/s with gates over without", ratios(with_gates, without), 0.7, at_most=False)
        )
    return section
