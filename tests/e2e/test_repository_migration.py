"""Sessions move between versions of a model while they step."""

import threading
import time
from pathlib import Path

import grpc
import numpy as np

from gatestream.protos.gatestream.v1 import gatestream_pb2 as pb
from tests.support.lstm import Lstm
from tests.support.process import serving
from tests.support.repository import control, listed, load
from tests.support.wire import PATIENCE, Stream, call_refused, until

FEATURES, HIDDEN = 3, 8


def put_lstm(models: Path, cell: Lstm, version: int, *, gates: bool) -> None:
    path = models / "lstm" / str(version) / "model.onnx"
    path.parent.mkdir(parents=True, exist_ok=True)
    (cell.save if gates else cell.save_fused)(path)


def test_sessions_move_between_forms_under_traffic(models: Path) -> None:
    """A stream of packed steps and one of single steps, moved to and fro: each number as the equations give it."""
    cell = Lstm.random(features=FEATURES, hidden=HIDDEN)
    put_lstm(models, cell, 1, gates=False)
    put_lstm(models, cell, 2, gates=True)
    put_lstm(models, Lstm.random(features=FEATURES, hidden=HIDDEN, seed=9), 3, gates=True)
    (models / "lstm" / "config.pbtxt").write_text("version_policy { specific { versions: [1] } }")
    with serving(models=models, model_control=True) as server, control(server) as stub:
        load(stub, "lstm", "2")
        done = threading.Event()
        wrong: list[object] = []
        rng = np.random.default_rng(5)

        def go_on(sessions: int, length: int) -> None:
            try:
                with Stream(server.address) as stream:
                    for handle in range(sessions):
                        stream.opened(handle, model="lstm", version="1")
                    state = [(np.zeros(HIDDEN, np.float32),) * 2] * sessions
                    position = 0
                    while not done.is_set():
                        x = rng.standard_normal((sessions, length, FEATURES)).astype(np.float32)
                        stream.steps(dict(enumerate(x)), first=[position] * sessions)
                        position += length
                        got = stream.results(dict.fromkeys(range(sessions), length), HIDDEN)
                        for handle in range(sessions):
                            expected, _, state[handle] = cell.advance(x[handle], state[handle])
                            np.testing.assert_allclose(got[handle], expected, rtol=0, atol=2e-5)
            except Exception as error:
                wrong.append(error)

        threads = [threading.Thread(target=go_on, args=shape) for shape in ((12, 3), (1, 1), (3, 20))]
        for thread in threads:
            thread.start()
        moved = []
        try:
            until(lambda: listed(stub)["lstm", "1"].sessions == 16, "all are open")
            for before, after in [("1", "2"), ("2", "1")] * 5:
                request = pb.MigrateSessionsRequest(name="lstm", from_version=before, to_version=after)
                moved.append(stub.MigrateSessions(request, timeout=PATIENCE).migrated)
                assert [listed(stub)["lstm", k].sessions for k in (before, after)] == [0, 16]
                time.sleep(0.05)
            # States move bit for bit.
            with Stream(server.address) as stream:
                stream.opened(0, "still", model="lstm", version="1")
                stream.steps({0: rng.standard_normal((9, FEATURES))})
                stream.results({0: 9}, HIDDEN)
                ask = pb.GetStateRequest(model="lstm", session_id="still")
                state = stream.calls.GetState(ask, timeout=PATIENCE)
                stub.MigrateSessions(pb.MigrateSessionsRequest(name="lstm", to_version="2"), timeout=PATIENCE)
                assert stream.calls.GetState(ask, timeout=PATIENCE) == state
                sessions = stream.calls.ListSessions(pb.ListSessionsRequest(), timeout=PATIENCE).sessions
                assert {each.version for each in sessions} == {"2"}
        finally:
            done.set()
            for thread in threads:
                thread.join()
        assert wrong == []
        assert moved == [16] * 10
        load(stub, "lstm", "3")
        for before, after in (("2", "3"), ("2", "")):
            with (
                Stream(server.address) as stream,
                call_refused(grpc.StatusCode.FAILED_PRECONDITION, pb.REASON_MODEL_NOT_LOADED, "its weights are others"),
            ):
                stream.opened(0, model="lstm", version="2")
                request = pb.MigrateSessionsRequest(name="lstm", from_version=before, to_version=after)
                stub.MigrateSessions(request, timeout=PATIENCE)
        # Gates that are asked for are not lost.
        with (
            Stream(server.address) as stream,
            call_refused(grpc.StatusCode.FAILED_PRECONDITION, pb.REASON_MODEL_NOT_LOADED, "1 sessions on version '2'"),
        ):
            stream.opened(0, model="lstm", version="2", gates=True)
            stub.MigrateSessions(pb.MigrateSessionsRequest(name="lstm", to_version="1"), timeout=PATIENCE)
