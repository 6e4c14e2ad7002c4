"""The blocking client against a real server."""

import queue
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gatestream.client import Client, connect
from gatestream.client.errors import (
    ConnectionLostError,
    DeadlineExceededError,
    DrainingError,
    InputError,
    ModelUnknownError,
    NoGatesError,
    NotFiniteError,
    PositionMismatchError,
    SessionClosedError,
    SessionExistsError,
    SessionIdInvalidError,
    SessionsExhaustedError,
    SessionUnknownError,
    StateMismatchError,
    StepFailedError,
    TokenOutOfRangeError,
)
from gatestream.protos.gatestream.v1 import gatestream_pb2 as pb
from tests.support.artifacts import POISON, whole_numbers
from tests.support.lstm import Lstm
from tests.support.process import ServerProcess, serving
from tests.support.wire import PATIENCE, until


@pytest.fixture
def frozen(server: ServerProcess) -> Iterator[Callable[[], None]]:
    """A server that does not answer from the call on, until the test has ended or calls again."""
    halted = False

    def toggle() -> None:
        nonlocal halted
        halted = not halted
        server.popen.send_signal(signal.SIGSTOP if halted else signal.SIGCONT)

    yield toggle
    if halted:
        toggle()


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


def test_a_source_that_fails(gs: Client) -> None:
    def source() -> Iterator[list[int]]:
        yield [1, 1]
        raise OSError("the sensor is gone")

    with gs.session("accumulator") as s, pytest.raises(OSError, match="the sensor is gone"):
        list(s.stream(source()))


def test_reset_goes_on_counting(gs: Client) -> None:
    with gs.session("accumulator") as s:
        s.run(np.ones((5, 2)))
        s.reset()
        np.testing.assert_array_equal(s.step([2, 3]), [2, 3])
        assert s.position == 6


def test_state_read_written_and_forked(gs: Client) -> None:
    with gs.session("accumulator") as s:
        s.run(np.ones((5, 2)))
        state = s.get_state()
        assert (state.model, state.position) == ("accumulator", 5)
        np.testing.assert_array_equal(state.arrays["s"], [5, 5])
        s.run(np.ones((3, 2)))
        twin = s.fork("twin")
        assert gs.get_state("twin", "accumulator").position == 8
        s.set_state(state)
        assert s.position == 5
        np.testing.assert_array_equal(s.step([1, 1]), [6, 6])
        assert gs.set_state("twin", state) == 5
        with gs.session("accumulator", id=twin, mode="resume") as other:
            assert other.position == 5
            np.testing.assert_array_equal(other.step([2, 2]), [7, 7])


def test_a_state_that_does_not_fit(gs: Client) -> None:
    with gs.session("accumulator") as s, gs.session("lstm") as other:
        state = s.get_state()
        with pytest.raises(StateMismatchError, match="a state of model 'accumulator' came; one of 'lstm' was expected"):
            other.set_state(state)
        with pytest.raises(StateMismatchError, match=r"states \['h'\] came; 'accumulator' has \['s'\]"):
            s.set_state(type(state)("accumulator", state.weights_fingerprint, 0, {"h": np.zeros(2)}))
        wide = type(state)("accumulator", state.weights_fingerprint, 0, {"s": np.zeros(3)})
        with pytest.raises(StateMismatchError, match=r"state 's' of 'accumulator': shape \[3\] came; \[2\]"):
            s.set_state(wide)
        strange = type(state)("accumulator", "others", 0, state.arrays)
        with pytest.raises(StateMismatchError, match="fingerprint"):
            s.set_state(strange)
        np.testing.assert_array_equal(s.step([1, 1]), [1, 1])


def test_sessions_are_listed_and_closed(gs: Client) -> None:
    with gs.session("accumulator", id="seen") as s:
        s.step([1, 1])
        (info,) = [each for each in gs.list_sessions("accumulator") if each.session_id == "seen"]
        assert (info.position, info.attached) == (1, True)
        assert gs.close_session("seen", "accumulator") == 1
        until(lambda: s_is_closed(s.step), "the session is closed")
        with pytest.raises(SessionClosedError, match="'seen' was closed by a CloseSession call") as caught:
            s.step([1, 1])
        assert caught.value.close_reason == pb.CLOSE_REASON_ADMINISTERED


def s_is_closed(step: Callable[[list[int]], object]) -> bool:
    try:
        step([0, 0])
    except SessionClosedError:
        return True
    return False


