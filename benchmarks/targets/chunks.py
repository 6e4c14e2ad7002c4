"""Target 4: many steps of a session in one message."""

from benchmarks.harness.bench import Bench, Case
from benchmarks.harness.report import Section, Verdict
from benchmarks.harness.statistics import column, ratios, summarise
from benchmarks.models import FORMS
from benchmarks.targets import packed

MODEL = "lstm128"
SESSIONS = 8
STEPS = 64


def measure(bench: Bench) -> Section:
    section = Section(
        "chunks",
        4,
        "Chunks of 64 steps, 8 sessions",
        "Hidden 128. limit-run is one run over [8, 64] on one thread, as the server has; limit-both makes the same run "
        "for each message of an echo. The 8 sessions share a stream and a message, or have a stream each; or the "
        "stream has two messages of 8 sessions in flight.",
    )
    cases: dict[str, Case] = {}
    for form in FORMS:
        server = bench.gatestream(MODEL, form)
        load = bench.load(server, MODEL, sessions=SESSIONS, steps=STEPS)
        cases[f"gatestream, {form}"] = bench.closed(load)
        two = bench.load(server, MODEL, sessions=SESSIONS, steps=STEPS, in_flight=2)
        cases[f"gatestream, {form}, two in flight"] = bench.closed(two)
        apart = bench.load(server, MODEL, streams=SESSIONS, steps=STEPS)
        cases[f"gatestream, {form}, a stream each"] = bench.closed(apart)
        cases[f"limit-run, {form}"] = bench.closed(bench.bare_run(MODEL, form, batch=SESSIONS, steps=STEPS))
        cases[f"limit-both, {form}"] = bench.closed(bench.both_load(MODEL, form, load, SESSIONS, STEPS))
    windows = bench.interleave(cases)
    section.contenders = {name: summarise(windows[name]) for name in cases}
    for form in FORMS:
        steps = column(windows[f"gatestream, {form}"], "steps_per_s")
        limit = column(windows[f"limit-run, {form}"], "steps_per_s")
        section.verdicts.append(Verdict(f"steps/s over limit-run, {form}", ratios(steps, limit), 0.75, at_most=False))
        section.notes.append(packed.floor(windows, form))
    return section
