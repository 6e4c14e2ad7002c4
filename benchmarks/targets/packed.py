"""Target 3: many sessions in one message."""

from benchmarks.harness import machine
from benchmarks.harness.bench import INFERENCE, Bench, Case, speaks_inference
from benchmarks.harness.report import Section, Verdict
from benchmarks.harness.statistics import column, ratios, summarise
from benchmarks.models import FORMS
from benchmarks.targets import sequences

MODEL = "lstm128"
SESSIONS = 512


def measure(bench: Bench) -> Section:
    section = Section(
        "packed",
        3,
        "512 sessions on one stream, packed",
        "Hidden 128, one step of 512 sessions in a message, one message in flight. limit-run has batch 512 and one "
        "thread, as the server has. In two halves: two messages of 256 sessions in flight.",
    )
    cases: dict[str, Case] = {}
    for form in FORMS:
        server = bench.gatestream(MODEL, form)
        cases[f"gatestream, {form}"] = bench.closed(bench.load(server, MODEL, sessions=SESSIONS))
        halves = bench.load(server, MODEL, sessions=SESSIONS // 2, in_flight=2)
        cases[f"gatestream, {form}, in two halves"] = bench.closed(halves)
        cases[f"limit-run, {form}"] = bench.closed(bench.bare_run(MODEL, form, batch=SESSIONS))
    every_core = bench.bare_run(MODEL, "fused", batch=SESSIONS, threads=machine.cores())
    cases[f"limit-run, fused, {machine.cores()} threads"] = bench.closed(every_core)
    if speaks_inference(server):
        one_by_one = bench.inference_load(bench.gatestream(MODEL, "fused"), MODEL, streams=sequences.STREAMS)
        cases["gatestream, fused, target 2's sequences"] = bench.closed(one_by_one)
    else:
        section.skipped.append(f"steps/s over target 2's: the server has no service {INFERENCE}")
    windows = bench.interleave(cases)
    section.contenders = {name: summarise(windows[name]) for name in cases}
    for form in FORMS:
        steps = column(windows[f"gatestream, {form}"], "steps_per_s")
        limit = column(windows[f"limit-run, {form}"], "steps_per_s")
        section.verdicts.append(Verdict(f"steps/s over limit-run, {form}", ratios(steps, limit), 0.60, at_most=False))
    if "gatestream, fused, target 2's sequences" in windows:
        measured = ratios(
            column(windows["gatestream, fused"], "steps_per_s"),
            column(windows["gatestream, fused, target 2's sequences"], "steps_per_s"),
        )
        section.verdicts.append(Verdict("steps/s over target 2's, fused", measured, 8.0, at_most=False))
    return section