def test_all_pages_of_sessions_are_listed(gs: Client) -> None:
    with gs.group("accumulator", 1500) as group:
        listed = {each.session_id for each in gs.list_sessions("accumulator")}
        assert set(group.ids) <= listed


def test_a_session_that_another_stream_opens(server: ServerProcess, gs: Client) -> None:
    with connect(server.address) as other, gs.session("accumulator", id="wanted") as s:
        s.run(np.ones((5, 2)))
        with other.session("accumulator", id="wanted") as taken:
            assert taken.position == 5
            until(lambda: s_is_closed(s.step), "the session is taken over")
            with pytest.raises(SessionClosedError, match="another stream opened it") as caught:
                s.step([1, 1])
            assert caught.value.close_reason == pb.CLOSE_REASON_TAKEN_OVER
            np.testing.assert_array_equal(taken.step([1, 1]), [6, 6])


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


def test_some_members_of_a_group(gs: Client) -> None:
    with gs.group("accumulator", ["red", "green", "blue"]) as group:
        assert group.ids == ["red", "green", "blue"]
        np.testing.assert_array_equal(group.step([[1, 1], [2, 2]], members=[0, 2]), [[1, 1], [2, 2]])
        assert group.positions.tolist() == [1, 0, 1]
        group.reset()
        np.testing.assert_array_equal(group.step([[1, 0], [2, 0], [3, 0]]), [[1, 0], [2, 0], [3, 0]])
        strange: list[Any] = [[1, 1], [2, 1], [3], [-1], [], [[0]], [0.5]]
        for members in strange:
            with pytest.raises(InputError, match="indices from 0 to 2"):
                group.step(np.ones((len(members), 2), np.float32), members=members)
        with pytest.raises(InputError, match=r"shape \[2, 2\] came; \[3, 2\] float32"):
            group.step(np.ones((2, 2)))


def test_a_group_larger_than_a_tick(narrow: ServerProcess) -> None:
    with connect(narrow.address) as gs, gs.group(sessions=4) as group:
        xs = whole_numbers(np.random.default_rng(6), 4 * 100).reshape(4, 100, 2)
        np.testing.assert_array_equal(group.run(xs), np.cumsum(xs, axis=1))


def test_a_member_that_fails_fails_alone(gs: Client) -> None:
    with gs.group("accumulator", 3) as group, gs.session("accumulator") as other:
        with pytest.raises(NotFiniteError, match="NaN") as caught:
            group.step(np.array([[1, 1], [np.nan, 1], [3, 3]]))
        assert caught.value.members.tolist() == [1]
        assert group.positions.tolist() == [1, 0, 1]
        np.testing.assert_array_equal(group.step(np.ones((3, 2))), [[2, 2], [1, 1], [4, 4]])
        np.testing.assert_array_equal(other.step([1, 1]), [1, 1])


def test_what_the_others_of_a_group_got(gs: Client) -> None:
    with gs.group("accumulator", 4) as group:
        group.step(np.ones((3, 2)), members=[0, 1, 3])
        with pytest.raises(NotFiniteError) as caught:
            group.step(np.array([[2, 2], [np.nan, 1], [3, 3]]), members=[0, 2, 3])
        error = caught.value
        assert error.members.tolist() == list(error.failures) == [2]
        assert error.taken.tolist() == [1, 0, 1]
        assert error.answer is not None
        np.testing.assert_array_equal(error.answer.y, [[3, 3], [0, 0], [4, 4]])
        assert error.answer.position.tolist() == [1, 0, 1]
        assert group.positions.tolist() == [2, 1, 0, 2]
        with pytest.raises(NotFiniteError) as caught:
            group.step(np.full((4, 2), np.nan))
        assert caught.value.members.tolist() == [0, 1, 2, 3]
        assert caught.value.answer is None


def test_what_a_chunk_brought_before_it_failed(narrow: ServerProcess) -> None:
    xs = np.ones((20, 2))
    xs[13] = np.nan
    with connect(narrow.address) as gs, gs.session() as s:
        with pytest.raises(NotFiniteError) as caught:
            s.run(xs)
        # The message with the bad step, of eight steps, was refused as a whole.
        assert caught.value.taken.tolist() == [8]
        assert caught.value.answer is not None
        np.testing.assert_array_equal(caught.value.answer.y, np.cumsum(xs[:8], axis=0))
        assert s.position == 8


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
        strange: list[Any] = [[1, 1, 1], [1, 1, 1, 31], [0, 1, 1, 1], [0.5] * 4, [[1]] * 4]
        for lengths in strange:
            with pytest.raises(InputError, match="one for each of 4 members, from 1 to 30"):
                group.run(xs, lengths=lengths)


