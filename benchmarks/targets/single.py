"""Target 1: what one session pays that has the server to itself."""

from benchmarks.harness.bench import Bench
from benchmarks.harness.report import Section, Verdict
from benchmarks.harness.statistics import Spread, column, summarise
from benchmarks.models import FORMS
from benchmarks.targets import left_out

MODEL = "lstm128"


def measure(bench: Bench) -> Section:
    section = Section(
        "single",
        1,
        "One session, one step a message, one in flight",
        "Hidden 128. The floor is the median of limit-echo with messages of the same size, and of one run at batch 1. "
        "Without grpc-poller, grpc-reader: the server leaves that of gRPC as it is (--tuning).",
    )
    echo = bench.echo()
    cases = {}
    for form in FORMS:
        load = bench.load(bench.gatestream(MODEL, form), MODEL)
        cases[f"gatestream, {form}"] = bench.closed(load)
        cases[f"limit-run, {form}"] = bench.closed(bench.bare_run(MODEL, form, batch=1))
    for how, tuning in left_out.WITHOUT.items():
        server = bench.gatestream(MODEL, "fused", tuning=tuning)
        cases[f"gatestream, fused, {how}"] = bench.closed(bench.load(server, MODEL))
    cases["limit-echo"] = bench.closed(bench.echo_load(echo, bench.message_bytes(load)))
    cases["by-hand, fused"] = bench.closed(bench.by_hand_load(bench.by_hand(MODEL, "fused"), MODEL))
    windows = bench.interleave(cases)
    section.contenders = {name: summarise(windows[name]) for name in cases}
    waits = column(windows["limit-echo"], "p50_us")
    for form in FORMS:
        floor = [a + b for a, b in zip(waits, column(windows[f"limit-run, {form}"], "p50_us"), strict=True)]
        steps = column(windows[f"gatestream, {form}"], "p50_us")
        measured = Spread.of([step / least for step, least in zip(steps, floor, strict=True)])
        section.verdicts.append(Verdict(f"p50 over (limit-echo + limit-run), {form}", measured, 1.3, at_most=True))
    section.notes += left_out.notes(windows, "gatestream, fused")
    return section
