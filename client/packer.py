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
from gatestream.client.flight import Flight
from gatestream.client.lane import Lane
from gatestream.client.work import Chunk, Control, Ints, Kind
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

    def room(self, layout: Layout, rows: int = 0, reply_bytes: int = 0, request_bytes: int = 0) -> int:
        """How many more rows of a lane fit, where so much is used."""
        return min(
            self.rows - rows,
            (self.reply_bytes - reply_bytes) // layout.reply_bytes,
            (self.request_bytes - request_bytes) // layout.request_bytes,
        )


class Packer:
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
        # Per model, the lanes of its latest message, until the first of them is answered.
        self._waiting: dict[str, set[Lane]] = {}

    def add(self, lane: Lane, work: Chunk | Control) -> None:
        """Put work behind what the lane was asked for before."""
        lane.queue.append(work)
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

    def take(self) -> list[pb.ClientMessage]:
        """The messages that may leave now, in order."""
        messages = self._take_controls() if self._controls else []
        for model, ready in self._steps.items():
            if ready and not self._waiting.get(model):
                messages += self._take_steps(model, ready)
        return messages

    def taken(self, lane: Lane, members: Ints, lengths: Ints, firsts: Ints, columns: list[Array]) -> None:
        """Steps were answered: see `Flight.take`.

        Raises:
            ProtocolError: not steps that wait for an answer.
        """
        flight = lane.flight
        if flight is None or flight.control is not None:
            raise ProtocolError("the server answered steps that were not sent")
        rows = flight.rows_of(members)
        flight.take(rows, lengths, firsts, columns)
        lane.positions[members] = firsts + lengths
        self._count(lane, -int(lengths[0] if len(lengths) == 1 else lengths.sum()))
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
        waiting = self._waiting.get(lane.layout.model)
        if waiting and lane in waiting:
            waiting.clear()
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

    def _take_controls(self) -> list[pb.ClientMessage]:
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
                handles[control.kind] += lane.handles_of(flight.members, rows)
        self._controls.clear()
        messages = [pb.ClientMessage(open=each) for each in opens]
        if handles[Kind.RESET]:
            messages.append(pb.ClientMessage(reset=pb.Reset(handle=handles[Kind.RESET])))
        if handles[Kind.CLOSE]:
            messages.append(pb.ClientMessage(close=pb.Close(handle=handles[Kind.CLOSE])))
        return messages

    def _take_steps(self, model: str, ready: dict[Lane, None]) -> list[pb.ClientMessage]:
        """One message of as many lanes as fit, or none."""
        message = pb.ClientMessage()
        steps = message.steps
        lengths: list[int] = []
        columns: list[list[bytes]] = []
        waiting: set[Lane] = set()
        used = 0
        for lane in list(ready):
            room = self._bounds.room(lane.layout, self._rows, self._reply_bytes, used)
            flight = lane.flight or lane.start_steps(room)
            if flight is None or flight.left(flight.sendable) > room:
                break
            entries = flight.entries()
            rows = flight.send()
            count = flight.left(rows)
            used += count * lane.layout.request_bytes
            self._count(lane, count)
            waiting.add(lane)
            del ready[lane]
            steps.handle.extend(lane.handles_of(flight.members, rows))
            steps.first.extend(entries.firsts)
            lengths += entries.lengths
            columns.append(entries.inputs)
        if not waiting:
            return []
        self._waiting[model] = waiting
        if max(lengths) > 1:
            steps.length.extend(lengths)
        steps.input.extend(b"".join(parts) for parts in zip(*columns, strict=True))
        return [message]


def _closing(flight: Flight) -> bool:
    return flight.control is not None and flight.control.kind is Kind.CLOSE
