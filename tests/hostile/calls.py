"""Calls of bytes: what is sent need not be a message, and what is not read is not read."""

import gzip
import queue
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Any, Final

import grpc

from gatestream.protos.gatestream.v1 import gatestream_pb2 as pb
from gatestream.protos.inference import open_inference_grpc_pb2 as oip
from tests.hostile.model import FEATURES, NAME
from tests.hostile.target import Target, code_of, metadata

OWN: Final = "/gatestream.v1.Gatestream/"
OIP: Final = "/inference.GRPCInferenceService/"
PATIENCE: Final = 60.0


class Call:
    """One bidirectional call.

    Attributes:
        status: with which it ended, once it is read to its end.
    """

    def __init__(self, target: Target, channel: grpc.Channel, path: str = OWN + "Stream", token: str | None = None):
        self._target = target
        self._path = path
        self.status = ""
        self._outgoing: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        method: Any = channel.stream_stream(path)
        self.call: Any = method(
            iter(self._outgoing.get, None),
            metadata=metadata(target.token if token is None else token),
            timeout=PATIENCE,
        )

    def send(self, *messages: bytes | pb.ClientMessage) -> "Call":
        for message in messages:
            data = message if isinstance(message, bytes) else message.SerializeToString()
            self._target.add_sent(len(data))
            self._outgoing.put(data)
        return self

    def read(self) -> pb.ServerMessage:
        """The next message of the own wire."""
        return pb.ServerMessage.FromString(next(self.call))

    def answers(self, count: int) -> Counter[str]:
        """Read messages of the own wire until so many handles were answered; kinds, and reasons of errors."""
        got: Counter[str] = Counter()
        while got.total() < count:
            message = self.read()
            kind = str(message.WhichOneof("kind"))
            said = getattr(message, kind)
            if kind == "error":
                got[pb.Reason.Name(said.reason).removeprefix("REASON_")] += max(1, len(said.handle))
            elif kind == "results":
                got[kind] += sum(said.length) or len(said.handle)
            else:
                got[kind] += 1 if kind in ("opened", "going_away") else len(said.handle)
        return got

    def raw(self, *, half_close: bool = True) -> Iterator[bytes]:
        """What comes until the end; `status` says then how it ended."""
        if half_close:
            self._outgoing.put(None)
        try:
            yield from self.call
            self.status = "OK"
        except grpc.RpcError as error:
            self.status = code_of(error)
        self._target.note(self.status)

    def messages(self) -> Iterator[pb.ServerMessage]:
        """As `raw`, of the own wire."""
        return map(pb.ServerMessage.FromString, self.raw())

    def end(self, *, half_close: bool = True) -> str:
        """Read to its end, and note how it ended."""
        for data in self.raw(half_close=half_close):
            self._note(data)
        return self.status

    def _note(self, data: bytes) -> None:
        if self._path.startswith(OWN) and (message := pb.ServerMessage.FromString(data)).HasField("error"):
            self._target.note(pb.Reason.Name(message.error.reason).removeprefix("REASON_"))

    def leave(self) -> None:
        """Vanish."""
        self._outgoing.put(None)
        self.call.cancel()


def unary(
    target: Target, channel: grpc.Channel, path: str, body: bytes, *, zipped: bool = False, token: str | None = None
) -> bytes | None:
    """One call; its answer, or None where it was refused. How it ended is noted."""
    answer, status = ask(target, channel, path, body, zipped=zipped, token=token)
    target.note(status)
    return answer


def ask(
    target: Target, channel: grpc.Channel, path: str, body: bytes, *, zipped: bool = False, token: str | None = None
) -> tuple[bytes | None, str]:
    """One call; its answer, and the status that it ended with."""
    compression = grpc.Compression.Gzip if zipped else None
    target.add_sent(len(gzip.compress(body, 6)) if zipped else len(body))
    method: Any = channel.unary_unary(path)
    try:
        answer: bytes = method(
            body,
            metadata=metadata(target.token if token is None else token),
            timeout=PATIENCE,
            compression=compression,
        )
    except grpc.RpcError as error:
        return None, code_of(error)
    return answer, "OK"


def at_once(target: Target, channel: grpc.Channel, path: str, bodies: Iterable[bytes]) -> Counter[str]:
    """Calls that do not wait for each other; how they ended."""
    method: Any = channel.unary_unary(path)
    futures = []
    for body in bodies:
        target.add_sent(len(body))
        futures.append(method.future(body, metadata=metadata(target.token), timeout=PATIENCE))
    ended = Counter(future.code().name for future in futures if future.exception() is not None or future.done())
    for status, count in ended.items():
        target.note(status, count)
    return ended


# ---- Messages -----------------------------------------------------------------------------------


def opening(handle: int, session_id: str = "", *, gates: bool = False) -> pb.ClientMessage:
    return pb.ClientMessage(open=pb.Open(handle=handle, session_id=session_id, model=NAME, gates=gates))


def stepping(handles: Iterable[int], length: int = 1) -> pb.ClientMessage:
    """Steps of zeros."""
    named = list(handles)
    rows = bytes(4 * FEATURES * length * len(named))
    return pb.ClientMessage(steps=pb.Steps(handle=named, length=[length] * len(named), input=[rows]))


def infer(
    steps: int = 1, *, sequence: str | int = "", start: bool = False, end: bool = False, outputs: Iterable[str] = ()
) -> oip.ModelInferRequest:
    """A request of zeros."""
    request = oip.ModelInferRequest(model_name=NAME, raw_input_contents=[bytes(4 * FEATURES * steps)])
    request.inputs.add(name="x", datatype="FP32", shape=[1, steps, FEATURES])
    for name in outputs:
        request.outputs.add(name=name)
    if isinstance(sequence, str) and sequence:
        request.parameters["sequence_id"].string_param = sequence
    elif isinstance(sequence, int):
        request.parameters["sequence_id"].int64_param = sequence
    if start:
        request.parameters["sequence_start"].bool_param = True
    if end:
        request.parameters["sequence_end"].bool_param = True
    return request


def varint(value: int) -> bytes:
    octets = bytearray()
    while value >= 0x80:
        octets.append(value & 0x7F | 0x80)
        value >>= 7
    octets.append(value)
    return bytes(octets)


def field(number: int, body: bytes) -> bytes:
    """A field whose value has a length, as protobuf writes it."""
    return varint(number << 3 | 2) + varint(len(body)) + body
