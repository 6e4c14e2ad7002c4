"""Connections that are cut, and servers that are killed, in the middle of everything: calls go on."""

import copy
import threading
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from google.protobuf.message import Message

from gatestream.client import Session, connect
from gatestream.client.errors import (
    ConnectionLostError,
    DeadlineExceededError,
    EpochStaleError,
    PositionMismatchError,
    ServerUnreachableError,
    SessionClosedError,
    SessionUnknownError,
)
from gatestream.client.sync.network import Connection
from gatestream.client.unary import Call
from gatestream.protos.gatestream.v1 import gatestream_pb2 as pb
from tests.support.artifacts import accumulator
from tests.support.process import ServerProcess, serving, start
from tests.support.proxy import Proxy, proxied
from tests.support.repository import control, listed
from tests.support.wire import PATIENCE


@pytest.fixture
def proxy(server: ServerProcess) -> Iterator[Proxy]:
    with proxied(server.port) as running:
        yield running


@pytest.mark.parametrize("direct", [True, False])
def test_each_result_comes_once_through_many_cuts(proxy: Proxy, direct: bool) -> None:
    stopped = threading.Event()

    def cut() -> None:
        while not stopped.wait(0.3):
            proxy.cut()

    with connect(proxy.address, direct=direct) as gs:
        sessions = [gs.session("accumulator") for _ in range(4)]
        group = gs.group("accumulator", 5)
        failures: list[BaseException] = []

        def walk(k: int) -> None:
            try:
                total = np.zeros(2, np.float32)
                for step in range(200):
                    x = np.array([k + 1, step % 7], np.float32)
                    if step % 50 == 49:
                        sessions[k].reset()
                        total[:] = 0
                    total = total + x
                    np.testing.assert_array_equal(sessions[k].step(x), total)
                    assert sessions[k].position == step + 1
            except BaseException as error:
                failures.append(error)

        def walk_together() -> None:
            try:
                totals = np.zeros((5, 2), np.float32)
                for step in range(60):
                    members = [k for k in range(5) if (step + k) % 3]
                    xs = np.arange(len(members) * 4 * 2, dtype=np.float32).reshape(len(members), 4, 2)
                    ys = group.run(xs, members=members)
                    for row, member in enumerate(members):
                        np.testing.assert_array_equal(ys[row], totals[member] + np.cumsum(xs[row], axis=0))
                        totals[member] = ys[row, -1]
            except BaseException as error:
                failures.append(error)

        threads = [threading.Thread(target=walk, args=(k,)) for k in range(4)] + [
            threading.Thread(target=walk_together)
        ]
        cutter = threading.Thread(target=cut)
        for thread in (*threads, cutter):
            thread.start()
        for thread in threads:
            thread.join()
        stopped.set()
        cutter.join()
        assert not failures
        assert proxy.accepted > 3


def test_a_state_is_read_set_and_copied_through_a_cut(proxy: Proxy) -> None:
    with connect(proxy.address) as gs:
        s = gs.session("accumulator")
        s.step([1, 2])
        proxy.cut()
        state = s.get_state()
        assert state.position == 1
        proxy.cut()
        copy = s.fork()
        s.step([1, 1])
        proxy.cut()
        s.set_state(state)
        proxy.cut()
        np.testing.assert_array_equal(s.step([1, 1]), [2, 3])
        assert s.position == 2
        with gs.session("accumulator", id=copy, mode="resume") as other:
            np.testing.assert_array_equal(other.step([5, 5]), [6, 7])
        s.close()


def test_a_state_that_was_set_unheard_is_not_set_over_what_came_after(
    proxy: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Message] = []
    ask = Connection.ask

    def unheard(self: Connection, call: Call[Any], timeout: float) -> Any:
        answer = ask(self, call, timeout)
        if call.rpc == "SetState":
            asked.append(copy.deepcopy(call.request))
            if len(asked) == 1:
                raise ServerUnreachableError("its answer is lost")
        return answer

    with connect(proxy.address) as gs, connect(proxy.address) as others:
        s = gs.session("accumulator")
        s.run(np.ones((5, 2), np.float32))
        state = s.get_state()
        s.step([1, 1])
        monkeypatch.setattr(Connection, "ask", unheard)
        s.set_state(state)
        np.testing.assert_array_equal(s.step([1, 1]), [6, 6])
        assert s.position == 6
        first, *again = asked
        assert isinstance(first, pb.SetStateRequest)
        assert (first.sequence, first.epoch) == (6, 1)
        # As it arrives late: the session has moved on.
        with pytest.raises(EpochStaleError if again else PositionMismatchError):
            others._call(Call("SetState", first, lambda answer: answer), 10)
        np.testing.assert_array_equal(s.step([1, 1]), [7, 7])
        proxy.cut()
        np.testing.assert_array_equal(s.step([1, 1]), [8, 8])


