import asyncio
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from gatestream.server.config import ServerConfig
from gatestream.server.durability.sqlite import SqliteStore
from gatestream.server.process import busy_poll
from gatestream.server.process.busy_poll import BusySelector
from gatestream.server.process.event_loop import Loop

TICK = 0.001


class Clock:
    """Every look at it takes a tick."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        self.now += TICK
        return self.now


class Watched(BusySelector):
    """Whose time is the looks at its clock."""

    def __init__(self, most: float, clock: Clock):
        super().__init__(most, clock)
        self.clock = clock

    def worked(self, seconds: float) -> None:
        self.clock.now += seconds

    def looks(self) -> int:
        """How often it looks in a wait in which nothing comes; it sleeps no longer than a millisecond then."""
        before = self.clock.now
        assert self.select(TICK) == []
        # One look at the clock before the first, and one after the sleep.
        return round((self.clock.now - before) / TICK) - 2


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    ours, theirs = socket.socketpair()
    yield ours, theirs
    ours.close()
    theirs.close()


def test_it_looks_no_longer_than_it_worked() -> None:
    selector = Watched(1.0, Clock())
    selector.worked(20 * TICK)
    looks = selector.looks()
    assert 18 <= looks <= 22
    # Nothing was done since, but for what the test's own look at the clock took.
    assert selector.looks() <= 2
    selector.worked(5 * TICK)
    assert 3 <= selector.looks() <= 8


def test_it_looks_for_no_longer_than_is_allowed_at_a_time() -> None:
    selector = Watched(10 * TICK, Clock())
    selector.worked(100 * TICK)
    assert 8 <= selector.looks() <= 12
    assert selector.looks() <= 2


def test_it_may_be_told_not_to_look() -> None:
    selector = Watched(0.0, Clock())
    selector.worked(100 * TICK)
    assert selector.looks() == 0


def test_what_comes_while_it_looks_is_told_at_once(pair: tuple[socket.socket, socket.socket]) -> None:
    ours, theirs = pair
    selector = Watched(1.0, Clock())
    selector.register(ours, 1, "data")
    selector.worked(1.0)
    theirs.send(b"1")
    # Without a timeout it would sleep for good if it missed this.
    ((key, events),) = selector.select(None)
    assert (key.data, events) == ("data", 1)
    # And what it did not need, it may look for in the next wait.
    ours.recv(1)
    assert selector.looks() > 900


def test_it_sleeps_until_something_comes(pair: tuple[socket.socket, socket.socket]) -> None:
    ours, theirs = pair
    selector = Watched(0.0, Clock())
    selector.register(ours, 1)
    threading.Timer(0.05, theirs.send, [b"1"]).start()
    assert len(selector.select(None)) == 1


def test_a_loop_that_has_other_things_to_do_does_not_look() -> None:
    selector = Watched(1.0, Clock())
    selector.worked(1.0)
    before = selector.clock.now
    assert selector.select(0) == []
    assert selector.clock.now == before


def test_a_loop_does_not_look_while_a_thread_is_at_work() -> None:
    selector = BusySelector(1.0)
    loop = Loop(selector)
    seen: list[bool] = []
    release = threading.Event()

    async def main() -> None:
        first, second = (loop.run_in_executor(None, release.wait) for _ in range(2))
        seen.append(selector.at_once)
        release.set()
        await first
        await second
        await asyncio.sleep(0)
        seen.append(selector.at_once)

    loop.run_until_complete(main())
    loop.run_until_complete(loop.shutdown_default_executor())
    loop.close()
    assert seen == [True, False]


def test_a_loop_does_not_look_while_the_store_is_at_work(tmp_path: Path) -> None:
    selector = BusySelector(1.0)
    loop = Loop(selector)
    store = SqliteStore(tmp_path / "sessions.db")

    async def main() -> list[bool]:
        seen = [selector.at_once]
        beats = [asyncio.create_task(store.beat(owner)) for owner in ("one", "other")]
        await asyncio.sleep(0)
        seen.append(selector.at_once)
        await asyncio.gather(*beats)
        seen.append(selector.at_once)
        await store.close_store("one")
        return seen

    assert loop.run_until_complete(main()) == [False, True, False]
    loop.run_until_complete(loop.shutdown_default_executor())
    loop.close()


def ready(selector: BusySelector, events: int) -> bool:
    """Whether the loop sleeps at once after so many of gRPC's events came together."""
    loop = Loop(selector)

    async def main() -> None:
        bell = PollerCompletionQueue()
        loop.add_reader(bell.ours, bell.handle)
        bell.theirs.send(b"1" * events)
        while not bell.heard:
            await asyncio.sleep(0)
        loop.remove_reader(bell.ours)
        bell.ours.close()
        bell.theirs.close()

    loop.run_until_complete(main())
    loop.close()
    return selector.at_once


class PollerCompletionQueue:
    """As gRPC's, by its name."""

    def __init__(self) -> None:
        self.ours, self.theirs = socket.socketpair()
        self.heard = 0

    def handle(self) -> None:
        self.ours.recv(1)
        self.heard += 1


def test_a_loop_does_not_look_where_many_streams_are_at_work() -> None:
    assert [ready(BusySelector(1.0), events) for events in (1, 2, 3, 50)] == [False, False, True, True]


@pytest.mark.parametrize(("cpus", "workers", "seconds"), [(1, 1, 0), (2, 1, 1e-4), (3, 2, 0), (4, 2, 1e-4)])
def test_each_worker_looks_where_it_has_two_cpus(
    monkeypatch: pytest.MonkeyPatch, cpus: int, workers: int, seconds: float
) -> None:
    monkeypatch.setattr(busy_poll, "cpus_available", lambda: cpus)
    config = ServerConfig(artifacts=(Path("m.onnx"),), workers=workers, busy_poll_us=100)
    assert busy_poll.busy_poll(config) == pytest.approx(seconds)
