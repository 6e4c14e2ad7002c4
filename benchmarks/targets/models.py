"""What the server keeps of a bare run's speed, by model and form."""

from benchmarks.harness.bench import Bench, Case
from benchmarks.harness.report import Section
from benchmarks.harness.statistics import column, ratios, summarise
from benchmarks.models import FORMS, SHAPES

SESSIONS = 64


def measure(bench: Bench) -> Section:
    section = Section(
        "models",
        0,
        "Every model, both forms",
        f"{SESSIONS} sessions packed on one stream, one step a message; limit-run at batch {SESSIONS}, one thread.",
    )
    cases: dict[str, Case] = {}
    for model in SHAPES:
        for form in FORMS:
            server = bench.gatestream(model, form)
            cases[f"gatestream, {model}, {form}"] = bench.closed(bench.load(server, model, sessions=SESSIONS))
            cases[f"limit-run, {model}, {form}"] = bench.closed(bench.bare_run(model, form, batch=SESSIONS))
    windows = bench.interleave(cases, bench.pace.sweeps)
    section.contenders = {name: summarise(windows[name]) for name in cases}
    for model in SHAPES:
        found = []
        for form in FORMS:
            ours, limit = (windows[f"{who}, {model}, {form}"] for who in ("gatestream", "limit-run"))
            ratio = ratios(column(ours, "steps_per_s"), column(limit, "steps_per_s"))
            found.append(f"{form} {ratio}")
        section.notes.append(f"{model}: steps/s over limit-run: {', '.join(found)}.")
    return section
