"""Our own protocol: the bytes of a stream's messages, and what they ask and answer.

`Codec.decode` makes a record of a client's message, as `messages` has them; the other methods make the server's
messages. The codec knows bytes and bounds. What a handle stands for, and so how large its columns are to be, is looked
up elsewhere.
"""

from collections.abc import Sequence
from typing import Final, NamedTuple, Self

import numpy as np

from gatestream.protos.gatestream.v1 import gatestream_pb2 as pb
from gatestream.protos.layout import Input, ModelLayout
from gatestream.server.arrays import Array, Ints
from gatestream.server.core.reply_sink import CloseReason
from gatestream.server.core.sessions import Stands
from gatestream.server.errors import EpochStale, InvalidRequest, Malformed, Refused
from gatestream.server.transport.large_steps import large_steps
from gatestream.server.transport.messages import (
    Acknowledge,
    Chunk,
    Close,
    Column,
    Invalid,
    Numbers,
    Open,
    Request,
    Reset,
    Steps,
)
from gatestream.server.transport.parsing import parse
from gatestream.server.transport.wire import (
    field,
    handles_and_lengths,
    head,
    number,
    numbers,
    packed,
    results,
    results_of_one,
    varint,
    with_columns,
)

# Steps of one entry are a chunk if their message has fewer bytes; with more, they are read where they lie.
_LARGE: Final = 2**16
# A message of as many entries, or of _LARGE bytes, is likely to be followed by others that step the same sessions.
_MANY: Final = 8
# The latest chunk of a template stays in memory, one for each stream: only where it has no more bytes.
_KEPT: Final = 2**14
_NOTHING: Final = np.empty(0, np.int64)

_OPEN_FIELDS: Final = 4096
_OPEN, _STEPS = (pb.ClientMessage.DESCRIPTOR.fields_by_name[name].number for name in ("open", "steps"))
_HANDLE, _LENGTH, _FIRST, _INPUT, _ACKNOWLEDGED = (
    pb.Steps.DESCRIPTOR.fields_by_name[name].number for name in ("handle", "length", "first", "input", "acknowledged")
)


# ---- Templates --------------------------------------------------------------------------------


class _ChunkTemplate(NamedTuple):
    """Template of a Steps message of one entry: recognises later ones that differ in position and numbers alone.

    Attributes:
        chunk: that every such message is; it holds the columns of the latest.
        prefix: what stands before the position.
        infix: what stands between the position and the column.
        stop: where the position ends.
        size: bytes of a message.
        suffix: what stands between the column and what is acknowledged, which is the message's end; empty: the column
            is.
        end: where the column ends.
    """

    chunk: Chunk
    prefix: bytes
    infix: bytes
    stop: int
    size: int
    suffix: bytes
    end: int

    @classmethod
    def of(cls, chunk: Chunk, message: bytes) -> Self | None:
        """The template of a message; None where it has another form than protobuf writes, or several inputs.

        Args:
            chunk: that was decoded.
            message: as it came.
        """
        if len(chunk.columns) != 1:
            return None
        (column,) = chunk.columns
        prefix = packed(_HANDLE, varint(chunk.handle))
        if chunk.length is not None:
            prefix += packed(_LENGTH, varint(chunk.length))
        position = b"" if chunk.first < 0 else varint(chunk.first)
        if position:
            prefix += head(_FIRST, len(position))
        infix = head(_INPUT, len(column))
        acknowledged = b"" if chunk.acknowledged < 0 else varint(chunk.acknowledged)
        suffix = head(_ACKNOWLEDGED, len(acknowledged)) if acknowledged else b""
        size = sum(map(len, (prefix, position, infix, column, suffix, acknowledged)))
        prefix = head(_STEPS, size) + prefix
        if message != b"".join((prefix, position, infix, column, suffix, acknowledged)):
            return None
        stop = len(prefix) + len(position)
        return cls(chunk, prefix, infix, stop, len(message), suffix, stop + len(infix) + len(column))

    def match(self, message: bytes) -> Chunk | None:
        """What a message asks that is like the template's; None: it is not."""
        chunk, prefix, infix, stop, size, suffix, end = self
        if len(message) != size or not message.startswith(prefix) or not message.startswith(infix, stop):
            return None
        start = len(prefix)
        if start < stop:
            first = number(message[start:stop])
            if first is None:
                return None
            chunk.first = first
        if suffix:
            acknowledged = number(message[end + len(suffix) :]) if message.startswith(suffix, end) else None
            if acknowledged is None:
                return None
            chunk.acknowledged = acknowledged
        chunk.columns = (message[stop + len(infix) : end],)
        return chunk


