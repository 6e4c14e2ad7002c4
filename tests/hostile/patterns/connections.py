"""Through the connection itself: HTTP/2, before and beside any call."""

import contextlib
import socket
import struct
import time
from collections.abc import Callable
from contextlib import ExitStack

import grpc

from tests.hostile import http2
from tests.hostile.calls import OIP, OWN, Call, opening, stepping, unary
from tests.hostile.http2 import Connection, frame, headers, literal
from tests.hostile.target import TAKEN_MS, Target, channel, code_of, pattern
from tests.support.http2 import PREFACE

DESCRIBE = OWN + "Describe"
ENDED = ("CANCELLED", "UNAVAILABLE", "RESOURCE_EXHAUSTED", "INTERNAL")
# A new client may be CANCELLED meanwhile: docs/operations.md.
WORKED_OFF_SECONDS = 10.0


def new_client_is_served(target: Target) -> None:
    with channel(target) as opened:
        call = Call(target, opened).send(opening(0), stepping([0]))
        assert call.answers(2) == {"opened": 1, "results": 1}, "a new client is not served"
        call.leave()


@pattern(
    "a :path that is not UTF-8, without a token",
    *ENDED,
    "UNIMPLEMENTED",
    "UNAUTHENTICATED",
    served="tokens",
    short=True,
)
def bad_path(target: Target) -> None:
    for _ in range(target.times(50, 3)):
        with Connection(target) as connection:
            connection.call(b"/\xff")
            connection.call(b"/gatestream.v1.Gatestream/\xff\xfe\xfd")
            time.sleep(0.02)
    new_client_is_served(target)


@pattern("metadata that is not UTF-8 or not base64", *ENDED, "OK", "UNAUTHENTICATED", "UNIMPLEMENTED", short=True)
def bad_metadata(target: Target) -> None:
    strange = [("k", b"\xff\xfe\x80" * 10)], [("authorization", b"Bearer \xff\xfe")], [("a-bin", "!!!!")]
    with Connection(target) as connection:
        for _ in range(target.times(300, 5)):
            for more in strange:
                connection.call(DESCRIBE, more)
        time.sleep(0.5)
    new_client_is_served(target)


def resets(path: str, *, body: bool) -> Callable[[Target], None]:
    """Calls that are reset as soon as they are made."""

    def send(target: Target) -> None:
        block, cancel = headers(path), struct.pack(">I", 8)
        for _ in range(4):
            with Connection(target) as connection:
                for _ in range(target.times(100, 2)):
                    batch = []
                    for _ in range(50):
                        stream = connection.next_stream()
                        batch.append(frame(http2.HEADERS, http2.END_HEADERS, stream, block))
                        if body:
                            batch.append(frame(http2.DATA, 0, stream, bytes(5)))
                        batch.append(frame(http2.RST_STREAM, 0, stream, cancel))
                    if not connection.send(b"".join(batch)):
                        break
        until = time.monotonic() + WORKED_OFF_SECONDS
        while True:
            try:
                new_client_is_served(target)
                return
            except grpc.RpcError as error:
                if code_of(error) != "CANCELLED" or time.monotonic() > until:
                    raise
            time.sleep(0.1)

    return send


for name, path, body in (
    ("Stream", OWN + "Stream", True),
    ("ModelStreamInfer without a message", OIP + "ModelStreamInfer", False),
    ("an unknown method", "/a/b", True),
):
    pattern(f"20,000 rapid resets of {name}", *ENDED, "UNIMPLEMENTED", "INVALID_ARGUMENT", "OK")(
        resets(path, body=body)
    )


def flood(make: Callable[[int], bytes], count: int, connections: int = 1) -> Callable[[Target], None]:
    """Frames without pause; where the connection is ended, again from the beginning."""

    def send(target: Target) -> None:
        with ExitStack() as stack:
            opened = [stack.enter_context(Connection(target)) for _ in range(connections)]
            for k in range(0, target.times(count, 400), 200):
                at = k // 200 % connections
                if not opened[at].send(b"".join(make(k + j) for j in range(200))):
                    opened[at] = stack.enter_context(Connection(target))
            time.sleep(0.3)
        new_client_is_served(target)

    return send


def setting(number: int, value: int) -> bytes:
    return frame(http2.SETTINGS, 0, 0, struct.pack(">HI", number, value))


