"""The table of what was seen, as docs/measured.md has it."""

import datetime
import os
import platform
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import grpc
import numpy as np

from gatestream.files.writing import write
from tests.hostile.fuzz import Fuzzed
from tests.hostile.trial import Trial

BEGIN: Final = "<!-- hostile: begin, written by `python -m tests.hostile --publish` -->"
END: Final = "<!-- hostile: end -->"
MEASURED: Final = Path(__file__).parents[2] / "docs" / "measured.md"


def table(trials: Sequence[Trial]) -> str:
    """Every pattern in a row; what broke its bound is in bold."""
    head = [
        "| what a client did | bytes sent | loop held, ms | neighbour's p99, alone, beside, ms "
        "| memory before, peak, later, MiB |",
        "| --- | --- | --- | --- | --- |",
    ]
    return "\n".join(head + [_row(trial) for trial in trials])


def _row(trial: Trial) -> str:
    pattern = trial.pattern
    held = _bounded(trial.hold_ms, pattern.hold_ms)
    p99 = f"{trial.alone.p99:.1f}, {_bounded(trial.beside.p99, pattern.p99_ms)}"
    peak = _bounded(trial.peak_mib - trial.before_mib, pattern.peak_mib, trial.peak_mib)
    later = _bounded(trial.later_mib - trial.before_mib, pattern.later_mib, trial.later_mib)
    memory = f"{trial.before_mib:.0f}, {peak}, {later}"
    dead = "" if trial.alive else " (**the server ended**)"
    again = " *" if trial.tries > 1 else ""
    return f"| {pattern.name}{again}{dead} | {_bytes(trial.done.sent)} | {held} | {p99} | {memory} |"


def _bounded(value: float, bound: float, shown: float | None = None) -> str:
    """A number, in bold where it is over its bound; of the callbacks only those of a millisecond are seen."""
    number = value if shown is None else shown
    text = f"{number:.0f}" if shown is not None else f"{number:.1f}" if number else "< 1"
    return f"**{text}**" if value > bound else text


def _bytes(count: float) -> str:
    for unit in ("B", "kB", "MB"):
        if count < 1000:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:.3g} GB"


def report(trials: Sequence[Trial], fuzzed: Sequence[Fuzzed], minutes: float) -> str:
    """What docs/measured.md says of a run."""
    steps = sum(trial.alone.steps + trial.beside.steps for trial in trials)
    wrong = sum(trial.alone.wrong + trial.beside.wrong for trial in trials)
    said = (
        f"{datetime.date.today()}, `make test-hostile`, {minutes:.0f} minutes on {_machine()}: {len(trials)} patterns, "
        "each by a client in a process of its own on the same machine. The neighbour took "
        f"{steps:,} steps meanwhile, of which {wrong} had a wrong number. The loop is held for the CPU time of its "
        "thread in one callback: at most 5 ms for what is refused, 20 ms for what is taken. The neighbour's p99 is at "
        "most 100 ms. More of either is for what operations.md gives a reason. What broke a bound of time was tried "
        "again, three times at most, and the least of each time counts: the patterns marked with *. What the machine "
        "does by itself, the pattern of nothing shows. Bold: over its bound."
    )
    return "\n".join([*textwrap.wrap(said, 120), "", table(trials), "", *(each.line for each in fuzzed)])


def _machine() -> str:
    versions = f"Python {platform.python_version()}, grpcio {grpc.__version__}, numpy {np.__version__}"
    return f"{len(os.sched_getaffinity(0))} CPUs ({platform.machine()}), {versions}"


def publish(text: str, path: Path = MEASURED) -> None:
    """Put it between the markers."""
    whole = path.read_text()
    before, begin, rest = whole.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not (begin and end):
        raise SystemExit(f"{path} has not the lines {BEGIN} and {END}")
    write(path, f"{before}{BEGIN}\n\n{text}\n\n{END}{after}".encode())
