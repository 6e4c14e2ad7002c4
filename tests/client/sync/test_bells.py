"""Callers that wake each other: each hears, whoever leaves meanwhile, and however."""

import threading
from collections.abc import Callable

import pytest

from gatestream.client.sync.bells import Bell, Bells
from tests.support.wire import PATIENCE


@pytest.fixture
def bells() -> Bells:
    return Bells()


def waiting(bells: Bells, count: int, then: Callable[[], None] = lambda: None) -> tuple[list[Bell], list[bool]]:
    """So many threads, each of which waits for a bell that is due; what they have heard, once all have."""
    every = [Bell() for _ in range(count)]
    for bell in every:
        bells.add(bell)
    heard: list[bool] = []
    threads = [threading.Thread(target=lambda bell=bell: heard.append(bells.wait(bell, PATIENCE))) for bell in every]
    for thread in threads:
        thread.start()
    then()
    for thread in threads:
        thread.join(2 * PATIENCE)
    return every, heard


def test_one_ring_wakes_all(bells: Bells) -> None:
    every, heard = waiting(bells, 100, bells.ring)
    assert heard == [True] * 100
    assert not any(bell.due for bell in every)


def test_one_that_is_due_twice_is_rung_once(bells: Bells) -> None:
    bell = Bell()
    bells.add(bell)
    bells.add(bell)
    bells.ring()
    bells.ring()
    assert bells.wait(bell, PATIENCE)
    assert not bells.wait(bell, 0)


def test_it_can_be_due_again(bells: Bells) -> None:
    bell = Bell()
    for _ in range(3):
        bells.add(bell)
        bells.ring()
        assert bells.wait(bell, PATIENCE)


def test_nobody_to_ring(bells: Bells) -> None:
    bells.ring()
    assert not bells.wait(Bell(), 0)


@pytest.mark.parametrize("rung", [False, True])
def test_who_leaves_without_having_heard_wakes_the_others(bells: Bells, rung: bool) -> None:
    gone = Bell()
    bells.add(gone)

    def leave() -> None:
        if rung:
            bells.ring()
        bells.leave(gone)

    _, heard = waiting(bells, 10, leave)
    assert heard == [True] * 10


def test_who_has_heard_leaves_the_others_to_the_next(bells: Bells) -> None:
    first, second = Bell(), Bell()
    bells.add(first)
    bells.ring()
    assert bells.wait(first, PATIENCE)
    bells.add(second)
    bells.leave(first)
    assert not bells.wait(second, 0)
    bells.ring()
    assert bells.wait(second, PATIENCE)


def test_the_next_is_rung_by_who_was_rung_before(bells: Bells) -> None:
    first, second = Bell(), Bell()
    bells.add(first)
    bells.add(second)
    bells.ring()
    bells.ring()
    assert not bells.wait(second, 0)
    assert bells.wait(first, PATIENCE)
    assert bells.wait(second, PATIENCE)
