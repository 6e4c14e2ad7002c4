import math

from gatestream.server.backend.run_time import RunTime


def test_what_never_ran_is_expected_to_take_for_ever() -> None:
    assert math.isinf(RunTime().expected(1, 1))


def test_runs_of_like_size_tell_of_each_other() -> None:
    run_time = RunTime()
    run_time.note(33, 1, 0.25)
    assert run_time.expected(63, 1) == 0.25
    assert math.isinf(run_time.expected(64, 1))
    assert math.isinf(run_time.expected(33, 2))


def test_one_run_that_was_held_up_changes_little_and_many_change_it() -> None:
    run_time = RunTime()
    run_time.note(1, 1, 0.001)
    run_time.note(1, 1, 10.0)
    assert 0.001 < run_time.expected(1, 1) < 0.0011
    for _ in range(200):
        run_time.note(1, 1, 10.0)
    assert run_time.expected(1, 1) == 10.0
    run_time.note(1, 1, 0.001)
    assert run_time.expected(1, 1) == 0.001
