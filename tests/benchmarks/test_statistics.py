import math

import pytest

from benchmarks.harness.statistics import Spread, ratios, summarise


def test_a_spread_is_the_median_between_the_least_and_the_greatest() -> None:
    assert Spread.of([9.0, 1.0, 2.0]) == Spread(median=2.0, low=1.0, high=9.0)
    assert Spread.of([4.0, 1.0, 2.0, 3.0]).median == 2.5


@pytest.mark.parametrize("values", [[], [1.0, math.nan], [math.inf]])
def test_what_cannot_be_summarised_is_refused(values: list[float]) -> None:
    with pytest.raises(ValueError, match="at least one finite number"):
        Spread.of(values)


def test_ratios_are_taken_repeat_by_repeat() -> None:
    # The machine is three times slower in the second repeat, for both: the ratio does not move.
    assert ratios([10.0, 30.0], [5.0, 15.0]) == Spread(2.0, 2.0, 2.0)
    with pytest.raises(ValueError, match="argument 2 is shorter"):
        ratios([1.0, 2.0], [1.0])


def test_only_figures_that_all_repeats_have_are_summarised() -> None:
    assert summarise([{"a": 1.0, "b": 2.0}, {"a": 3.0}]) == {"a": Spread(2.0, 1.0, 3.0)}