def test_a_session_whose_state_somebody_else_has_set_goes_on_from_there(proxy: Proxy) -> None:
    with connect(proxy.address) as gs, connect(proxy.address) as others:
        s = gs.session("accumulator")
        s.run(np.ones((5, 2), np.float32))
        state = s.get_state()
        s.run(np.ones((4, 2), np.float32))
        for _ in range(2):
            others.set_state(s.id, state)
        with pytest.raises(PositionMismatchError):
            s.step([1, 1])
        assert s.position == 5
        np.testing.assert_array_equal(s.step([1, 1]), [6, 6])
        proxy.cut()
        np.testing.assert_array_equal(s.step([1, 1]), [7, 7])
        s.reset()
        proxy.cut()
        np.testing.assert_array_equal(s.step([1, 1]), [1, 1])
        s.set_state(state)
        s.step([1, 1])
        for _ in range(2):
            others.set_state(s.id, state)
        # It is theirs by now, and this one is told so; nothing is lost.
        with pytest.raises(PositionMismatchError):
            s.set_state(state)
        with pytest.raises(PositionMismatchError):
            s.step([1, 1])
        np.testing.assert_array_equal(s.step([1, 1]), [6, 6])
        s.close()


def test_where_a_session_stands_is_asked_on_the_stream_that_it_is_on(accumulator_path: Path) -> None:
    with (
        serving(accumulator_path, sessions_per_stream=4) as server,
        proxied(server.port) as proxy,
        connect(proxy.address) as gs,
    ):
        neighbour, s = gs.session("accumulator"), gs.session("accumulator")
        log = s._queue.log
        assert log is not None
        s.step([1, 1])
        connections = proxy.accepted
        # More often than a stream has handles.
        for k in range(1, 20):
            s._link.note(partial(log.unsettled.add, 0))
            s._link.settle(s._queue)
            np.testing.assert_array_equal(neighbour.step([1, 1]), [k, k])
            np.testing.assert_array_equal(s.step([1, 1]), [k + 1, k + 1])
        assert proxy.accepted == connections
        s.close()


