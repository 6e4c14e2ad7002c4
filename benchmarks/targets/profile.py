"""Target 10: what a tick does in Python, counted."""

import json
import os
import signal
import tempfile
import time
from collections import Counter
from pathlib import Path

from benchmarks.harness.bench import Bench
from benchmarks.harness.processes import Instrument, Server
from benchmarks.harness.report import Section, Verdict
from benchmarks.harness.statistics import Spread
from benchmarks.models import Form

MODEL = "lstm128"
FORM: Form = "fused"
FEW, MANY = 64, 512
OPEN = 20_000
MESSAGES = 200
# A call for each session would come to all of them; a longer message takes a few calls more to be read and sent.
GROWS = 0.01 * (MANY - FEW)

Counts = dict[str, dict[str, float]]


def measure(bench: Bench) -> Section:
    section = Section(
        "profile",
        10,
        "What a tick does in Python",
        "Hidden 128, fused; one message in flight, one tick a message. Calls of Python functions, and from Python "
        f"into C, are counted in the server (sys.setprofile) over {MESSAGES} messages. It runs with --busy-poll-us 0: "
        "how often it looks for what comes says how long that took.",
    )
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "calls.json"
        room = {"sessions": OPEN + MANY, "sessions_per_stream": OPEN}
        server = bench.counted(MODEL, FORM, file, busy_poll_us=0, **room)
        counts = {
            f"{FEW} sessions packed": _a_message(server, bench.load(server, MODEL, sessions=FEW), file),
            f"{MANY} sessions packed": _a_message(server, bench.load(server, MODEL, sessions=MANY), file),
        }
        crowd = bench.load(server, MODEL, sessions=MANY, idle=OPEN - 2 * MANY)
        counts[f"{MANY} sessions packed, {OPEN:,} open"] = _a_message(server, crowd, file)
    totals = {name: {kind: sum(by_name.values()) for kind, by_name in c.items()} for name, c in counts.items()}
    section.contenders = {
        name: {kind: Spread.of([number]) for kind, number in kinds.items()} for name, kinds in totals.items()
    }
    few, many, crowded = totals.values()
    for claim, above, below in (
        (f"calls in a tick of {MANY} sessions over those in one of {FEW}", many, few),
        (f"calls in a tick with {OPEN:,} sessions open over those with few", crowded, many),
    ):
        ratio = sum(above.values()) / sum(below.values())
        section.verdicts.append(Verdict(claim, Spread.of([ratio]), 1.1, at_most=True))
    section.notes += _growing(*list(counts.values())[:2])
    return section


def _a_message(server: Server, load: Instrument, file: Path) -> Counts:
    load.count(20)
    before = _counts(server, file)
    load.count(MESSAGES)
    after = _counts(server, file)
    return {
        kind: {
            name: (times - before[kind].get(name, 0)) / MESSAGES
            for name, times in after[kind].items()
            if times > before[kind].get(name, 0)
        }
        for kind in after
    }


def _counts(server: Server, file: Path) -> dict[str, Counter[str]]:
    file.unlink(missing_ok=True)
    os.kill(server.pid, signal.SIGUSR1)
    while not file.exists():
        if not server.running:
            raise server.failure("ended")
        time.sleep(0.01)
    return {kind: Counter(by_name) for kind, by_name in json.loads(file.read_text()).items()}


def _growing(few: Counts, many: Counts) -> list[str]:
    notes = []
    for kind, word in (("calls", "called"), ("c_calls", "calling into C")):
        for name, times in sorted(many[kind].items(), key=lambda item: -item[1]):
            before = few[kind].get(name, 0)
            if times > before + GROWS:
                notes.append(f"Grows with the sessions: `{name}`, {word} {before:.1f} times, then {times:.1f}.")
    return notes or ["No function is called for each session."]
