"""Every bound: what is just under it is taken, what is over it is refused at once, and after waiting it is taken."""

import contextlib
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import grpc
import numpy as np
import pytest

from gatestream.protos.gatestream.v1 import gatestream_pb2 as pb
from gatestream.protos.gatestream.v1 import gatestream_pb2_grpc as pb_grpc
from tests.support.artifacts import accumulator
from tests.support.lstm import Lstm
from tests.support.process import ServerProcess, serving, start
from tests.support.wire import PATIENCE, SMALL_WINDOW, Stream, call_refused, parts, steps, stub, until

MESSAGE_BYTES = 16_384
# One step a run: a chunk of a thousand is in flight for as long as a test needs.
LIMITS = {
    "sessions": 6,
    "sessions_per_stream": 4,
    "streams": 3,
    "rows": 1200,
    "rows_per_stream": 800,
    "chunk_length": 600,
    "message_bytes": MESSAGE_BYTES,
    "tick_steps": 1,
}


@pytest.fixture(scope="module")
def narrow_server(accumulator_path: Path) -> Iterator[ServerProcess]:
    with serving(accumulator_path, **LIMITS) as running:
        yield running


@pytest.fixture
def narrow(narrow_server: ServerProcess) -> Iterator[ServerProcess]:
    """A server with small bounds; after each test it is empty again, and takes what it may."""
    yield narrow_server
    with stub(narrow_server.address) as calls:
        until(lambda: calls.Describe(pb.DescribeRequest()).models[0].sessions == 0, "no session was left")
    with Stream(narrow_server.address) as stream:
        stream.opened(0, outputs=pb.OUTPUTS_NONE)
        stream.steps({0: ones(600)})
        stream.close(0)
        while not (message := stream.read()).HasField("closed"):
            assert message.HasField("results")


def ones(count: int) -> object:
    return np.ones((count, 2))


def test_describe_tells_the_bounds(narrow: ServerProcess) -> None:
    with stub(narrow.address) as calls:
        limits = calls.Describe(pb.DescribeRequest(), timeout=PATIENCE).limits
    assert limits == pb.Limits(
        sessions=6,
        sessions_per_stream=4,
        streams=3,
        rows=1200,
        rows_per_stream=800,
        chunk_length=600,
        message_bytes=MESSAGE_BYTES,
        idle_timeout_s=3600,
        reply_bytes_per_stream=64 * 2**20,
        reply_bytes=512 * 2**20,
        tenant_sessions=6,
        tenant_streams=3,
        tenant_rows=1200,
        tenant_reply_bytes=512 * 2**20,
        sequence_timeout_s=60,
        idle_stream_timeout_s=300,
        park_timeout_s=3600,
        durability=pb.DURABILITY_BEHIND,
        store="memory",
    )


def test_chunk_length(narrow: ServerProcess) -> None:
    with Stream(narrow.address) as stream:
        stream.opened(0)
        stream.steps({0: ones(601)})
        error = stream.refused()
        assert (error.reason, error.retry_after_ms) == (pb.REASON_CHUNK_TOO_LONG, 0)
        assert "is 601; expected at most 600" in error.message
        stream.steps({0: ones(600)}, first=[0])
        assert len(stream.results({0: 600}, 2)[0]) == 600


def test_rows_per_stream_in_one_message(narrow: ServerProcess) -> None:
    with Stream(narrow.address) as stream:
        stream.opened(0)
        stream.opened(1)
        stream.steps({0: ones(600), 1: ones(201)})
        error = stream.refused()
        assert (error.reason, list(error.handle)) == (pb.REASON_ROWS_EXHAUSTED, [0, 1])
        assert (list(error.position), list(error.first), list(error.length)) == ([0, 0], [0, 0], [600, 201])
        assert "801 rows" in error.message
        assert "800" in error.message
        # Waiting would not help.
        assert "send less in a message" in error.message
        assert error.retry_after_ms == 0
        stream.steps({0: ones(600), 1: ones(200)}, first=[0, 0])
        stream.results({0: 600, 1: 200}, 2)


