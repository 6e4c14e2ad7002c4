"""A client that sends and does not read: it is not read from either, takes bounded memory, and stops nobody."""

from collections.abc import Iterator

import numpy as np
import psutil
import pytest

from gatestream.protos.gatestream.v1 import gatestream_pb2 as pb
from tests.support.artifacts import accumulator
from tests.support.process import ServerProcess, serving
from tests.support.wire import SMALL_WINDOW, Stream, encode, steps, until

FEATURES = 1000
ROWS = 20
MESSAGES = 1000
REPLY_BYTES = 8 * 2**20
# What gRPC itself buffers of a connection, either way, and what an allocator keeps.
SLACK = 40 * 2**20


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    model = accumulator(tmp_path_factory.mktemp("wide") / "wide.onnx", features=FEATURES)
    with serving(model, reply_bytes_per_stream=REPLY_BYTES) as running:
        with Stream(running.address) as stream:
            # The first use of everything, so that it is not taken for growth.
            stream.opened(0)
            stream.stepped(0, np.zeros((10 * ROWS, FEATURES)))
        yield running


def memory(server: ServerProcess) -> int:
    rss: int = psutil.Process(server.popen.pid).memory_info().rss
    return rss


def send_until_the_server_reads_no_more(server: ServerProcess, stream: Stream, message: pb.ClientMessage) -> None:
    """Send far more than the bounds; its memory stays within them, and a neighbour is served all the time."""
    before = memory(server)
    stream.send(*[message] * MESSAGES)
    with Stream(server.address) as neighbour:
        neighbour.opened(0)
        taken = -1
        count = 0
        while stream.taken != taken:
            taken = stream.taken
            for _ in range(100):
                count += 1
                assert neighbour.stepped(0, np.ones((1, FEATURES)))[0, 0] == count
            assert memory(server) - before < REPLY_BYTES + SLACK
    assert taken < MESSAGES


def test_answers_that_nobody_reads(server: ServerProcess) -> None:
    with Stream(server.address, options=SMALL_WINDOW) as stream:
        stream.opened(0)
        send_until_the_server_reads_no_more(server, stream, steps({0: np.ones((ROWS, FEATURES))}))
        # Now it reads: each step has one answer, and those that were taken were taken in order.
        position = 0
        refused = 0
        while position + refused < ROWS * MESSAGES:
            answer = stream.read()
            if answer.HasField("error"):
                assert answer.error.reason == pb.REASON_ROWS_EXHAUSTED
                refused += answer.error.length[0]
            else:
                assert list(answer.results.first) == [position]
                position += answer.results.length[0]
                assert answer.results.output[0][-4:] == encode([position])
        assert position + refused == ROWS * MESSAGES
        assert position > 0
        assert refused > 0
        assert stream.stepped(0, np.zeros((1, FEATURES)))[0, 0] == position


def test_errors_that_nobody_reads(server: ServerProcess) -> None:
    handles = range(100, 2000)
    wrong = pb.ClientMessage(
        steps=pb.Steps(handle=handles, length=[1] * len(handles), first=[2**62] * len(handles), input=[b""])
    )
    with Stream(server.address, options=SMALL_WINDOW) as stream:
        stream.opened(0)
        send_until_the_server_reads_no_more(server, stream, wrong)
        assert all(len(stream.refused().handle) == len(handles) for _ in range(MESSAGES))
        assert stream.stepped(0, np.zeros((1, FEATURES)))[0, 0] == 0


def test_one_who_never_reads_and_goes(server: ServerProcess) -> None:
    before = memory(server)
    for _ in range(5):
        with Stream(server.address, options=SMALL_WINDOW) as stream:
            stream.opened(0)
            send_until_the_server_reads_no_more(server, stream, steps({0: np.ones((ROWS, FEATURES))}))
    until(lambda: memory(server) - before < SLACK, "the memory was given back")
