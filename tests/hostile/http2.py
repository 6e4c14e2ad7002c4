"""HTTP/2 (RFC 9113) by hand: frames that no library sends, and the statuses that come back."""

import contextlib
import socket
import struct
import threading
from collections.abc import Iterable
from typing import Final, Self

import grpc
import hpack

from tests.hostile.target import Target
from tests.support.http2 import PREFACE, grpc_frame

DATA, HEADERS, PRIORITY, RST_STREAM, SETTINGS, PUSH, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = range(10)
END_STREAM: Final = 0x1
ACK: Final = 0x1
END_HEADERS: Final = 0x4
_CODES: Final[dict[int, str]] = {code.value[0]: code.name for code in grpc.StatusCode}
_SECONDS = 20.0


def frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    return struct.pack(">I", len(payload))[1:] + bytes([kind, flags]) + struct.pack(">I", stream) + payload


def literal(name: bytes | str, value: bytes | str) -> bytes:
    """HPACK (RFC 7541, 6.2.2): without indexing, so that a block needs no state and can be repeated."""
    parts = [part.encode() if isinstance(part, str) else part for part in (name, value)]
    return b"\0" + b"".join(_integer(len(part), 7) + part for part in parts)


def headers(path: bytes | str, more: Iterable[tuple[bytes | str, bytes | str]] = ()) -> bytes:
    """The block of a call."""
    usual = [(":authority", "x"), ("content-type", "application/grpc"), ("te", "trailers")]
    return b"\x83\x86" + literal(":path", path) + b"".join(literal(*each) for each in [*usual, *more])


def _integer(value: int, bits: int) -> bytes:
    most = 2**bits - 1
    if value < most:
        return bytes([value])
    octets, value = bytearray([most]), value - most
    while value >= 0x80:
        octets.append(value & 0x7F | 0x80)
        value >>= 7
    octets.append(value)
    return bytes(octets)


class Connection:
    """One connection, read by a thread; what it was sent counts, and what its calls ended with is noted.

    Attributes:
        over: the server has ended it, or the connection broke.
        ended: calls that have ended.
    """

    def __init__(self, target: Target, settings: bytes = b"", *, hello: bool = True):
        # Python's TLS sockets are not to be read and written by two threads.
        assert not target.ca
        self._target = target
        self._socket = socket.create_connection(("127.0.0.1", target.port), _SECONDS)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._lock = threading.Lock()
        self._stream = -1
        self._decoder = hpack.Decoder()
        self.over = False
        self.ended = 0
        if hello:
            self.send(PREFACE + frame(SETTINGS, 0, 0, settings))
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exc: object) -> None:
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._reader.join(_SECONDS)
        self._socket.close()

    def send(self, data: bytes) -> bool:
        """False: the connection is over."""
        self._target.add_sent(len(data))
        try:
            with self._lock:
                self._socket.sendall(data)
        except OSError:
            self.over = True
        return not self.over

    def next_stream(self) -> int:
        self._stream += 2
        return self._stream

    def call(self, path: bytes | str, more: Iterable[tuple[bytes | str, bytes | str]] = (), body: bytes = b"") -> bool:
        """A whole call with one message."""
        stream = self.next_stream()
        return self.send(
            frame(HEADERS, END_HEADERS, stream, headers(path, more)) + frame(DATA, END_STREAM, stream, grpc_frame(body))
        )

    def _read(self) -> None:
        rest = b""
        with contextlib.suppress(OSError):
            while more := self._socket.recv(1 << 18):
                rest += more
                at = 0
                while len(rest) - at >= 9:
                    size = int.from_bytes(rest[at : at + 3], "big")
                    if len(rest) - at < 9 + size:
                        break
                    self._take(rest[at + 3], rest[at + 4], rest[at + 9 : at + 9 + size])
                    at += 9 + size
                rest = rest[at:]
        self.over = True

    def _take(self, kind: int, flags: int, payload: bytes) -> None:
        if kind == SETTINGS and not flags & ACK:
            self.send(frame(SETTINGS, ACK, 0))
        elif kind == HEADERS:
            for name, value in self._decoder.decode(payload, raw=True):
                if name == b"grpc-status":
                    self.ended += 1
                    self._target.note(_CODES.get(int(value), "no status of gRPC"))
        elif kind == GOAWAY:
            self.over = True
