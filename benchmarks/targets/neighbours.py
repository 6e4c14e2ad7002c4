"""Target 7: what a session with long chunks does to its neighbours."""

from benchmarks.harness.bench import Bench
from benchmarks.harness.report import Section, Verdict
from benchmarks.harness.statistics import Figures, Spread, column, summarise
from benchmarks.models import Form

MODEL = "lstm128"
FORM: Form = "fused"
CHUNK = 10_000
RATE = 200.0
SECONDS = 4.0
# `gatestream serve --tick-steps`, unless told otherwise.
TICK_STEPS = 64


def measure(bench: Bench) -> Section:
    section = Section(
        "neighbours",
        7,
        f"Single steps beside chunks of {CHUNK:,} steps",
        f"Hidden 128, fused. One session steps {RATE:.0f} times a second (open loop); another, on a connection of its "
        f"own, sends chunks of {CHUNK:,} steps without a pause. One tick: limit-run over [1, {TICK_STEPS}], the most "
        "that the server runs by default.",
    )
    server = bench.gatestream(MODEL, FORM)
    steps, chunks = bench.load(server, MODEL), bench.load(server, MODEL, steps=CHUNK)
    seconds = max(SECONDS, bench.pace.seconds)

    def beside() -> Figures:
        chunks.begin(f"{bench.pace.warm_up} {seconds + 2 * bench.pace.warm_up}")
        figures = bench.open(steps, RATE, seconds)()
        chunks.finish()
        return figures

    cases = {
        "alone": bench.open(steps, RATE, seconds),
        "beside chunks": beside,
        "limit-run, one tick": bench.closed(bench.bare_run(MODEL, FORM, batch=1, steps=TICK_STEPS)),
    }
    windows = bench.interleave(cases)
    section.contenders = {name: summarise(windows[name]) for name in cases}
    alone, beside_chunks, tick = (
        column(windows[name], figure)
        for name, figure in (("alone", "p99_us"), ("beside chunks", "p99_us"), ("limit-run, one tick", "p50_us"))
    )
    rises = [(b - a) / t for a, b, t in zip(alone, beside_chunks, tick, strict=True)]
    section.verdicts.append(Verdict("rise of the neighbour's p99, in ticks", Spread.of(rises), 2.0, at_most=True))
    return section
