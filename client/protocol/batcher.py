"""Which work leaves in which message: the self-clocking rule. Plain data; no asyncio, no gRPC, no clock.

- Steps go out at once when no message of their model waits for its first answer. While one does, further
  steps of all sessions gather and leave together when that first answer comes: latency when idle, throughput
  when busy, no timer. The *first* answer: a long chunk is answered in parts, and must not stall the others.
- A queue has at most one message on its way, so a message names each handle once, and a refused step has
  nothing behind it at the server.
- A message stays within the server's limits: steps of an entry, bytes, rows not yet answered. What does not
  fit waits, in order.
- Opening, resetting and closing cost the model nothing and do not wait for it.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np

from gatestream.client.columns import Array, Layout
from gatestream.client.errors import GatestreamError, ProtocolError, Retried, SessionClosedError, SessionError
from gatestream.client.protocol.codec import Whole, frame, head, message
from gatestream.client.protocol.in_flight import InFlight
from gatestream.client.protocol.queue import SessionQueue
from gatestream.client.protocol.requests import Chunk, Control, Ints, Kind
from gatestream.protos.gatestream.v1 import gatestream_pb2 as pb


@dataclass(frozen=True, slots=True)
class Bounds:
    """What may be on its way.

    Attributes:
        rows: not yet answered, of all messages together.
        reply_bytes: of the answers to those.
        request_bytes: of one message.
    """

    rows: int
    reply_bytes: int
    request_bytes: int

    def room(self, layout: Layout, rows: int = 0, reply_bytes: int = 0) -> int:
        """How many rows fit in a message, where so much is on its way."""
        return min(
            self.rows - rows,
            (self.reply_bytes - reply_bytes) // layout.reply_bytes,
            self.request_bytes // layout.request_bytes,
        )


class Parcel:
    """A message of steps on its way, nothing of which is answered yet.

    Attributes:
        whole: how it looks when all of it is answered at once; None where such an answer is not looked for.
        cargo: whose steps it carries, in order.
    """

    def __init__(self, whole: Whole | None, cargo: list[tuple[SessionQueue, InFlight]]) -> None:
        self.whole = whole
        self.cargo = cargo


class Batcher:
    """Takes work by queue, and answers by queue and member; gives the messages to send."""

    def __init__(self, bounds: Bounds, *, retry: bool) -> None:
        """Start empty.

        Args:
            bounds: what may be on its way.
            retry: keep what is refused for lack of room, for the caller to send again.
        """
        self._bounds = bounds
        self._retry = retry
        # Steps on their way, of all queues, and the bytes of their answers.
        self._rows = 0
        self._reply_bytes = 0
        # Queues with something to send, in order; dicts for their order.
        self._controls: dict[SessionQueue, None] = {}
        self._steps: dict[str, dict[SessionQueue, None]] = {}
        # Messages that nothing was heard of yet, oldest first; of a model there is at most one.
        self._unheard: dict[str, Parcel] = {}

    def add(self, session_queue: SessionQueue, work: Chunk | Control) -> None:
        """Put work behind what the queue was asked for before."""
        session_queue.waiting.append(work)
        if session_queue.in_flight is None:
            self.mark(session_queue)

    def again(self, session_queue: SessionQueue) -> None:
        """Send what was refused for lack of room once more."""
        if session_queue.in_flight is not None and session_queue.in_flight.again.any():
            session_queue.in_flight.due = True
            for work in session_queue.in_flight.works:
                work.refusal = None
            self.mark(session_queue)

    def withdraw(self, session_queue: SessionQueue, work: Chunk | Control, error: GatestreamError) -> None:
        """The caller waits no longer: give it `error`."""
        session_queue.withdraw(work, error)
        self.mark(session_queue)

    def resume(self, session_queue: SessionQueue) -> None:
        """End the pause that the queue is in."""
        session_queue.in_flight = None
        self.mark(session_queue)

    def take(self) -> list[bytes]:
        """The messages that may leave now, in order."""
        messages = self._take_controls() if self._controls else []
        for model, ready in self._steps.items():
            if ready and model not in self._unheard:
                messages += self._take_steps(model, ready)
        return messages

    def taken_whole(self, message: bytes) -> bool:
        """Take the answer to all steps of one message; whether it was one."""
        for model, parcel in self._unheard.items():
            columns = parcel.whole.read(message) if parcel.whole is not None else None
            if columns is not None:
                del self._unheard[model]
                self._deliver(parcel, columns)
                return True
        return False

    def _deliver(self, parcel: Parcel, columns: list[Array]) -> None:
        begin = 0
        for session_queue, in_flight in parcel.cargo:
            end = begin + in_flight.steps
            in_flight.take_all([column[begin:end] for column in columns] if len(parcel.cargo) > 1 else columns)
            begin = end
            after = in_flight.base + (in_flight.length if in_flight.ragged is None else in_flight.ragged)
            if len(in_flight.members) == len(session_queue.members):
                session_queue.positions = after
            else:
                session_queue.positions[in_flight.members] = after
            session_queue.settle()
            if session_queue.waiting:
                self.mark(session_queue)
        self._count(parcel.cargo[0][0], -begin)

    def taken(
        self, session_queue: SessionQueue, members: Ints, lengths: Ints, firsts: Ints, columns: list[Array]
    ) -> None:
        """Steps were answered: see `InFlight.take`.

        Raises:
            ProtocolError: not steps that wait for an answer.
        """
        in_flight = session_queue.in_flight
        if in_flight is None or in_flight.control is not None:
            raise ProtocolError("the server answered steps that were not sent")
        if in_flight.is_whole(members, lengths, firsts):
            in_flight.take_all(columns)
            steps = in_flight.steps
        else:
            in_flight.take(in_flight.rows_of(members), lengths, firsts, columns)
            steps = int(lengths.sum())
        session_queue.positions[members] = firsts + lengths
        self._count(session_queue, -steps)
        self._settle(session_queue)

    def acknowledged(self, session_queue: SessionQueue, members: Ints, kind: Kind) -> None:
        """A control was carried out.

        Raises:
            ProtocolError: none of this kind waits for an answer.
        """
        in_flight = session_queue.in_flight
        if in_flight is None or in_flight.control is None or in_flight.control.kind is not kind:
            raise ProtocolError(f"the server answered a request of kind {kind.name} that was not sent")
        in_flight.acknowledge(in_flight.rows_of(members))
        self._settle(session_queue)

    def refused(self, session_queue: SessionQueue, members: Ints, error: GatestreamError) -> None:
        """What is on its way for these members was refused, or failed.

        Raises:
            ProtocolError: nothing is on its way.
        """
        in_flight = session_queue.in_flight
        if in_flight is None:
            raise ProtocolError(f"the server refused what was not sent: {error}")
        rows = in_flight.rows_of(members)
        if _closing(in_flight) and isinstance(error, SessionClosedError):
            in_flight.acknowledge(rows)
        else:
            self._end(session_queue, in_flight, rows, error)
        self._settle(session_queue)

    def closed(self, session_queue: SessionQueue, members: Ints, error: SessionError, *, requested: bool) -> Ints:
        """Sessions are closed, whether that was asked for or not.

        Returns:
            Those of the members for which a message was on its way that the server had not yet seen.
        """
        session_queue.closed |= dict.fromkeys(members.tolist(), error)
        in_flight = session_queue.in_flight
        crossing: Ints = np.empty(0, np.int64)
        if in_flight is not None and not in_flight.paused:
            hit = np.isin(in_flight.members, members)
            rows = np.flatnonzero(hit & in_flight.open)
            if not (_closing(in_flight) and requested):
                crossing = in_flight.members[rows]
            if _closing(in_flight):
                in_flight.acknowledge(rows)
            else:
                self._end(session_queue, in_flight, rows, error)
                in_flight.fail(np.flatnonzero(hit & in_flight.again), error)
        if session_queue.away:
            session_queue.away -= set(members.tolist())
            self.back(session_queue)
        else:
            self._settle(session_queue)
        return crossing

    def away(self, session_queue: SessionQueue, members: Ints) -> Ints:
        """The server let go of sessions that may be taken up again: what it had not answered will leave once more.

        Returns:
            Those of the members for which a message was on its way that the server had not yet seen.
        """
        session_queue.away |= set(members.tolist())
        in_flight = session_queue.in_flight
        crossing: Ints = np.empty(0, np.int64)
        if in_flight is not None and not in_flight.paused:
            rows = np.flatnonzero(np.isin(in_flight.members, members) & in_flight.open)
            crossing = in_flight.members[rows]
            if in_flight.control is None:
                self._count(session_queue, -in_flight.left(rows))
            self._hear(session_queue, in_flight)
            in_flight.put_back(rows)
        self.mark(session_queue)
        return crossing

    def once_more(self, session_queue: SessionQueue, members: Ints) -> None:
        """What was asked for these members was refused, and leaves again, changed."""
        in_flight = session_queue.in_flight
        if in_flight is None or in_flight.control is None:
            raise ProtocolError("the server refused what was not sent")
        in_flight.put_back(in_flight.rows_of(members))
        self.mark(session_queue)

    def back(self, session_queue: SessionQueue) -> None:
        """All members are on a stream again: go on."""
        in_flight = session_queue.in_flight
        if in_flight is not None and not in_flight.paused:
            in_flight.due = bool(in_flight.again.any())
            for work in in_flight.works:
                work.refusal = None
        self._settle(session_queue)

    def lost(self, session_queues: Iterable[SessionQueue], reason: Callable[[], GatestreamError]) -> None:
        """The stream is gone: nothing will be answered any more.

        Args:
            session_queues: all of them.
            reason: makes the error, one for each caller.
        """
        for waiting in (self._unheard, self._controls, self._steps):
            waiting.clear()
        for session_queue in session_queues:
            in_flight = session_queue.in_flight
            works = [*(in_flight.works if in_flight else []), *session_queue.waiting]
            if session_queue.log is not None and in_flight is not None:
                session_queue.log.budget.used -= in_flight.logged
            session_queue.in_flight = None
            session_queue.waiting.clear()
            for work in works:
                error = reason()
                error.members = work.members
                work.finish(error)

    def _count(self, session_queue: SessionQueue, rows: int) -> None:
        self._rows += rows
        self._reply_bytes += rows * session_queue.layout.reply_bytes

    def _end(self, session_queue: SessionQueue, in_flight: InFlight, rows: Ints, error: GatestreamError) -> None:
        if in_flight.control is None:
            self._count(session_queue, -in_flight.left(rows))
        if (self._retry or session_queue.patient) and isinstance(error, Retried):
            in_flight.refuse(rows, error)
        else:
            in_flight.fail(rows, error)

    def _settle(self, session_queue: SessionQueue) -> None:
        if session_queue.in_flight is not None:
            self._hear(session_queue, session_queue.in_flight)
        session_queue.settle()
        self.mark(session_queue)

    def _hear(self, session_queue: SessionQueue, in_flight: InFlight) -> None:
        """Something was heard of the message that it left in."""
        if in_flight.parcel is not None:
            if self._unheard.get(session_queue.layout.key) is in_flight.parcel:
                del self._unheard[session_queue.layout.key]
            in_flight.parcel = None

    def mark(self, session_queue: SessionQueue) -> None:
        """Note whether the queue has something to send."""
        head: Chunk | Control | None = None
        if session_queue.away:
            pass
        elif session_queue.in_flight is None:
            head = session_queue.head()
        elif session_queue.in_flight.due:
            head = session_queue.in_flight.works[0]
        self._controls.pop(session_queue, None)
        ready = self._steps.setdefault(session_queue.layout.key, {})
        if isinstance(head, Chunk):
            ready[session_queue] = None
            return
        ready.pop(session_queue, None)
        if head is not None:
            self._controls[session_queue] = None

    def _take_controls(self) -> list[bytes]:
        messages: list[pb.ClientMessage] = []
        # By whether the sequences that they are meant for are known.
        resets: dict[bool, pb.Reset] = {}
        closes: dict[bool, pb.Close] = {}
        for session_queue in self._controls:
            in_flight = session_queue.in_flight or session_queue.start_control()
            rows = in_flight.send()
            control = in_flight.control
            assert control is not None
            if control.kind is Kind.OPEN:
                messages += [pb.ClientMessage(open=control.opens[row]) for row in rows]
                continue
            if control.kind is Kind.PAUSE:
                control.finish()
                continue
            members = in_flight.members[rows]
            sequences = session_queue.sequences(members)
            known = sequences is not None
            reset = control.kind is Kind.RESET
            asked = resets.setdefault(known, pb.Reset()) if reset else closes.setdefault(known, pb.Close())
            asked.handle.extend(session_queue.handles[members].tolist())
            if sequences is not None:
                asked.sequence.extend(sequences.tolist())
        self._controls.clear()
        messages += [pb.ClientMessage(reset=each) for each in resets.values()]
        messages += [pb.ClientMessage(close=each) for each in closes.values()]
        return [each.SerializeToString() for each in messages]

    def _take_steps(self, model: str, ready: dict[SessionQueue, None]) -> list[bytes]:
        """One message of as many queues as fit, or none."""
        layout = next(iter(ready)).layout
        room = self._bounds.room(layout, self._rows, self._reply_bytes)
        cargo: list[tuple[SessionQueue, InFlight]] = []
        handles: list[bytes] = []
        lengths: list[bytes] = []
        firsts: list[bytes] = []
        inputs: list[list[Array]] = [[] for _ in layout.inputs]
        longest = rows = 0
        usual = True
        for session_queue in ready:
            if session_queue.in_flight is None and session_queue.full:
                continue
            in_flight = session_queue.in_flight or session_queue.start_steps(room - rows)
            steps = in_flight.sendable_steps if in_flight is not None else 0
            if in_flight is None or steps > room - rows:
                break
            rows += steps
            longest = max(longest, in_flight.length)
            if in_flight.due:
                usual = False
                resent = in_flight.send()
                handles.append(session_queue.handle_bytes(in_flight.members[resent]))
                length, first, columns = in_flight.entries_again(resent)
            else:
                handles.append(session_queue.handle_bytes(in_flight.members))
                length, first, columns = in_flight.entry_lengths(), in_flight.firsts(), in_flight.inputs()
            lengths.append(length)
            firsts.append(first)
            for pieces, column in zip(inputs, columns, strict=True):
                pieces.append(column)
            usual = usual and session_queue.layout is layout
            cargo.append((session_queue, in_flight))
        if not cargo:
            return []
        for session_queue, _ in cargo:
            del ready[session_queue]
        self._count(cargo[0][0], rows)
        begin = head(b"".join(handles), b"".join(lengths) if longest > 1 else b"", b"".join(firsts))
        around = frame(layout, rows)
        parcel = self._unheard[model] = Parcel(Whole(begin, around) if usual else None, cargo)
        for _, in_flight in cargo:
            in_flight.parcel = parcel
        return [message(begin, inputs, around)]


def _closing(in_flight: InFlight) -> bool:
    return in_flight.control is not None and in_flight.control.kind is Kind.CLOSE