def test_rows_per_stream_in_several_messages(narrow: ServerProcess) -> None:
    with Stream(narrow.address) as stream, Stream(narrow.address) as other:
        for handle in range(3):
            stream.opened(handle)
        other.opened(0)
        with narrow.paused():
            stream.steps({0: ones(600)}, first=[0])
            stream.steps({1: ones(200)}, first=[0])
            stream.steps({2: ones(400)}, first=[0])
            stream.flush()
        counts = {0: 0, 1: 0}
        while not (message := stream.read()).HasField("error"):
            for handle in message.results.handle:
                counts[handle] += 1
        error = message.error
        assert (error.reason, list(error.handle)) == (pb.REASON_ROWS_EXHAUSTED, [2])
        assert (list(error.position), list(error.first), list(error.length)) == ([0], [0], [400])
        assert "400 rows more than the" in error.message
        assert "800" in error.message
        assert error.retry_after_ms > 0
        # It is this stream's bound: others have theirs.
        assert other.stepped(0, [[1, 2]]).tolist() == [[1, 2]]
        stream.results({handle: total - counts[handle] for handle, total in ((0, 600), (1, 200))}, 2)
        stream.steps({2: ones(400)}, first=[0])
        assert stream.results({2: 400}, 2)[2][-1].tolist() == [400, 400]


def test_a_control_counts_as_a_row(narrow: ServerProcess) -> None:
    with Stream(narrow.address) as stream:
        for handle in range(4):
            stream.opened(handle)
        with narrow.paused():
            stream.steps({0: ones(600)})
            stream.steps({0: ones(200)})
            # More than can have been answered of these by then: it is one in a run.
            for _ in range(400):
                stream.reset(0, 1, 2, 3)
            stream.close(2)
            stream.flush()
        done, refused, closed, results = 0, 0, False, 0
        while done + refused < 1600 or results != 800 or not closed:
            message = stream.read()
            if message.HasField("error"):
                assert message.error.reason == pb.REASON_ROWS_EXHAUSTED
                assert message.error.retry_after_ms > 0
                refused += len(message.error.handle)
            results += len(message.results.handle)
            done += len(message.reset_done.handle)
            # A Close is never refused for want of room.
            closed |= list(message.closed.handle) == [2]
        assert refused > 0
        stream.steps({3: [[1, 2]]}, first=[0])
        assert stream.results({3: 1}, 2)[3].tolist() == [[1, 2]]


def test_a_takeover_that_there_is_no_room_for_leaves_the_session_with_its_owner(tmp_path: Path) -> None:
    lstm = Lstm.random(hidden=256)
    xs = np.ones((3, 3), np.float32)
    ys, _ = lstm.run(xs)
    limits = {"rows_per_stream": 100, "chunk_length": 100, "rows": 1000}
    with (
        serving(lstm.save(tmp_path / "lstm.onnx"), **limits) as server,
        Stream(server.address) as owner,
        Stream(server.address, options=SMALL_WINDOW) as heir,
    ):
        owner.opened(0, "held")
        heir.opened(0, gates=True)
        # Steps of 12 bytes, answers of 5 kB that nobody reads: a hundred of them stay, and their rows are in flight.
        for _ in range(200):
            heir.send(steps({0: xs[:1]}))
        heir.open(1, "held", mode=pb.OPEN_MODE_RESUME)
        heir.flush()
        # All of it has come, when the server has been round its loop so often and there was no more to read.
        positions = [-1] * 50
        while positions[-50:] != positions[-1:] * 50 or positions[-1] < 100:
            listed = owner.calls.ListSessions(pb.ListSessionsRequest(), timeout=PATIENCE).sessions
            positions.append(max(item.position for item in listed))
        answers = [heir.read() for _ in range(201)]
        taken = [message.results for message in answers if message.HasField("results")]
        refused = [message.error for message in answers if message.HasField("error")]
        assert [results.first[0] for results in taken] == list(range(len(taken)))
        assert {error.reason for error in refused} == {pb.REASON_ROWS_EXHAUSTED}
        assert refused[-1].handle[0] == 1
        # The owner has it still, and the heir has it when there is room.
        owner.send(steps({0: xs[:2]}))
        np.testing.assert_allclose(owner.results({0: 2}, 256)[0], ys[:2], rtol=0, atol=1e-5)
        assert heir.opened(1, "held", mode=pb.OPEN_MODE_RESUME).position == 2
        assert owner.expect("closed").reason == pb.CLOSE_REASON_TAKEN_OVER
        heir.send(steps({1: xs[2:]}))
        np.testing.assert_allclose(heir.results({1: 1}, 256)[1], ys[2:], rtol=0, atol=1e-5)


