"""Target 7: what a session with long chunks does to its neighbours."""

from functools import partial

from benchmarks.harness.bench import Bench, Case
from benchmarks.harness.processes import Instrument
from benchmarks.harness.report import Section, Verdict
from benchmarks.harness.statistics import Figures, Spread, column, summarise
from benchmarks.models import SHAPES, Form

MODEL = "lstm128"
FORM: Form = "fused"
CHUNK = 10_000
RATE = 200.0
SECONDS = 2.0
# `gatestream serve --tick-steps`, unless told otherwise.
TICK_STEPS = 64
CHUNK_BYTES = CHUNK * 4 * SHAPES[MODEL].inputs
# A step's message and its answer are as large.
MESSAGE_BYTES = 300
ECHOES = 3.5


def measure(bench: Bench) -> Section:
    section = Section(
        "neighbours",
        7,
        f"Single steps beside chunks of {CHUNK:,} steps",
        f"Hidden 128, fused. One session steps {RATE:.0f} times a second (open loop); another, on a connection of its "
        f"own, sends chunks of {CHUNK:,} steps without a pause. One tick: limit-run over [1, {TICK_STEPS}], the most "
        f"that the server runs by default. limit-echo sends a chunk's {CHUNK_BYTES / 1e6:.1f} MB back whole, "
        f"{ECHOES} times a second: about as many bytes as the chunks and their answers are.",
    )
    server, echo = bench.gatestream(MODEL, FORM), bench.echo()
    steps, chunks = bench.load(server, MODEL), bench.load(server, MODEL, steps=CHUNK)
    messages, large = bench.echo_load(echo, MESSAGE_BYTES), bench.echo_load(echo, CHUNK_BYTES)

    def beside(neighbour: Instrument, rate: float | None, instrument: Instrument) -> Figures:
        window = f"{bench.pace.warm_up} {SECONDS + 2 * bench.pace.warm_up}"
        neighbour.begin(window if rate is None else f"{window} {rate}")
        figures = bench.open(instrument, RATE, SECONDS)()
        neighbour.finish()
        return figures

    cases: dict[str, Case] = {
        "alone": bench.open(steps, RATE, SECONDS),
        "beside chunks": partial(beside, chunks, None, steps),
        "limit-echo, alone": bench.open(messages, RATE, SECONDS),
        "limit-echo, beside as many bytes": partial(beside, large, ECHOES, messages),
        "limit-run, one tick": bench.closed(bench.bare_run(MODEL, FORM, batch=1, steps=TICK_STEPS)),
    }
    windows = bench.interleave(cases, bench.pace.sweeps)
    section.contenders = {name: summarise(windows[name]) for name in cases}
    ticks = column(windows["limit-run, one tick"], "p50_us")

    def rise(alone: str, beside: str) -> Spread:
        pairs = zip(column(windows[alone], "p99_us"), column(windows[beside], "p99_us"), ticks, strict=True)
        return Spread.of([(b - a) / tick for a, b, tick in pairs])

    section.verdicts.append(
        Verdict("rise of the neighbour's p99, in ticks", rise("alone", "beside chunks"), 2.0, at_most=True)
    )
    floor = rise("limit-echo, alone", "limit-echo, beside as many bytes")
    section.notes.append(f"The same rise at limit-echo, in ticks: {floor}.")
    return section
