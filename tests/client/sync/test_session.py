"""Blocking sessions against a real server."""

import queue
from collections.abc import Iterator

import numpy as np
import pytest

from gatestream.client import Client, connect
from gatestream.client.errors import InputError, SessionClosedError, StepFailedError
from tests.support.artifacts import POISON, whole_numbers
from tests.support.lstm import Lstm
from tests.support.process import ServerProcess
from tests.support.wire import until


def test_a_step_and_its_gates(server: ServerProcess, lstm: Lstm) -> None:
    xs = np.random.default_rng(1).normal(size=(20, 3)).astype(np.float32)
    ys, gates = lstm.run(xs)
    with connect(server.address) as gs, gs.session("lstm", gates=True) as s:
        for t, x in enumerate(xs):
            y = s.step(x)
            assert y.shape == (4,)
            assert y.dtype == np.float32
            np.testing.assert_allclose(y, ys[t], atol=1e-6)
            assert list(s.gates) == ["input", "forget", "candidate", "output"]
            for symbol, gate in zip("ifgo", s.gates.values(), strict=True):
                np.testing.assert_allclose(gate, gates[symbol][t][None], atol=1e-6)
            assert s.last.position == t
            assert s.position == t + 1
        assert s.model == "lstm"


def test_a_chunk_and_its_gates(gs: Client, lstm: Lstm) -> None:
    xs = np.random.default_rng(2).normal(size=(300, 3))
    ys, gates = lstm.run(xs.astype(np.float32))
    with gs.session("lstm", gates=True) as s:
        np.testing.assert_allclose(s.run(xs), ys, atol=1e-5)
        np.testing.assert_allclose(s.gates["forget"], gates["f"][:, None], atol=1e-5)
        assert s.gates["forget"].shape == (300, 1, 4)


def test_answers_belong_to_the_caller(gs: Client) -> None:
    with gs.session("accumulator") as s:
        y = s.step([1, 2])
        y += 1
        np.testing.assert_array_equal(s.step([0, 0]), [1, 2])


def test_a_chunk_longer_than_any_message(narrow: ServerProcess) -> None:
    xs = whole_numbers(np.random.default_rng(3), 500)
    with connect(narrow.address) as gs, gs.session() as s:
        assert gs.limits.chunk_length == 8
        np.testing.assert_array_equal(s.run(xs), np.cumsum(xs, axis=0))
        assert s.position == 500


def test_only_the_states_are_wanted(gs: Client) -> None:
    with gs.session("accumulator", id="quiet", outputs=False) as s:
        assert s.run(np.ones((700, 2))).size == 0
        assert s.last.outputs == {}
        with gs.session("accumulator", id="quiet", mode="resume") as taken:
            assert taken.position == 700
            np.testing.assert_array_equal(taken.step([1, 1]), [701, 701])


def test_tokens_by_id_and_by_name(gs: Client) -> None:
    with gs.session("counter") as s:
        np.testing.assert_array_equal(s.step("B"), [1, 0, 0, 0])
        np.testing.assert_array_equal(s.step(3), [1, 0, 0, 1])
        np.testing.assert_array_equal(s.run("TXT"), [[1, 1, 0, 1], [1, 1, 1, 1], [1, 2, 1, 1]])
        np.testing.assert_array_equal(s.run(["<end>", "B"])[-1], [2, 2, 1, 2])


