"""What one tenant takes from another."""

import time
from collections.abc import Callable
from contextlib import ExitStack

import grpc

from tests.hostile.calls import OIP, Call, infer, opening, stepping, unary
from tests.hostile.target import P99_MS, TAKEN_MS, Target, channel, pattern, together

INFER = OIP + "ModelInfer"
FULL = ("OK", "RESOURCE_EXHAUSTED", "SESSIONS_EXHAUSTED", "STREAMS_EXHAUSTED", "ROWS_EXHAUSTED", "CANCELLED")


def others_still_get_theirs(target: Target) -> None:
    """The other tenant opens a session, steps it, and calls the second door."""
    with channel(target) as opened:
        call = Call(target, opened, token=target.other_token).send(opening(0), stepping([0]))
        assert call.answers(2) == {"opened": 1, "results": 1}, "another tenant was shut out"
        call.leave()
        body = infer(sequence="theirs", start=True, end=True).SerializeToString()
        assert unary(target, opened, INFER, body, token=target.other_token), "another tenant was shut out of OIP"


def tenant(name: str, p99_ms: float = P99_MS) -> Callable[[Callable[[Target], None]], Callable[[Target], None]]:
    return pattern(name, *FULL, served="tokens", hold_ms=TAKEN_MS, p99_ms=p99_ms, short="steps" not in name)


@tenant("one tenant opens 10,000 sessions")
def all_sessions(target: Target) -> None:
    count = target.times(10_000, 100)
    with channel(target) as opened:
        call = Call(target, opened).send(*(opening(k) for k in range(count)))
        for status, times in call.answers(count).items():
            target.note("OK" if status == "opened" else status, times)
        others_still_get_theirs(target)
        call.leave()
        time.sleep(0.5)


@tenant("one tenant starts 10,000 sequences")
def all_sequences(target: Target) -> None:
    count = target.times(10_000, 100)
    with channel(target) as opened:
        call = Call(target, opened, OIP + "ModelStreamInfer")
        for k in range(count):
            call.send(infer(sequence=f"many-{k}", start=True).SerializeToString())
        for _ in range(count):
            next(call.call)
        others_still_get_theirs(target)
        for k in range(count):
            call.send(infer(sequence=f"many-{k}", end=True).SerializeToString())
        for _ in range(count):
            next(call.call)
        call.leave()


@tenant("one tenant holds 1,000 streams", p99_ms=400.0)
def all_streams(target: Target) -> None:
    count = target.times(1_000, 20)
    with ExitStack() as stack:
        connections = [stack.enter_context(channel(target)) for _ in range(4)]
        calls = [Call(target, connections[k % 4]).send(opening(0)) for k in range(count)]
        for call in calls:
            try:
                call.read()
                target.note("OK")
            except grpc.RpcError:
                target.note(call.call.code().name)
        others_still_get_theirs(target)
        for call in calls:
            call.leave()


@tenant("one tenant sends chunks of 16,384 on five streams as fast as they go")
def all_rows(target: Target) -> None:
    until = time.monotonic() + 4 * target.scale + 0.3

    def run(_k: int) -> None:
        with channel(target) as opened:
            call = Call(target, opened).send(*map(opening, range(4)))
            call.answers(4)
            while time.monotonic() < until:
                call.send(stepping(range(4), 4_096))
                for status, times in call.answers(4 * 4_096).items():
                    target.note("OK" if status == "results" else status, times)
            call.leave()

    together(run, 5)
    others_still_get_theirs(target)


@tenant("one tenant steps 64 streams without pause")
def many_streams(target: Target) -> None:
    until = time.monotonic() + 4 * target.scale + 0.3
    with ExitStack() as stack:
        connections = [stack.enter_context(channel(target)) for _ in range(2)]
        calls = [Call(target, connections[k % 2]).send(opening(0)) for k in range(64)]
        for call in calls:
            call.read()
        while time.monotonic() < until:
            for call in calls:
                call.send(stepping([0]))
            for call in calls:
                assert call.answers(1) == {"results": 1}
        for call in calls:
            call.leave()


@pattern("calls without a token", "UNAUTHENTICATED", served="tokens", short=True)
def no_token(target: Target) -> None:
    body = infer(16_384).SerializeToString()
    with channel(target) as opened:
        for _ in range(target.times(500, 5)):
            assert unary(target, opened, INFER, body, token="") is None
            assert unary(target, opened, INFER, body, token="wrong" * 10) is None
        for _ in range(target.times(200, 5)):
            assert Call(target, opened, token="").send(opening(0)).end(half_close=False) == "UNAUTHENTICATED"
