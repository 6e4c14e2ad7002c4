"""The curves: throughput over sessions, latency over load."""

from benchmarks.harness.bench import Bench, Case
from benchmarks.harness.processes import Instrument
from benchmarks.harness.report import Section
from benchmarks.harness.statistics import Spread, column
from benchmarks.models import Form

FORM: Form = "fused"
SESSIONS = (1, 4, 16, 64, 256, 512)
THROUGHPUT_MODEL = "lstm128"

LATENCY_MODEL = "lstm1024"
STREAMS = 64
# Of an open loop's window: hundreds of steps for its 99th percentile.
SECONDS = 0.5
# A curve has many points, and one is looked at beside the others.
WINDOWS = 3
# Of by-hand's best; it is not asked for more than it can do.
LOADS = (0.1, 0.25, 0.5, 0.75, 0.9, 1.5, 2.5, 4.0, 5.0, 6.0)

THROUGHPUT = "steps/s over sessions: "
LATENCY = "latency over load: "


def measure(bench: Bench) -> Section:
    section = Section(
        "curves",
        0,
        "Curves",
        "Throughput: hidden 128, fused, one step of each session at a time; packed on one stream, or a stream for "
        f"each session. Latency: hidden 1024, fused, {STREAMS} sessions with a stream each, open loop.",
    )
    _throughput(bench, section)
    _latency(bench, section)
    return section


def _throughput(bench: Bench, section: Section) -> None:
    server = bench.gatestream(THROUGHPUT_MODEL, FORM)
    by_hand, echo = bench.by_hand(THROUGHPUT_MODEL, FORM), bench.echo()
    cases: dict[str, Case] = {}
    for count in SESSIONS:
        packed = bench.load(server, THROUGHPUT_MODEL, sessions=count)
        apart = bench.load(server, THROUGHPUT_MODEL, streams=count)
        size = bench.message_bytes(apart)
        loads = {
            "limit-run": bench.bare_run(THROUGHPUT_MODEL, FORM, batch=count),
            "gatestream, packed": packed,
            "gatestream, a stream each": apart,
            "limit-echo, a stream each": bench.echo_load(echo, size, streams=count),
            "by-hand, a stream each": bench.by_hand_load(by_hand, THROUGHPUT_MODEL, streams=count),
        }
        cases |= {f"{name}/{count}": bench.closed(load) for name, load in loads.items()}
    windows = bench.interleave(cases, WINDOWS)
    for case, found in windows.items():
        name, _, sessions = case.rpartition("/")
        point = {"sessions": float(sessions), "steps_per_s": Spread.of(column(found, "steps_per_s")).median}
        section.points.setdefault(THROUGHPUT + name, []).append(point)


def _latency(bench: Bench, section: Section) -> None:
    by_hand = bench.by_hand_load(bench.by_hand(LATENCY_MODEL, FORM), LATENCY_MODEL, streams=STREAMS)
    ours = bench.load(bench.gatestream(LATENCY_MODEL, FORM), LATENCY_MODEL, streams=STREAMS)
    best = by_hand.measure(bench.pace.warm_up, SECONDS)["messages_per_s"]
    rates: dict[str, float] = {}
    cases: dict[str, Case] = {}

    def add(name: str, load: Instrument, times: float) -> None:
        rates[f"{name}/{times}"] = times * best
        cases[f"{name}/{times}"] = bench.open(load, times * best, SECONDS)

    for times in LOADS:
        add("gatestream", ours, times)
        if times < 1:
            add("by-hand", by_hand, times)
    windows = bench.interleave(cases, WINDOWS)
    for case, found in windows.items():
        name, _, _ = case.rpartition("/")
        point = {"rate": rates[case]} | {
            figure: Spread.of(column(found, figure)).median for figure in ("messages_per_s", "p50_us", "p99_us")
        }
        section.points.setdefault(LATENCY + name, []).append(point)
