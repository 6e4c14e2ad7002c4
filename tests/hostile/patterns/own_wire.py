"""Through the stream of the own wire."""

import time
from collections.abc import Callable
from contextlib import ExitStack

from gatestream.protos.gatestream.v1 import gatestream_pb2 as pb
from tests.hostile.calls import OIP, OWN, Call, at_once, field, infer, opening, stepping, unary
from tests.hostile.model import FEATURES, NAME
from tests.hostile.target import TAKEN_MS, Target, channel, pattern, together

MANY = 10_000
FOREIGN = [100] * MANY
HUGE = [2**32 - 1] * MANY
MIB = 2**20
LARGEST = 4_700_000
"""Bytes of a message, a little less than --message-bytes."""


def again_and_again(target: Target, message: pb.ClientMessage, *before: pb.ClientMessage, times: int = 1) -> None:
    """Open a stream, send the message, read one answer, go; four at a time."""

    def run(_k: int) -> None:
        with channel(target) as opened:
            for _ in range(target.times(60, 2)):
                call = Call(target, opened).send(*before, *[message] * times)
                call.read()
                call.leave()

    together(run, 4)


@pattern("Reset of 10,000 unknown handles, stream after stream", short=True)
def reset_unknown(target: Target) -> None:
    again_and_again(target, pb.ClientMessage(reset=pb.Reset(handle=FOREIGN)))


@pattern("Close of 10,000 unknown handles, stream after stream")
def close_unknown(target: Target) -> None:
    again_and_again(target, pb.ClientMessage(close=pb.Close(handle=FOREIGN)))


@pattern("Reset 10,000 times of one live handle, six in a stream", short=True)
def reset_one(target: Target) -> None:
    again_and_again(target, pb.ClientMessage(reset=pb.Reset(handle=[0] * MANY)), opening(0), times=6)


@pattern("Steps of 10,000 unknown handles, stream after stream", short=True)
def steps_unknown(target: Target) -> None:
    again_and_again(target, stepping(range(100, 100 + MANY)))


@pattern("errors for huge handles that nobody reads, 100 streams", "CANCELLED")
def errors_unread(target: Target) -> None:
    with channel(target, http2__bdp_probe=0, http2__lookahead_bytes=65535) as opened:
        message = pb.ClientMessage(reset=pb.Reset(handle=HUGE))
        calls = [Call(target, opened).send(*[message] * 5) for _ in range(target.times(100, 4))]
        time.sleep(3 * target.scale + 0.5)
        for call in calls:
            call.leave()


@pattern("10,000 sessions opened, reset, closed, opened again and left", hold_ms=TAKEN_MS, short=True)
def ten_thousand_sessions(target: Target) -> None:
    count = target.times(9_900, 100)
    handles = range(count)
    with channel(target) as opened:
        call = Call(target, opened).send(*map(opening, handles))
        assert call.answers(count) == {"opened": count}
        call.send(pb.ClientMessage(reset=pb.Reset(handle=handles)))
        assert call.answers(count) == {"reset_done": count}
        call.send(pb.ClientMessage(close=pb.Close(handle=handles)))
        assert call.answers(count) == {"closed": count}
        call.send(*map(opening, handles))
        assert call.answers(count) == {"opened": count}
        call.leave()
        time.sleep(0.5)


@pattern("10,000 sessions with six steps in line each, their client gone", hold_ms=TAKEN_MS, p99_ms=400.0, short=True)
def steps_left(target: Target) -> None:
    count = target.times(9_900, 100)
    with channel(target) as opened:
        call = Call(target, opened).send(*map(opening, range(count)))
        assert call.answers(count) == {"opened": count}
        call.send(*[stepping(range(count))] * 6)
        assert call.read().HasField("results")
        call.leave()
        time.sleep(0.5)


