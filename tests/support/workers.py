"""Connections to the several workers of one server."""

import json
from collections.abc import Iterator
from contextlib import contextmanager

from gatestream.protos.gatestream.v1 import gatestream_pb2 as pb
from tests.support.process import ServerProcess
from tests.support.wire import PATIENCE, Stream, until


def listed(stream: Stream) -> set[str]:
    """The sessions of the worker that this connection leads to."""
    answer = stream.calls.ListSessions(pb.ListSessionsRequest(), timeout=PATIENCE)
    return {item.session_id for item in answer.sessions}


@contextmanager
def streams_on_both(server: ServerProcess) -> Iterator[tuple[Stream, Stream]]:
    """Streams on the two workers of a server: the kernel deals connections out, so try until it has dealt so."""
    with Stream(server.address) as here:
        # The probe tells where the other ones lead to.
        probe = here.opened(0).session_id
        while True:
            there = Stream(server.address)
            if probe not in listed(there):
                break
            there.disconnect()
        here.close(0)
        here.expect("closed")
        with there:
            yield here, there


@contextmanager
def streams_with_numbers(server: ServerProcess) -> Iterator[dict[int, Stream]]:
    """The same, by the number of the worker."""
    with streams_on_both(server) as (here, there):
        probe = here.opened(0).session_id
        there.open(0, probe)
        number = worker_in(there.refused().message)
        here.close(0)
        here.expect("closed")
        yield {number: here, 3 - number: there}


def worker_in(message: str) -> int:
    """The worker that a refusal names."""
    return int(message.partition(" lives in worker ")[2].split()[0])


def lines(server: ServerProcess, event: str) -> list[dict[str, object]]:
    """What the server has logged under this name."""
    found = (json.loads(line) for line in server.log.read_text().splitlines() if line.startswith("{"))
    return [line for line in found if line["event"] == event]


def process_of(server: ServerProcess, worker: int) -> int:
    """The process that is this worker now."""
    pids = [line["pid"] for line in lines(server, "worker serves") if line["worker"] == worker]
    assert isinstance(pids[-1], int)
    return pids[-1]


def started(server: ServerProcess, worker: int, times: int) -> None:
    """Return when a worker has been started so often."""
    until(
        lambda: sum(line["worker"] == worker for line in lines(server, "worker serves")) >= times,
        f"worker {worker} was started {times} times",
    )
