"""Which work leaves in which message: the self-clocking rule. Plain data; no asyncio, no gRPC, no clock.

- Steps go out at once when no message of their model waits for its first answer. While one does, further
  steps of all sessions gather and leave together when that first answer comes: latency when idle, throughput
  when busy, no timer. The *first* answer: a long chunk is answered in parts, and must not stall the others.
- Steps of many queues leave as soon as they have gathered, beside one message that waits: the server works on
  these while callers are at work who have their answers.
- A queue has at most one message on its way, so a message names each handle once, and a refused step has
  nothing behind it at the server.
- A message stays within the server's limits: steps of an entry, bytes, rows not yet answered. What does not
  fit waits, in order.
- Opening, resetting and closing cost the model nothing and do not wait for it.
"""

from collections.abc import Callable, Iterable
from typing import Final

import numpy as np

from gatestream.client.columns import Array
from gatestream.client.errors import GatestreamError, ProtocolError, Retried, SessionClosedError, SessionError
from gatestream.client.protocol.in_flight import InFlight
from gatestream.client.protocol.packing import Bounds, Parcel, controls, steps
from gatestream.client.protocol.queue import SessionQueue
from gatestream.client.protocol.requests import Chunk, Control, Ints, Kind

# Queues whose steps need not wait for the answer to the one message on its way.
MANY: Final = 128


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
        # By model, messages that nothing was heard of yet, oldest first: two at most.
        self._unheard: dict[str, list[Parcel]] = {}

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
        messages = controls(self._controls) if self._controls else []
        self._controls.clear()
        for model, ready in self._steps.items():
            unheard = len(self._unheard.get(model, ()))
            if ready and (unheard == 0 or (unheard == 1 and len(ready) >= MANY)):
                messages += self._take_steps(model, ready)
        return messages

    def taken_whole(self, message: bytes) -> bool:
        """Take the answer to all steps of one message; whether it was one."""
        for unheard in self._unheard.values():
            for parcel in unheard:
                columns = parcel.whole.read(message) if parcel.whole is not None else None
                if columns is not None:
                    unheard.remove(parcel)
                    self._deliver(parcel, columns)
                    return True
        return False

    def _deliver(self, parcel: Parcel, columns: list[Array]) -> None:
        begin = 0
        for session_queue, in_flight in parcel.cargo:
            if in_flight.steps == 1:
                # As most are.
                in_flight.take_one([column[begin] for column in columns])
                session_queue.positions[in_flight.members.item(0)] = in_flight.base.item(0) + 1
                begin += 1
            else:
                end = begin + in_flight.steps
                in_flight.take_all([column[begin:end] for column in columns] if len(parcel.cargo) > 1 else columns)
                begin = end
                after = in_flight.base + (in_flight.length if in_flight.ragged is None else in_flight.ragged)
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
            count = in_flight.steps
        else:
            in_flight.take(in_flight.rows_of(members), lengths, firsts, columns)
            count = int(lengths.sum())
        session_queue.positions[members] = firsts + lengths
        self._count(session_queue, -count)
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
        if in_flight.closing and isinstance(error, SessionClosedError):
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
            if not (in_flight.opening or (in_flight.closing and requested)):
                crossing = in_flight.members[rows]
            again = np.flatnonzero(hit & in_flight.again)
            if in_flight.closing:
                in_flight.acknowledge(np.concatenate([rows, again]))
            else:
                self._end(session_queue, in_flight, rows, error)
                in_flight.fail(again, error)
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
            if not in_flight.opening:
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
            self.drop(session_queue, reason)

    def drop(self, session_queue: SessionQueue, reason: Callable[[], GatestreamError]) -> None:
        """A queue that no stream holds will be held by none: what was asked of it is not answered any more."""
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
            unheard = self._unheard.get(session_queue.layout.key, [])
            if in_flight.parcel in unheard:
                unheard.remove(in_flight.parcel)
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
        if self._controls:
            self._controls.pop(session_queue, None)
        ready = self._steps.get(session_queue.layout.key)
        if ready is None:
            ready = self._steps[session_queue.layout.key] = {}
        if isinstance(head, Chunk):
            ready[session_queue] = None
            return
        ready.pop(session_queue, None)
        if head is not None:
            self._controls[session_queue] = None

    def _take_steps(self, model: str, ready: dict[SessionQueue, None]) -> list[bytes]:
        """One message of as many queues as fit, or none."""
        room = self._bounds.room(next(iter(ready)).layout, self._rows, self._reply_bytes)
        packed = steps(ready, room)
        if packed is None:
            return []
        data, parcel, rows = packed
        for session_queue, in_flight in parcel.cargo:
            del ready[session_queue]
            in_flight.parcel = parcel
        self._count(parcel.cargo[0][0], rows)
        self._unheard.setdefault(model, []).append(parcel)
        return [data]
