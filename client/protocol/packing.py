"""Work at the heads of queues, put into messages."""

from collections.abc import Iterable
from dataclasses import dataclass

from gatestream.client.columns import Array, Layout
from gatestream.client.protocol.codec import Whole, frame, head, message
from gatestream.client.protocol.in_flight import InFlight
from gatestream.client.protocol.queue import SessionQueue
from gatestream.client.protocol.requests import Kind
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


def controls(session_queues: Iterable[SessionQueue]) -> list[bytes]:
    """Have the controls at the heads of queues leave: the messages."""
    messages: list[pb.ClientMessage] = []
    # By whether the sequences that they are meant for are known.
    resets: dict[bool, pb.Reset] = {}
    closes: dict[bool, pb.Close] = {}
    for session_queue in session_queues:
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
    messages += [pb.ClientMessage(reset=each) for each in resets.values()]
    messages += [pb.ClientMessage(close=each) for each in closes.values()]
    return [each.SerializeToString() for each in messages]


def steps(ready: Iterable[SessionQueue], room: int) -> tuple[bytes, Parcel, int] | None:
    """Have the steps at the heads of queues leave, as many as fit.

    Args:
        ready: queues of one model with steps at their heads, in order; one at least.
        room: rows that fit.

    Returns:
        The message, what it carries, and its rows; None: nothing fits.
    """
    layout = next(iter(ready)).layout
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
        if in_flight is None:
            break
        count = in_flight.sendable_steps if in_flight.due else in_flight.steps
        if count > room - rows:
            break
        rows += count
        longest = max(longest, in_flight.length)
        if in_flight.due:
            usual = False
            resent = in_flight.send()
            handles.append(session_queue.handle_bytes(in_flight.members[resent]))
            length, first, columns = in_flight.entries_again(resent)
        else:
            handles.append(session_queue.handle_bytes(in_flight.members))
            length, first, columns = in_flight.entries()
        lengths.append(length)
        firsts.append(first)
        if len(columns) == 1:
            inputs[0].append(columns[0])
        else:
            for pieces, column in zip(inputs, columns, strict=True):
                pieces.append(column)
        usual = usual and session_queue.layout is layout
        cargo.append((session_queue, in_flight))
    if not cargo:
        return None
    begin = head(b"".join(handles), b"".join(lengths) if longest > 1 else b"", b"".join(firsts))
    around = frame(layout, rows)
    return message(begin, inputs, around), Parcel(Whole(begin, around) if usual else None, cargo), rows