def test_rows_of_all_streams(narrow: ServerProcess) -> None:
    with Stream(narrow.address) as one, Stream(narrow.address) as two:
        both = (one, two)
        for stream in both:
            stream.opened(0)
            stream.opened(1)
        with narrow.paused():
            for stream in both:
                stream.steps({0: ones(400), 1: ones(400)}, first=[0, 0])
                stream.flush()
        firsts = [stream.read() for stream in both]
        (refused,) = [k for k, message in enumerate(firsts) if message.HasField("error")]
        error = firsts[refused].error
        assert (error.reason, list(error.handle)) == (pb.REASON_ROWS_EXHAUSTED, [0, 1])
        assert "800 rows more than the server has pending would be over its 1200" in error.message
        # After so long it is worth another try; how long exactly, depends on the others.
        while error.retry_after_ms:
            time.sleep(error.retry_after_ms / 1000)
            both[refused].steps({0: ones(400), 1: ones(400)}, first=[0, 0])
            message = both[refused].read()
            error = message.error
        assert {*message.results.first} == {0}


def test_sessions(narrow: ServerProcess) -> None:
    with Stream(narrow.address) as one, Stream(narrow.address) as two, stub(narrow.address) as calls:
        for handle in range(4):
            one.opened(handle, f"s{handle}")
        for handle in range(2):
            two.opened(handle)
        two.open(2)
        error = two.refused()
        assert (error.reason, list(error.handle)) == (pb.REASON_SESSIONS_EXHAUSTED, [2])
        assert "all 6 sessions" in error.message
        assert "--sessions" in error.message
        assert error.retry_after_ms == 500
        with call_refused(grpc.StatusCode.RESOURCE_EXHAUSTED, pb.REASON_SESSIONS_EXHAUSTED, "all 6 sessions"):
            calls.Fork(pb.ForkRequest(session_id="s0"), timeout=PATIENCE)
        # One that is there can be taken over all the same.
        assert not two.opened(2, "s3").created
        assert one.expect("closed").reason == pb.CLOSE_REASON_TAKEN_OVER
        one.close(0)
        one.expect("closed")
        assert two.opened(3).created


def test_sessions_per_stream(narrow: ServerProcess) -> None:
    with Stream(narrow.address) as stream:
        for handle in range(4):
            stream.opened(handle)
        stream.open(4)
        error = stream.refused()
        assert (error.reason, list(error.handle)) == (pb.REASON_MALFORMED, [4])
        assert "open.handle is 4; expected less than 4" in error.message
        stream.steps({handle: ones(1) for handle in range(4)})
        stream.results(dict.fromkeys(range(4), 1), 2)


@pytest.mark.parametrize("kind", ["steps", "reset", "close"])
def test_entries_of_a_message(narrow: ServerProcess, kind: str) -> None:
    with Stream(narrow.address) as stream:
        stream.opened(0)
        many = getattr(pb, kind.capitalize())(handle=[0, 1, 2, 3, 4])
        stream.send(pb.ClientMessage(**{kind: many}))
        # All refused as one: an answer for each would be worth a thousand times the question.
        error = stream.refused()
        assert (error.reason, list(error.handle)) == (pb.REASON_MALFORMED, [])
        assert f"{kind}.handle has 5 entries; expected at most 4" in error.message
        assert stream.stepped(0, [[1, 2]]).tolist() == [[1, 2]]


def test_streams(narrow: ServerProcess) -> None:
    with ExitStack() as stack, stub(narrow.address) as calls:
        streams = [stack.enter_context(Stream(narrow.address)) for _ in range(3)]
        for stream in streams:
            stream.opened(0)
        with Stream(narrow.address) as fourth:
            assert fourth.status()[0] == grpc.StatusCode.RESOURCE_EXHAUSTED
            assert "all 3 streams" in fourth.status()[1]
            trailing = dict(fourth.call.trailing_metadata())
            assert trailing["gatestream-reason"] == "REASON_STREAMS_EXHAUSTED"
            assert int(trailing["gatestream-retry-after-ms"]) >= 1000
        # Calls that are no streams are not counted, and those that are go on.
        assert calls.Describe(pb.DescribeRequest(), timeout=PATIENCE).models[0].sessions == 3
        assert streams[0].stepped(0, [[1, 2]]).tolist() == [[1, 2]]
        streams[2].disconnect()
        until(lambda: can_open(narrow), "a stream was free")


def can_open(server: ServerProcess) -> bool:
    with Stream(server.address) as stream:
        stream.half_close()
        code, _ = stream.status()
    assert code in (grpc.StatusCode.OK, grpc.StatusCode.RESOURCE_EXHAUSTED)
    return code == grpc.StatusCode.OK


