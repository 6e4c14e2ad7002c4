"""A session that comes to another stream: every step is taken once, wherever it was sent."""

import numpy as np

from gatestream.protos.gatestream.v1 import gatestream_pb2 as pb
from tests.support.process import ServerProcess
from tests.support.wire import Stream, until


def test_steps_in_flight_are_answered_to_whoever_sent_them(server: ServerProcess) -> None:
    with Stream(server.address) as owner, Stream(server.address) as heir:
        owner.opened(0, "s")
        owner.steps({0: np.ones((1000, 2))})
        owner.expect("results")
        heir.open(0, "s", mode=pb.OPEN_MODE_RESUME)
        # Without waiting for Opened.
        heir.steps({0: np.ones((500, 2))})
        assert owner.results({0: 999}, 2)[0][-1].tolist() == [1000, 1000]
        assert owner.expect("closed") == pb.Closed(handle=[0], position=[1000], reason=pb.CLOSE_REASON_TAKEN_OVER)
        opened = heir.expect("opened")
        assert (opened.session_id, opened.position, opened.created) == ("s", 1000, False)
        assert heir.results({0: 500}, 2)[0].tolist() == [[1000 + k, 1000 + k] for k in range(1, 501)]


def test_a_race_for_a_session_loses_no_step(server: ServerProcess) -> None:
    """Both send at once: what the server accepted from the owner is answered to it, what came later is refused."""
    for _ in range(20):
        with Stream(server.address) as owner, Stream(server.address) as heir:
            owner.opened(0, "raced")
            heir.opened(1)  # It is connected now: nobody can be while the server is paused.
            with server.paused():
                for _ in range(20):
                    owner.steps({0: [[1, 1]]})
                heir.open(0, "raced", mode=pb.OPEN_MODE_RESUME)
                heir.steps({0: [[1, 1]]})
                owner.flush()
                heir.flush()
            taken = refused = 0
            closed = None
            while taken + refused < 20 or closed is None:
                message = owner.read()
                if message.HasField("closed"):
                    closed = message.closed
                elif message.HasField("error"):
                    assert message.error.reason == pb.REASON_HANDLE_UNKNOWN
                    refused += 1
                else:
                    assert list(message.results.first) == [taken]
                    taken += 1
            assert closed == pb.Closed(handle=[0], position=[taken], reason=pb.CLOSE_REASON_TAKEN_OVER)
            assert heir.expect("opened").position == taken
            assert heir.results({0: 1}, 2)[0].tolist() == [[taken + 1, taken + 1]]


def test_a_session_that_goes_from_hand_to_hand(server: ServerProcess) -> None:
    streams = [Stream(server.address) for _ in range(5)]
    streams[0].opened(0, "s")
    # All of them want it while its chunk runs; the last one gets it.
    streams[0].steps({0: np.ones((500, 2))})
    streams[0].expect("results")
    for stream in streams[1:]:
        stream.open(7, "s", mode=pb.OPEN_MODE_RESUME)
    streams[0].results({0: 499}, 2)
    assert streams[0].expect("closed").reason == pb.CLOSE_REASON_TAKEN_OVER
    # Which of them was last, is the server's word.
    opened = [stream.expect("opened") for stream in streams[1:]]
    assert {item.position for item in opened} == {500}
    keeper = list_keepers(streams[1:])
    assert len(keeper) == 1
    for stream in streams:
        stream.disconnect()


def list_keepers(streams: list[Stream]) -> list[Stream]:
    """Those that still hold handle 7, by the answer to a step for a place where no session stands."""
    keepers = []
    for stream in streams:
        stream.steps({7: [[1, 1]]}, first=[2**60])
        while not (message := stream.read()).HasField("error"):
            assert message.closed.reason == pb.CLOSE_REASON_TAKEN_OVER
        if message.error.reason == pb.REASON_POSITION_MISMATCH:
            keepers.append(stream)
        else:
            assert message.error.reason == pb.REASON_HANDLE_UNKNOWN
    return keepers


def test_to_another_handle_of_the_same_stream(server: ServerProcess) -> None:
    with Stream(server.address) as stream:
        stream.opened(0, "s")
        stream.steps({0: [[1, 2]]})
        stream.open(1, "s", outputs=pb.OUTPUTS_NONE)
        stream.steps({1: [[3, 4]]}, first=[1])
        assert stream.results({0: 1}, 2)[0].tolist() == [[1, 2]]
        assert stream.expect("closed") == pb.Closed(handle=[0], position=[1], reason=pb.CLOSE_REASON_TAKEN_OVER)
        opened = stream.expect("opened")
        assert (opened.handle, opened.position, opened.created) == (1, 1, False)
        results = stream.expect("results")
        assert (list(results.handle), list(results.first), list(results.output)) == ([1], [1], [])


def test_the_id_of_a_session_that_waits_for_its_close_is_free(server: ServerProcess) -> None:
    with Stream(server.address) as owner, Stream(server.address) as heir:
        owner.opened(0, "s")
        owner.steps({0: np.ones((1000, 2))})
        owner.close(0)
        # Refused when the Close before it has been read.
        owner.steps({0: [[1, 1]]})
        answered = 0
        while (message := owner.read()).WhichOneof("kind") == "results":
            answered += len(message.results.output[0]) // 8  # Of two float32.
        assert message.error.reason == pb.REASON_HANDLE_UNKNOWN
        heir.open(0, "s", mode=pb.OPEN_MODE_RESUME)
        assert heir.refused().reason == pb.REASON_SESSION_UNKNOWN
        opened = heir.opened(0, "s")
        assert (opened.position, opened.created) == (0, True)
        assert heir.stepped(0, [[1, 2]]).tolist() == [[1, 2]]
        # The old one finishes all the same, and closes as itself.
        assert owner.results({0: 1000 - answered}, 2)[0][-1].tolist() == [1000, 1000]
        assert owner.expect("closed") == pb.Closed(handle=[0], position=[1000], reason=pb.CLOSE_REASON_REQUESTED)
        assert heir.stepped(0, [[1, 2]]).tolist() == [[2, 4]]
        sessions = heir.calls.ListSessions(pb.ListSessionsRequest()).sessions
        assert [(item.session_id, item.position) for item in sessions] == [("s", 2)]
    with Stream(server.address) as other:
        until(lambda: not other.calls.ListSessions(pb.ListSessionsRequest()).sessions, "no session was left")
