"""Leases between real processes, since a process never collides with itself."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from gatestream.server.durability.leases import LeaseFiles, WorkerLeases
from gatestream.server.errors import Elsewhere, Reason

# Does what it reads, one expression a line, and says what came of it.
WORKER = """
import sys
from gatestream.server.durability.leases import LeaseFiles, WorkerLeases
from gatestream.server.errors import Elsewhere

def taken(claims, name):
    try:
        return bool(claims.claim("m", "", name))
    except Elsewhere:
        return False

claims = WorkerLeases(eval(sys.argv[1]), int(sys.argv[2]))
for line in sys.stdin:
    try:
        print(eval(line), flush=True)
    except Exception as error:
        print(type(error).__name__, error, flush=True)
"""


class Other:
    """Another worker."""

    def __init__(self, files: LeaseFiles, worker: int):
        self.popen = subprocess.Popen(
            [sys.executable, "-c", WORKER, repr(files), str(worker)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            pass_fds=files.descriptors,
        )

    def does(self, expression: str) -> str:
        self.asks(expression)
        return self.says()

    def asks(self, expression: str) -> None:
        assert self.popen.stdin is not None
        self.popen.stdin.write(expression + "\n")
        self.popen.stdin.flush()

    def says(self) -> str:
        assert self.popen.stdout is not None
        return self.popen.stdout.readline().strip()


@pytest.fixture
def files() -> Iterator[LeaseFiles]:
    made = LeaseFiles.make(3, sessions=100)
    yield made
    for descriptor in made.descriptors:
        os.close(descriptor)


@contextmanager
def other(files: LeaseFiles, worker: int) -> Iterator[Other]:
    process = Other(files, worker)
    try:
        yield process
    finally:
        process.popen.kill()
        process.popen.communicate()


def test_a_session_is_one_workers_until_it_lets_go(files: LeaseFiles) -> None:
    mine = WorkerLeases(files, 1)
    with other(files, 2) as second:
        claim = second.does("claims.claim('m', 't', 'a')")
        for refused in (mine.claim, mine.check):
            with pytest.raises(Elsewhere, match="session 'a' lives in worker 2 of this server") as caught:
                refused("m", "t", "a")
            assert caught.value.reason == Reason.SESSION_ELSEWHERE
        second.does(f"claims.release([{claim}])")
        mine.check("m", "t", "a")
        assert str(mine.claim("m", "t", "a")) == claim
        assert second.does("claims.check('m', 't', 'a')").startswith("Elsewhere session 'a' lives in worker 1 ")


def test_models_and_tenants_have_names_of_their_own(files: LeaseFiles) -> None:
    mine = WorkerLeases(files, 1)
    with other(files, 2) as second:
        second.does("claims.claim('m', 't', 'a')")
        assert len({mine.claim(*name) for name in (("m", "t", "b"), ("m", "u", "a"), ("n", "t", "a"))}) == 3


def test_each_worker_is_told_by_its_number(files: LeaseFiles) -> None:
    mine = WorkerLeases(files, 2)
    with other(files, 1) as first, other(files, 3) as third:
        first.does("claims.claim('m', '', 'a')")
        third.does("claims.claim('m', '', 'b')")
        for session_id, worker in (("a", 1), ("b", 3)):
            with pytest.raises(Elsewhere, match=f"'{session_id}' lives in worker {worker} "):
                mine.check("m", "", session_id)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_worker_that_dies_has_let_go(files: LeaseFiles, number: signal.Signals) -> None:
    mine = WorkerLeases(files, 1)
    with other(files, 2) as second:
        names = [f"session-{k}" for k in range(200)]
        second.does(f"[claims.claim('m', '', name) for name in {names}]")
        with pytest.raises(Elsewhere):
            mine.claim("m", "", names[0])
        second.popen.send_signal(number)
        second.popen.wait()
        assert len({mine.claim("m", "", name) for name in names}) == 200


def test_of_two_workers_that_want_the_same_sessions_at_once_one_gets_each(files: LeaseFiles) -> None:
    with other(files, 1) as first, other(files, 2) as second:
        # Both begin before either is waited for.
        for process in (first, second):
            process.asks("''.join('01'[taken(claims, f'session-{k}')] for k in range(5000))")
        got = [process.says() for process in (first, second)]
    assert all(int(a) + int(b) == 1 for a, b in zip(*got, strict=True))


def test_many_sessions_spread_over_many_files() -> None:
    files = LeaseFiles.make(2, sessions=10_000_000)
    claims = WorkerLeases(files, 1)
    assert len({claims.claim("m", "", str(k)) % len(files.descriptors) for k in range(5000)}) == 256
    for descriptor in files.descriptors:
        os.close(descriptor)
