"""One client's stream: protocol messages in, columns to the engine, columns back, protocol messages out."""

from collections.abc import Callable, Sequence
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from gatestream.protos.gatestream.v1 import gatestream_pb2 as pb
from gatestream.server.config import Limits
from gatestream.server.errors import AlreadyExists, Draining, InvalidRequest, NotFound, Refused
from gatestream.server.models import Model, Models
from gatestream.server.outbox import Outbox
from gatestream.server.slots import Array, Ints
from gatestream.server.steps import Entries, Same, input_columns, number_column
from gatestream.server.wire import handles_and_lengths, results, results_of_one

_FREE: Final = -1
# The handle's session is closing, or another stream took it: no more steps, and not free before `Closed`.
_LEAVING: Final = -2
_NOTHING: Final = np.empty(0, np.int64)
# A message with as many entries is likely to be followed by others with the same.
_MANY: Final = 8


class ClientStream:
    """The sessions that one stream holds, by handle. The engine's `Owner`.

    Args:
        models: what is served.
        limits: of the server.
        tenant: whose stream it is.
    """

    message = "ClientMessage"

    def __init__(self, models: Models, limits: Limits, tenant: str):
        self.rows = 0
        self.outbox = Outbox()
        self._models = models
        self._limits = limits
        self._tenant = tenant
        # By handle: the model's number, and the slot in it or one of the marks above.
        self._model = np.zeros(16, np.int16)
        self._slot = np.full(16, _FREE, np.int32)
        # Scratch, by handle, for finding those that stand twice in a message. Only read where it has just been written.
        self._entry = np.empty(16, np.int32)
        # The latest message with many entries; None when what a handle stands for has changed since.
        self._same: Same | None = None
        # Handles whose session waits for its turn to close, and its slot.
        self._closing: dict[int, int] = {}
        self._held = 0
        # No session will come: the stream ends with the last one.
        self._ending = False

    # ---- From the client ----------------------------------------------------------------------

    def receive(self, message: bytes) -> None:
        """As `Conversation`: do what a message asks; what cannot be done is answered by an Error."""
        asked = pb.ClientMessage.FromString(message)
        if len(asked.steps.handle) < _MANY:
            self.do(asked)
        elif self._same is not None and self._same.begins(message, asked.steps):
            self._steps(asked.steps, self._same.entries)
        elif entries := self._steps(asked.steps):
            self._same = Same.of(message, asked.steps, entries)

    def do(self, message: pb.ClientMessage) -> None:
        """Do what a message asks; what cannot be done is answered by an Error."""
        kind = message.WhichOneof("kind")
        if kind == "steps":
            if not self._one_entry(message.steps):
                self._steps(message.steps)
        elif kind == "open":
            self._open(message.open)
        elif kind == "reset":
            self._each("reset", message.reset.handle, self._reset)
        elif kind == "close":
            self._each("close", message.close.handle, self._close)
        else:
            self._refuse(InvalidRequest("the message is empty; expected open, steps, reset or close"), [])

    def half_close(self) -> None:
        """Nothing more comes: close what is open when it has been answered, then end."""
        self._ending = True
        for handle in np.flatnonzero(self._slot >= 0).tolist():
            self._close(self._models[int(self._model[handle])], int(self._slot[handle]), handle)
        self._end_when_done()

    def disconnect(self) -> None:
        """The client has gone: end its sessions, without the steps that are pending."""
        for handle, slot in self._closing.items():
            self._mark(handle, slot)
        held = self._slot >= 0
        for number in set(self._model[held].tolist()):
            self._models[number].register.detach(self, self._slot[held & (self._model == number)])
        self._mark(slice(None), _FREE)
        self.outbox.end()

    def going_away(self, seconds: float) -> None:
        """Tell the client that the server will stop; without sessions, there is nothing to wait for."""
        self._say(pb.ServerMessage(going_away=pb.GoingAway(deadline_ms=int(1000 * seconds))))
        self._ending = True
        self._end_when_done()

    def _open(self, request: pb.Open) -> None:
        handle = request.handle
        try:
            if handle >= self._limits.sessions_per_stream:
                raise InvalidRequest(
                    f"open.handle is {handle}; expected less than {self._limits.sessions_per_stream}, "
                    "the sessions that one stream may hold"
                )
            if handle < len(self._slot) and self._slot[handle] != _FREE:
                raise AlreadyExists(
                    f"open.handle {handle} is in use on this stream; close it and wait for Closed, or take another",
                    pb.REASON_HANDLE_IN_USE,
                )
            for name, kind in (("mode", pb.OpenMode), ("outputs", pb.Outputs)):
                if (value := getattr(request, name)) not in kind.values():
                    raise InvalidRequest(f"open.{name} is {value}; expected one of {', '.join(kind.keys())}")
            model = self._models.find(request.model, request.version)
            if self._models.draining:
                raise Draining("the server is about to stop; open the session on another")
            self._make_room(handle)
            self._model[handle] = model.number
            self._mark(handle, model.register.open(self, self._tenant, request))
            self._held += 1
        except Refused as error:
            self._refuse(error, [handle])

    def _mark(self, handles: int | slice | Ints, slot: int) -> None:
        self._slot[handles] = slot
        self._same = None

    def _make_room(self, handle: int) -> None:
        size = len(self._slot)
        if handle >= size:
            more = max(size, handle + 1 - size)
            self._entry = np.empty(size + more, np.int32)
            self._slot = np.concatenate((self._slot, np.full(more, _FREE, np.int32)))
            self._model = np.concatenate((self._model, np.zeros(more, np.int16)))

    def _reset(self, model: Model, slot: int, handle: int) -> None:
        model.register.reset(self, slot, handle)

    def _close(self, model: Model, slot: int, handle: int) -> None:
        self._mark(handle, _LEAVING)
        self._closing[handle] = slot
        model.register.close(self, slot)

    def _each(self, kind: str, handles: Sequence[int], do: Callable[[Model, int, int], None]) -> None:
        try:
            self._check_count(kind, len(handles))
        except Refused as error:
            self._refuse(error, [])
            return
        for handle in handles:
            try:
                if handle >= len(self._slot) or self._slot[handle] < 0:
                    raise _unknown(handle)
                do(self._models[int(self._model[handle])], int(self._slot[handle]), handle)
            except Refused as error:
                self._refuse(error, [handle])

    def _check_count(self, kind: str, count: int) -> None:
        # An answer repeats the handles: without a bound, one message would be answered by gigabytes.
        if count > self._limits.sessions_per_stream:
            raise InvalidRequest(
                f"{kind}.handle has {count} entries; expected at most {self._limits.sessions_per_stream}, "
                "the sessions that one stream may hold"
            )

    def _one_entry(self, message: pb.Steps) -> bool:
        """Submit a message that has one entry and nothing wrong with it; whether it was one."""
        handles, lengths, first, columns = message.handle, message.length, message.first, message.input
        if len(handles) != 1 or len(lengths) > 1 or len(first) > 1 or self._models.stopped:
            return False
        handle, length, position = handles[0], lengths[0] if lengths else 1, first[0] if first else -1
        if handle >= len(self._slot) or not 1 <= length <= self._limits.chunk_length or position >= 2**63:
            return False
        slot = int(self._slot[handle])
        if slot < 0:
            return False
        engine = self._models[int(self._model[handle])].engine
        if len(columns) != len(engine.inputs):
            return False
        for column, item in zip(columns, engine.inputs, strict=True):
            if len(column) != length * item.row_bytes:
                return False
        engine.submit_one(self, handle, slot, length, position, columns, int(engine.wants[slot]))
        return True

    def _steps(self, message: pb.Steps, known: Entries | None = None) -> Entries | None:
        """Submit a message; its entries, where nothing is wrong with any.

        Args:
            message: whatever came.
            known: its entries, where they are those of an earlier message with which nothing was wrong.
        """
        handles = _NOTHING if known is None else known.handles
        try:
            if known is None:
                self._check_count("steps", len(message.handle))
                handles = np.fromiter(message.handle, np.int64, len(message.handle))
                known, check = self._read_entries(handles, message.length), True
            else:
                check = False
            first = number_column(message.first, "steps.first", len(handles))
            if self._models.stopped:
                raise Draining("the server stops now and takes no more steps")
            inputs = input_columns(known.model, message.input, known.rows)
        except Refused as error:
            first_sent, lengths_sent = (
                column if len(column) == len(handles) else () for column in (message.first, message.length)
            )
            self._refuse(error, handles, first=first_sent, lengths=lengths_sent)
            return None
        handles, slots, lengths, offsets, _, model = known
        if not check or self._all_right(known):
            model.engine.submit(self, handles, slots, lengths, offsets, first, inputs)
            return known
        good = self._check_entries(handles, slots, lengths, model.number, first)
        if good.any():
            handles, slots, lengths, offsets = (column[good] for column in (handles, slots, lengths, offsets))
            model.engine.submit(self, handles, slots, lengths, offsets, None if first is None else first[good], inputs)
        return None

    def _read_entries(self, handles: Ints, lengths_sent: Sequence[int]) -> Entries:
        count = len(handles)
        if count == 0:
            raise InvalidRequest("steps.handle is empty; expected at least one entry")
        lengths = number_column(lengths_sent, "steps.length", count)
        slots, model = self._look_up(handles)
        if lengths is None:
            return Entries(handles, slots, np.ones(count, np.int64), np.arange(count), count, model)
        return Entries(handles, slots, lengths, np.cumsum(lengths) - lengths, int(lengths.sum()), model)

    def _look_up(self, handles: Ints) -> tuple[Ints, Model]:
        """The slots (negative: no such handle) and the model of the first handle that has one."""
        known = handles < len(self._slot)
        places = np.where(known, handles, 0)
        slots = np.where(known, self._slot[places], _FREE)
        held = np.flatnonzero(slots >= 0)
        if len(held) == 0:
            raise _unknown(int(handles[0]))
        return slots, self._models[int(self._model[handles[held[0]]])]

    def _all_right(self, entries: Entries) -> bool:
        """Whether `_check_entries` would find nothing to refuse, in fewer passes."""
        handles, slots, lengths, _, _, model = entries
        if slots.min() < 0 or lengths.min() < 1 or lengths.max() > self._limits.chunk_length:
            return False
        # Each handle's last entry is found again where it was written; an earlier one of the same handle is not.
        places = np.arange(len(handles))
        self._entry[handles] = places
        repeated = np.count_nonzero(self._entry[handles] != places)
        return not repeated and np.count_nonzero(self._model[handles] == model.number) == len(handles)

    def _check_entries(
        self, handles: Ints, slots: Ints, lengths: Ints, model: int, first: Ints | None
    ) -> npt.NDArray[np.bool_]:
        """Refuse the entries that no engine need see; which are left."""
        longest = self._limits.chunk_length
        unknown = slots < 0
        other = ~unknown
        other[other] = self._model[handles[other]] != model
        held = np.flatnonzero(~unknown)
        self._entry[handles[held]] = held
        repeated = np.zeros(len(handles), np.bool_)
        repeated[held] = self._entry[handles[held]] != held
        if repeated.any():
            repeated = np.isin(handles, handles[repeated])
        faults: list[tuple[npt.NDArray[np.bool_], Any]] = [
            (unknown, lambda k: _unknown(int(handles[k]))),
            (
                other,
                lambda k: InvalidRequest(
                    f"handle {handles[k]} is of another model than the message's first entry; send a message for each"
                ),
            ),
            (
                repeated,
                lambda k: InvalidRequest(
                    f"handle {handles[k]} stands more than once in the message; send its steps as one chunk",
                    pb.REASON_HANDLE_REPEATED,
                ),
            ),
            (
                lengths == 0,
                lambda k: InvalidRequest(
                    f"steps.length of handle {handles[k]} is 0; expected at least 1", pb.REASON_CHUNK_EMPTY
                ),
            ),
            (
                lengths > longest,
                lambda k: InvalidRequest(
                    f"steps.length of handle {handles[k]} is {lengths[k]}; expected at most {longest}",
                    pb.REASON_CHUNK_TOO_LONG,
                ),
            ),
        ]
        good = np.ones(len(handles), np.bool_)
        for fault, error in faults:
            bad = good & fault
            if bad.any():
                self._refuse(
                    error(int(bad.argmax())),
                    handles[bad],
                    first=_NOTHING if first is None else first[bad],
                    lengths=lengths[bad],
                )
                good &= ~bad
        return good

    # ---- From the engine ----------------------------------------------------------------------

    def opened(self, handle: int, session_id: str, position: int, created: bool) -> None:
        """As `Owner`."""
        spec = self._models[int(self._model[handle])].spec
        self._say(
            pb.ServerMessage(
                opened=pb.Opened(
                    handle=handle,
                    session_id=session_id,
                    model=spec.name,
                    version=spec.version,
                    position=position,
                    idle_timeout_s=self._limits.idle_timeout,
                    created=created,
                )
            )
        )

    def lost(self, handle: int) -> None:
        """As `Owner`."""
        self._mark(handle, _LEAVING)

    def result(self, handle: int, first: int, length: int, outputs: Sequence[bytes], gates: Sequence[bytes]) -> None:
        """As `Owner`."""
        self.outbox.put(results_of_one(handle, first, length, outputs, gates), length)

    def results(self, handles: Ints, first: Ints, lengths: Ints, outputs: list[Array], gates: list[Array]) -> None:
        """As `Owner`."""
        rows = int(lengths.sum())
        same = self._same
        if same is not None and handles is same.entries.handles and lengths is same.entries.lengths:
            begin = same.columns
        else:
            begin = handles_and_lengths(handles, None if rows == len(handles) else lengths)
        self.outbox.put(results(begin, first, outputs, gates), rows)

    def refused(self, error: Refused, handles: Ints, positions: Ints, first: Ints, lengths: Ints) -> None:
        """As `Owner`."""
        self._refuse(error, handles, positions, first, lengths)

    def reset_done(self, handle: int, position: int) -> None:
        """As `Owner`."""
        self._say(pb.ServerMessage(reset_done=pb.ResetDone(handle=[handle], position=[position])))

    def closed(self, handles: Ints, positions: Ints, reason: pb.CloseReason) -> None:
        """As `Owner`."""
        self._mark(handles, _FREE)
        for handle in handles.tolist():
            self._closing.pop(handle, None)
        self._held -= len(handles)
        closed = pb.Closed(handle=handles.tolist(), position=positions.tolist(), reason=reason)
        self._say(pb.ServerMessage(closed=closed))
        self._end_when_done()

    def _say(self, message: pb.ServerMessage, rows: int = 0) -> None:
        self.outbox.put(message.SerializeToString(), rows)

    def _end_when_done(self) -> None:
        if self._ending and self._held == 0:
            self.outbox.end()

    def _refuse(self, error: Refused, handles: Any, positions: Any = (), first: Any = (), lengths: Any = ()) -> None:
        self._say(
            pb.ServerMessage(
                error=pb.Error(
                    handle=list(handles),
                    position=list(positions),
                    first=list(first),
                    length=list(lengths),
                    reason=error.reason,
                    message=str(error),
                    retry_after_ms=int(np.ceil(1000 * error.retry_after)),
                )
            )
        )


def _unknown(handle: int) -> NotFound:
    return NotFound(f"handle {handle} has no session on this stream; open it first", pb.REASON_HANDLE_UNKNOWN)
