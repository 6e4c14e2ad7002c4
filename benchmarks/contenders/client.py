"""The Python client, and under it the least that a Python client can cost: bare gRPC with messages made before.

bare: one message of bytes with a step of every session, over and over; of the answers it reads how many there are.
sessions: each is one of the client's own, stepped by a thread or by a task of its own. group: one `Group.step` after
another. Reads "WARM_UP SECONDS" from standard input and answers each line with one line of JSON.
"""

import argparse
import asyncio
import contextlib
import json
import queue
import sys
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Final

import grpc
import numpy as np

from gatestream.client import aio, connect
from gatestream.protos.gatestream.v1 import gatestream_pb2 as pb

_METHOD: Final = "/gatestream.v1.Gatestream/Stream"
# What a message of results begins with: ServerMessage.results, Results.handle.
_RESULTS, _HANDLE = 0x12, 0x0A


@dataclass
class Window:
    """What the callers of one window have seen.

    Attributes:
        running: they go on.
        counting: the warm-up is over.
    """

    running: bool = True
    counting: bool = False
    waits: list[float] = field(default_factory=list)

    def begin(self) -> None:
        self.counting = True
        self._cpu, self._clock = time.process_time(), time.perf_counter()

    def end(self, steps: int) -> dict[str, float]:
        """The figures, where each call takes so many steps."""
        cpu, seconds = time.process_time() - self._cpu, time.perf_counter() - self._clock
        self.running = self.counting = False
        if not self.waits:
            raise SystemExit(f"no call was answered within {seconds:.2f} s")
        waits = np.array(self.waits)
        return {
            "steps_per_s": steps * len(waits) / seconds,
            "p50_us": 1e6 * float(np.median(waits)),
            "p99_us": 1e6 * float(np.quantile(waits, 0.99)),
            "client_cpu_step_us": 1e6 * cpu / (steps * len(waits)),
        }


@dataclass(frozen=True)
class Load:
    """Calls that are made again and again, each by a caller of its own.

    Attributes:
        steps: that one of them takes.
    """

    calls: Sequence[Callable[[], Any]]
    steps: int


# ---- Bare gRPC --------------------------------------------------------------------------------


def bare_messages(sessions: int, row: bytes) -> tuple[list[bytes], bytes]:
    """What opens the sessions, and a step of all of them; without positions, so that it can be sent again."""
    opens = [pb.ClientMessage(open=pb.Open(handle=handle)) for handle in range(sessions)]
    steps = pb.ClientMessage(steps=pb.Steps(handle=range(sessions), input=[row * sessions]))
    return [each.SerializeToString() for each in opens], steps.SerializeToString()


def handle_bytes(message: bytes) -> int:
    """Bytes of the handles in a message of results. An answer may come in parts: these add up."""
    _, at = _varint(message, 1)
    if message[0] != _RESULTS or message[at] != _HANDLE:
        raise RuntimeError(f"no results came, but {pb.ServerMessage.FromString(message)}")
    return _varint(message, at + 1)[0]


