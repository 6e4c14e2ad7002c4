"""The blocking client's stream against a real server: answers that come late, all at once or never."""

import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from gatestream.client import Client, connect
from gatestream.client.errors import ConnectionLostError, DeadlineExceededError, DrainingError, SessionClosedError
from gatestream.protos.gatestream.v1 import gatestream_pb2 as pb
from tests.support.artifacts import whole_numbers
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


def test_who_interrupts_a_call_waits_no_longer_and_the_session_goes_on(gs: Client, frozen: Callable[[], None]) -> None:
    main = threading.main_thread().ident
    assert main is not None
    ctrl_c = threading.Timer(0.2, signal.pthread_kill, (main, signal.SIGINT))
    with gs.session("accumulator") as s:

        def interrupted() -> None:
            ctrl_c.start()
            s.step([10, 10])

        s.step([1, 1])
        frozen()
        with pytest.raises(KeyboardInterrupt):
            interrupted()
        frozen()
        np.testing.assert_array_equal(s.step([1000, 1000]), [1011, 1011])
        assert s.position == 3


def test_a_call_beside_the_stream_that_is_not_answered_in_time(gs: Client, frozen: Callable[[], None]) -> None:
    frozen()
    with pytest.raises(DeadlineExceededError, match=r"^no answer from 127\.0\.0\.1:\d+ in time: "):
        gs.describe(timeout=0.05)


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


def test_callers_that_leave_keep_nobody_from_an_answer(gs: Client, frozen: Callable[[], None]) -> None:
    sessions = [gs.session("accumulator") for _ in range(40)]
    frozen()
    answered: list[int] = []
    late: list[int] = []

    def step(k: int) -> None:
        try:
            np.testing.assert_array_equal(sessions[k].step([k, 1], timeout=0.05 if k % 2 else PATIENCE), [k, 1])
            answered.append(k)
        except DeadlineExceededError:
            late.append(k)

    threads = [threading.Thread(target=step, args=(k,)) for k in range(40)]
    for thread in threads:
        thread.start()
    until(lambda: len(late) == 20, "half of them have left")
    frozen()
    for thread in threads:
        thread.join(PATIENCE)
    assert sorted(answered) == list(range(0, 40, 2))
    for session in sessions:
        session.close()


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


def test_nothing_is_left_behind(server: ServerProcess) -> None:
    before = set(threading.enumerate())
    with connect(server.address) as gs, gs.session("accumulator") as s:
        s.step([1, 1])
        list(s.stream([[1, 1]] * 3))
    until(lambda: set(threading.enumerate()) <= before, "all threads have ended")


def test_a_server_that_dies_fails_whoever_waits(accumulator_path: Path) -> None:
    with serving(accumulator_path) as server, connect(server.address, resume=False, connect_timeout=0.5) as gs:
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


@pytest.mark.parametrize("error", [RuntimeError("can't start new thread"), KeyboardInterrupt()])
def test_a_thread_that_could_not_be_started_is_started_for_the_next_caller(
    server: ServerProcess, monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    with connect(server.address) as gs:
        begin = threading.Thread.start
        with monkeypatch.context() as patched:

            def start(thread: threading.Thread) -> None:
                if thread.name.startswith("gatestream"):
                    raise error
                begin(thread)

            patched.setattr(threading.Thread, "start", start)
            with pytest.raises(type(error)):
                gs.session("accumulator")
        with gs.session("accumulator") as session:
            np.testing.assert_array_equal(session.step([1, 2]), [1, 2])