class _StepsTemplate(NamedTuple):
    """Template of a Steps message: recognises later ones that step the same sessions by the same lengths.

    They are not parsed: their columns are read where they lie, which protobuf would copy twice.

    Attributes:
        prefix: the columns of the handles and lengths, with which the results begin too.
        handles: [entries].
        lengths: [entries]; None: 1 of each.
        rows: the sum of the lengths.
    """

    prefix: bytes
    handles: Ints
    lengths: Ints | None
    rows: int

    @classmethod
    def of(cls, steps: Steps) -> Self:
        """The template of a message."""
        handles, lengths = steps.handles, steps.lengths
        rows = len(handles) if lengths is None else int(lengths.sum())
        return cls(handles_and_lengths(handles, lengths), handles, lengths, rows)

    def match(self, message: bytes) -> Steps | None:
        """What a message asks that is like the template's; None: it is not, or not as protobuf writes it."""
        if not message:
            return None
        prefix, handles, lengths, _ = self
        kind, at, stop = field(message, 0)
        if kind != _STEPS or stop != len(message) or not message.startswith(prefix, at):
            return None
        at += len(prefix)
        whole = memoryview(message)
        first: Ints | None = None
        acknowledged: Ints | None = None
        columns: list[Column] = []
        while at < stop:
            kind, start, at = field(message, at)
            if at > stop:
                return None
            if kind == _INPUT:
                columns.append(whole[start:at])
            elif kind == _FIRST and first is None and not columns:
                first = numbers(message[start:at])
                if first is None or len(first) != len(handles):
                    return None
            elif kind == _ACKNOWLEDGED and acknowledged is None:
                acknowledged = numbers(message[start:at])
                if acknowledged is None or len(acknowledged) != len(handles):
                    return None
            else:
                return None
        return Steps(handles, lengths, first, columns, acknowledged)


# ---- The codec --------------------------------------------------------------------------------


