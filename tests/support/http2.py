"""Just enough HTTP/2 (RFC 9113) and gRPC framing to send what no gRPC library would send."""

import contextlib
import gzip
import socket
import struct
from typing import Final, Self

from gatestream.protos.gatestream.v1 import gatestream_pb2 as pb
from tests.support.wire import PATIENCE

PREFACE: Final = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
_DATA, _HEADERS, _RST_STREAM, _SETTINGS, _WINDOW_UPDATE = 0x0, 0x1, 0x3, 0x4, 0x8
_FRAME: Final = 16_384
_END_STREAM, _ACK, _END_HEADERS = 0x1, 0x1, 0x4


def grpc_frame(payload: bytes) -> bytes:
    """A gRPC message: not compressed, its length, itself."""
    return struct.pack(">BI", 0, len(payload)) + payload


def gzip_frame(payload: bytes) -> bytes:
    """The same, compressed: for a call with the header `grpc-encoding: gzip`."""
    packed = gzip.compress(payload)
    return struct.pack(">BI", 1, len(packed)) + packed


def grpc_message(message: pb.ClientMessage) -> bytes:
    return grpc_frame(message.SerializeToString())


class RawCall:
    """One call on a connection of its own, byte by byte."""

    def __init__(self, port: int, path: str | bytes = "/gatestream.v1.Gatestream/Stream", **more: str):
        self.socket = socket.create_connection(("127.0.0.1", port), PATIENCE)
        headers = {
            ":method": "POST",
            ":scheme": "http",
            ":path": path,
            ":authority": "127.0.0.1",
            "content-type": "application/grpc",
            "te": "trailers",
            **{name.replace("_", "-"): value for name, value in more.items()},
        }
        # HPACK (RFC 7541, 6.2.2): literals without indexing, the shortest that says it.
        self._block = b"".join(
            b"\0" + bytes([len(part[0])]) + part[0] + bytes([len(part[1])]) + part[1]
            for part in ([_bytes(part) for part in header] for header in headers.items())
        )
        self.socket.sendall(PREFACE + frame(_SETTINGS, 0, 0, b"") + frame(_HEADERS, _END_HEADERS, 1, self._block))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exc: object) -> None:
        self.socket.close()

    def data(self, payload: bytes, *, end: bool = False) -> None:
        """A DATA frame."""
        self.socket.sendall(frame(_DATA, _END_STREAM if end else 0, 1, payload))

    def data_in_frames(self, payload: bytes) -> None:
        """DATA frames of the size that a peer takes unasked, as far as the peer lets them come; it may end the call."""
        with contextlib.suppress(OSError):
            for at in range(0, len(payload), _FRAME):
                self.data(payload[at : at + _FRAME])

    def again(self, payload: bytes, count: int) -> None:
        """So many more calls on the connection, all at once, each with this and no more."""
        # Their answers shall not wait for us.
        frames = [frame(_WINDOW_UPDATE, 0, 0, struct.pack(">I", 2**30))]
        for stream in range(3, 2 * count + 3, 2):
            frames.append(frame(_HEADERS, _END_HEADERS, stream, self._block))
            frames.append(frame(_DATA, _END_STREAM, stream, payload))
        self.socket.sendall(b"".join(frames))

    def half_a_frame(self, payload: bytes) -> None:
        """A DATA frame that breaks off in the middle."""
        whole = frame(_DATA, 0, 1, payload)
        self.socket.sendall(whole[: len(whole) // 2])

    def reset(self) -> None:
        """RST_STREAM with CANCEL."""
        self.socket.sendall(frame(_RST_STREAM, 0, 1, struct.pack(">I", 0x8)))

    def read_until(self, text: bytes) -> bytes:
        """What comes, until this has come."""
        got = b""
        while text not in got:
            more = self.read_more()
            assert more, f"the connection ended before {text!r} came: {got!r}"
            got += more
        return got

    def read_more(self) -> bytes:
        """What comes next; empty: the end."""
        return self.socket.recv(2**20)


def _bytes(text: str | bytes) -> bytes:
    return text.encode(errors="surrogateescape") if isinstance(text, str) else text


def frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    """A frame of HTTP/2."""
    return struct.pack(">I", len(payload))[1:] + bytes([kind, flags]) + struct.pack(">I", stream) + payload
