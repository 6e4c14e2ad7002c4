"""A server of plain data, for tests that choose every answer: it counts, and objects to what no client may send."""

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np

from gatestream.client.columns import Layout
from gatestream.client.models import Models, opens
from gatestream.client.protocol.queue import SessionQueue
from gatestream.client.protocol.requests import Chunk, Control, Kind
from gatestream.client.protocol.stream import Multiplexer
from gatestream.protos.gatestream.v1 import gatestream_pb2 as pb

SPEC = pb.ModelSpec(
    name="sum",
    layers=1,
    hidden=1,
    inputs=[pb.TensorSpec(name="x", dtype=pb.DATA_TYPE_INT64)],
    outputs=[pb.TensorSpec(name="y", dtype=pb.DATA_TYPE_INT64)],
)
LIMITS = pb.Limits(
    sessions_per_stream=12, rows_per_stream=20, chunk_length=5, message_bytes=700, reply_bytes_per_stream=10_000
)


def layout() -> Layout:
    return Models(pb.DescribeResponse(limits=LIMITS, models=[pb.ServedModel(spec=SPEC)])).layout(
        SPEC, outputs=True, gates=False
    )


@dataclass
class Entry:
    """Steps of a session that were accepted and not yet answered."""

    message: int
    first: int
    xs: list[int]


@dataclass
class Session:
    """What a correct server knows."""

    position: int = 0
    total: int = 0
    entry: Entry | None = None
    # Answer by position; a reset or a change of state does not touch it.
    answers: dict[int, int] = field(default_factory=dict)
    control: Kind | None = None


class Server:
    """Takes messages, keeps them until told how to answer."""

    def __init__(self) -> None:
        self.sessions: dict[int, Session] = {}
        self.opening: list[pb.Open] = []
        self.messages = 0
        # Handles of each message of which nothing was answered yet, in its order.
        self.unheard: dict[int, list[int]] = {}
        # So many there may be.
        self.most_unheard = 1
        self.made = 0

    @property
    def rows(self) -> int:
        return sum(map(len, self.waiting().values()))

    def accept(self, message: pb.ClientMessage) -> None:
        kind = message.WhichOneof("kind")
        assert message.ByteSize() <= LIMITS.message_bytes
        if kind == "open":
            assert message.open.handle not in self.sessions
            assert message.open.handle not in [each.handle for each in self.opening]
            assert message.open.handle < LIMITS.sessions_per_stream
            self.opening.append(message.open)
        elif kind == "steps":
            self._steps(message.steps)
        else:
            for handle in message.reset.handle if kind == "reset" else message.close.handle:
                session = self.sessions[handle]
                assert session.entry is None
                assert session.control is None
                session.control = Kind.RESET if kind == "reset" else Kind.CLOSE

    def _steps(self, steps: pb.Steps) -> None:
        assert len(self.unheard) < self.most_unheard, "a message before it had no answer yet"
        assert len(set(steps.handle)) == len(steps.handle)
        assert len(steps.first) == len(steps.handle)
        lengths = list(steps.length) or [1] * len(steps.handle)
        (column,) = steps.input
        xs = np.frombuffer(column, "<i8").tolist()
        assert sum(lengths) == len(xs)
        self.messages += 1
        self.unheard[self.messages] = list(steps.handle)
        for handle, first, length in zip(steps.handle, steps.first, lengths, strict=True):
            session = self.sessions[handle]
            assert 1 <= length <= LIMITS.chunk_length
            assert session.entry is None, "one message at a time"
            assert session.control is None
            assert session.position == first, "no step twice, none left out"
            session.entry = Entry(self.messages, first, xs[:length])
            xs = xs[length:]
        assert self.rows <= LIMITS.rows_per_stream

    def open(self) -> pb.ServerMessage:
        """Open what came first."""
        handle = self.opening.pop(0).handle
        self.sessions[handle] = Session()
        self.made += 1
        return pb.ServerMessage(opened=pb.Opened(handle=handle, session_id=f"session-{self.made}"))

    def refuse_open(self, reason: pb.Reason) -> pb.ServerMessage:
        handle = self.opening.pop(0).handle
        return pb.ServerMessage(error=pb.Error(handle=[handle], reason=reason, message="no room", retry_after_ms=5))

    def waiting(self) -> dict[int, list[int]]:
        """The inputs of each session that were accepted and not yet answered."""
        return {handle: session.entry.xs for handle, session in self.sessions.items() if session.entry}

    def pending(self) -> list[int]:
        return list(self.waiting())

    def controlled(self) -> list[int]:
        return [handle for handle, session in self.sessions.items() if session.control]

    def answer(self, parts: dict[int, int]) -> pb.ServerMessage:
        """Take so many of the pending steps of each session; as the protocol has it, no lengths where all are 1."""
        results = pb.Results()
        ys: list[int] = []
        for handle, length in parts.items():
            session = self.sessions[handle]
            entry = session.entry
            assert entry is not None
            results.handle.append(handle)
            if set(parts.values()) != {1}:
                results.length.append(length)
            results.first.append(session.position)
            for x in entry.xs[:length]:
                session.total += x
                session.answers[session.position] = session.total
                session.position += 1
                ys.append(session.total)
            self._heard(entry)
            entry.xs = entry.xs[length:]
            if not entry.xs:
                session.entry = None
        results.output.append(np.array(ys, "<i8").tobytes())
        return pb.ServerMessage(results=results)

    def answer_message(self, message: int = 0) -> pb.ServerMessage:
        """Take all steps of a message, of which none was answered yet, in its order; unnamed, of the latest."""
        waiting = self.waiting()
        return self.answer({handle: len(waiting[handle]) for handle in self.unheard[message or self.messages]})

    def refuse(self, handle: int, reason: pb.Reason) -> pb.ServerMessage:
        """Take none of the pending steps of a session."""
        session = self.sessions[handle]
        error = pb.Error(handle=[handle], position=[session.position], reason=reason, message="no", retry_after_ms=5)
        if session.entry:
            self._heard(session.entry)
            error.first.append(session.position)
            error.length.append(len(session.entry.xs))
        session.entry = session.control = None
        return pb.ServerMessage(error=error)

    def obey(self, handle: int) -> pb.ServerMessage:
        """Carry out a reset or a close."""
        session = self.sessions[handle]
        if session.control is Kind.RESET:
            session.control = None
            session.total = 0
            return pb.ServerMessage(reset_done=pb.ResetDone(handle=[handle], position=[session.position]))
        return self.close(handle, pb.CLOSE_REASON_REQUESTED)

    def close(self, handle: int, reason: pb.CloseReason) -> pb.ServerMessage:
        """Close a session; what is pending for it must be refused after that."""
        session = self.sessions.pop(handle)
        return pb.ServerMessage(closed=pb.Closed(handle=[handle], position=[session.position], reason=reason))

    def _heard(self, entry: Entry) -> None:
        self.unheard.pop(entry.message, None)


