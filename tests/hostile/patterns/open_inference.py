"""Through the Open Inference Protocol."""

import time
from collections.abc import Callable
from contextlib import ExitStack

from gatestream.protos.inference import open_inference_grpc_pb2 as oip
from tests.hostile.calls import OIP, Call, field, infer, unary, varint
from tests.hostile.model import NAME
from tests.hostile.target import P99_MS, TAKEN_MS, Target, channel, pattern

MIB = 2**20
LARGEST = 4_700_000
"""Bytes of a message, a little less than --message-bytes."""
UNPACKED_MS = 25.0
INFER = OIP + "ModelInfer"
STREAM = OIP + "ModelStreamInfer"
GATES = ("y", "i", "f", "g", "o")
REFUSED = ("INVALID_ARGUMENT", "RESOURCE_EXHAUSTED")


@pattern("an output named 100,000 times at 16,384 steps, gzip", *REFUSED, short=True)
def outputs_repeated(target: Target) -> None:
    body = infer(16_384, outputs=["i"] * target.times(100_000, 1000)).SerializeToString()
    with channel(target) as opened:
        for _ in range(3):
            assert unary(target, opened, INFER, body, zipped=True) is None


@pattern('outputs ["y", "y"], on a stream too', "INVALID_ARGUMENT", "OK", short=True)
def outputs_twice(target: Target) -> None:
    body = infer(outputs=["y", "y"]).SerializeToString()
    good = infer().SerializeToString()
    with channel(target) as opened:
        assert unary(target, opened, INFER, body) is None
        call = Call(target, opened, STREAM)
        for _ in range(target.times(500, 10)):
            call.send(body, good)
            told = oip.ModelStreamInferResponse.FromString(next(call.call))
            assert told.error_message
            assert not oip.ModelStreamInferResponse.FromString(next(call.call)).error_message
        assert call.end() == "OK"


def bomb(make: Callable[[int], bytes], calls: int, token: str | None = None) -> Callable[[Target], None]:
    """Unary requests, as large as is taken and larger, that gzip makes kilobytes of."""

    def send(target: Target) -> None:
        bodies = [make(target.times(size, 10_000)) for size in (LARGEST, 15 * MIB)]
        with ExitStack() as stack:
            connections = [stack.enter_context(channel(target)) for _ in range(4)]
            for k in range(target.times(calls, 2)):
                assert unary(target, connections[k % 4], INFER, bodies[k % 2], zipped=True, token=token) is None

    return send


