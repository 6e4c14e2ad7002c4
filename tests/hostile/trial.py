"""A pattern against a server with a neighbour: what it cost, and which bounds it broke."""

import json
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

from tests.hostile.attack import Done
from tests.hostile.neighbour import Seen
from tests.hostile.served import Memory, Server
from tests.hostile.target import Pattern

ALONE_SECONDS = 1.0
LATER_SECONDS = 2.0
REST_SECONDS = 0.5
LONGEST_SECONDS = 20.0
AT_REST = 0.5
"""Of a CPU: with a neighbour, a server that works nothing off any more takes less."""
ATTACK_SECONDS = 120.0
MOST_MIB = 3_000.0
"""Where a server has so much it is ended: a pattern must not take the machine along."""


@dataclass(frozen=True)
class Trial:
    """What was seen.

    Attributes:
        hold_ms: the longest callback of the server's loop, in CPU time of its thread; and which it was.
        before_mib: memory before; at its peak; some seconds later, when the server has worked off what came.
        alone: what the neighbour saw before.
        beside: what it saw from the beginning of the pattern to its end.
        tries: of how many this is what counts.
    """

    pattern: Pattern
    done: Done
    hold_ms: float
    held_by: str
    before_mib: float
    peak_mib: float
    later_mib: float
    alone: Seen
    beside: Seen
    alive: bool
    tries: int = 1

    @property
    def served_on(self) -> bool:
        """Whether the neighbour, and so whoever comes next, was still served."""
        return self.alive and not self.beside.errors and not self.alone.errors

    @property
    def violations(self) -> list[str]:
        """Each bound that was broken, with what was seen; empty: all held."""
        return self.lasting + self.passing

    @property
    def lasting(self) -> list[str]:
        """Of the violations those that once is too often."""
        found = []
        if not self.alive:
            found.append("the server ended")
        if self.done.wrong:
            found.append(self.done.wrong)
        if self.beside.wrong or self.alone.wrong:
            found.append(f"the neighbour got {self.beside.wrong + self.alone.wrong} wrong numbers")
        if self.beside.errors:
            found.append(f"the neighbour's stream ended: {self.beside.errors[0]}")
        return found + _over(
            ("memory rose by", self.peak_mib - self.before_mib, self.pattern.peak_mib, "MiB"),
            ("memory kept", self.later_mib - self.before_mib, self.pattern.later_mib, "MiB"),
        )

    @property
    def passing(self) -> list[str]:
        """Of the violations those of a time: a machine that does something else meanwhile makes them too."""
        return _over(
            ("the loop was held for", self.hold_ms, self.pattern.hold_ms, "ms"),
            ("the neighbour's p99 was", self.beside.p99, self.pattern.p99_ms, "ms"),
        )


def _over(*seen: tuple[str, float, float, str]) -> list[str]:
    return [f"{what} {got:.1f} {unit}, bound {bound:g}" for what, got, bound, unit in seen if got > bound]


def least(trials: Sequence[Trial]) -> Trial:
    """What several tries of a pattern say: what is no time is broken where it was once, and of each time the least.

    What else a machine does can only add to a time; what a pattern costs is in every try.
    """
    if broken := [trial for trial in trials if trial.lasting]:
        return replace(broken[0], tries=len(trials))
    held = min(trials, key=lambda trial: trial.hold_ms)
    slow = min(trials, key=lambda trial: trial.beside.p99)
    return replace(held, alone=slow.alone, beside=slow.beside, tries=len(trials))


def attempt(pattern: Pattern, server: Server, scale: float = 1.0) -> Trial:
    """Watch the neighbour alone, then beside the pattern, then wait a little."""
    begin = time.time()
    time.sleep(ALONE_SECONDS)
    before = server.rss_mib()
    attacked = time.time()
    with Memory(server, before + MOST_MIB) as memory:
        done = _attack(pattern, server, scale)
        ended = time.time()
        beside = server.seen(attacked, ended)
    hold_ms, held_by = server.hold_ms(attacked, time.time())
    _rest(server)
    return Trial(
        pattern,
        done,
        hold_ms,
        held_by,
        before,
        memory.peak_mib,
        server.rss_mib(),
        server.seen(begin, attacked),
        beside,
        server.alive,
    )


def _rest(server: Server) -> None:
    """Wait some seconds, and until the server has worked off what came, if that is not for ever."""
    begin, took = time.monotonic(), server.cpu_seconds()
    while time.monotonic() - begin < LONGEST_SECONDS:
        time.sleep(REST_SECONDS)
        before, took = took, server.cpu_seconds()
        if took - before < AT_REST * REST_SECONDS and time.monotonic() - begin >= LATER_SECONDS:
            break


def untried(pattern: Pattern, why: str) -> Trial:
    """A pattern whose server did not serve even its neighbour."""
    nothing = Seen(0, float("inf"), 0, [])
    done = Done(0, {}, " ".join(why.split())[-300:])
    return Trial(pattern, done, 0.0, "", 0.0, 0.0, 0.0, nothing, nothing, alive=False)


def _attack(pattern: Pattern, server: Server, scale: float) -> Done:
    target = server.target
    arguments = [pattern.name, target.address, target.token, target.other_token, str(scale)]
    command = [sys.executable, "-m", "tests.hostile.attack", *arguments]
    try:
        ended = subprocess.run(command, capture_output=True, text=True, timeout=ATTACK_SECONDS, check=False)
        return Done(**json.loads(ended.stdout.splitlines()[-1]))
    except subprocess.TimeoutExpired:
        return Done(0, {}, f"not over after {ATTACK_SECONDS:g} s")
    except (IndexError, ValueError):
        return Done(0, {}, f"the pattern failed: {ended.stderr[-300:]}")
