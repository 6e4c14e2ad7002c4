"""The blocking client against a real server: what is refused, how long it asks again, and who may share it."""

import threading

import numpy as np
import pytest

from gatestream.client import Client, connect
from gatestream.client.errors import (
    ConnectionLostError,
    InputError,
    ModelUnknownError,
    NoGatesError,
    SessionClosedError,
    SessionExistsError,
    SessionIdInvalidError,
    SessionsExhaustedError,
    SessionUnknownError,
    TokenOutOfRangeError,
)
from gatestream.protos.gatestream.v1 import gatestream_pb2 as pb
from tests.support.process import ServerProcess
from tests.support.wire import PATIENCE


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


def test_a_closed_client_says_so(server: ServerProcess) -> None:
    gs = connect(server.address)
    s = gs.session("accumulator")
    gs.close()
    gs.close()
    with pytest.raises(SessionClosedError):
        s.step([1, 1])
    with pytest.raises(ConnectionLostError, match="is closed; connect again"):
        gs.session("accumulator")
