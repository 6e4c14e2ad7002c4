"""Servers of plain data that keep sessions by the rules of docs/sessions.md, for tests that let everything go wrong.

A state is a number that depends on every input and on their order. Several servers share a store; a connection has a
queue of messages each way, and what is in them may be lost, or come late.
"""

from collections import deque
from dataclasses import dataclass, field

import numpy as np

from gatestream.protos.gatestream.v1 import gatestream_pb2 as pb

_PRIME = 1_000_003


def after(state: int, x: int) -> int:
    """The state after one more input."""
    return (state * 31 + x + 1) % _PRIME


@dataclass
class Checkpoint:
    sequence: int
    position: int
    state: int


@dataclass
class Stored:
    """What the store has of a session."""

    epoch: int
    # Oldest first: the anchor, and the tip.
    checkpoints: list[Checkpoint]
    closed: bool = False

    def before(self, sequence: int) -> Checkpoint | None:
        return next((each for each in reversed(self.checkpoints) if each.sequence <= sequence), None)


@dataclass
class Session:
    """What a server has of one."""

    id: str
    epoch: int
    sequence: int
    position: int
    state: int
    acknowledged: int
    connection: "Connection | None" = None
    handle: int = -1
    # Steps, or a reset or a close, that were accepted and not answered.
    steps: list[int] = field(default_factory=list)
    control: str = ""
    # It takes nothing more, and will be handed over.
    leaving: bool = False

    @property
    def busy(self) -> bool:
        return bool(self.steps or self.control)


class Connection:
    """Of the client to a server. What was sent when it broke may come all the same."""

    def __init__(self, server: "Server") -> None:
        self.server = server
        self.sent: deque[pb.ClientMessage] = deque()
        self.told: deque[pb.ServerMessage] = deque()
        self.handles: dict[int, Session] = {}
        self.broken = False

    def tell(self, **kind: object) -> None:
        if not self.broken:
            self.told.append(pb.ServerMessage(**kind))  # type: ignore[arg-type]


def together(answers: list[pb.ServerMessage]) -> list[pb.ServerMessage]:
    """The same, with one message for all that may be said in one."""
    merged: dict[str, pb.ServerMessage] = {}
    rest = []
    for answer in answers:
        kind = str(answer.WhichOneof("kind"))
        if kind not in {"results", "reset_done"}:
            rest.append(answer)
        elif kind not in merged:
            merged[kind] = answer
        else:
            column = b"".join([*merged[kind].results.output, *answer.results.output])
            merged[kind].MergeFrom(answer)
            if kind == "results":
                merged[kind].results.output[:] = [column]
    return [*merged.values(), *rest]