def test_a_live_source_is_answered_row_by_row(gs: Client) -> None:
    rows: queue.SimpleQueue[list[int] | None] = queue.SimpleQueue()
    with gs.session("accumulator") as s:
        answers = s.stream(iter(rows.get, None))
        for k in range(1, 4):
            # The next row comes only when this one is answered.
            rows.put([k, 1])
            np.testing.assert_array_equal(next(answers), [k * (k + 1) // 2, k])
            assert s.last.position == k - 1
        rows.put(None)
        assert next(answers, None) is None


def test_a_quick_source_is_gathered(gs: Client) -> None:
    xs = whole_numbers(np.random.default_rng(4), 5000)
    with gs.session("accumulator") as s:
        ys = np.array(list(s.stream(iter(xs))))
    np.testing.assert_array_equal(ys, np.cumsum(xs, axis=0))


def test_a_bad_row_comes_after_the_answers_before_it(gs: Client) -> None:
    with gs.session("accumulator") as s:
        answers = s.stream([[1, 1], [2, 2], [3, 3, 3]])
        assert [y[0] for y in (next(answers), next(answers))] == [1, 3]
        with pytest.raises(InputError, match=r"shape \[3\] came"):
            next(answers)
        np.testing.assert_array_equal(s.step([1, 1]), [4, 4])


@pytest.mark.parametrize("bad", [0, 13])
def test_rows_before_one_that_fails_are_answered(narrow: ServerProcess, bad: int) -> None:
    # In messages of eight, of which each fails as a whole: what came with the bad row is stepped again, row by row.
    xs = np.ones((20, 2))
    xs[bad] = POISON
    with connect(narrow.address) as gs, gs.session() as s:
        answers = s.stream(xs)
        for k in range(bad):
            np.testing.assert_array_equal(next(answers), [k + 1, k + 1])
        with pytest.raises(StepFailedError):
            next(answers)
        assert s.position == bad
        np.testing.assert_array_equal(s.step([1, 1]), [bad + 1, bad + 1])


@pytest.mark.parametrize("error", [OSError("the sensor is gone"), SystemExit(3), KeyboardInterrupt(), GeneratorExit()])
def test_a_source_that_fails(gs: Client, error: BaseException) -> None:
    def source() -> Iterator[list[int]]:
        yield [1, 1]
        raise error

    with gs.session("accumulator") as s, pytest.raises(type(error)) as caught:
        list(s.stream(source()))
    assert caught.value is error


def test_reset_goes_on_counting(gs: Client) -> None:
    with gs.session("accumulator") as s:
        s.run(np.ones((5, 2)))
        s.reset()
        np.testing.assert_array_equal(s.step([2, 3]), [2, 3])
        assert s.position == 6


def test_what_a_chunk_brought_before_it_failed(narrow: ServerProcess) -> None:
    xs = np.ones((20, 2))
    xs[13] = POISON
    with connect(narrow.address) as gs, gs.session() as s:
        with pytest.raises(StepFailedError) as caught:
            s.run(xs)
        # The message with the bad step, of eight steps, failed as a whole.
        assert caught.value.taken.tolist() == [8]
        assert caught.value.answer is not None
        np.testing.assert_array_equal(caught.value.answer.y, np.cumsum(xs[:8], axis=0))
        assert s.position == 8


def test_a_step_on_which_the_model_fails(gs: Client) -> None:
    with gs.session("accumulator") as s:
        s.step([1, 1])
        with pytest.raises(StepFailedError):
            s.step([POISON, 0])
        assert s.position == 1
        np.testing.assert_array_equal(s.step([1, 1]), [2, 2])


def test_nothing_to_look_at_yet(gs: Client) -> None:
    with gs.session("accumulator") as s, pytest.raises(InputError, match="nothing was stepped yet"):
        s.gates  # noqa: B018


def test_closing_twice_and_stepping_after(gs: Client) -> None:
    with gs.session("accumulator", id="brief") as s:
        s.close()
        s.close()
        with pytest.raises(SessionClosedError, match="'brief' was closed as was asked"):
            s.step([1, 1])


def test_what_goes_wrong_inside_is_what_comes_out(gs: Client) -> None:
    with pytest.raises(ZeroDivisionError), gs.session("accumulator", id="left-behind"):
        raise ZeroDivisionError
    until(
        lambda: "left-behind" not in [each.session_id for each in gs.list_sessions("accumulator")],
        "the session is closed",
    )
