"""What is done to blocking sessions from beside their stream, against a real server."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from gatestream.client import Client, connect
from gatestream.client.errors import InputError, PositionMismatchError, SessionClosedError, StateMismatchError
from gatestream.protos.gatestream.v1 import gatestream_pb2 as pb
from tests.support.process import ServerProcess
from tests.support.wire import until


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


@pytest.mark.parametrize(
    ("s", "position", "message"),
    [
        ([1, np.nan], 0, r"state 's' of 'accumulator': nan came at \[1\]; finite numbers"),
        ([1e39, 0], 0, r"1e\+39 came at \[0\]; finite numbers, at most 3.4028235e\+38"),
        (np.ma.array([1, 2], mask=[False, True]), 0, r"a masked value came at \[1\]"),
        ([1, True], 0, r"True \(bool\) came at \[1\]"),
        ([1, None], 0, r"None \(NoneType\) came at \[1\]"),
        (["1", "2"], 0, "text came"),
        ([1, 2], -1, r"position: -1 \(int\) came"),
        ([1, 2], 0.5, r"position: 0.5 \(float\) came"),
        ([1, 2], True, r"position: True \(bool\) came"),
        ([1, 2], 2**64, r"position: a whole number of 65 bits came"),
    ],
)
def test_a_state_of_wrong_values(gs: Client, s: Any, position: Any, message: str) -> None:
    with gs.session("accumulator") as session:
        session.step([3, 4])
        state = replace(session.get_state(), arrays={"s": s}, position=position)
        with pytest.raises(InputError, match=message):
            session.set_state(state)
        assert session.position == 1
        np.testing.assert_array_equal(session.step([1, 1]), [4, 5])


def test_a_state_that_somebody_else_set(gs: Client) -> None:
    with gs.session("accumulator", id="moved") as s:
        s.step([1, 1])
        state = s.get_state()
        gs.set_state("moved", type(state)(state.model, state.weights_fingerprint, 40, state.arrays))
        with pytest.raises(PositionMismatchError, match="first is 1; the session's next step is 40"):
            s.step([1, 1])
        assert s.position == 40
        np.testing.assert_array_equal(s.step([1, 1]), [2, 2])


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