class Codec:
    """One stream's messages: bytes to requests, answers to bytes.

    Args:
        most_entries: of a message.
        templates: recognise messages that are like earlier ones, and give the steps of one session as a `Chunk`.
            Without, every message is parsed and all steps are `Steps`, which say the same.
    """

    def __init__(self, most_entries: int, *, templates: bool = True):
        self._most_entries = most_entries
        self._templates = templates
        # Bytes of a message that protobuf reads: as many as one has that names all sessions.
        self._parsed = max(_LARGE, 10 * most_entries)
        self._chunk: _ChunkTemplate | None = None
        self._steps: _StepsTemplate | None = None
        # Handle and bytes of the latest chunk that was parsed: the second such has a template made.
        self._latest = (-1, 0)

    def decode(self, message: bytes) -> Request:
        """What a message asks; `Invalid` where that contradicts itself. It holds until the next call.

        Raises:
            Malformed: it is no ClientMessage.
        """
        if self._chunk is not None and (chunk := self._chunk.match(message)) is not None:
            return chunk
        if self._steps is not None and (steps := self._steps.match(message)) is not None:
            return steps
        if len(message) > self._parsed:
            number, _, stop = field(message, 0)
            is_open = number == _OPEN and stop == len(message)
            return self._large_open(message) if is_open else self._large_steps(message)
        asked = parse(pb.ClientMessage, message, fields=self._parsed)
        kind = asked.WhichOneof("kind")
        if kind == "steps":
            sent = asked.steps
            return self._chunk_of(sent, message) or self._steps_of(
                sent.handle, sent.length, sent.first, sent.acknowledged, tuple(sent.input), message
            )
        if kind == "open":
            return _open(asked.open)
        if kind == "reset":
            return self._too_many(kind, asked.reset.handle) or _meant(Reset, kind, asked.reset)
        if kind == "close":
            return self._too_many(kind, asked.close.handle) or _meant(Close, kind, asked.close)
        if kind == "acknowledge":
            return self._too_many(kind, asked.acknowledge.handle) or _meant(Acknowledge, kind, asked.acknowledge)
        return Invalid(InvalidRequest("the message is empty; expected open, steps, reset, close or acknowledge"))

    def _chunk_of(self, sent: pb.Steps, message: bytes) -> Chunk | None:
        """What was sent, as a chunk; None: it is none."""
        handle, length, first, acknowledged = sent.handle, sent.length, sent.first, sent.acknowledged
        if len(handle) != 1 or max(map(len, (length, first, acknowledged))) > 1 or len(message) >= _LARGE:
            return None
        position, lacks = (column[0] if column else -1 for column in (first, acknowledged))
        if max(position, lacks) >= 2**63 or not self._templates:
            return None
        chunk = Chunk(handle[0], length[0] if length else None, position, tuple(sent.input), lacks)
        latest, self._latest = self._latest, (chunk.handle, len(message))
        if latest == self._latest and len(message) <= _KEPT:
            self._chunk = _ChunkTemplate.of(chunk, message)
        return chunk

    def _steps_of(
        self,
        handles: Numbers,
        lengths: Numbers,
        first: Numbers,
        acknowledged: Numbers,
        columns: Sequence[Column],
        message: bytes,
    ) -> Steps | Invalid:
        """What was sent, in columns."""
        if (invalid := self._too_many("steps", handles)) is not None:
            return invalid
        count = len(handles)
        if count == 0:
            return Invalid(InvalidRequest("steps.handle is empty; expected at least one entry"))
        try:
            steps = Steps(
                _array(handles),
                _column(lengths, "steps.length", count),
                _column(first, "steps.first", count),
                columns,
                _column(acknowledged, "steps.acknowledged", count),
            )
        except InvalidRequest as error:
            return Invalid(error, handles, *(column if len(column) == count else () for column in (first, lengths)))
        if self._templates and (count >= _MANY or len(message) >= _LARGE):
            self._steps = _StepsTemplate.of(steps)
        return steps

    def _large_steps(self, message: bytes) -> Steps | Invalid:
        """What was sent, where it is so much that its numbers are counted before they are listed."""
        try:
            columns = large_steps(message, self._most_entries)
        except Malformed:
            raise
        except InvalidRequest as error:
            return Invalid(error)
        return self._steps_of(*columns, message=message)

    @staticmethod
    def _large_open(message: bytes) -> Open | Invalid:
        """What was asked, where it has large constants, in few fields."""
        try:
            return _open(parse(pb.ClientMessage, message, fields=_OPEN_FIELDS).open)
        except Malformed:
            raise
        except InvalidRequest as error:
            return Invalid(error)

    def _too_many(self, kind: str, handles: Numbers) -> Invalid | None:
        # An answer repeats the handles: without a bound, one message would be answered by gigabytes.
        if len(handles) <= self._most_entries:
            return None
        return Invalid(
            InvalidRequest(
                f"{kind}.handle has {len(handles)} entries; expected at most {self._most_entries}, "
                "the sessions that one stream may hold"
            )
        )

    # ---- What is answered ---------------------------------------------------------------------

    # No method around it: one call more for each message is felt.
    result = staticmethod(results_of_one)

    def results(
        self, handles: Ints, first: Ints, lengths: Ints, rows: int, outputs: Sequence[Array], gates: Sequence[Array]
    ) -> bytes:
        """Results of many entries.

        Args:
            handles: [entries]; the array of the `Steps` that asked for them, where these are all of its entries.
            first: [entries], position of each one's first step.
            lengths: [entries], steps of each, no more than were asked for.
            rows: the sum of the lengths.
            outputs: a column of each output, contiguous.
            gates: a column of each gate, contiguous.
        """
        asked = self._steps
        if asked is not None and handles is asked.handles and rows == asked.rows:
            prefix = asked.prefix
        else:
            prefix = handles_and_lengths(handles, None if rows == len(handles) else lengths)
        return results(prefix, first, outputs, gates)

    @staticmethod
    def opened(
        handle: int, session_id: str, *, model: str, version: str, stands: Stands, idle_timeout: float, created: bool
    ) -> bytes:
        """Opened.

        Args:
            handle: of the session.
            session_id: of the session.
            model: its name.
            version: of the model.
            stands: where the session does.
            idle_timeout: seconds without an answer after which the session is closed; 0: never.
            created: the session is new.
        """
        opened = pb.Opened(
            handle=handle,
            session_id=session_id,
            model=model,
            version=version,
            position=stands.position,
            idle_timeout_s=idle_timeout,
            created=created,
            epoch=stands.epoch,
            sequence=stands.sequence,
            durable=stands.durable,
        )
        return pb.ServerMessage(opened=opened).SerializeToString()

    @staticmethod
    def durable(handles: Ints, sequences: Ints) -> bytes:
        """Durable of sessions, [entries], and what none of them will go back behind, [entries]."""
        return with_columns(pb.Durable(), handle=handles, sequence=sequences)

    @staticmethod
    def reset_done(handles: Ints, positions: Ints) -> bytes:
        """ResetDone of sessions, [entries], and the position of each one's next step, [entries]."""
        return with_columns(pb.ResetDone(), handle=handles, position=positions)

    @staticmethod
    def closed(handles: Ints, positions: Ints, reason: CloseReason) -> bytes:
        """Closed.

        Args:
            handles: [entries].
            positions: [entries], where each session stood.
            reason: of all of them.
        """
        return with_columns(pb.Closed(reason=reason), handle=handles, position=positions)

    @staticmethod
    def error(
        error: Refused,
        handles: Numbers,
        positions: Ints = _NOTHING,
        first: Numbers = (),
        lengths: Numbers = (),
        sequences: Ints = _NOTHING,
    ) -> bytes:
        """Error.

        Args:
            error: why something is not done.
            handles: [entries].
            positions: [entries], where each session takes its next step; empty: nobody has asked.
            first: [entries], position of each one's first step that is not taken; empty: it is not about steps, or
                was not sent.
            lengths: [entries], steps of each; empty in the same cases.
            sequences: [entries], that go with the positions; empty: nobody needs them.
        """
        said = pb.Error(reason=error.reason, message=str(error), retry_after_ms=int(np.ceil(1000 * error.retry_after)))
        if isinstance(error, EpochStale):
            said.epoch = error.epoch
        columns = {"handle": handles, "position": positions, "first": first, "length": lengths, "sequence": sequences}
        arrays = {}
        for name, column in columns.items():
            if isinstance(column, np.ndarray):
                arrays[name] = column
            else:
                # As it came, and few: numbers of 64 bits may be among them.
                getattr(said, name).extend(column)
        return with_columns(said, **arrays)

    @staticmethod
    def going_away(seconds: float) -> bytes:
        """GoingAway: the server stops in so many seconds."""
        return pb.ServerMessage(going_away=pb.GoingAway(deadline_ms=int(1000 * seconds))).SerializeToString()


