"""Target 2: many sequences, each on a stream of its own, through the Open Inference Protocol."""

from benchmarks.harness.bench import INFERENCE, Bench, Case, knows, speaks_inference
from benchmarks.harness.report import Section, Verdict
from benchmarks.harness.statistics import column, ratios, summarise
from benchmarks.models import Form

MODEL = "lstm128"
FORM: Form = "fused"
STREAMS = 64
# The kernel deals connections out to workers at random: many of them come out even.
WORKER_CONNECTIONS = 8


def measure(bench: Bench) -> Section:
    section = Section(
        "sequences",
        2,
        "64 sequences, one stream each, one step a message",
        "Hidden 128, fused. The Open Inference Protocol, and for comparison gatestream's own wire, on one connection; "
        f"with two workers on {WORKER_CONNECTIONS}. limit-echo has messages of the same size, on one connection too.",
    )
    server = bench.gatestream(MODEL, FORM)
    own = bench.load(server, MODEL, streams=STREAMS)
    size = bench.message_bytes(own)
    cases: dict[str, Case] = {}
    inference = speaks_inference(server)
    if inference:
        load = bench.inference_load(server, MODEL, streams=STREAMS)
        size = bench.message_bytes(load)
        cases["gatestream, Open Inference Protocol"] = bench.closed(load)
    else:
        section.skipped.append(f"over the Open Inference Protocol: the server has no service {INFERENCE}")
    echo = bench.echo()
    cases["gatestream, own wire"] = bench.closed(own)
    cases["limit-echo"] = bench.closed(bench.echo_load(echo, size, streams=STREAMS))
    cases["by-hand"] = bench.closed(bench.by_hand_load(bench.by_hand(MODEL, FORM), MODEL, streams=STREAMS))
    workers = inference and knows("--workers")
    if workers:
        two = bench.gatestream(MODEL, FORM, workers=2)
        spread = {"streams": STREAMS, "connections": WORKER_CONNECTIONS}
        cases["gatestream, Open Inference Protocol, two workers"] = bench.closed(
            bench.inference_load(two, MODEL, **spread)
        )
        cases[f"limit-echo, {WORKER_CONNECTIONS} connections"] = bench.closed(bench.echo_load(echo, size, **spread))
    elif inference:
        section.skipped.append("with two workers: `gatestream serve` has no flag --workers")
    windows = bench.interleave(cases)
    section.contenders = {name: summarise(windows[name]) for name in cases}

    def against_echo(name: str, figure: str, claim: str, bound: float, at_most: bool) -> None:
        measured = ratios(column(windows[name], figure), column(windows["limit-echo"], figure))
        section.verdicts.append(Verdict(claim, measured, bound, at_most))

    if inference:
        name = "gatestream, Open Inference Protocol"
        against_echo(name, "messages_per_s", "requests/s over limit-echo", 0.80, at_most=False)
        against_echo(name, "server_cpu_us", "server CPU a request over limit-echo", 1.25, at_most=True)
    if workers:
        name = "gatestream, Open Inference Protocol, two workers"
        against_echo(name, "messages_per_s", "requests/s of two workers over limit-echo", 1.0, at_most=False)
    if not inference:
        measured = ratios(
            column(windows["gatestream, own wire"], "messages_per_s"), column(windows["limit-echo"], "messages_per_s")
        )
        section.notes.append(f"Own wire: {measured.median:.2f} of limit-echo's messages/s.")
    return section
