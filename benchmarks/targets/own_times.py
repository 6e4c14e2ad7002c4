"""Target 5: sessions that step at their own times, against the server that people write themselves."""

from benchmarks.harness.bench import Bench, Case
from benchmarks.harness.report import Section, Verdict
from benchmarks.harness.statistics import Figures, column, ratios, summarise
from benchmarks.models import Form

MODEL = "lstm1024"
FORM: Form = "fused"
SESSIONS = 64
TIMES = 5
# Of by-hand's own throughput: what it can be given without a queue that grows for ever.
EASY = 0.8
# A 99th percentile of few steps says little.
SECONDS = 1.0


def measure(bench: Bench) -> Section:
    section = Section(
        "own-times",
        5,
        "Hidden 1024, 64 sessions that step at their own times",
        "Fused, a stream for each session, one step a message. Closed loop: every session steps again when it is "
        "answered. Open loop: every session steps at its own even times, latency counts from when a step was due; "
        f"gatestream is given {TIMES} times what by-hand can do at best, by-hand {EASY:.0%} of it.",
    )
    by_hand = bench.by_hand_load(bench.by_hand(MODEL, FORM), MODEL, streams=SESSIONS)
    ours = bench.load(bench.gatestream(MODEL, FORM), MODEL, streams=SESSIONS)
    closed_loop = bench.closed(by_hand, SECONDS)
    # Anew in each turn: the machine's speed drifts, and a rate that it could do before may be over what it can do now.
    best = closed_loop()["steps_per_s"]

    def by_hand_at_its_best() -> Figures:
        nonlocal best
        figures = closed_loop()
        best = figures["steps_per_s"]
        return figures

    cases: dict[str, Case] = {
        "by-hand, closed loop": by_hand_at_its_best,
        "gatestream, closed loop": bench.closed(ours, SECONDS),
        f"by-hand, {EASY:.0%} of its best": lambda: bench.open(by_hand, EASY * best, SECONDS)(),
        f"gatestream, {TIMES} times by-hand's best": lambda: bench.open(ours, TIMES * best, SECONDS)(),
    }
    windows = bench.interleave(cases, bench.pace.sweeps)
    section.contenders = {name: summarise(windows[name]) for name in cases}
    closed, easy = windows["by-hand, closed loop"], windows[f"by-hand, {EASY:.0%} of its best"]
    section.verdicts = [
        Verdict(
            "closed loop, steps/s over by-hand",
            ratios(column(windows["gatestream, closed loop"], "steps_per_s"), column(closed, "steps_per_s")),
            TIMES,
            at_most=False,
        ),
        Verdict(
            "closed loop, p99 over by-hand's",
            ratios(column(windows["gatestream, closed loop"], "p99_us"), column(closed, "p99_us")),
            1.0,
            at_most=True,
        ),
        Verdict(
            f"open loop, p99 at {TIMES} times by-hand's best over by-hand's p99 at {EASY:.0%} of it",
            ratios(column(windows[f"gatestream, {TIMES} times by-hand's best"], "p99_us"), column(easy, "p99_us")),
            1.0,
            at_most=True,
        ),
    ]
    return section
