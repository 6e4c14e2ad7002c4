"""From one stream to hundreds, beside what the transport can do at best."""

from benchmarks.harness.bench import Bench, Case
from benchmarks.harness.report import Section, Verdict
from benchmarks.harness.statistics import Spread, column, ratios, summarise
from benchmarks.models import Form

MODEL = "lstm128"
FORM: Form = "fused"
STREAMS = (1, 2, 4, 8, 16, 32, 64, 250)
# A client of gRPC opens no more streams on one connection than the server lets it: 100 by default.
STREAMS_OF_CONNECTION = 64
DOORS = ("gatestream", "gatestream, Open Inference")
ECHO, BOTH = "limit-echo, tuned", "limit-both, tuned"
LIMITS = ("limit-echo", ECHO, BOTH)
RUN = "limit-run, 1"
OVER_BOTH = 0.9
OVER_FLOOR = 1.03


def measure(bench: Bench) -> Section:
    section = Section(
        "streams",
        0,
        "From one stream to 250, one step a message",
        "Hidden 128, fused; a stream for each session, each with one step in flight. limit-both makes a run of batch 1 "
        "for each message. Tuned: on gatestream's event loop, with all that it does to the process and to gRPC. The "
        "floor of one stream is the median of limit-echo, tuned, and of a run at batch 1.",
    )
    server, both = bench.gatestream(MODEL, FORM), bench.tuned_both(MODEL, FORM)
    echo, tuned_echo = bench.echo(), bench.echo(tuned=True)
    cases: dict[str, Case] = {}
    for count in STREAMS:
        connections = -(-count // STREAMS_OF_CONNECTION)
        load = bench.load(server, MODEL, streams=count, connections=connections)
        other = bench.inference_load(server, MODEL, streams=count, connections=connections)
        size = bench.message_bytes(load)
        limits = (
            bench.echo_load(limit, size, streams=count, connections=connections) for limit in (echo, tuned_echo, both)
        )
        for name, each in zip((*DOORS, *LIMITS), (load, other, *limits), strict=True):
            cases[f"{name}, {count}"] = bench.closed(each)
    cases[RUN] = bench.closed(bench.bare_run(MODEL, FORM, batch=1))
    windows = bench.interleave(cases, bench.pace.sweeps)
    section.contenders = {name: summarise(windows[name]) for name in cases}

    def over(door: str, limit: str, count: int, figure: str) -> Spread:
        return ratios(*(column(windows[f"{name}, {count}"], figure) for name in (door, limit)))

    floor = [a + b for a, b in zip(*(column(windows[name], "p50_us") for name in (f"{ECHO}, 1", RUN)), strict=True)]
    for door in DOORS:
        alone = ratios(column(windows[f"{door}, 1"], "p50_us"), floor)
        section.verdicts.append(Verdict(f"{door}, one stream: p50 over the floor", alone, OVER_FLOOR, at_most=True))
        for count in STREAMS[1:]:
            claim = f"{door}, {count} streams: messages/s over {BOTH}"
            measured = over(door, BOTH, count, "messages_per_s")
            section.verdicts.append(Verdict(claim, measured, OVER_BOTH, at_most=False))
    for limit in LIMITS:
        for figure, said in (("messages_per_s", "Messages/s"), ("server_cpu_us", "Server CPU a message")):
            found = "; ".join(f"{count}: {over(DOORS[0], limit, count, figure)}" for count in STREAMS)
            section.notes.append(f"{said} over {limit}, by streams: {found}.")
    return section