def _varint(message: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        value |= (message[at] & 0x7F) << shift
        shift += 7
        at += 1
        if message[at - 1] < 0x80:
            return value, at


def _bytes_of_handles(sessions: int) -> int:
    return sum(max(1, -(-handle.bit_length() // 7)) for handle in range(sessions))


@contextlib.contextmanager
def bare_blocking(address: str, sessions: int, row: bytes) -> Iterator[Load]:
    outbox: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
    with grpc.insecure_channel(address) as channel:
        stream: Any = channel.stream_stream(_METHOD)
        answers = stream(iter(outbox.get, None))
        opens, message = bare_messages(sessions, row)
        for each in opens:
            outbox.put(each)
        for _ in opens:
            next(answers)
        whole = _bytes_of_handles(sessions)

        def call() -> None:
            outbox.put(message)
            left = whole
            while left:
                left -= handle_bytes(next(answers))

        yield Load([call], sessions)
        outbox.put(None)


@contextlib.asynccontextmanager
async def bare_asyncio(address: str, sessions: int, row: bytes) -> AsyncIterator[Load]:
    async with grpc.aio.insecure_channel(address) as channel:
        stream: Any = channel.stream_stream(_METHOD)()
        opens, message = bare_messages(sessions, row)
        for each in opens:
            await stream.write(each)
        for _ in opens:
            await stream.read()
        whole = _bytes_of_handles(sessions)

        async def call() -> None:
            await stream.write(message)
            left = whole
            while left:
                left -= handle_bytes(await stream.read())

        yield Load([call], sessions)
        await stream.done_writing()


# ---- The client -------------------------------------------------------------------------------


@contextlib.contextmanager
def blocking(address: str, kind: str, sessions: int, row: Any, in_flight: int) -> Iterator[Load]:
    with connect(address) as gs:
        if kind == "group":
            group = gs.group("", sessions)
            yield Load([partial(group.step, np.stack([row] * sessions))], sessions)
        else:
            opened = [gs.session() for _ in range(sessions)]
            yield Load([partial(each.step, row) for each in opened for _ in range(in_flight)], 1)


@contextlib.asynccontextmanager
async def asynchronous(address: str, kind: str, sessions: int, row: Any, in_flight: int) -> AsyncIterator[Load]:
    async with aio.connect(address) as gs:
        if kind == "group":
            group = await gs.group("", sessions)
            yield Load([partial(group.step, np.stack([row] * sessions))], sessions)
        else:
            opened = [await gs.session() for _ in range(sessions)]
            yield Load([partial(each.step, row) for each in opened for _ in range(in_flight)], 1)


# ---- Windows ----------------------------------------------------------------------------------


def measure_blocking(load: Load, warm_up: float, seconds: float) -> dict[str, float]:
    window = Window()

    def caller(call: Callable[[], Any]) -> None:
        clock = time.perf_counter
        while window.running:
            before = clock()
            call()
            if window.counting:
                window.waits.append(clock() - before)

    threads = [threading.Thread(target=caller, args=[call]) for call in load.calls]
    for thread in threads:
        thread.start()
    time.sleep(warm_up)
    window.begin()
    time.sleep(seconds)
    figures = window.end(load.steps)
    for thread in threads:
        thread.join()
    return figures


async def measure_asyncio(load: Load, warm_up: float, seconds: float) -> dict[str, float]:
    window = Window()

    async def caller(call: Callable[[], Awaitable[Any]]) -> None:
        clock = time.perf_counter
        while window.running:
            before = clock()
            await call()
            if window.counting:
                window.waits.append(clock() - before)

    async with asyncio.TaskGroup() as callers:
        for call in load.calls:
            callers.create_task(caller(call))
        await asyncio.sleep(warm_up)
        window.begin()
        await asyncio.sleep(seconds)
        return window.end(load.steps)


def lines() -> Iterator[tuple[float, float]]:
    for line in sys.stdin:
        warm_up, seconds = map(float, line.split())
        yield warm_up, seconds


def say(figures: dict[str, float]) -> None:
    sys.stdout.write(json.dumps(figures) + "\n")
    sys.stdout.flush()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("kind", choices=["bare", "sessions", "group"])
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--features", type=int, required=True)
    parser.add_argument("--sessions", type=int, default=1)
    parser.add_argument("--in-flight", type=int, default=1, help="steps of one session that are asked for at once")
    parser.add_argument("--api", choices=["blocking", "asyncio"], default="blocking")
    options = parser.parse_args()
    address = f"127.0.0.1:{options.port}"
    row = np.random.default_rng(0).standard_normal(options.features, np.float32)
    bare = address, options.sessions, row.tobytes()
    client = address, options.kind, options.sessions, row, options.in_flight

    async def loop() -> None:
        async with bare_asyncio(*bare) if options.kind == "bare" else asynchronous(*client) as load:
            # Nothing is on its way between windows, so the loop may stand still.
            for line in lines():
                say(await measure_asyncio(load, *line))

    if options.api == "asyncio":
        asyncio.run(loop())
        return
    with bare_blocking(*bare) if options.kind == "bare" else blocking(*client) as load:
        for line in lines():
            say(measure_blocking(load, *line))


if __name__ == "__main__":
    main()
