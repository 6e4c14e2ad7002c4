"""Which work leaves in which message: the self-clocking rule. Plain data; no asyncio, no gRPC, no clock.

- Steps go out at once when no message of their model waits for its first answer. While one does, further
  steps of all sessions gather and leave together when that first answer comes: latency when idle, throughput
  when busy, no timer. The *first* answer: a long chunk is answered in parts, and must not stall the others.
- A lane has at most one message on its way, so a message names each handle once, and a refused step has
  nothing behind it at the server.
- A message stays within the server's limits: steps of an entry, bytes, rows not yet answered. What does not
  fit waits, in order.
- Opening, resetting and closing cost the model nothing and do not wait for it.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np

from gatestream.client.columns import Array, Layout
from gatestream.client.errors import ExhaustedError, GatestreamError, ProtocolError, SessionClosedError
from gatestream.client.protocol.codec import Whole, frame, head, message
from gatestream.client.protocol.in_flight import Flight
from gatestream.client.protocol.queue import Lane
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

    def __init__(self, whole: Whole | None, cargo: list[tuple[Lane, Flight]]) -> None:
        self.whole = whole
        self.cargo = cargo


class Batcher:
    """Takes work by lane, and answers by lane and member; gives the messages to send."""

    def __init__(self, bounds: Bounds, *, retry: bool) -> None:
        """Start empty.

        Args:
            bounds: what may be on its way.
            retry: keep what is refused for lack of room, for the caller to send again.
        """
        self._bounds = bounds
        self._retry = retry
        # Steps on their way, of all lanes, and the bytes of their answers.
        self._rows = 0
        self._reply_bytes = 0
        # Lanes with something to send, in order; dicts for their order.
        self._controls: dict[Lane, None] = {}
        self._steps: dict[str, dict[Lane, None]] = {}
        # Messages that nothing was heard of yet, oldest first; of a model there is at most one.
        self._unheard: dict[str, Parcel] = {}

    def add(self, lane: Lane, work: Chunk | Control) -> None:
        """Put work behind what the lane was asked for before."""
        lane.queue.append(work)
        if lane.flight is None:
            self._mark(lane)

    def again(self, lane: Lane) -> None:
        """Send what was refused for lack of room once more."""
        if lane.flight is not None and lane.flight.again.any():
            lane.flight.due = True
            for work in lane.flight.works:
                work.refusal = None
            self._mark(lane)

    def withdraw(self, lane: Lane, work: Chunk | Control, error: GatestreamError) -> None:
        """The caller waits no longer: give it `error`."""
        lane.withdraw(work, error)
        self._mark(lane)

    def resume(self, lane: Lane) -> None:
        """End the pause that the lane is in."""
        lane.flight = None
        self._mark(lane)

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
        for lane, flight in parcel.cargo:
            end = begin + flight.steps
            flight.take_all([column[begin:end] for column in columns] if len(parcel.cargo) > 1 else columns)
            begin = end
            after = flight.base + (flight.length if flight.ragged is None else flight.ragged)
            if len(flight.members) == len(lane.members):
                lane.positions = after
            else:
                lane.positions[flight.members] = after
            lane.settle()
            if lane.queue:
                self._mark(lane)
        self._count(parcel.cargo[0][0], -begin)

    def taken(self, lane: Lane, members: Ints, lengths: Ints, firsts: Ints, columns: list[Array]) -> None:
        """Steps were answered: see `Flight.take`.

        Raises:
            ProtocolError: not steps that wait for an answer.
        """
        flight = lane.flight
        if flight is None or flight.control is not None:
            raise ProtocolError("the server answered steps that were not sent")
        if flight.is_whole(members, lengths, firsts):
            flight.take_all(columns)
            steps = flight.steps
        else:
            flight.take(flight.rows_of(members), lengths, firsts, columns)
            steps = int(lengths.sum())
        lane.positions[members] = firsts + lengths
        self._count(lane, -steps)
        self._settle(lane)

    def acknowledged(self, lane: Lane, members: Ints, kind: Kind) -> None:
        """A control was carried out.

        Raises:
            ProtocolError: none of this kind waits for an answer.
        """
        flight = lane.flight
        if flight is None or flight.control is None or flight.control.kind is not kind:
            raise ProtocolError(f"the server answered a request of kind {kind.name} that was not sent")
        flight.acknowledge(flight.rows_of(members))
        self._settle(lane)

    def refused(self, lane: Lane, members: Ints, error: GatestreamError) -> None:
        """What is on its way for these members was refused, or failed.

        Raises:
            ProtocolError: nothing is on its way.
        """
        flight = lane.flight
        if flight is None:
            raise ProtocolError(f"the server refused what was not sent: {error}")
        rows = flight.rows_of(members)
        if _closing(flight) and isinstance(error, SessionClosedError):
            flight.acknowledge(rows)
        else:
            self._end(lane, flight, rows, error)
        self._settle(lane)

    def closed(self, lane: Lane, members: Ints, error: SessionClosedError, *, requested: bool) -> Ints:
        """Sessions are closed, whether that was asked for or not.

        Returns:
            Those of the members for which a message was on its way that the server had not yet seen.
        """
        lane.closed |= dict.fromkeys(members.tolist(), error)
        flight = lane.flight
        crossing: Ints = np.empty(0, np.int64)
        if flight is not None and not flight.paused:
            hit = np.isin(flight.members, members)
            rows = np.flatnonzero(hit & flight.open)
            if not (_closing(flight) and requested):
                crossing = flight.members[rows]
            if _closing(flight):
                flight.acknowledge(rows)
            else:
                self._end(lane, flight, rows, error)
                flight.fail(np.flatnonzero(hit & flight.again), error)
        self._settle(lane)
        return crossing

    def lost(self, lanes: Iterable[Lane], reason: Callable[[], GatestreamError]) -> None:
        """The stream is gone: nothing will be answered any more.

        Args:
            lanes: all of them.
            reason: makes the error, one for each caller.
        """
        for waiting in (self._unheard, self._controls, self._steps):
            waiting.clear()
        for lane in lanes:
            works = [*(lane.flight.works if lane.flight else []), *lane.queue]
            lane.flight = None
            lane.queue.clear()
            for work in works:
                error = reason()
                error.members = work.members
                work.finish(error)

    def _count(self, lane: Lane, rows: int) -> None:
        self._rows += rows
        self._reply_bytes += rows * lane.layout.reply_bytes

    def _end(self, lane: Lane, flight: Flight, rows: Ints, error: GatestreamError) -> None:
        if flight.control is None:
            self._count(lane, -flight.left(rows))
        if self._retry and isinstance(error, ExhaustedError):
            flight.refuse(rows, error)
        else:
            flight.fail(rows, error)

    def _settle(self, lane: Lane) -> None:
        if lane.flight is not None and lane.flight.parcel is not None:
            if self._unheard.get(lane.layout.model) is lane.flight.parcel:
                del self._unheard[lane.layout.model]
            lane.flight.parcel = None
        lane.settle()
        self._mark(lane)

    def _mark(self, lane: Lane) -> None:
        """Note whether the lane has something to send."""
        head: Chunk | Control | None = None
        if lane.flight is None:
            head = lane.head()
        elif lane.flight.due:
            head = lane.flight.works[0]
        self._controls.pop(lane, None)
        ready = self._steps.setdefault(lane.layout.model, {})
        if isinstance(head, Chunk):
            ready[lane] = None
            return
        ready.pop(lane, None)
        if head is not None:
            self._controls[lane] = None

    def _take_controls(self) -> list[bytes]:
        opens: list[pb.Open] = []
        handles: dict[Kind, list[int]] = {Kind.RESET: [], Kind.CLOSE: []}
        for lane in self._controls:
            flight = lane.flight or lane.start_control()
            rows = flight.send()
            control = flight.control
            assert control is not None
            if control.kind is Kind.OPEN:
                opens += [control.opens[row] for row in rows]
            elif control.kind is Kind.PAUSE:
                control.finish()
            else:
                handles[control.kind] += lane.handles[flight.members[rows]].tolist()
        self._controls.clear()
        messages = [pb.ClientMessage(open=each) for each in opens]
        if handles[Kind.RESET]:
            messages.append(pb.ClientMessage(reset=pb.Reset(handle=handles[Kind.RESET])))
        if handles[Kind.CLOSE]:
            messages.append(pb.ClientMessage(close=pb.Close(handle=handles[Kind.CLOSE])))
        return [each.SerializeToString() for each in messages]

    def _take_steps(self, model: str, ready: dict[Lane, None]) -> list[bytes]:
        """One message of as many lanes as fit, or none."""
        layout = next(iter(ready)).layout
        room = self._bounds.room(layout, self._rows, self._reply_bytes)
        cargo: list[tuple[Lane, Flight]] = []
        handles: list[bytes] = []
        lengths: list[bytes] = []
        firsts: list[bytes] = []
        inputs: list[list[Array]] = [[] for _ in layout.inputs]
        longest = rows = 0
        usual = True
        for lane in ready:
            flight = lane.flight or lane.start_steps(room - rows)
            steps = flight.sendable_steps if flight is not None else 0
            if flight is None or steps > room - rows:
                break
            rows += steps
            longest = max(longest, flight.length)
            if flight.due:
                usual = False
                resent = flight.send()
                handles.append(lane.handle_bytes(flight.members[resent]))
                length, first, columns = flight.entries_again(resent)
            else:
                handles.append(lane.handle_bytes(flight.members))
                length, first, columns = flight.entry_lengths(), flight.firsts(), flight.inputs()
            lengths.append(length)
            firsts.append(first)
            for pieces, column in zip(inputs, columns, strict=True):
                pieces.append(column)
            usual = usual and lane.layout is layout
            cargo.append((lane, flight))
        if not cargo:
            return []
        for lane, _ in cargo:
            del ready[lane]
        self._count(cargo[0][0], rows)
        begin = head(b"".join(handles), b"".join(lengths) if longest > 1 else b"", b"".join(firsts))
        around = frame(layout, rows)
        parcel = self._unheard[model] = Parcel(Whole(begin, around) if usual else None, cargo)
        for _, flight in cargo:
            flight.parcel = parcel
        return [message(begin, inputs, around)]


def _closing(flight: Flight) -> bool:
    return flight.control is not None and flight.control.kind is Kind.CLOSE