class Server:
    """One process: what it knows dies with it, and the store does not."""

    def __init__(self, store: dict[str, Stored], limits: pb.Limits) -> None:
        self.store = store
        self.limits = limits
        self.resident: dict[str, Session] = {}
        self.going_away = False
        self.peers: list[Server] = []

    def take(self, connection: Connection) -> None:
        """The oldest message of a connection."""
        message = connection.sent.popleft()
        assert message.ByteSize() <= self.limits.message_bytes
        kind = message.WhichOneof("kind")
        if kind == "open":
            self._open(connection, message.open)
        elif kind == "steps":
            self._steps(connection, message.steps)
        elif kind == "acknowledge":
            for handle, sequence in zip(message.acknowledge.handle, message.acknowledge.sequence, strict=True):
                if (session := self._session(connection, handle)) is not None:
                    assert sequence <= session.sequence
                    session.acknowledged = max(session.acknowledged, sequence)
        else:
            asked = message.reset if kind == "reset" else message.close
            for handle, sequence in zip(asked.handle, asked.sequence, strict=True):
                session = self._session(connection, handle)
                if session is None:
                    self._refuse(connection, handle, pb.REASON_HANDLE_UNKNOWN)
                elif session.sequence != sequence or session.busy:
                    self._refuse(connection, handle, pb.REASON_POSITION_MISMATCH, session.position)
                else:
                    session.acknowledged = max(session.acknowledged, sequence)
                    session.control = str(kind)

    def _session(self, connection: Connection, handle: int) -> Session | None:
        session = connection.handles.get(handle)
        if session is None or self.resident.get(session.id) is not session or session.connection is not connection:
            return None
        if session.leaving:
            return None
        return session

    def _refuse(
        self, connection: Connection, handle: int, reason: pb.Reason, position: int | None = None, epoch: int = 0
    ) -> None:
        # Where a session stands is said of one that the stream has.
        positions = [] if position is None else [position]
        connection.tell(error=pb.Error(handle=[handle], position=positions, reason=reason, message="no", epoch=epoch))

    def _open(self, connection: Connection, request: pb.Open) -> None:
        def refuse(reason: pb.Reason, epoch: int = 0) -> None:
            connection.tell(error=pb.Error(handle=[request.handle], reason=reason, message="no", epoch=epoch))

        assert request.on_disconnect == pb.ON_DISCONNECT_PARK
        assert connection.broken or self._session(connection, request.handle) is None
        stored = self.store.get(request.session_id)
        there = stored is not None and not stored.closed
        if self.going_away:
            return refuse(pb.REASON_DRAINING)
        if request.mode == pb.OPEN_MODE_RESUME and not there:
            return refuse(pb.REASON_SESSION_UNKNOWN)
        if request.mode == pb.OPEN_MODE_CREATE and there:
            return refuse(pb.REASON_SESSION_EXISTS)
        if stored is not None and request.epoch <= stored.epoch:
            return refuse(pb.REASON_EPOCH_STALE, stored.epoch)
        session = self._claimed(request, stored if there else None)
        if session is None:
            return refuse(pb.REASON_NOT_REPLAYABLE)
        for each in (self, *self.peers):
            each.let_go(session.id, pb.CLOSE_REASON_TAKEN_OVER if each is self else pb.CLOSE_REASON_PARKED)
        self.resident[session.id] = session
        session.connection, session.handle = connection, request.handle
        connection.handles[request.handle] = session
        anchor = self.store[session.id].before(session.acknowledged)
        assert anchor is not None
        connection.tell(
            opened=pb.Opened(
                handle=request.handle,
                session_id=session.id,
                model=request.model,
                position=session.position,
                created=not there,
                epoch=session.epoch,
                sequence=session.sequence,
                durable=anchor.sequence,
            )
        )
        return None

    def _claimed(self, request: pb.Open, stored: Stored | None) -> Session | None:
        """The session as it is from now on; None: there is no checkpoint to go back to."""
        name, epoch = request.session_id, request.epoch
        if stored is None:
            self.store[name] = Stored(epoch, [Checkpoint(0, 0, 0)])
            return Session(name, epoch, 0, 0, 0, 0)
        mine = self.resident.get(name)
        if mine is not None and mine.epoch != stored.epoch:
            mine = None
        # A living owner writes what it has before it lets go.
        for peer in self.peers:
            if name in peer.resident:
                peer.checkpoint(name)
        wanted = request.acknowledged if request.HasField("acknowledged") else None
        found = stored.checkpoints[-1] if wanted is None else stored.before(wanted)
        if found is None:
            return None
        stored.epoch = epoch
        kept = mine is not None and (mine.sequence == wanted if wanted is not None else mine.sequence > found.sequence)
        if mine is not None and kept:
            found = Checkpoint(mine.sequence, mine.position, mine.state)
        if wanted is None:
            stored.checkpoints = [found]
        acknowledged = found.sequence if wanted is None else wanted
        return Session(name, epoch, found.sequence, found.position, found.state, acknowledged)

    def _steps(self, connection: Connection, steps: pb.Steps) -> None:
        assert len(set(steps.handle)) == len(steps.handle)
        (column,) = steps.input
        xs = np.frombuffer(column, "<i8").tolist()
        lengths = list(steps.length) or [1] * len(steps.handle)
        for handle, first, length in zip(steps.handle, steps.first, lengths, strict=True):
            mine, xs = xs[:length], xs[length:]
            session = self._session(connection, handle)
            if session is None:
                self._refuse(connection, handle, pb.REASON_HANDLE_UNKNOWN)
            elif session.position != first or session.busy:
                assert connection.broken, "no step twice, none left out"
                self._refuse(connection, handle, pb.REASON_POSITION_MISMATCH, session.position)
            else:
                session.acknowledged = session.sequence
                session.steps = mine

    # ---- What a server does by itself ---------------------------------------------------------------

    def busy(self) -> list[str]:
        return [name for name, each in self.resident.items() if each.busy]

    def leaving(self) -> list[str]:
        return [name for name, each in self.resident.items() if each.leaving]

    def answer(self, name: str, steps: int) -> None:
        """Take so many of the steps that a session waits for, or do what else it was asked."""
        session = self.resident[name]
        connection = session.connection
        assert connection is not None
        if session.control == "reset":
            session.state, session.control = 0, ""
            session.sequence += 1
            connection.tell(reset_done=pb.ResetDone(handle=[session.handle], position=[session.position]))
            return
        if session.control == "close":
            if self.store[name].epoch == session.epoch:
                self.store[name].closed = True
            self.let_go(name, pb.CLOSE_REASON_REQUESTED)
            return
        first, ys = session.position, []
        for x in session.steps[:steps]:
            session.state = after(session.state, x)
            ys.append(session.state)
        session.steps = session.steps[steps:]
        session.position += len(ys)
        session.sequence += len(ys)
        output = np.array(ys, "<i8").tobytes()
        connection.tell(results=pb.Results(handle=[session.handle], length=[len(ys)], first=[first], output=[output]))

    def answer_together(self, names: list[str], steps: int) -> None:
        """As `answer`, of several, with one message for all answers of a kind, in the order of the names."""
        told = {id(each.connection): each.connection.told for name in names if (each := self.resident[name]).connection}
        before = {key: len(each) for key, each in told.items()}
        for name in names:
            self.answer(name, steps)
        for key, messages in told.items():
            answers = [messages.pop() for _ in range(len(messages) - before[key])][::-1]
            messages += together(answers)

    def checkpoint(self, name: str) -> None:
        """Write where a session stands, and say how far its client may forget."""
        session, stored = self.resident[name], self.store[name]
        if stored.epoch != session.epoch:
            self.let_go(name, pb.CLOSE_REASON_FENCED)
            return
        tip = Checkpoint(session.sequence, session.position, session.state)
        stored.checkpoints = [each for each in stored.checkpoints if each.sequence != tip.sequence] + [tip]
        stored.checkpoints.sort(key=lambda each: each.sequence)
        anchor = stored.before(session.acknowledged)
        assert anchor is not None
        newest = stored.checkpoints[-1]
        stored.checkpoints = [anchor] if anchor is newest else [anchor, newest]
        if session.connection is not None:
            session.connection.tell(durable=pb.Durable(handle=[session.handle], sequence=[anchor.sequence]))

    def park(self, name: str) -> None:
        """Write it and let go of it."""
        self.checkpoint(name)
        self.let_go(name, pb.CLOSE_REASON_PARKED)

    def let_go(self, name: str, reason: pb.CloseReason) -> None:
        session = self.resident.pop(name, None)
        if session is not None and session.connection is not None:
            if session.busy and reason != pb.CLOSE_REASON_REQUESTED:
                self._refuse(session.connection, session.handle, pb.REASON_SESSION_CLOSED, session.position)
            closed = pb.Closed(handle=[session.handle], position=[session.position], reason=reason)
            session.connection.tell(closed=closed)
            del session.connection.handles[session.handle]

    def lose(self, connection: Connection) -> None:
        """The connection is gone: its sessions are detached, and what they have not run is dropped."""
        connection.broken = True
        for session in self.resident.values():
            if session.connection is connection:
                session.connection = None
                session.steps, session.control = [], ""

    def die(self) -> None:
        """The process is killed, and another takes its place."""
        self.resident.clear()
        self.going_away = False