for what, made, count, connections in (
    ("PING on four connections", lambda k: frame(http2.PING, 0, 0, struct.pack(">Q", k)), 200_000, 4),
    ("SETTINGS", lambda k: setting(3, 100 + k % 7), 50_000, 1),
    ("SETTINGS, the window up and down", lambda k: setting(4, k % 2 * 0x7FFFFFFF), 50_000, 1),
    ("SETTINGS, the header table up and down", lambda k: setting(1, k % 2 * 0x7FFFFFFF), 50_000, 1),
    ("WINDOW_UPDATE", lambda _: frame(http2.WINDOW_UPDATE, 0, 0, struct.pack(">I", 1)), 100_000, 1),
    ("PRIORITY", lambda k: frame(http2.PRIORITY, 0, 1 + 2 * k, struct.pack(">IB", 0, 1)), 100_000, 1),
    ("frames of an unknown kind", lambda _: frame(0x77, 0, 1, b"x" * 10), 100_000, 1),
    ("RST_STREAM of streams that never were", lambda k: frame(3, 0, 1 + 2 * k, struct.pack(">I", 8)), 20_000, 1),
):
    pattern(f"{count:,} {what}", *ENDED)(flood(made, count, connections))


@pattern("empty DATA frames, 50,000 on one call", *ENDED, "OK")
def empty_data(target: Target) -> None:
    with Connection(target) as connection:
        stream = connection.next_stream()
        connection.send(frame(http2.HEADERS, http2.END_HEADERS, stream, headers(OWN + "Stream")))
        for _ in range(target.times(250, 2)):
            if not connection.send(frame(http2.DATA, 0, stream) * 200):
                break
    new_client_is_served(target)