def _open(asked: pb.Open) -> Open | Invalid:
    for name, kind in (("mode", pb.OpenMode), ("outputs", pb.Outputs), ("on_disconnect", pb.OnDisconnect)):
        if (value := getattr(asked, name)) not in kind.values():
            expected = ", ".join(kind.keys())
            return Invalid(InvalidRequest(f"open.{name} is {value}; expected one of {expected}"), [asked.handle])
    acknowledged = asked.acknowledged if asked.HasField("acknowledged") else None
    for name, value in (("epoch", asked.epoch), ("acknowledged", acknowledged or 0)):
        if value >= 2**62:
            return Invalid(InvalidRequest(f"open.{name} is {value}; expected less than 2^62"), [asked.handle])
    return Open(
        asked.handle,
        asked.session_id,
        asked.model,
        asked.version,
        create=asked.mode != pb.OPEN_MODE_RESUME,
        resume=asked.mode != pb.OPEN_MODE_CREATE,
        outputs=asked.outputs == pb.OUTPUTS_EVERY_STEP,
        gates=asked.gates,
        constants=tuple((each.name, each.value) for each in asked.constant),
        parks=asked.on_disconnect == pb.ON_DISCONNECT_PARK,
        epoch=asked.epoch,
        acknowledged=acknowledged,
    )


