"""How a server that was told to stop ends what is open, through both doors: the client hears of it, and never OK."""

import contextlib
import queue
import signal
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import psutil
import pytest

from gatestream.client import connect
from gatestream.client.errors import DrainingError, SessionClosedError
from gatestream.protos.gatestream.v1 import gatestream_pb2 as pb
from gatestream.protos.inference import open_inference_grpc_pb2 as oip
from gatestream.protos.inference import open_inference_grpc_pb2_grpc as oip_grpc
from tests.support.process import serving, start_under
from tests.support.wire import PATIENCE, Stream, until

# Far beyond what a test waits for: a server that ends before it, has not waited for it.
NEVER = 10 * PATIENCE


class Door:
    """One ModelStreamInfer call on a connection of its own."""

    def __init__(self, address: str) -> None:
        self.channel = grpc.insecure_channel(address, [("grpc.use_local_subchannel_pool", 1)])
        self._outgoing: queue.SimpleQueue[oip.ModelInferRequest | None] = queue.SimpleQueue()
        self.stub = oip_grpc.GRPCInferenceServiceStub(self.channel)
        self.call: Any = self.stub.ModelStreamInfer(iter(self._outgoing.get, None), timeout=PATIENCE)

    def infer(self, sequence: str, **flags: bool) -> list[float]:
        """Take a step and wait for the sums."""
        request = oip.ModelInferRequest(model_name="accumulator")
        request.inputs.add(name="x", datatype="FP32", shape=[1, 1, 2])
        request.raw_input_contents.append(np.ones(2, np.float32).tobytes())
        request.parameters["sequence_id"].string_param = sequence
        for name, value in flags.items():
            request.parameters[f"sequence_{name}"].bool_param = value
        self._outgoing.put(request)
        answer = next(self.call)
        assert not answer.error_message
        sums: list[float] = np.frombuffer(answer.infer_response.raw_output_contents[0], np.float32).tolist()
        return sums

    def half_close(self) -> None:
        self._outgoing.put(None)

    def ended(self) -> tuple[grpc.StatusCode, str | None]:
        """Read to the end: the status, and the reason in the trailing metadata."""
        with contextlib.suppress(grpc.RpcError):
            for _ in self.call:
                pass
        return self.call.code(), dict(self.call.trailing_metadata()).get("gatestream-reason")

    def close(self) -> None:
        self.half_close()
        self.call.cancel()
        self.channel.close()


def draining(door: Door) -> bool:
    return not door.stub.ServerReady(oip.ServerReadyRequest(), timeout=PATIENCE).ready


def refused(gs: Any) -> bool:
    try:
        gs.session().close()
    except DrainingError:
        return True
    return False


def test_what_is_open_may_finish_and_hears_that_the_server_stops(accumulator_path: Path) -> None:
    with (
        serving(accumulator_path, drain_seconds=NEVER) as server,
        Stream(server.address) as stream,
        Stream(server.address) as half_closed,
        contextlib.closing(Door(server.address)) as idle,
        contextlib.closing(Door(server.address)) as done,
        contextlib.closing(Door(server.address)) as door,
        contextlib.closing(Door(server.address)) as half_closed_door,
        connect(server.address) as gs,
    ):
        stream.opened(0)
        half_closed.opened(0)
        with server.paused():
            half_closed.steps({0: np.ones((5000, 2))})
            half_closed.half_close()
            half_closed.flush()
        half_closed.results({0: 5000}, 2)
        assert (done.infer("a", start=True), done.infer("a", end=True)) == ([1, 1], [2, 2])
        assert (door.infer("b", start=True), half_closed_door.infer("c", start=True)) == ([1, 1], [1, 1])
        session = gs.session()
        session.step([1, 1])
        assert not draining(idle)
        server.popen.send_signal(signal.SIGTERM)

        # What has nothing to finish ends at once.
        for ended in (idle, done):
            assert ended.ended() == (grpc.StatusCode.UNAVAILABLE, "REASON_DRAINING")
        # Who has said that no more comes is not told that no more can.
        assert half_closed.status()[0] == grpc.StatusCode.OK
        half_closed_door.half_close()
        assert half_closed_door.ended() == (grpc.StatusCode.OK, None)
        # A sequence goes on to its end, and then its stream ends.
        assert [door.infer("b") for _ in range(2)] == [[2, 2], [3, 3]]
        assert door.infer("b", end=True) == [4, 4]
        assert door.ended() == (grpc.StatusCode.UNAVAILABLE, "REASON_DRAINING")
        # So does a session.
        stream.expect("going_away")
        assert stream.stepped(0, [[1, 2]]).tolist() == [[1, 2]]
        stream.close(0)
        stream.expect("closed")
        code, details = stream.status()
        assert (code, "go on with another" in details) == (grpc.StatusCode.UNAVAILABLE, True)
        assert dict(stream.call.trailing_metadata())["gatestream-reason"] == "REASON_DRAINING"
        # The Python client's too, which is refused another one by name.
        until(lambda: refused(gs), "it drains")
        session.step([1, 1])
        session.close()
        assert server.popen.wait(PATIENCE) == 0
        with pytest.raises(SessionClosedError):
            session.step([1, 1])