def continuation(fragment: bytes, count: int) -> Callable[[Target], None]:
    """A block of headers without end."""

    def send(target: Target) -> None:
        with Connection(target) as connection:
            stream = connection.next_stream()
            connection.send(frame(http2.HEADERS, 0, stream, headers("/x")))
            for _ in range(target.times(count // 50, 2)):
                if not connection.send(frame(http2.CONTINUATION, 0, stream, fragment) * 50):
                    break
        new_client_is_served(target)

    return send


pattern("CONTINUATION without end, 20,000 of 1 KB", *ENDED)(continuation(literal("a", "v" * 1000), 20_000))
pattern("CONTINUATION without end, 50,000 empty ones", *ENDED)(continuation(b"", 50_000))


@pattern("metadata of 1 MB", *ENDED)
def large_metadata(target: Target) -> None:
    block = headers(DESCRIBE, [(f"k{j}", "v" * 60_000) for j in range(target.times(16, 1))])
    for _ in range(target.times(40, 2)):
        with Connection(target) as connection:
            stream = connection.next_stream()
            parts = [block[at : at + 16_000] for at in range(0, len(block), 16_000)]
            for k, part in enumerate(parts):
                kind = http2.HEADERS if k == 0 else http2.CONTINUATION
                connection.send(frame(kind, http2.END_HEADERS if k == len(parts) - 1 else 0, stream, part))
            time.sleep(0.01)


# gRPC makes Python objects of 14 MB of metadata before anyone can look at them: docs/operations.md.
@pattern("a header of 4 KB named 4,000 times in one byte each (HPACK)", *ENDED, "OK", hold_ms=TAKEN_MS)
def hpack_bomb(target: Target) -> None:
    indexed = b"\x40" + literal("bomb", "v" * 3_500)[1:]
    for _ in range(target.times(40, 2)):
        with Connection(target) as connection:
            stream = connection.next_stream()
            block = headers(DESCRIBE) + indexed + b"\xbe" * 4_000
            connection.send(frame(http2.HEADERS, http2.END_HEADERS, stream, block))
            time.sleep(0.01)


@pattern("a message that says it has 4 GiB", *ENDED, short=True)
def long_length(target: Target) -> None:
    for _ in range(target.times(20, 2)):
        with Connection(target) as connection:
            stream = connection.next_stream()
            connection.send(frame(http2.HEADERS, http2.END_HEADERS, stream, headers(DESCRIBE)))
            connection.send(frame(http2.DATA, 0, stream, b"\0\xff\xff\xff\xff" + b"a" * 1000))
            time.sleep(0.01)


def half_open(hello: bytes) -> Callable[[Target], None]:
    """Connections that say no more than this."""

    def send(target: Target) -> None:
        with ExitStack() as stack:
            for _ in range(target.times(500, 10)):
                opened = stack.enter_context(socket.create_connection(("127.0.0.1", target.port), 5))
                if hello:
                    opened.sendall(hello)
                    target.add_sent(len(hello))
            time.sleep(2 * target.scale)
            new_client_is_served(target)

    return send


for what, hello in (
    ("nothing", b""),
    ("half a preface", PREFACE[:10]),
    ("a preface", PREFACE),
    ("TLS", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"),
):
    pattern(f"500 connections that say {what}")(half_open(hello))


@pattern("4,000 connections, opened and closed")
def many_connections(target: Target) -> None:
    for _ in range(target.times(4_000, 50)):
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", target.port), 5) as opened:
            opened.sendall(PREFACE)
            target.add_sent(len(PREFACE))
    new_client_is_served(target)


@pattern("200 calls that write a byte at a time", *ENDED, "OK")
def slow_writers(target: Target) -> None:
    message = stepping([0]).SerializeToString()
    framed = struct.pack(">BI", 0, len(message)) + message
    with ExitStack() as stack:
        calls = []
        for _ in range(target.times(8, 1)):
            connection = stack.enter_context(Connection(target))
            for _ in range(25):
                stream = connection.next_stream()
                connection.send(frame(http2.HEADERS, http2.END_HEADERS, stream, headers(OWN + "Stream")))
                calls.append((connection, stream))
        for at in range(target.times(len(framed), 5)):
            for connection, stream in calls:
                connection.send(frame(http2.DATA, 0, stream, framed[at : at + 1]))
            time.sleep(0.02)
        new_client_is_served(target)


@pattern(
    "2,000 calls with a deadline that is none",
    *ENDED,
    "OK",
    "DEADLINE_EXCEEDED",
    "UNIMPLEMENTED",
    "INVALID_ARGUMENT",
    short=True,
)
def bad_deadlines(target: Target) -> None:
    with Connection(target) as connection:
        for _ in range(target.times(500, 5)):
            for deadline in ("-1S", "1n", "99999999999999H", "x"):
                connection.call(DESCRIBE, [("grpc-timeout", deadline)])
        time.sleep(0.5)


@pattern("answers that cannot leave: 5,000 calls with a window of none", *ENDED, "OK", hold_ms=TAKEN_MS, p99_ms=400.0)
def no_window(target: Target) -> None:
    with Connection(target, struct.pack(">HI", 4, 0)) as connection:
        for _ in range(target.times(5_000, 50)):
            if not connection.call(DESCRIBE):
                break
        time.sleep(2 * target.scale)
    new_client_is_served(target)


@pattern("health watched 2,000 times, reflection asked 500 times, and held", *ENDED, "OK", "UNIMPLEMENTED")
def held_calls(target: Target) -> None:
    with Connection(target) as connection:
        for _ in range(target.times(2_000, 20)):
            connection.call("/grpc.health.v1.Health/Watch")
        for _ in range(target.times(500, 5)):
            stream = connection.next_stream()
            path = "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo"
            connection.send(
                frame(http2.HEADERS, http2.END_HEADERS, stream, headers(path))
                + frame(http2.DATA, 0, stream, struct.pack(">BI", 0, 2) + b"\x3a\0")
            )
        time.sleep(target.scale)
        new_client_is_served(target)


@pattern(
    "a message with the compressed flag that is not compressed, or unknowably",
    *ENDED,
    "OK",
    "UNIMPLEMENTED",
    short=True,
)
def bad_compression(target: Target) -> None:
    with Connection(target) as connection:
        for _ in range(target.times(100, 5)):
            for encoding in ("gzip", "deflate", "zstd", ""):
                stream = connection.next_stream()
                more = [("grpc-encoding", encoding)] if encoding else []
                connection.send(
                    frame(http2.HEADERS, http2.END_HEADERS, stream, headers(DESCRIBE, more))
                    + frame(http2.DATA, http2.END_STREAM, stream, struct.pack(">BI", 1, 50) + b"\xaa" * 50)
                )
        time.sleep(0.3)
    with channel(target) as opened:
        assert unary(target, opened, DESCRIBE, b"", zipped=True) is not None