def test_a_step_on_which_the_model_fails(gs: Client) -> None:
    with gs.session("accumulator") as s:
        s.step([1, 1])
        with pytest.raises(StepFailedError):
            s.step([POISON, 0])
        assert s.position == 1
        np.testing.assert_array_equal(s.step([1, 1]), [2, 2])


def test_what_the_server_refuses(gs: Client) -> None:
    with pytest.raises(ModelUnknownError, match="no model 'other'; it has 'accumulator', 'lstm', 'counter'"):
        gs.session("other")
    with pytest.raises(ModelUnknownError, match="has 3 models; name one"):
        gs.session()
    with pytest.raises(NoGatesError):
        gs.session("accumulator", gates=True)
    with pytest.raises(SessionUnknownError):
        gs.session("accumulator", id="nobody", mode="resume")
    with pytest.raises(SessionUnknownError):
        gs.get_state("nobody", "accumulator")
    with pytest.raises(SessionIdInvalidError):
        gs.session("accumulator", id="no spaces")
    with pytest.raises(InputError, match="'either', 'create' or 'resume'"):
        gs.session("accumulator", mode="again")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="no sessions"):
        gs.group("accumulator", 0)
    with gs.session("accumulator", id="mine"), pytest.raises(SessionExistsError):
        gs.session("accumulator", id="mine", mode="create")
    with gs.session("counter") as s, pytest.raises(TokenOutOfRangeError):
        s.step(4)


def test_nothing_to_look_at_yet(gs: Client) -> None:
    with gs.session("accumulator") as s, pytest.raises(InputError, match="nothing was stepped yet"):
        s.gates  # noqa: B018


def test_a_state_that_somebody_else_set(gs: Client) -> None:
    with gs.session("accumulator", id="moved") as s:
        s.step([1, 1])
        state = s.get_state()
        gs.set_state("moved", type(state)(state.model, state.weights_fingerprint, 40, state.arrays))
        with pytest.raises(PositionMismatchError, match="first is 1; the session's next step is 40"):
            s.step([1, 1])
        assert s.position == 40
        np.testing.assert_array_equal(s.step([1, 1]), [2, 2])


def test_a_late_answer_is_counted_and_dropped(gs: Client, frozen: Callable[[], None]) -> None:
    with gs.session("accumulator") as s:
        s.step([1, 1])
        frozen()
        with pytest.raises(DeadlineExceededError, match=r"no answer within 0\.05 s"):
            s.step([10, 10], timeout=0.05)
        # Still on its way: the next step waits behind it, and never leaves.
        with pytest.raises(TimeoutError):
            s.step([100, 100], timeout=0.05)
        assert s.position == 1
        frozen()
        np.testing.assert_array_equal(s.step([1000, 1000]), [1011, 1011])
        assert s.position == 3


def test_an_opening_in_vain_leaves_no_session(gs: Client, frozen: Callable[[], None]) -> None:
    with gs.session("accumulator") as s:
        s.step([1, 1])
        frozen()
        with pytest.raises(DeadlineExceededError):
            gs.session("accumulator", id="too-late", timeout=0.05)
        frozen()
        until(
            lambda: "too-late" not in [each.session_id for each in gs.list_sessions("accumulator")],
            "the session is closed",
        )


@pytest.mark.parametrize("timeout", [0, -1, float("nan")])
def test_no_time_to_wait(gs: Client, server: ServerProcess, timeout: float) -> None:
    with pytest.raises(InputError, match=r"timeout: .* seconds, more than 0"):
        connect(server.address, timeout=timeout)
    with gs.session("accumulator") as s, pytest.raises(InputError, match="timeout: "):
        s.step([1, 1], timeout=timeout)


def test_no_limit_to_waiting(server: ServerProcess) -> None:
    with connect(server.address, timeout=float("inf")) as gs, gs.session("accumulator") as s:
        np.testing.assert_array_equal(s.step([1, 1]), [1, 1])
        assert gs.describe().limits == gs.limits


def test_full_and_told_so(narrow: ServerProcess) -> None:
    with (
        connect(narrow.address, retry=False) as gs,
        connect(narrow.address, retry=False) as other,
        gs.group(sessions=4),
        other.group(sessions=2),
    ):
        with pytest.raises(SessionsExhaustedError, match="the server allows 4 on one"):
            gs.session()
        with pytest.raises(SessionsExhaustedError) as caught:
            other.session()
        assert caught.value.retry_after > 0
        assert caught.value.reason == pb.REASON_SESSIONS_EXHAUSTED