def test_at_the_deadline_a_sequence_ends(accumulator_path: Path) -> None:
    with (
        serving(accumulator_path, drain_seconds=0.3) as server,
        contextlib.closing(Door(server.address)) as door,
    ):
        door.infer("a", start=True)
        server.popen.send_signal(signal.SIGTERM)
        assert door.ended() == (grpc.StatusCode.UNAVAILABLE, "REASON_DRAINING")
        assert server.popen.wait(PATIENCE) == 0


# ---- Signals -------------------------------------------------------------------------------------


def test_a_hangup_drains_and_a_second_signal_ends_it(accumulator_path: Path) -> None:
    with serving(accumulator_path, drain_seconds=NEVER) as server, Stream(server.address) as stream:
        stream.opened(0)
        server.popen.send_signal(signal.SIGHUP)
        stream.expect("going_away")
        assert stream.stepped(0, [[1, 2]]).tolist() == [[1, 2]]
        server.popen.send_signal(signal.SIGHUP)
        assert stream.expect("closed").reason == pb.CLOSE_REASON_DRAINED
        assert stream.status()[0] == grpc.StatusCode.UNAVAILABLE
        assert server.popen.wait(PATIENCE) == 0


def test_a_hangup_that_is_ignored_at_the_start_stays_so(accumulator_path: Path) -> None:
    """As `nohup` has it."""
    server = start_under(("env", "--ignore-signal=HUP"), accumulator_path, workers=2, drain_seconds=NEVER)
    with contextlib.closing(server), Stream(server.address) as stream:
        stream.opened(0)
        for process in [psutil.Process(server.popen.pid), *psutil.Process(server.popen.pid).children(recursive=True)]:
            process.send_signal(signal.SIGHUP)
        assert stream.stepped(0, [[1, 2]]).tolist() == [[1, 2]]
        server.popen.send_signal(signal.SIGTERM)
        # Not the second signal.
        stream.expect("going_away")
        assert stream.stepped(0, [[1, 2]]).tolist() == [[2, 4]]


def test_a_hangup_to_every_process_is_one_signal(accumulator_path: Path) -> None:
    """As a terminal that goes away sends it."""
    with serving(accumulator_path, workers=2, drain_seconds=NEVER) as server, Stream(server.address) as stream:
        stream.opened(0)
        for process in [*psutil.Process(server.popen.pid).children(recursive=True), psutil.Process(server.popen.pid)]:
            process.send_signal(signal.SIGHUP)
        stream.expect("going_away")
        assert stream.stepped(0, [[1, 2]]).tolist() == [[1, 2]]
        stream.close(0)
        stream.expect("closed")
        assert server.popen.wait(PATIENCE) == 0
