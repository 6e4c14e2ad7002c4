"""Several clients at one session: who has it changes, and it ends, while steps are on their way."""

import random
import threading
import time
from collections.abc import Iterable
from typing import Any

import numpy as np

from gatestream.protos.gatestream.v1 import gatestream_pb2 as pb
from tests.hostile.calls import OWN, PATIENCE, Call, opening, stepping, unary
from tests.hostile.model import FEATURES, NAME, TOLERANCE, Reference
from tests.hostile.target import TAKEN_MS, Target, channel, pattern, together
from tests.support.lstm import Floats

HANDLES = 64
TOGETHER = 3
"""Steps that a client sends behind each Open."""


def resuming(handle: int, session_id: str) -> pb.ClientMessage:
    return pb.ClientMessage(open=pb.Open(handle=handle, session_id=session_id, model=NAME, mode=pb.OPEN_MODE_RESUME))


@pattern("two clients that take one session from each other", "OK", hold_ms=TAKEN_MS, short=True)
def resumed(target: Target) -> None:
    """Whoever has it steps it. Each position is taken once, and its numbers are those of one unbroken session."""
    name, rounds = f"raced-{time.time_ns()}", target.times(600, 10)
    taken: list[tuple[int, Floats, Floats]] = []
    # The session ends with the stream that has it.
    both_done = threading.Barrier(2, timeout=PATIENCE)

    def take(k: int) -> None:
        rng = np.random.default_rng(k)
        with channel(target) as opened:
            call = Call(target, opened)
            for number in range(rounds):
                handle = number % HANDLES
                xs = [rng.normal(size=FEATURES).astype(np.float32) for _ in range(TOGETHER)]
                steps = [pb.Steps(handle=[handle], input=[x.tobytes()]) for x in xs]
                call.send(resuming(handle, name), *(pb.ClientMessage(steps=each) for each in steps))
                taken.extend(answered(call, handle, xs))
            both_done.wait()
            call.leave()

    with channel(target) as opened:
        first = Call(target, opened).send(opening(0, name))
        assert first.answers(1) == {"opened": 1}
        together(take, 2)
        first.leave()
    taken.sort(key=lambda each: each[0])
    assert [position for position, _, _ in taken] == list(range(len(taken))), "a position was left out, or taken twice"
    assert_unbroken((x, y) for _, x, y in taken)
    target.note("OK")


def answered(call: Call, handle: int, xs: list[Floats]) -> list[tuple[int, Floats, Floats]]:
    """What became of an Open and the steps behind it: position, input and output of those that were taken."""
    got: list[tuple[int, Floats, Floats]] = []
    refused, is_open = 0, False
    while not is_open or len(got) + refused < len(xs):
        message = call.read()
        if message.HasField("opened") and message.opened.handle == handle:
            is_open = True
        elif message.HasField("results") and message.results.handle[0] == handle:
            y = np.frombuffer(message.results.output[0], "<f4")
            got.append((message.results.first[0], xs[len(got)], y))
        elif message.HasField("error") and message.error.handle[0] == handle:
            # It was taken away before the steps had come.
            assert message.error.reason in (pb.REASON_HANDLE_UNKNOWN, pb.REASON_SESSION_CLOSED), message.error
            refused += 1
    return got


def assert_unbroken(steps: Iterable[tuple[Floats, Floats]]) -> None:
    reference = Reference()
    far = max((float(np.abs(reference.step(x) - y).max()) for x, y in steps), default=0.0)
    assert far < TOLERANCE, f"a number is off by {far:.3g}"


@pattern(
    "sessions closed by their stream and by name while they are stepped",
    "OK",
    "NOT_FOUND",
    hold_ms=TAKEN_MS,
    short=True,
)
def closed(target: Target) -> None:
    """Each step is answered once, and the position at the end is how many were taken."""
    chunks, length = 5, 200
    with channel(target) as opened, channel(target) as other:
        call = Call(target, opened)
        for number in range(target.times(300, 9)):
            handle, name = number % HANDLES, f"closed-{time.time_ns()}"
            call.send(opening(handle, name))
            while not (message := call.read()).HasField("opened"):
                # The last session was closed by name before its stream's Close came.
                assert message.error.reason == pb.REASON_HANDLE_UNKNOWN, message
            call.send(*[stepping([handle], length)] * chunks)
            if number % 3 != 1:
                call.send(pb.ClientMessage(close=pb.Close(handle=[handle])))
            if number % 3 != 0:
                unary(target, other, OWN + "CloseSession", pb.CloseSessionRequest(session_id=name).SerializeToString())
            taken = refused = 0
            position = None
            while position is None or taken + refused < chunks * length:
                message = call.read()
                taken += sum(message.results.length) or len(message.results.handle)
                refused += sum(message.error.length)
                if message.HasField("closed"):
                    position = message.closed.position[0]
            assert (taken + refused, taken) == (chunks * length, position), (number, taken, refused, position)
        call.leave()


@pattern("2,000 forks of a session that is stepped meanwhile", "OK", "ALREADY_EXISTS", hold_ms=TAKEN_MS, short=True)
def forked(target: Target) -> None:
    """A twin goes on from where it was made, whatever its parent does."""
    name, count = f"parent-{time.time_ns()}", target.times(2_000, 20)
    twins: dict[str, int] = {}
    over = threading.Event()
    with channel(target) as opened, channel(target) as other:
        parent = Call(target, opened).send(opening(0, name))
        assert parent.answers(1) == {"opened": 1}

        def step() -> None:
            while not over.is_set():
                parent.send(stepping([0], 4)).answers(4)

        stepper = threading.Thread(target=step)
        stepper.start()
        for k in range(count):
            # Every fourth is to have a name that the first of them has.
            wanted = pb.ForkRequest(session_id=name, new_session_id="" if k % 4 else f"{name}-twin")
            if (answer := unary(target, other, OWN + "Fork", wanted.SerializeToString())) is not None:
                made: Any = pb.ForkResponse.FromString(answer)
                assert made.session_id not in twins
                twins[made.session_id] = made.position
        over.set()
        stepper.join()
        parent.leave()
        assert len(twins) == count - len(range(0, count, 4)) + 1
        reference, zeros = Reference(), np.zeros(FEATURES, np.float32)
        expected = [reference.step(zeros) for _ in range(max(twins.values()) + 1)]
        call = Call(target, opened)
        for twin in random.Random(1).sample(sorted(twins), min(20, len(twins))):
            call.send(resuming(0, twin), stepping([0]), pb.ClientMessage(close=pb.Close(handle=[0])))
            assert call.read().opened.position == twins[twin]
            y = np.frombuffer(call.read().results.output[0], "<f4")
            assert float(np.abs(y - expected[twins.pop(twin)]).max()) < TOLERANCE
            assert call.read().HasField("closed")
        call.leave()
        for twin in twins:
            unary(target, other, OWN + "CloseSession", pb.CloseSessionRequest(session_id=twin).SerializeToString())
