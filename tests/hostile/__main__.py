"""Every pattern, then the fuzzer, and a table of what was seen: `python -m tests.hostile`."""

import argparse
import time
from collections.abc import Iterator, Sequence

from tests.hostile.fuzz import Fuzzed, fuzz, replay
from tests.hostile.patterns import PATTERNS
from tests.hostile.served import NotServing, Server, serving
from tests.hostile.table import publish, report
from tests.hostile.target import Pattern, Served
from tests.hostile.trial import Trial, attempt, least, untried

MUCH_MIB = 800.0
TRIES = 3
"""At most, of a pattern that broke a bound of time."""
SERVERS: Sequence[Served] = ("open", "tokens", "log full", "log closed")
BOTH: Sequence[tuple[Served, str]] = ("open", "oip"), ("tokens", "own")


def tried(patterns: Sequence[Pattern], scale: float) -> Iterator[Trial]:
    """One server for all patterns that are for it; a new one where one has ended, or was left with much memory."""
    for served in SERVERS:
        left = [each for each in patterns if each.served == served]
        while left:
            try:
                with serving(served) as server:
                    while left and server.alive and server.rss_mib() < MUCH_MIB:
                        trial = attempted(left.pop(0), server, scale)
                        yield trial
                        if not trial.served_on:
                            break
            except NotServing as error:
                # Whoever is next in turn cannot be tried, and that is what is wrong with it.
                trial = untried(left.pop(0), str(error))
                print(_line(trial), flush=True)
                yield trial


def attempted(pattern: Pattern, server: Server, scale: float) -> Trial:
    """A pattern tried once, and again where a bound of time was broken and nothing else."""
    trials: list[Trial] = []
    while not trials or (least(trials).passing and not trials[-1].lasting and len(trials) < TRIES):
        trials.append(attempt(pattern, server, scale))
        print(_line(trials[-1]), flush=True)
    return least(trials)


def fuzz_both(messages: int, seed: int) -> Iterator[Fuzzed]:
    """Without tokens, the neighbour at the second door; with tokens, the neighbour another tenant on the own wire."""
    for k, (served, door) in enumerate(BOTH):
        with serving(served, door) as server:
            found = fuzz(server, messages // 2, seed + k)
        print(found.line, flush=True)
        yield found


def replayed(seed: int) -> int:
    """One round of the fuzzer again, for a server of each kind."""
    broken = []
    for served, door in BOTH:
        with serving(served, door) as server:
            broken += [f"{served}: {each}" for each in replay(server, seed)]
            if not server.alive:
                broken.append(f"{served}: the server ended")
    print("\n".join(broken) or "as it should be")
    return int(bool(broken))


def _line(trial: Trial) -> str:
    verdict = "; ".join(trial.violations) or "ok"
    return (
        f"{trial.pattern.name}: {trial.done.sent:,} B, held {trial.hold_ms:.1f} ms, p99 {trial.alone.p99:.1f} / "
        f"{trial.beside.p99:.1f} ms of {trial.beside.steps}, {trial.before_mib:.0f} / {trial.peak_mib:.0f} / "
        f"{trial.later_mib:.0f} MiB, {trial.done.statuses}: {verdict}"
        + (f" [{trial.held_by}]" if trial.hold_ms > trial.pattern.hold_ms else "")
    )


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.hostile", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help="patterns whose names hold this; default: all")
    parser.add_argument("--list", action="store_true", help="only list the patterns")
    parser.add_argument("--scale", type=float, default=1.0, help="share of each pattern; default: 1")
    parser.add_argument("--messages", type=int, default=304_000, help="that the fuzzer sends; 0: none")
    parser.add_argument("--seed", type=int, default=8, help="of the fuzzer; default: 8")
    parser.add_argument("--replay", type=int, metavar="SEED", help="only what a round of the fuzzer sent")
    parser.add_argument("--publish", action="store_true", help="write what was seen into docs/measured.md")
    arguments = parser.parse_args()
    chosen = [each for each in PATTERNS.values() if not arguments.names or any(n in each.name for n in arguments.names)]
    if arguments.list:
        print("\n".join(each.name for each in chosen))
        return 0
    if arguments.replay is not None:
        return replayed(arguments.replay)
    begin = time.monotonic()
    trials = list(tried(chosen, arguments.scale))
    fuzzed = list(fuzz_both(arguments.messages, arguments.seed)) if arguments.messages else []
    text = report(trials, fuzzed, (time.monotonic() - begin) / 60)
    print(f"\n{text}\n")
    broken = [f"{trial.pattern.name}: {each}" for trial in trials for each in trial.violations]
    broken += [f"fuzzer: {each}" for found in fuzzed for each in found.violations]
    print("\n".join(["", f"{len(broken)} bounds broken", *broken]))
    if arguments.publish:
        publish(text)
    return int(bool(broken))


if __name__ == "__main__":
    raise SystemExit(main())
