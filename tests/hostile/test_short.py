"""The short form of `make test-hostile`: a hundredth of the patterns, and some messages of the fuzzer.

Survival, statuses, the neighbour's numbers and roughly the memory; no times, which a busy machine makes.
"""

import time
from collections.abc import Iterator

import pytest

from tests.hostile.attack import run
from tests.hostile.fuzz import fuzz
from tests.hostile.patterns import PATTERNS
from tests.hostile.served import Server, serving

SCALE = 0.01
ROUGHLY_MIB = 400.0
# Of each kind some; not those that wait.
SHORT = {
    served: [each.name for each in PATTERNS.values() if each.served == served and each.short]
    for served in ("open", "tokens")
}


@pytest.fixture(scope="module")
def open_server() -> Iterator[Server]:
    with serving("open", "oip") as running:
        yield from watched(running)


@pytest.fixture(scope="module")
def server_with_tokens() -> Iterator[Server]:
    with serving("tokens") as running:
        yield from watched(running)


def watched(server: Server) -> Iterator[Server]:
    """A server of which these hold at the end, as well."""
    begin, before = time.time(), server.rss_mib()
    yield server
    assert server.alive, server.log[-3000:]
    seen = server.seen(begin, time.time())
    assert (seen.wrong, seen.errors) == (0, [])
    assert server.rss_mib() - before < ROUGHLY_MIB


def attempt(server: Server, name: str) -> None:
    target = server.target
    target.scale = SCALE
    assert run(name, target).wrong == ""
    assert server.alive, server.log[-3000:]


@pytest.mark.parametrize("name", SHORT["open"])
def test_a_pattern(open_server: Server, name: str) -> None:
    attempt(open_server, name)


@pytest.mark.parametrize("name", SHORT["tokens"])
def test_a_pattern_of_a_tenant(server_with_tokens: Server, name: str) -> None:
    attempt(server_with_tokens, name)


def test_the_fuzzer(server_with_tokens: Server) -> None:
    assert fuzz(server_with_tokens, 1_500, seed=1).violations == []