def test_full_and_tried_again(narrow: ServerProcess) -> None:
    with connect(narrow.address) as gs, connect(narrow.address) as other:
        group = gs.group(sessions=4)
        with other.group(sessions=2):
            with pytest.raises(SessionsExhaustedError):
                other.session(timeout=0.1)
            threading.Timer(0.2, group.close).start()
            with other.session() as s:
                np.testing.assert_array_equal(s.step([1, 1]), [1, 1])


def test_more_rows_than_the_server_takes_at_once(narrow: ServerProcess) -> None:
    """Four clients keep twice as many rows on their way as the server admits; all is stepped all the same."""
    xs = whole_numbers(np.random.default_rng(7), 400)
    answers: dict[int, object] = {}

    def run(number: int) -> None:
        with connect(narrow.address) as gs, gs.session() as s:
            answers[number] = s.run(xs)

    threads = [threading.Thread(target=run, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE)
    for number in range(4):
        np.testing.assert_array_equal(answers[number], np.cumsum(xs, axis=0))


def test_many_threads_share_a_client_and_a_session(gs: Client) -> None:
    sums = []
    with gs.session("accumulator") as shared:

        def work() -> None:
            with gs.session("accumulator") as own:
                for k in range(1, 51):
                    np.testing.assert_array_equal(own.step([k, 0]), [k * (k + 1) // 2, 0])
                    sums.append(float(shared.step([1, 0])[0]))

        threads = [threading.Thread(target=work) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(PATIENCE)
    assert sorted(sums) == list(range(1, 401))


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


def test_a_closed_client_says_so(server: ServerProcess) -> None:
    gs = connect(server.address)
    s = gs.session("accumulator")
    gs.close()
    gs.close()
    with pytest.raises(SessionClosedError):
        s.step([1, 1])
    with pytest.raises(ConnectionLostError, match="is closed; connect again"):
        gs.session("accumulator")


def test_nothing_is_left_behind(server: ServerProcess) -> None:
    before = set(threading.enumerate())
    with connect(server.address) as gs, gs.session("accumulator") as s:
        s.step([1, 1])
        list(s.stream([[1, 1]] * 3))
    until(lambda: set(threading.enumerate()) <= before, "all threads have ended")


def test_a_server_that_dies_fails_whoever_waits(accumulator_path: Path) -> None:
    with serving(accumulator_path) as server, connect(server.address, connect_timeout=0.5) as gs:
        sessions = [gs.session() for _ in range(4)]
        server.popen.send_signal(signal.SIGSTOP)
        failures: list[Exception] = []

        def step(k: int) -> None:
            try:
                sessions[k].step([1, 1])
            except Exception as error:
                failures.append(error)

        threads = [threading.Thread(target=step, args=(k,)) for k in range(4)]
        for thread in threads:
            thread.start()
        time.sleep(0.1)
        server.kill()
        for thread in threads:
            thread.join(PATIENCE)
        assert [type(error) for error in failures] == [ConnectionLostError] * 4
        assert "open new sessions" in str(failures[0])
        with pytest.raises(ConnectionLostError):
            sessions[0].step([1, 1])
        sessions[0].close()
        with pytest.raises(ConnectionLostError):
            gs.session()


def test_a_server_that_stops_says_so(accumulator_path: Path) -> None:
    with serving(accumulator_path, drain_seconds=0.3) as server, connect(server.address) as gs:
        s = gs.session()
        s.step([1, 1])
        assert server.terminate() == 0
        with pytest.raises(SessionClosedError, match="the server is stopping") as caught:
            s.step([1, 1])
        assert caught.value.close_reason == pb.CLOSE_REASON_DRAINED
        s.close()


def test_a_server_that_stops_waits_for_no_client_without_sessions(accumulator_path: Path) -> None:
    with serving(accumulator_path, drain_seconds=2 * PATIENCE) as server, connect(server.address) as gs:
        gs.session().close()
        s = gs.session()
        server.popen.send_signal(signal.SIGTERM)
        until(lambda: is_draining(gs), "the server is draining")
        np.testing.assert_array_equal(s.step([1, 1]), [1, 1])
        s.close()
        assert server.popen.wait(PATIENCE) == 0


def is_draining(gs: Client) -> bool:
    try:
        gs.session().close()
    except DrainingError:
        return True
    return False