GZIP = {
    "empty inputs": lambda size: infer().SerializeToString() + field(5, b"") * (size // 2),
    "zeros in an unknown field": lambda size: field(99, bytes(size)),
}
for what, made in GZIP.items():
    # No token: refused before its message is parsed. A token: bounded by what it unpacks to.
    pattern(
        f"gzip of 4.5 and 15 MiB of {what}, without a token",
        "UNAUTHENTICATED",
        "RESOURCE_EXHAUSTED",
        served="tokens",
        short=True,
    )(bomb(made, 40, token=""))
    # gRPC unpacks the message of a unary call on the loop's thread: docs/operations.md.
    pattern(f"gzip of 4.5 and 15 MiB of {what}", *REFUSED, hold_ms=UNPACKED_MS, peak_mib=512)(bomb(made, 20))


def one_request(make: Callable[[int], bytes]) -> Callable[[Target], None]:
    """A request as large as is taken, and one that is larger, by each method."""

    def send(target: Target) -> None:
        with channel(target) as opened:
            for size in (LARGEST, LARGEST, 15 * MIB):
                body = make(target.times(size, 1000))
                unary(target, opened, INFER, body)
                Call(target, opened, STREAM).send(body).end()

    return send


BASE = infer().SerializeToString()
for what, made in {
    "inputs": lambda size: BASE + field(5, b"") * (size // 2),
    "outputs": lambda size: BASE + field(6, field(1, b"y")) * (size // 5),
    "raw contents": lambda size: BASE + field(7, b"") * (size // 2),
    "parameters": lambda size: (
        BASE + b"".join(field(4, field(1, b"%07d" % k) + field(2, b"")) for k in range(size // 13))
    ),
    "shape": lambda size: BASE + field(5, field(1, b"x") + field(2, b"FP32") + field(3, b"\1" * size)),
    "typed contents": lambda size: (
        field(1, NAME.encode())
        + field(5, field(1, b"x") + field(2, b"FP32") + field(3, b"\1\1\3") + field(5, field(6, bytes(size // 4 * 4))))
    ),
    "id": lambda size: BASE + field(3, b"x" * size),
    "sequence_id": lambda size: BASE + field(4, field(1, b"sequence_id") + field(2, field(3, b"x" * size))),
    "an input's name": lambda size: field(1, NAME.encode()) + field(5, field(1, b"n" * size)),
    "the model's name": lambda size: field(1, b"n" * size),
    "groups of an unknown field": lambda size: BASE + (varint(99 << 3 | 3) + varint(99 << 3 | 4)) * (size // 4),
    "nested unknown groups": lambda size: BASE + varint(99 << 3 | 3) * (size // 2),
}.items():
    pattern(f"4.5 MiB of {what}, and 15", *REFUSED, "OK", "NOT_FOUND", peak_mib=512)(one_request(made))


def unread(streams: int) -> Callable[[Target], None]:
    """Streams that ask for all gates of long chunks, and read nothing."""

    def send(target: Target) -> None:
        body = infer(8_000, outputs=GATES).SerializeToString()
        with ExitStack() as stack:
            options = {"http2__bdp_probe": 0, "http2__lookahead_bytes": 65535}
            channels = [stack.enter_context(channel(target, **options)) for _ in range(min(streams, 4))]
            calls = [
                Call(target, channels[k % len(channels)], STREAM).send(*[body] * 20)
                for k in range(target.times(streams))
            ]
            time.sleep(4 * target.scale + 0.5)
            for call in calls:
                call.leave()

    return send


for streams in (1, 4, 100):
    # A hundred take all that their tenant may have.
    pattern(
        f"Open Inference: {streams} streams of answers that nobody reads",
        served="tokens" if streams == 100 else "open",
        hold_ms=TAKEN_MS,
        p99_ms=1_500.0 if streams == 100 else P99_MS,
        peak_mib=768,
    )(unread(streams))


@pattern("huge ids in answers that nobody reads", peak_mib=512)
def ids_unread(target: Target) -> None:
    body = BASE + field(3, b"x" * target.times(4 * MIB, 1000))
    with channel(target, http2__bdp_probe=0, http2__lookahead_bytes=65535) as opened:
        call = Call(target, opened, STREAM).send(*[body] * target.times(30, 3))
        time.sleep(3 * target.scale + 0.5)
        call.leave()


@pattern("requests of 4 MiB whose ids alternate", *REFUSED, "OK", hold_ms=TAKEN_MS, peak_mib=512, short=True)
def alternating_ids(target: Target) -> None:
    body = infer(16_384).SerializeToString()
    pad = target.times(4 * MIB, 1000)
    with channel(target) as opened:
        call = Call(target, opened, STREAM)
        for k in range(target.times(12, 2)):
            call.send(body + field(99, bytes(pad)) + field(3, b"a" if k % 2 else b"bb"))
        call.end()


@pattern("10,000 sequences started, their client gone", "OK", "RESOURCE_EXHAUSTED", hold_ms=TAKEN_MS, short=True)
def sequences_left(target: Target) -> None:
    count = target.times(10_000, 100)
    with channel(target) as opened:
        call = Call(target, opened, STREAM)
        for k in range(count):
            call.send(infer(sequence=f"left-{target.token}-{k}", start=True).SerializeToString())
        for _ in range(count):
            next(call.call)
        call.leave()
        # Cleared up, for the patterns that come next.
        call = Call(target, opened, STREAM)
        for k in range(count):
            call.send(infer(sequence=f"left-{target.token}-{k}", end=True).SerializeToString())
        for _ in range(count):
            next(call.call)
        call.leave()


@pattern("one sequence started and ended without pause", "OK", hold_ms=TAKEN_MS, short=True)
def sequence_flapping(target: Target) -> None:
    count = target.times(5_000, 100)
    body = infer(sequence="flapping", start=True, end=True).SerializeToString()
    with channel(target) as opened:
        call = Call(target, opened, STREAM).send(*[body] * count)
        for _ in range(count):
            told = oip.ModelStreamInferResponse.FromString(next(call.call))
            assert not told.error_message, told.error_message
        assert call.end() == "OK"


@pattern("parameters of the wrong type", "INVALID_ARGUMENT", short=True)
def wrong_parameters(target: Target) -> None:
    with channel(target) as opened:
        for _ in range(target.times(200, 2)):
            for name in ("sequence_start", "sequence_end"):
                request = infer(sequence="typed")
                request.parameters[name].int64_param = 1
                assert unary(target, opened, INFER, request.SerializeToString()) is None
            request = infer()
            request.parameters["sequence_id"].bool_param = True
            assert unary(target, opened, INFER, request.SerializeToString()) is None