def one_message(make: Callable[[int], bytes]) -> Callable[[Target], None]:
    """A message as large as is taken, three times, each on a stream of its own; and one that is larger."""

    def send(target: Target) -> None:
        with channel(target) as opened:
            for size in [LARGEST] * 3 + [16 * MIB]:
                Call(target, opened).send(opening(0), make(target.times(size, 1000))).end()

    return send


STREAM_ENDS = (
    "OK",
    "SESSION_ID_INVALID",
    "INVALID_ARGUMENT",
    "RESOURCE_EXHAUSTED",
    "MALFORMED",
    "HANDLE_UNKNOWN",
    "HANDLE_REPEATED",
    "HANDLE_IN_USE",
)
for what, made in {
    "empty columns": lambda size: field(2, field(1, b"\0") + field(4, b"") * (size // 2)),
    "lengths": lambda size: field(2, field(1, b"\0") + field(2, b"\1" * size)),
    "handles": lambda size: field(2, field(1, b"\0" * size)),
    "handles, one field each": lambda size: field(2, b"\x08\0" * (size // 2)),
    "firsts": lambda size: field(2, field(1, b"\0") + field(3, b"\0" * size)),
    "Close handles": lambda size: field(4, field(1, b"\0" * size)),
    "unknown fields": lambda size: field(2, b"\xa0\6\0" * (size // 3)),
    "a session id": lambda size: field(1, field(2, b"x" * size)),
    "a constant": lambda size: field(1, b"\x08\1" + field(8, field(1, b"x") + field(2, b"\0" * size))),
    "constants": lambda size: field(1, field(8, b"") * (size // 2)),
}.items():
    pattern(f"4.5 MiB of {what}, and 16", *STREAM_ENDS, peak_mib=512)(one_message(made))


def unread(streams: int) -> Callable[[Target], None]:
    """Streams that ask for all gates of long chunks, and read nothing."""

    def send(target: Target) -> None:
        with ExitStack() as stack:
            options = {"http2__bdp_probe": 0, "http2__lookahead_bytes": 65535}
            channels = [stack.enter_context(channel(target, **options)) for _ in range(min(streams, 4))]
            calls = []
            for k in range(target.times(streams)):
                call = Call(target, channels[k % len(channels)])
                call.send(*(opening(h, gates=True) for h in range(8)))
                call.send(*[stepping(range(8), 2_000)] * 10)
                calls.append(call)
            time.sleep(4 * target.scale + 0.5)
            for call in calls:
                call.leave()

    return send


for streams in (1, 4, 100):
    # A hundred take all that their tenant may have.
    pattern(
        f"own wire: {streams} streams of answers that nobody reads",
        served="tokens" if streams == 100 else "open",
        hold_ms=TAKEN_MS,
        peak_mib=768,
    )(unread(streams))


@pattern("malformed messages behind good ones", "INVALID_ARGUMENT", hold_ms=TAKEN_MS, short=True)
def malformed_behind_good(target: Target) -> None:
    with channel(target) as opened:
        for _ in range(target.times(200, 5)):
            call = Call(target, opened).send(opening(0), stepping([0], 500), stepping([0], 500), b"\x12\xff")
            assert call.answers(1) == {"opened": 1}
            assert call.answers(1000) == {"results": 1000}
            assert call.end(half_close=False) == "INVALID_ARGUMENT"


@pattern("calls cancelled with steps in line", hold_ms=TAKEN_MS, short=True)
def cancelled(target: Target) -> None:
    def run(_k: int) -> None:
        with channel(target) as opened:
            for _ in range(target.times(150, 5)):
                call = Call(target, opened).send(opening(0), *[stepping([0], 1000)] * 3)
                call.read()
                call.leave()

    together(run, 2)


# Of both doors' calls hundreds are in one turn of the loop: docs/operations.md.
@pattern("10,000 unary calls at once, of each door", "OK", "RESOURCE_EXHAUSTED", hold_ms=TAKEN_MS, p99_ms=400.0)
def unary_at_once(target: Target) -> None:
    count = target.times(10_000, 100)
    with channel(target) as opened:
        assert at_once(target, opened, OWN + "Describe", [b""] * count).total() == count
        body = infer().SerializeToString()
        assert at_once(target, opened, OIP + "ModelInfer", [body] * count).total() == count


@pattern("unary calls whose bytes are no message", "INVALID_ARGUMENT", "UNIMPLEMENTED", short=True)
def no_messages(target: Target) -> None:
    with channel(target) as opened:
        for method in ("Describe", "ListSessions", "CloseSession", "GetState", "SetState", "Fork"):
            for _ in range(target.times(20)):
                unary(target, opened, OWN + method, b"\xff" * 50)
        for method in ("ServerLive", "ServerReady", "ServerMetadata", "ModelReady", "ModelMetadata", "ModelInfer"):
            for _ in range(target.times(20)):
                unary(target, opened, OIP + method, b"\xff" * 50)


@pattern(
    "states of up to 15 MB, and of as many columns",
    "INVALID_ARGUMENT",
    "RESOURCE_EXHAUSTED",
    "NOT_FOUND",
    peak_mib=512,
    short=True,
)
def large_states(target: Target) -> None:
    sizes = [target.times(size, 1000) for size in (MIB // 2, LARGEST, 15 * MIB)]
    states = [
        state
        for size in sizes
        for state in (field(4, bytes(size)), field(4, b"") * (size // 3), field(2, b"f" * size), field(1, b"m" * size))
    ]
    with channel(target) as opened:
        call = Call(target, opened).send(opening(0, "stated"))
        assert call.answers(1) == {"opened": 1}
        for state in states:
            body = field(1, b"stated") + field(2, field(1, NAME.encode()) + state)
            assert unary(target, opened, OWN + "SetState", body) is None
        call.leave()


@pattern("two doors on one session", "OK", "CANCELLED", hold_ms=TAKEN_MS, short=True)
def two_doors(target: Target) -> None:
    with channel(target) as opened:
        for k in range(target.times(40, 4)):
            own = Call(target, opened).send(opening(0, f"sequence:s:doors-{k}"))
            assert own.answers(1) == {"opened": 1}
            own.send(*[stepping([0], 16_384)] * 3)
            time.sleep(0.02)
            other = Call(target, opened, OIP + "ModelStreamInfer")
            other.send(infer(sequence=f"doors-{k}", end=True).SerializeToString())
            time.sleep(0.01)
            other.send(infer(sequence=f"doors-{k}", start=True).SerializeToString())
            time.sleep(0.01)
            own.send(pb.ClientMessage(close=pb.Close(handle=[0])))
            own.leave()
            next(other.call)
            next(other.call)
            other.send(infer(sequence=f"doors-{k}", end=True).SerializeToString())
            next(other.call)
            assert other.end() == "OK"
        described = pb.DescribeResponse.FromString(unary(target, opened, OWN + "Describe", b"") or b"")
        listed = pb.ListSessionsResponse.FromString(unary(target, opened, OWN + "ListSessions", b"") or b"")
        # None that nobody can name: all that are counted are listed.
        assert described.models[0].sessions == len(listed.sessions), "a session is counted that is not listed"


@pattern("steps that are refused, one a message", hold_ms=TAKEN_MS, short=True)
def refused_steps(target: Target) -> None:
    nan = pb.Steps(handle=[0], input=[b"\0\0\xc0\x7f" * FEATURES])
    late = pb.Steps(handle=[0], first=[99], input=[bytes(4 * FEATURES)])
    count = target.times(20_000, 200)
    with channel(target) as opened:
        call = Call(target, opened).send(opening(0))
        assert call.answers(1) == {"opened": 1}
        for k in range(0, count, 200):
            call.send(*[pb.ClientMessage(steps=nan if (k // 200) % 2 else late)] * 200)
            call.answers(200)
        call.leave()
