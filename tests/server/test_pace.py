import math

from gatestream.server.pace import Pace


def test_what_never_ran_is_expected_to_take_for_ever() -> None:
    assert math.isinf(Pace().expected(1, 1))


def test_runs_of_like_size_tell_of_each_other() -> None:
    pace = Pace()
    pace.note(33, 1, 0.25)
    assert pace.expected(63, 1) == 0.25
    assert math.isinf(pace.expected(64, 1))
    assert math.isinf(pace.expected(33, 2))


def test_one_run_that_was_held_up_changes_little_and_many_change_it() -> None:
    pace = Pace()
    pace.note(1, 1, 0.001)
    pace.note(1, 1, 10.0)
    assert 0.001 < pace.expected(1, 1) < 0.0011
    for _ in range(200):
        pace.note(1, 1, 10.0)
    assert pace.expected(1, 1) == 10.0
    pace.note(1, 1, 0.001)
    assert pace.expected(1, 1) == 0.001
