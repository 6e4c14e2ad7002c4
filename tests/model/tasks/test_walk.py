import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from gatestream.model.tasks.task import fresh_rows
from gatestream.model.tasks.walk import Walk


@given(
    steps=st.integers(1, 10),
    ahead=st.integers(1, 5),
    spare=st.integers(0, 60),
    streams=st.integers(1, 9),
    seed=st.integers(0, 99),
)
def test_windows_stay_inside_and_follow_one_another(
    steps: int, ahead: int, spare: int, streams: int, seed: int
) -> None:
    length = steps + ahead + spare
    walk = Walk(length, streams, steps, ahead, seed)
    before, _ = walk.window()
    for _ in range(20):
        indices, fresh = walk.window()
        assert indices.shape == (streams, steps)
        assert indices.min() >= 0
        assert indices.max() + ahead < length
        assert (np.diff(indices, axis=1) == 1).all()
        np.testing.assert_array_equal(indices[~fresh, 0], before[~fresh, -1] + 1)
        before = indices


def test_streams_begin_evenly_spread() -> None:
    indices, _ = Walk(1000, 4, 10, 1, seed=0).window()
    assert indices[:2, 0].tolist() == [0, 247]


def test_half_of_the_streams_are_broken_only_at_the_end() -> None:
    walk = Walk(1000, 2, 10, 1, seed=0)
    unbroken, broken = np.array([walk.window()[1] for _ in range(100)]).T
    assert np.flatnonzero(unbroken).tolist() == [99]
    assert np.count_nonzero(broken) > 10


def test_a_quarter_of_the_other_half_is_fresh() -> None:
    generator = np.random.default_rng(0)
    share = np.mean([fresh_rows(8, generator) for _ in range(2000)], axis=0)
    assert (share[:4] == 0).all()
    np.testing.assert_allclose(share[4:], 0.25, atol=0.05)


def test_it_goes_on_from_where_it_stood() -> None:
    walk, other = Walk(300, 6, 10, 2, seed=0), Walk(300, 6, 10, 2, seed=1)
    walk.window()
    other.restore(walk.state())
    for _ in range(50):
        for came, expected in zip(other.window(), walk.window(), strict=True):
            np.testing.assert_array_equal(came, expected)
