"""From one stream to hundreds, beside what the transport can do at best."""

from benchmarks.harness.bench import Bench, Case
from benchmarks.harness.report import Section
from benchmarks.harness.statistics import column, ratios, summarise
from benchmarks.models import Form

MODEL = "lstm128"
FORM: Form = "fused"
STREAMS = (1, 2, 4, 8, 16, 32, 64, 250)
# A client of gRPC opens no more streams on one connection than the server lets it: 100 by default.
STREAMS_OF_CONNECTION = 64
LIMITS = ("limit-echo", "limit-echo, tuned", "limit-both, tuned")


def measure(bench: Bench) -> Section:
    section = Section(
        "streams",
        0,
        "From one stream to 250, one step a message",
        "Hidden 128, fused; a stream for each session, each with one step in flight. limit-both makes a run of batch 1 "
        "for each message. Tuned: on gatestream's event loop, with all that it does to the process and to gRPC.",
    )
    server, both = bench.gatestream(MODEL, FORM), bench.tuned_both(MODEL, FORM)
    echo, tuned_echo = bench.echo(), bench.echo(tuned=True)
    cases: dict[str, Case] = {}
    for count in STREAMS:
        connections = -(-count // STREAMS_OF_CONNECTION)
        load = bench.load(server, MODEL, streams=count, connections=connections)
        size = bench.message_bytes(load)
        limits = (
            bench.echo_load(limit, size, streams=count, connections=connections) for limit in (echo, tuned_echo, both)
        )
        loads = [load, *limits]
        for name, each in zip(("gatestream", *LIMITS), loads, strict=True):
            cases[f"{name}, {count}"] = bench.closed(each)
    windows = bench.interleave(cases, bench.pace.sweeps)
    section.contenders = {name: summarise(windows[name]) for name in cases}
    for limit in LIMITS:
        for figure, said in (("messages_per_s", "Messages/s"), ("server_cpu_us", "Server CPU a message")):
            over = []
            for count in STREAMS:
                ours, theirs = (column(windows[f"{name}, {count}"], figure) for name in ("gatestream", limit))
                over.append(f"{count}: {ratios(ours, theirs)}")
            section.notes.append(f"{said} over {limit}, by streams: {'; '.join(over)}.")
    return section
