"""The short form of `make test-hostile`: a hundredth of the patterns, and some messages of the fuzzer.

Survival, statuses, the neighbour's numbers and roughly the memory; no times, which a busy machine makes. Some patterns
are tried on servers with TLS, and with workers, too.
"""

import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Final

import pytest

from tests.hostile.attack import run
from tests.hostile.fuzz import fuzz
from tests.hostile.patterns import PATTERNS
from tests.hostile.served import Server, serving
from tests.hostile.target import Served

SCALE = 0.01
ROUGHLY_MIB = 400.0
# Of each kind some; not those that wait.
SHORT: Final[dict[Served, Sequence[str]]] = {
    served: [each.name for each in PATTERNS.values() if each.served == served and each.short]
    for served in ("open", "tokens")
}
# Through connections of gRPC's own, and of one each: another may lead to another worker.
SHORT["tls"] = (
    "Reset of 10,000 unknown handles, stream after stream",
    "malformed messages behind good ones",
    "calls cancelled with steps in line",
    "two clients that take one session from each other",
    'outputs ["y", "y"], on a stream too',
    "requests of 4 MiB whose ids alternate",
)
SHORT["workers"] = (
    "metadata that is not UTF-8 or not base64",
    "2,000 calls with a deadline that is none",
    "malformed messages behind good ones",
    "calls cancelled with steps in line",
    'outputs ["y", "y"], on a stream too',
    "one sequence started and ended without pause",
    "parameters of the wrong type",
)
FUZZER: Final = "the fuzzer"
FUZZED: Final[dict[Served, int]] = {"tokens": 1_500, "workers": 600}
SEED = int(os.environ.get("GATESTREAM_HOSTILE_SEED", "1"))

# Of one server together: another is started for those of the next.
CASES = [
    (served, name) for served, names in SHORT.items() for name in (*names, *([FUZZER] if served in FUZZED else []))
]


@contextmanager
def watched(served: Served) -> Iterator[Server]:
    """A server of which these hold at the end, as well."""
    with serving(served, "oip" if served == "open" else "own") as server:
        begin, before = time.time(), server.rss_mib()
        yield server
        assert server.alive, server.log[-3000:]
        assert "worker died" not in server.log
        seen = server.seen(begin, time.time())
        assert (seen.wrong, seen.errors) == (0, [])
        assert server.rss_mib() - before < ROUGHLY_MIB


@pytest.fixture(scope="module")
def server_of() -> Iterator[Callable[[Served], Server]]:
    with ExitStack() as stack:
        running: list[Server] = []

        def of(served: Served) -> Server:
            if not running or running[-1].served != served:
                stack.close()
                running.append(stack.enter_context(watched(served)))
            return running[-1]

        yield of


@pytest.mark.parametrize(("served", "name"), CASES)
def test_a_pattern(server_of: Callable[[Served], Server], served: Served, name: str) -> None:
    server = server_of(served)
    if name == FUZZER:
        found = fuzz(server, FUZZED[served], SEED)
        assert found.violations == [], found.line
        return
    target = server.target
    target.scale = SCALE
    assert run(name, target).wrong == ""
    assert server.alive, server.log[-3000:]
