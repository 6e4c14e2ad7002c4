"""Just enough HTTP/2 (RFC 9113) and gRPC framing to send what no gRPC library would send."""

import socket
import struct
from typing import Final, Self

from gatestream.protos.gatestream.v1 import gatestream_pb2 as pb
from tests.support.wire import PATIENCE

PREFACE: Final = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
_DATA, _HEADERS, _RST_STREAM, _SETTINGS = 0x0, 0x1, 0x3, 0x4
_END_STREAM, _ACK, _END_HEADERS = 0x1, 0x1, 0x4


def grpc_frame(payload: bytes) -> bytes:
    """A gRPC message: not compressed, its length, itself."""
    return struct.pack(">BI", 0, len(payload)) + payload


def grpc_message(message: pb.ClientMessage) -> bytes:
    return grpc_frame(message.SerializeToString())


class RawCall:
    """One call of Gatestream.Stream on a connection of its own, byte by byte."""

    def __init__(self, port: int):
        self.socket = socket.create_connection(("127.0.0.1", port), PATIENCE)
        headers = {
            ":method": "POST",
            ":scheme": "http",
            ":path": "/gatestream.v1.Gatestream/Stream",
            ":authority": "127.0.0.1",
            "content-type": "application/grpc",
            "te": "trailers",
        }
        # HPACK (RFC 7541, 6.2.2): literals without indexing, the shortest that says it.
        block = b"".join(
            b"\0" + bytes([len(name)]) + name.encode() + bytes([len(value)]) + value.encode()
            for name, value in headers.items()
        )
        self.socket.sendall(PREFACE + _frame(_SETTINGS, 0, 0, b"") + _frame(_HEADERS, _END_HEADERS, 1, block))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exc: object) -> None:
        self.socket.close()

    def data(self, payload: bytes, *, end: bool = False) -> None:
        """A DATA frame."""
        self.socket.sendall(_frame(_DATA, _END_STREAM if end else 0, 1, payload))

    def half_a_frame(self, payload: bytes) -> None:
        """A DATA frame that breaks off in the middle."""
        frame = _frame(_DATA, 0, 1, payload)
        self.socket.sendall(frame[: len(frame) // 2])

    def reset(self) -> None:
        """RST_STREAM with CANCEL."""
        self.socket.sendall(_frame(_RST_STREAM, 0, 1, struct.pack(">I", 0x8)))

    def read_until(self, text: bytes) -> bytes:
        """What comes, until this has come."""
        got = b""
        while text not in got:
            more = self.socket.recv(65536)
            assert more, f"the connection ended before {text!r} came: {got!r}"
            got += more
        return got


def _frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    return struct.pack(">I", len(payload))[1:] + bytes([kind, flags]) + struct.pack(">I", stream) + payload
