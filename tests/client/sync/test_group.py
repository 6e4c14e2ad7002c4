"""Blocking groups of sessions against a real server."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from gatestream.client import Client, connect
from gatestream.client.errors import InputError, NotFiniteError, PositionMismatchError, StepFailedError
from tests.support.artifacts import POISON, whole_numbers
from tests.support.lstm import Lstm
from tests.support.process import ServerProcess


def test_a_group_in_one_call(gs: Client, lstm: Lstm) -> None:
    xs = np.random.default_rng(5).normal(size=(50, 6, 3)).astype(np.float32)
    with gs.group("lstm", 50, gates=True) as group:
        assert len(group) == len(set(group.ids)) == 50
        one = group.step(xs[:, 0])
        assert one.shape == (50, 4)
        assert group.gates["output"].shape == (50, 1, 4)
        rest = group.run(xs[:, 1:])
        assert rest.shape == (50, 5, 4)
        assert group.last.position.tolist() == [1] * 50
        for k in range(50):
            ys, gates = lstm.run(xs[k])
            np.testing.assert_allclose(np.concatenate([one[k : k + 1], rest[k]]), ys, atol=1e-5)
            np.testing.assert_allclose(group.gates["candidate"][k, :, 0], gates["g"][1:], atol=1e-5)


@pytest.mark.parametrize(("sessions", "said"), [(["a", "b", "a"], "'a' came more than once"), ("abc", "'abc' came")])
def test_members_of_a_group_are_several(gs: Client, sessions: list[str] | str, said: str) -> None:
    with pytest.raises(InputError, match=said):
        gs.group("accumulator", sessions)


def test_some_members_of_a_group(gs: Client) -> None:
    with gs.group("accumulator", ["red", "green", "blue"]) as group:
        assert group.ids == ["red", "green", "blue"]
        np.testing.assert_array_equal(group.step([[1, 1], [2, 2]], members=[0, 2]), [[1, 1], [2, 2]])
        assert group.positions.tolist() == [1, 0, 1]
        group.reset()
        np.testing.assert_array_equal(group.step([[1, 0], [2, 0], [3, 0]]), [[1, 0], [2, 0], [3, 0]])
        strange: list[Any] = [[1, 1], [2, 1], [3], [-1], [], [[0]], [0.5], [True], [None]]
        for members in strange:
            with pytest.raises(InputError, match="indices from 0 to 2"):
                group.step(np.ones((len(members), 2), np.float32), members=members)
        with pytest.raises(InputError, match=r"shape \[2, 2\] came; \[3, 2\] float32"):
            group.step(np.ones((2, 2)))


def test_a_group_larger_than_a_tick(narrow: ServerProcess) -> None:
    with connect(narrow.address) as gs, gs.group(sessions=4) as group:
        xs = whole_numbers(np.random.default_rng(6), 4 * 100).reshape(4, 100, 2)
        np.testing.assert_array_equal(group.run(xs), np.cumsum(xs, axis=1))


def moved(gs: Client, session_id: str) -> None:
    """Put a session somewhere else behind its holder's back."""
    state = gs.get_state(session_id, "accumulator")
    gs.set_state(session_id, replace(state, position=state.position + 70))


def test_a_member_that_fails_fails_alone(gs: Client) -> None:
    with gs.group("accumulator", 3) as group, gs.session("accumulator") as other:
        moved(gs, group.ids[1])
        with pytest.raises(PositionMismatchError) as caught:
            group.step(np.array([[1, 1], [2, 2], [3, 3]]))
        assert caught.value.members.tolist() == [1]
        assert group.positions.tolist() == [1, 70, 1]
        np.testing.assert_array_equal(group.step(np.ones((3, 2))), [[2, 2], [1, 1], [4, 4]])
        np.testing.assert_array_equal(other.step([1, 1]), [1, 1])


def test_what_the_others_of_a_group_got(gs: Client) -> None:
    with gs.group("accumulator", 4) as group:
        group.step(np.ones((3, 2)), members=[0, 1, 3])
        moved(gs, group.ids[2])
        with pytest.raises(PositionMismatchError) as caught:
            group.step(np.array([[2, 2], [7, 1], [3, 3]]), members=[0, 2, 3])
        error = caught.value
        assert error.members.tolist() == list(error.failures) == [2]
        assert error.taken.tolist() == [1, 0, 1]
        assert error.answer is not None
        np.testing.assert_array_equal(error.answer.y, [[3, 3], [0, 0], [4, 4]])
        assert error.answer.position.tolist() == [1, 0, 1]
        assert group.positions.tolist() == [2, 1, 70, 2]
        with pytest.raises(StepFailedError) as failed:
            group.step(np.full((4, 2), POISON))
        assert failed.value.members.tolist() == [0, 1, 2, 3]
        assert failed.value.answer is None


def test_a_bad_value_of_one_member_leaves_all_as_they_were(gs: Client) -> None:
    bad = np.array([[[1, 1], [2, 2]], [[3, np.nan], [4, 4]], [[5, 5], [6, 6]]])
    with gs.group("accumulator", 4) as group:
        with pytest.raises(NotFiniteError, match="nan came at session 2, step 0, feature 1;") as caught:
            group.run(bad, members=[0, 2, 3])
        assert caught.value.members.tolist() == [2]
        assert group.positions.tolist() == [0, 0, 0, 0]
        good = group.run(bad[[0, 2]], members=[0, 3])
        np.testing.assert_array_equal(good, np.cumsum(bad[[0, 2]], axis=1))
        assert group.positions.tolist() == [2, 0, 0, 2]


def test_what_stands_behind_a_chunk_is_nobodys(gs: Client) -> None:
    xs = np.array([[[1, 1], [np.nan, np.inf]], [[2, 2], [3, 3]]])
    with gs.group("accumulator", 2) as group:
        np.testing.assert_array_equal(group.run(xs, lengths=[1, 2]), [[[1, 1], [0, 0]], [[2, 2], [5, 5]]])
        with pytest.raises(NotFiniteError, match="nan came at session 0, step 1, feature 0;"):
            group.run(xs, lengths=[2, 2])
    with gs.group("counter", 2) as group:
        assert group.run([[3, -1, -1], [0, 0, 0]], lengths=[1, 3]).shape == (2, 3, 4)


def test_chunks_of_unlike_lengths(narrow: ServerProcess) -> None:
    xs = whole_numbers(np.random.default_rng(8), 4 * 30).reshape(4, 30, 2)
    with connect(narrow.address) as gs, gs.group(sessions=4) as group:
        lengths = [3, 21, 1, 17]
        ys = group.run(xs, lengths=lengths)
        assert ys.shape == (4, 30, 2)
        for k, length in enumerate(lengths):
            np.testing.assert_array_equal(ys[k, :length], np.cumsum(xs[k, :length], axis=0))
            np.testing.assert_array_equal(ys[k, length:], np.zeros((30 - length, 2)))
        assert group.positions.tolist() == lengths
        np.testing.assert_array_equal(
            group.run(xs[:2, :5], members=[1, 3], lengths=[5, 2])[1, :2],
            np.cumsum(np.concatenate([xs[3, :17], xs[1, :2]]), axis=0)[17:],
        )
        strange: list[Any] = [[1, 1, 1], [1, 1, 1, 31], [0, 1, 1, 1], [0.5] * 4, [[1]] * 4, [True] * 4]
        for lengths in strange:
            with pytest.raises(InputError, match="one for each of 4 members, from 1 to 30"):
                group.run(xs, lengths=lengths)
