"""Target 3: many sessions in one message."""

from collections.abc import Mapping

from benchmarks.harness import machine
from benchmarks.harness.bench import Bench, Case
from benchmarks.harness.report import Section, Verdict
from benchmarks.harness.statistics import Figures, column, ratios, summarise
from benchmarks.models import FORMS, Form
from benchmarks.targets import sequences

MODEL = "lstm128"
SESSIONS = 512
OVER_RUN = 0.75
OVER_BOTH = 0.95
ONE_BY_ONE = "gatestream, fused, target 2's sequences"


def measure(bench: Bench) -> Section:
    section = Section(
        "packed",
        3,
        "512 sessions on one stream, packed",
        "Hidden 128, one step of 512 sessions in a message, one message in flight. limit-run has batch 512 and one "
        "thread, as the server has; limit-both makes the same run for each message of an echo. In two halves: two "
        "messages of 256 sessions in flight.",
    )
    cases: dict[str, Case] = {}
    for form in FORMS:
        server = bench.gatestream(MODEL, form)
        load = bench.load(server, MODEL, sessions=SESSIONS)
        cases[f"gatestream, {form}"] = bench.closed(load)
        halves = bench.load(server, MODEL, sessions=SESSIONS // 2, in_flight=2)
        cases[f"gatestream, {form}, in two halves"] = bench.closed(halves)
        cases[f"limit-run, {form}"] = bench.closed(bench.bare_run(MODEL, form, batch=SESSIONS))
        cases[f"limit-both, {form}"] = bench.closed(bench.both_load(MODEL, form, load, SESSIONS))
    every_core = bench.bare_run(MODEL, "fused", batch=SESSIONS, threads=machine.cores())
    cases[f"limit-run, fused, {machine.cores()} threads"] = bench.closed(every_core)
    one_by_one = bench.inference_load(bench.gatestream(MODEL, "fused"), MODEL, streams=sequences.STREAMS)
    cases[ONE_BY_ONE] = bench.closed(one_by_one)
    windows = bench.interleave(cases)
    section.contenders = {name: summarise(windows[name]) for name in cases}
    for form in FORMS:
        steps = column(windows[f"gatestream, {form}"], "steps_per_s")
        limit = column(windows[f"limit-run, {form}"], "steps_per_s")
        both = ratios(column(windows[f"limit-both, {form}"], "steps_per_s"), limit).median
        claim = f"steps/s over limit-run, {form} ({OVER_RUN}, or {OVER_BOTH} of limit-both's)"
        bound = min(OVER_RUN, OVER_BOTH * both)
        section.verdicts.append(Verdict(claim, ratios(steps, limit), bound, at_most=False))
        section.notes.append(floor(windows, form))
    packed, apart = (column(windows[name], "steps_per_s") for name in ("gatestream, fused", ONE_BY_ONE))
    section.verdicts.append(Verdict("steps/s over target 2's, fused", ratios(packed, apart), 8.0, at_most=False))
    return section


def floor(windows: Mapping[str, list[Figures]], form: Form) -> str:
    """What limit-both reaches of limit-run, and gatestream of limit-both, for a note."""
    ours, both, limit = (
        column(windows[f"{name}, {form}"], "steps_per_s") for name in ("gatestream", "limit-both", "limit-run")
    )
    return (
        f"{form.capitalize()}: limit-both reaches {ratios(both, limit)} of limit-run's steps/s, gatestream "
        f"{ratios(ours, both)} of limit-both's."
    )
