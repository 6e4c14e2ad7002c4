"""What it costs that a session's numbers depend on no other session."""

from typing import Any

from benchmarks.harness.bench import Bench, Case
from benchmarks.harness.report import Section
from benchmarks.harness.statistics import column, ratios, summarise
from benchmarks.models import FORMS

MODEL = "lstm128"
LOADS: dict[str, dict[str, Any]] = {
    "1 session": {},
    "64 streams": {"streams": 64},
    "512 sessions packed": {"sessions": 512},
    "8 sessions, chunks of 64": {"sessions": 8, "steps": 64},
}


def measure(bench: Bench) -> Section:
    section = Section(
        "deterministic",
        0,
        "With --deterministic",
        "Hidden 128. Runs have one of a few shapes, which the server has found to give a row the same bits when it "
        "started; ticks between two of them are padded. Two servers of the same model take turns.",
    )
    cases: dict[str, Case] = {}
    for form in FORMS:
        servers = {
            "without": bench.gatestream(MODEL, form),
            "deterministic": bench.gatestream(MODEL, form, deterministic=True),
        }
        for how, server in servers.items():
            for name, options in LOADS.items():
                cases[f"{form}, {name}, {how}"] = bench.closed(bench.load(server, MODEL, **options))
    windows = bench.interleave(cases, bench.pace.sweeps)
    section.contenders = {name: summarise(windows[name]) for name in cases}
    for form in FORMS:
        for figure, unit in (("steps_per_s", "steps/s"), ("server_cpu_us", "server CPU a message")):
            found = []
            for name in LOADS:
                fixed, free = (windows[f"{form}, {name}, {how}"] for how in ("deterministic", "without"))
                ratio = ratios(column(fixed, figure), column(free, figure))
                found.append(f"{name} {ratio}")
            section.notes.append(f"{form}, {unit} with --deterministic over without: {', '.join(found)}.")
    return section
