"""Ten thousand sessions come and go: no slot, no thread, no connection and no memory stays behind."""

from pathlib import Path

import numpy as np
import psutil

from gatestream.protos.gatestream.v1 import gatestream_pb2 as pb
from tests.support.process import ServerProcess, serving
from tests.support.wire import PATIENCE, Stream, until

SESSIONS, STREAMS = 2000, 4
ROUNDS = ("vanish", "close", "half_close", "vanish", "close")
EACH = SESSIONS // STREAMS
# An allocator keeps some of what it is given back; a session's own kilobyte, kept, would be 6 MiB by then.
SLACK = 4 * 2**20


def use(stream: Stream) -> None:
    """Open a stream's share of the sessions, step them one by one and in chunks, and reset some."""
    for handle in range(EACH):
        stream.open(handle)
    opened = [stream.expect("opened") for _ in range(EACH)]
    assert all(item.created for item in opened)
    for steps in (1, 3):
        stream.steps({handle: np.full((steps, 2), handle) for handle in range(EACH)})
        stream.results(dict.fromkeys(range(EACH), steps), 2)
    stream.reset(*range(0, EACH, 10))
    assert list(stream.expect("reset_done").handle) == list(range(0, EACH, 10))


def leave(stream: Stream, how: str) -> None:
    """End a stream and its sessions."""
    if how == "close":
        stream.close(*range(EACH))
        closed: list[int] = []
        while len(closed) < EACH:
            closed += stream.expect("closed").handle
        assert sorted(closed) == list(range(EACH))
    elif how == "half_close":
        stream.half_close()
        stream.status()
    else:
        # With steps in flight that nobody waits for.
        stream.steps({handle: np.ones((20, 2)) for handle in range(EACH)})
        stream.flush()
    stream.disconnect()


def sessions(server: ServerProcess) -> int:
    with Stream(server.address) as stream:
        return stream.calls.Describe(pb.DescribeRequest(), timeout=PATIENCE).models[0].sessions


def test_ten_thousand_sessions(accumulator_path: Path) -> None:
    with serving(accumulator_path, sessions=SESSIONS) as server:
        process = psutil.Process(server.popen.pid)
        seen = []
        for how in ROUNDS:
            streams = [Stream(server.address) for _ in range(STREAMS)]
            for stream in streams:
                use(stream)
            assert sessions(server) == SESSIONS
            streams[0].open(EACH)
            assert streams[0].refused().reason == pb.REASON_SESSIONS_EXHAUSTED
            for stream in streams:
                leave(stream, how)
            until(lambda: sessions(server) == 0, "all sessions had ended")
            until(lambda: len(process.net_connections()) == 1, "all connections had ended")
            seen.append((process.memory_info().rss, process.num_threads(), process.num_fds()))
        warm, last = seen[1], seen[-1]
        assert last[0] - warm[0] < SLACK
        assert last[1:] == warm[1:]
