"""One pattern in a process of its own: `python -m tests.hostile.attack NAME ADDRESS TOKEN OTHER_TOKEN SCALE`.

Prints one line of JSON: what was sent, what came back, and what was seen that must not be.
"""

import json
import os
import sys
from dataclasses import dataclass, field

from tests.hostile.patterns import PATTERNS
from tests.hostile.target import Target


@dataclass(frozen=True)
class Done:
    """How a pattern went, seen from its client.

    Attributes:
        wrong: what must not be; empty: nothing.
    """

    sent: int
    statuses: dict[str, int] = field(default_factory=dict)
    wrong: str = ""


def run(name: str, target: Target) -> Done:
    """Do it here."""
    pattern, wrong = PATTERNS[name], ""
    try:
        pattern.does(target)
    except Exception as error:
        wrong = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
    strange = {status: count for status, count in target.statuses.items() if status not in pattern.allowed}
    if strange and not wrong:
        wrong = f"answered with {strange}; expected {sorted(pattern.allowed)}"
    return Done(target.sent, dict(target.statuses), wrong)


def main(name: str, address: str, token: str, other_token: str, scale: str) -> None:
    # The server and the neighbour have the machine first: what they take from each other is what is measured.
    os.nice(10)
    done = run(name, Target(address, token, other_token, float(scale)))
    print(json.dumps({"sent": done.sent, "statuses": done.statuses, "wrong": done.wrong}))


if __name__ == "__main__":
    main(*sys.argv[1:])
    sys.stdout.flush()
    # Threads of calls that were left may still wait.
    os._exit(0)