def test_a_close_that_was_not_heard_is_not_refused_for_having_been_done(
    server: ServerProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    ask = Connection.ask
    asked: list[str] = []

    def unheard(self: Connection, call: Call[Any], timeout: float) -> Any:
        asked.append(call.rpc)
        answer = ask(self, call, timeout)
        if len(asked) == 1:
            raise ServerUnreachableError("its answer is lost")
        return answer

    with connect(server.address) as gs:
        s = gs.session("accumulator")
        monkeypatch.setattr(Connection, "ask", unheard)
        assert gs.close_session(s.id, "accumulator") is None
        assert asked == ["CloseSession"] * 2
        with pytest.raises(SessionUnknownError):
            gs.close_session(s.id, "accumulator")


def test_the_worker_that_has_a_session_is_looked_for(accumulator_path: Path) -> None:
    with (
        serving(accumulator_path, workers=3, store="memory") as server,
        proxied(server.port) as proxy,
        connect(proxy.address) as gs,
    ):
        s = gs.session()
        for step in range(4):
            np.testing.assert_array_equal(s.step([1, 1]), [step + 1] * 2)
            proxy.cut()


def test_a_session_that_another_client_took_up_is_let_go(server: ServerProcess, proxy: Proxy) -> None:
    with connect(proxy.address) as gs, connect(server.address) as others:
        s = gs.session("accumulator", id="wanted-by-two")
        s.step([1, 1])
        proxy.target = 1
        proxy.cut()
        with others.session("accumulator", id="wanted-by-two", mode="resume") as theirs:
            np.testing.assert_array_equal(theirs.step([1, 1]), [2, 2])
            proxy.target = server.port
            with pytest.raises(SessionClosedError, match="another client opened it") as caught:
                s.step([1, 1])
            assert caught.value.close_reason == pb.CLOSE_REASON_TAKEN_OVER
            np.testing.assert_array_equal(theirs.step([1, 1]), [3, 3])


def test_a_stopping_server_is_left_for_another(accumulator_path: Path, tmp_path: Path) -> None:
    store = f"sqlite:{tmp_path}/sessions.db"
    counts = [1] * 10 + [7] * 10
    stopped = threading.Event()
    with (
        serving(accumulator_path, store=store, drain_seconds=60) as first,
        serving(accumulator_path, store=store) as second,
        connect(f"{first.address},{second.address}") as gs,
    ):
        sessions = [gs.session() for _ in counts]
        totals = [np.zeros(2, np.float32) for _ in counts]
        begun = threading.Barrier(len(counts) + 1)
        failures: list[BaseException] = []

        def walk(k: int, after: int) -> None:
            """Until so many steps behind the stop; as much at once as the session's count says."""
            step = 0
            try:
                while after:
                    xs = np.full((counts[k], 2), k + step % 5, np.float32)
                    ys = sessions[k].run(xs)
                    np.testing.assert_array_equal(ys, totals[k] + np.cumsum(xs, axis=0))
                    totals[k] = ys[-1]
                    step += 1
                    if step == 20:
                        begun.wait()
                    after -= stopped.is_set()
            except BaseException as error:
                failures.append(error)
                begun.abort()

        threads = [threading.Thread(target=walk, args=(k, 30)) for k in range(len(counts))]
        for thread in threads:
            thread.start()
        begun.wait(60)
        first.popen.terminate()
        assert first.popen.wait(60) == 0
        stopped.set()
        for thread in threads:
            thread.join()
        assert not failures
        assert gs.address == second.address
        assert second.popen.poll() is None


def test_what_ended_with_the_process_is_said_to_be_gone(accumulator_path: Path) -> None:
    first = start(accumulator_path, store="memory")
    with proxied(first.port) as proxy, connect(proxy.address) as gs:
        s = gs.session()
        s.step([1, 1])
        first.kill()
        with serving(accumulator_path, store="memory") as second:
            proxy.target = second.port
            with pytest.raises(SessionUnknownError, match="ended with the process"):
                s.step([1, 1])
            # Others can be opened.
            np.testing.assert_array_equal(gs.session().step([1, 1]), [1, 1])


def test_without_a_connection_that_is_what_is_said(server: ServerProcess) -> None:
    with proxied(server.port) as proxy, connect(proxy.address) as gs:
        s = gs.session("accumulator")
        s.step([1, 1])
        target, proxy.target = proxy.target, 1
        proxy.cut()
        with pytest.raises(DeadlineExceededError, match="there has been no connection for"):
            s.step([1, 1], timeout=0.7)
        proxy.target = target
        # Whether the step had left, its position says.
        y = s.step([1, 1])
        assert y.tolist() == [s.position] * 2
        assert s.position in (2, 3)


def test_without_resuming_sessions_end_with_their_connection(proxy: Proxy) -> None:
    with connect(proxy.address, resume=False) as gs:
        s = gs.session("accumulator")
        s.step([1, 1])
        proxy.cut()
        with pytest.raises(ConnectionLostError):
            s.run(np.zeros((200_000, 2), np.float32))


def test_the_first_address_that_answers(server: ServerProcess) -> None:
    with connect(f"127.0.0.1:1, {server.address}") as gs:
        assert gs.address == server.address
    with connect(["127.0.0.1:1", server.address]) as gs, gs.session("accumulator") as s:
        s.step([1, 1])


def test_logs_at_their_bound_wait_for_checkpoints(server: ServerProcess) -> None:
    with connect(server.address, replay_bytes=4_000) as gs:
        sessions = [gs.session("accumulator") for _ in range(3)]
        for _ in range(20):
            for s in sessions:
                s.run(np.ones((100, 2), np.float32), timeout=10)
        assert [s.position for s in sessions] == [2_000] * 3


def test_a_session_is_opened_as_soon_as_a_server_that_was_away_is_back(accumulator_path: Path, tmp_path: Path) -> None:
    settings = {"store": f"sqlite:{tmp_path / 'sessions.db'}"}
    first = start(accumulator_path, **settings)
    with connect(first.address, timeout=PATIENCE) as gs:
        first.popen.kill()
        first.popen.wait()
        # By now the channel knows that nobody is there.
        time.sleep(0.5)
        opened: list[Session] = []
        opening = threading.Thread(target=lambda: opened.append(gs.session("accumulator")))
        opening.start()
        time.sleep(0.5)
        with serving(accumulator_path, listen=first.address, **settings):
            opening.join(PATIENCE)
            (session,) = opened
            np.testing.assert_array_equal(session.step([1, 2]), [1, 2])


@pytest.mark.parametrize("unload", [False, True])
def test_a_session_that_was_moved_comes_back_to_where_it_is(tmp_path: Path, unload: bool) -> None:
    for version in ("1", "2"):
        path = tmp_path / "models" / "m" / version / "model.onnx"
        path.parent.mkdir(parents=True)
        accumulator(path, name="m", version=version)
    (tmp_path / "models" / "m" / "config.pbtxt").write_text("version_policy { all {} }")
    flags = {"store": f"sqlite:{tmp_path / 'sessions.db'}", "models": tmp_path / "models", "model_control": True}
    with serving(**flags) as server, proxied(server.port) as proxy, connect(proxy.address) as gs:
        session = gs.session("m", version="1")
        np.testing.assert_array_equal(session.step([1, 2]), [1, 2])
        with control(server) as stub:
            ask = pb.MigrateSessionsRequest(name="m", from_version="1", to_version="2")
            assert stub.MigrateSessions(ask, timeout=PATIENCE).migrated == 1
            if unload:
                stub.UnloadModel(pb.UnloadModelRequest(name="m", version="1"), timeout=PATIENCE)
            for position in (2, 3):
                proxy.cut()
                np.testing.assert_array_equal(session.step([1, 2]), [position, 2 * position])
            assert listed(stub)["m", "2"].sessions == 1