class Pair:
    """A multiplexer and the server, with nothing between them but a list of messages each way."""

    def __init__(self, *, retry: bool = True, limits: pb.Limits = LIMITS) -> None:
        self.server = Server()
        self.multiplexer = Multiplexer(limits, retry=retry)
        self.layout = layout()

    def flush(self) -> None:
        for message in self.multiplexer.take():
            self.server.accept(pb.ClientMessage.FromString(message))

    def tell(self, message: pb.ServerMessage) -> None:
        self.multiplexer.receive(message.SerializeToString())
        self.flush()

    def opening(self, members: int = 1) -> tuple[SessionQueue, Control]:
        session_queue, work = self.multiplexer.open(
            self.layout, opens(SPEC, [""] * members, "create", outputs=True, gates=False)
        )
        self.multiplexer.add(session_queue, work)
        self.flush()
        return session_queue, work

    def open(self, members: int = 1) -> SessionQueue:
        session_queue, work = self.opening(members)
        for _ in range(members):
            self.tell(self.server.open())
        assert work.done
        assert work.error is None
        return session_queue

    def step(
        self,
        session_queue: SessionQueue,
        xs: list[list[int]],
        members: list[int] | None = None,
        lengths: list[int] | None = None,
    ) -> Chunk:
        """Ask for steps: per member, a list as long as the others', of which `lengths` are real."""
        chosen = session_queue.members if members is None else np.array(members)
        chunk = Chunk(members=chosen, columns=[np.array(xs, "<i8")], length=len(xs[0]))
        if lengths is not None:
            chunk.lengths, chunk.length, chunk.padding = np.array(lengths), max(lengths), len(xs[0]) - max(lengths)
        self.multiplexer.add(session_queue, chunk)
        self.flush()
        return chunk

    def control(self, session_queue: SessionQueue, kind: Kind) -> Control:
        work = Control(kind=kind, members=session_queue.members)
        self.multiplexer.add(session_queue, work)
        self.flush()
        return work

    def settle(self) -> None:
        """Answer everything, whole."""
        while self.server.pending() or self.server.controlled() or self.server.opening:
            while self.server.opening:
                self.tell(self.server.open())
            for handle in self.server.controlled():
                self.tell(self.server.obey(handle))
            parts = {handle: len(session.entry.xs) for handle, session in self.server.sessions.items() if session.entry}
            if parts:
                self.tell(self.server.answer(parts))


def answers(chunk: Chunk) -> Iterator[list[int]]:
    """Per member."""
    assert chunk.done
    assert chunk.error is None, chunk.error
    (ys,) = chunk.results()
    yield from ys.tolist()