@pytest.mark.parametrize("over", [0, 1])
def test_message_bytes(narrow: ServerProcess, over: int) -> None:
    with Stream(narrow.address) as stream, Stream(narrow.address) as other:
        other.opened(0)
        stream.opened(0)
        message = pb.ClientMessage(steps=pb.Steps(handle=[0], input=[bytes(MESSAGE_BYTES - 100)]))
        message.steps.input[0] += bytes(MESSAGE_BYTES + over - message.ByteSize())
        assert message.ByteSize() == MESSAGE_BYTES + over
        stream.send(message)
        if over:
            code, details = stream.status()
            assert code == grpc.StatusCode.RESOURCE_EXHAUSTED
            assert f"larger than max ({MESSAGE_BYTES + 1} vs. {MESSAGE_BYTES})" in details
        else:
            # It came, and was looked at: no row is so large.
            assert stream.refused().reason == pb.REASON_MALFORMED
        assert other.stepped(0, [[1, 2]]).tolist() == [[1, 2]]


def test_message_bytes_of_a_compressed_message(narrow: ServerProcess) -> None:
    with grpc.insecure_channel(narrow.address, compression=grpc.Compression.Gzip) as opened:
        for size, code in ((MESSAGE_BYTES - 100, grpc.StatusCode.OK), (2**22, grpc.StatusCode.RESOURCE_EXHAUSTED)):
            message = pb.ClientMessage(steps=pb.Steps(handle=[0], input=[bytes(size)]))
            call = pb_grpc.GatestreamStub(opened).Stream(iter([message]), timeout=PATIENCE)
            with contextlib.suppress(grpc.RpcError):
                assert next(call).error.reason == pb.REASON_HANDLE_UNKNOWN
                next(call, None)
            assert call.code() == code


def test_reply_bytes_per_stream(tmp_path: Path) -> None:
    lstm = Lstm.random(features=3, hidden=4)
    xs = np.zeros((257, 3), np.float32)
    # The answer to a row has 16 bytes, and with the four gates 80.
    limits = {"reply_bytes_per_stream": 4096, "message_bytes": 3200}
    with serving(lstm.save(tmp_path / "lstm.onnx"), **limits) as server, Stream(server.address) as stream:
        for handle, (gates, most) in enumerate(((True, 51), (False, 256))):
            stream.opened(handle, gates=gates)
            stream.send(steps({handle: xs[: most + 1]}))
            error = stream.refused()
            assert (error.reason, error.retry_after_ms) == (pb.REASON_ROWS_EXHAUSTED, 0)
            assert f"{most + 1} rows" in error.message
            assert f"the stream's {most}" in error.message
            stream.send(steps({handle: xs[:most]}))
            # The answer with gates is larger than any question may be.
            assert len(stream.results({handle: most}, 4)[handle]) == most


def test_no_answer_is_larger_than_every_client_takes(tmp_path: Path) -> None:
    lstm = Lstm.random(features=3, hidden=256)
    xs = np.random.default_rng(0).normal(size=(10, 3)).astype(np.float32)
    ys, _ = lstm.run(xs)
    with serving(lstm.save(tmp_path / "lstm.onnx")) as server, Stream(server.address) as stream:
        for handle in range(100):
            stream.opened(handle, gates=True)
        # 12 kB of inputs, answered by 5 MB.
        stream.send(steps(dict.fromkeys(range(100), xs)))
        answered = 0
        while answered < 100:
            results = stream.expect("results")
            assert results.ByteSize() < 2.1 * 2**20
            for _, _, rows in parts(results, 256):
                np.testing.assert_allclose(rows, ys, rtol=0, atol=1e-5)
                answered += 1


def test_an_answer_that_no_stream_could_be_given(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match=r"reply_bytes_per_stream is 4096; .*'accumulator' is 8000 bytes"):
        start(accumulator(tmp_path / "wide.onnx", features=2000), reply_bytes_per_stream=4096)


def test_the_smallest_bounds_of_all(accumulator_path: Path) -> None:
    names = ("sessions", "sessions_per_stream", "streams", "rows", "rows_per_stream", "chunk_length")
    limits = dict.fromkeys((*names, "tick_rows", "tick_steps"), 1)
    with serving(accumulator_path, **limits) as server, Stream(server.address) as stream:
        stream.opened(0)
        for k in range(1, 20):
            assert stream.stepped(0, [[1, 2]]).tolist() == [[k, 2 * k]]
        stream.reset(0)
        stream.expect("reset_done")
        stream.close(0)
        stream.expect("closed")
