"""What counts of a pattern that was tried several times."""

from dataclasses import replace

import pytest

from tests.hostile.attack import Done
from tests.hostile.neighbour import Seen
from tests.hostile.patterns import PATTERNS
from tests.hostile.trial import Trial, least

PATTERN = replace(next(iter(PATTERNS.values())), hold_ms=5.0, p99_ms=100.0, peak_mib=256.0, later_mib=64.0)
GOOD = Trial(
    PATTERN,
    Done(1, {}, ""),
    hold_ms=1.0,
    held_by="",
    before_mib=100.0,
    peak_mib=200.0,
    later_mib=110.0,
    alone=Seen(100, 2.0, 0, []),
    beside=Seen(100, 9.0, 0, []),
    alive=True,
)


@pytest.mark.parametrize(("often", "broken"), [(0, False), (1, False), (2, False), (3, True)])
def test_a_time_is_broken_where_it_is_in_every_try(often: int, broken: bool) -> None:
    of_three = least([replace(GOOD, hold_ms=9.0)] * often + [GOOD] * (3 - often))
    assert of_three.violations == ["the loop was held for 9.0 ms, bound 5"] * broken
    assert of_three.tries == 3


def test_each_time_has_its_own_least() -> None:
    slow = replace(GOOD, beside=Seen(100, 150.0, 0, []))
    held = replace(GOOD, hold_ms=9.0)
    both = replace(slow, hold_ms=9.0)
    assert least([both, slow, slow]).violations == ["the neighbour's p99 was 150.0 ms, bound 100"]
    assert least([both, held, held]).violations == ["the loop was held for 9.0 ms, bound 5"]
    assert least([held, slow]).violations == []


@pytest.mark.parametrize(
    "once",
    [
        replace(GOOD, alive=False),
        replace(GOOD, done=Done(1, {}, "INTERNAL came")),
        replace(GOOD, beside=Seen(100, 9.0, 1, [])),
        replace(GOOD, beside=Seen(100, 9.0, 0, ["UNAVAILABLE"])),
        replace(GOOD, peak_mib=400.0),
        replace(GOOD, later_mib=170.0),
    ],
)
def test_what_is_no_time_is_broken_where_it_is_once(once: Trial) -> None:
    assert len(least([GOOD, once, GOOD]).violations) == len(once.violations) == 1


def test_one_try_is_what_it_is() -> None:
    assert least([GOOD]) == GOOD
