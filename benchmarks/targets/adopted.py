"""What a model costs that was not made here, against ours and against its own file."""

import json
import subprocess
import sys

from benchmarks import strangers
from benchmarks.harness.bench import Bench, Case
from benchmarks.harness.processes import ROOT
from benchmarks.harness.report import Section, Verdict
from benchmarks.harness.statistics import Spread, column, ratios, summarise
from benchmarks.strangers import LSTM, SAMPLES, WINDOW

PACKED = 512
CROWD = 64
ONE_BY_ONE = "window, onnxruntime, one after another"
AT_ONCE = f"window, onnxruntime, batch {CROWD}"
SERVED = f"window, gatestream, {CROWD} sessions"


def measure(bench: Bench) -> Section:
    strangers.prepare()
    section = Section(
        "adopted",
        0,
        "Models that were not made here",
        f"torch's LSTM of hidden 128, exported by torch and adopted, beside ours of form fused: {PACKED} sessions in a "
        "message, and one session alone; the same with `--form gates`, beside ours of form gates. A model of windows, "
        f"of the size of a voice-activity detector, adopted and stepped for {CROWD} sessions at once, beside its own "
        f"file in onnxruntime on one thread, stepped for one session after another, and for {CROWD} in a batch.",
    )
    cases: dict[str, Case] = {}
    servers = {
        "ours": bench.gatestream(LSTM, "fused"),
        "adopted": bench.serving(strangers.adopted(LSTM)),
        "ours, gates": bench.gatestream(LSTM, "gates"),
        "adopted, gates": bench.serving(strangers.adopted(LSTM, "gates")),
    }
    for sessions in (PACKED, 1):
        for name, server in servers.items():
            cases[f"{name}, {sessions}"] = bench.closed(bench.load(server, LSTM, sessions=sessions))
    window = bench.serving(strangers.adopted(WINDOW))
    row = {"model": WINDOW, "features": SAMPLES, "tokens": 0, "outputs": 1}
    cases[SERVED] = bench.closed(bench.load_of(window, row, sessions=CROWD))
    for name, batch in ((ONE_BY_ONE, 1), (AT_ONCE, CROWD)):
        cases[name] = bench.closed(bench.original_run(strangers.original(WINDOW), batch))
    windows = bench.interleave(cases)
    section.contenders = {name: summarise(windows[name]) for name in cases}
    steps = {name: column(found, "steps_per_s") for name, found in windows.items()}
    for form in ("", ", gates"):
        for sessions, what in ((PACKED, "packed"), (1, "single steps")):
            ratio = ratios(steps[f"adopted{form}, {sessions}"], steps[f"ours{form}, {sessions}"])
            section.verdicts.append(Verdict(f"steps/s over our own{form}, {what}", ratio, 0.95, at_most=False))
    gain = ratios(steps[AT_ONCE], steps[ONE_BY_ONE])
    # A model that gains less than this by a batch cannot be served faster than the batch allows.
    bound = min(5.0, round(0.8 * gain.median, 2))
    over = ratios(steps[SERVED], steps[ONE_BY_ONE])
    section.verdicts.append(Verdict(f"{CROWD} sessions over steps one after another", over, bound, at_most=False))
    section.notes.append(f"The model's own gain by a batch of {CROWD}: {gain}.")
    seconds = _seconds()
    section.contenders["adopting a file of the test packages"] = {"seconds": Spread.of(list(seconds.values()))}
    slowest = max(seconds, key=seconds.__getitem__)
    longest = Spread(seconds[slowest], min(seconds.values()), seconds[slowest])
    section.verdicts.append(Verdict(f"to adopt the slowest file, {slowest}", longest, 30.0, at_most=True, unit="s"))
    return section


def _seconds() -> dict[str, float]:
    """To adopt, or refuse, each file of the test packages, in a process of its own."""
    command = [sys.executable, "-W", "ignore", "-m", "tests.models", "--seconds"]
    found: dict[str, float] = json.loads(subprocess.run(command, check=True, capture_output=True, cwd=ROOT).stdout)
    return found
