"""Target 2: many sequences, each on a stream of its own, through the Open Inference Protocol."""

from benchmarks.harness.bench import Bench, Case
from benchmarks.harness.report import Section, Verdict
from benchmarks.harness.statistics import Spread, column, ratios, summarise
from benchmarks.models import Form
from benchmarks.targets import left_out

MODEL = "lstm128"
FORM: Form = "fused"
STREAMS = 64
# The kernel deals connections out to workers at random: many of them come out even.
WORKER_CONNECTIONS = 8
ONE = "gatestream, Open Inference Protocol"
TWO = f"{ONE}, two workers"
TWO_ECHOES = f"two limit-echoes, {WORKER_CONNECTIONS} connections"


def measure(bench: Bench) -> Section:
    section = Section(
        "sequences",
        2,
        "64 sequences, one stream each, one step a message",
        "Hidden 128, fused. The Open Inference Protocol, and for comparison gatestream's own wire, on one connection; "
        f"with two workers on {WORKER_CONNECTIONS}. limit-echo has messages of the same size, on one connection too. "
        "Two limit-echoes are two such processes on one port, as the workers are. Without grpc-poller, grpc-reader: "
        "the server leaves that of gRPC as it is (--tuning).",
    )
    server = bench.gatestream(MODEL, FORM)
    load = bench.inference_load(server, MODEL, streams=STREAMS)
    size = bench.message_bytes(load)
    echo = bench.echo()
    spread = {"streams": STREAMS, "connections": WORKER_CONNECTIONS}
    two_workers, (first, second) = bench.gatestream(MODEL, FORM, workers=2), bench.echoes(2)
    cases: dict[str, Case] = {
        ONE: bench.closed(load),
        "gatestream, own wire": bench.closed(bench.load(server, MODEL, streams=STREAMS)),
        "limit-echo": bench.closed(bench.echo_load(echo, size, streams=STREAMS)),
        "by-hand": bench.closed(bench.by_hand_load(bench.by_hand(MODEL, FORM), MODEL, streams=STREAMS)),
        TWO: bench.closed(bench.inference_load(two_workers, MODEL, **spread)),
        f"limit-echo, {WORKER_CONNECTIONS} connections": bench.closed(bench.echo_load(echo, size, **spread)),
        TWO_ECHOES: bench.closed(bench.echo_load(first, size, pid=second.pid, **spread)),
    }
    for how, tuning in left_out.WITHOUT.items():
        as_it_is = bench.gatestream(MODEL, FORM, tuning=tuning)
        cases[f"{ONE}, {how}"] = bench.closed(bench.inference_load(as_it_is, MODEL, streams=STREAMS))
    windows = bench.interleave(cases)
    section.contenders = {name: summarise(windows[name]) for name in cases}

    def over(name: str, other: str, figure: str = "messages_per_s") -> Spread:
        return ratios(column(windows[name], figure), column(windows[other], figure))

    section.verdicts = [
        Verdict("requests/s over limit-echo", over(ONE, "limit-echo"), 0.80, at_most=False),
        Verdict("server CPU a request over limit-echo", over(ONE, "limit-echo", "server_cpu_us"), 1.25, at_most=True),
        Verdict("requests/s of two workers over limit-echo", over(TWO, "limit-echo"), 1.0, at_most=False),
    ]
    section.notes.append(
        f"Two limit-echoes reach {over(TWO_ECHOES, 'limit-echo')} of the messages/s of one, two workers "
        f"{over(TWO, TWO_ECHOES)} of those of the two."
    )
    section.notes += left_out.notes(windows, ONE)
    return section