def _meant(
    record: type[Reset | Close | Acknowledge], kind: str, asked: pb.Reset | pb.Close | pb.Acknowledge
) -> Request:
    """Handles, with the sequences that go with them."""
    try:
        return record(_array(asked.handle), _column(asked.sequence, f"{kind}.sequence", len(asked.handle)))
    except InvalidRequest as error:
        return Invalid(error, asked.handle)


# ---- Columns ----------------------------------------------------------------------------------


def _array(values: Numbers) -> Ints:
    return values if isinstance(values, np.ndarray) else np.fromiter(values, np.int64, len(values))


def _column(values: Numbers, name: str, entries: int) -> Ints | None:
    """A column of numbers of 0 or more; None where it was not sent.

    Raises:
        InvalidRequest: it is not as long as there are entries, or a number does not fit.
    """
    if len(values) == 0:
        return None
    if len(values) != entries:
        handle = f"{name.split('.')[0]}.handle"
        raise InvalidRequest(f"{name} has {len(values)} elements, {handle} {entries}; expected as many, or none")
    if not isinstance(values, np.ndarray) and (greatest := max(values)) >= 2**63:
        raise InvalidRequest(f"{name} holds {greatest}; expected less than 2^63")
    return _array(values)


def check_columns(layout: ModelLayout, columns: Sequence[Column], rows: int) -> None:
    """Check that a message has a column for each of the model's inputs, of as many rows.

    Args:
        layout: of the model.
        columns: of the message.
        rows: the sum of its lengths.

    Raises:
        InvalidRequest: there are more or fewer, or one has another size.
    """
    if len(columns) != len(layout.inputs):
        raise InvalidRequest(
            f"steps.input has {len(columns)} columns; model {layout.name!r} has {len(layout.inputs)} inputs: "
            + ", ".join(item.name for item in layout.inputs)
        )
    for item, column in zip(layout.inputs, columns, strict=True):
        if len(column) != rows * item.row_bytes:
            raise InvalidRequest(
                f"steps.input {item.name!r} has {len(column)} bytes; expected {rows * item.row_bytes}: {rows} rows "
                f"(the sum of steps.length) of {item.row_bytes} bytes ({item.dtype.name} {list(item.shape)})"
            )


def input_arrays(layout: ModelLayout, columns: Sequence[Column], rows: int) -> list[Array]:
    """The model's inputs, in its order, each [rows, *shape], where they lie; arguments and errors: `check_columns`."""
    check_columns(layout, columns, rows)
    return [_aligned(item, column) for item, column in zip(layout.inputs, columns, strict=True)]


def _aligned(item: Input, column: Column) -> Array:
    rows = item.rows(column)
    return rows if rows.flags.aligned else item.rows(bytes(column))
