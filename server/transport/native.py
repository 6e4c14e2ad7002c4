"""One client's stream: protocol messages in, columns to the engine, columns back, protocol messages out."""

from collections.abc import Sequence
from typing import Final, Literal

import numpy as np
import numpy.typing as npt

from gatestream.protos.gatestream.v1 import gatestream_pb2 as pb
from gatestream.server.arrays import Array, Ints
from gatestream.server.config import Limits
from gatestream.server.core.batches import GATES, OUTPUTS, Entries
from gatestream.server.core.catalog import Catalog, Model
from gatestream.server.core.engine import Engine
from gatestream.server.core.inputs import Fault
from gatestream.server.core.outbox import Outbox
from gatestream.server.core.owner import CloseReason
from gatestream.server.errors import AlreadyExists, Draining, InvalidRequest, Malformed, Reason, Refused
from gatestream.server.transport.handles import FREE, LEAVING, Handles
from gatestream.server.transport.large_steps import LargeSteps
from gatestream.server.transport.parsing import parse
from gatestream.server.transport.steps import Same, SameStep, input_columns, number_column
from gatestream.server.transport.wire import handles_and_lengths, results, results_of_one, with_columns

_NOTHING: Final = np.empty(0, np.int64)
# A message with as many entries, or as many bytes of input, is likely to be followed by others like it.
_MANY: Final = 8
_LARGE: Final = 2**16


class ClientStream:
    """The sessions that one stream holds, by handle. The engine's `Owner`.

    Args:
        models: what is served.
        limits: of the server.
        tenant: whose stream it is.
    """

    protocol: Final = "gatestream"

    def __init__(self, models: Catalog, limits: Limits, tenant: str):
        self.rows = 0
        self.account = models.accounts.of(tenant)
        self.outbox = Outbox(self.account)
        self._models = models
        self._limits = limits
        self._tenant = tenant
        self._handles = Handles()
        # The latest messages that are likely to be followed by others like them.
        self._same: Same | None = None
        self._same_step: SameStep | None = None
        # The handle of the latest message of one entry.
        self._latest = -1
        self._held = 0
        # Bytes of a message that is read by protobuf: as many as one that names all sessions may have.
        self._parsed = max(_LARGE, 10 * limits.sessions_per_stream)
        # No session will come: the stream ends with the last one.
        self._ending = False
        # Nobody is told anything any more.
        self._gone = False

    # ---- From the client ----------------------------------------------------------------------

    def receive(self, message: bytes) -> None:
        """As `Conversation`: do what a message asks; what cannot be done is answered by an Error."""
        if self._same_step is not None and self._one_again(self._same_step, message):
            return
        if self._same is not None and self._again(self._same, message):
            return
        if len(message) > self._parsed:
            self._large(message)
            return
        asked = parse(pb.ClientMessage, message, fields=self._parsed)
        kind = asked.WhichOneof("kind")
        if kind == "steps":
            self._step(asked.steps, message)
        elif kind == "open":
            self._open(asked.open)
        elif kind == "reset":
            self._control("reset", asked.reset.handle)
        elif kind == "close":
            self._control("close", asked.close.handle)
        else:
            self._refuse(InvalidRequest("the message is empty; expected open, steps, reset or close"), [])

    def half_close(self) -> None:
        """Nothing more comes: close what is open when it has been answered, then end."""
        self._ending = True
        self._close(self._handles.held())
        self._end_when_done()

    def disconnect(self) -> None:
        """The client has gone: end its sessions, without the steps that are pending."""
        self._gone = True
        if self._held:
            for number, _, slots in self._handles.by_model(self._handles.held(closing=True)):
                self._models[number].lifecycle.detach(self, slots)
            self._handles.mark(slice(None), FREE)
        self.outbox.discard()

    @property
    def idle(self) -> bool:
        """As `Conversation`."""
        return self._held == 0

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
            if self._handles.slot(handle) != FREE:
                raise AlreadyExists(
                    f"open.handle {handle} is in use on this stream; close it and wait for Closed, or take another",
                    Reason.HANDLE_IN_USE,
                )
            for name, kind in (("mode", pb.OpenMode), ("outputs", pb.Outputs)):
                if (value := getattr(request, name)) not in kind.values():
                    raise InvalidRequest(f"open.{name} is {value}; expected one of {', '.join(kind.keys())}")
            model = self._models.find(request.model, request.version)
            self._handles.reserve(handle, model.number)
            slot = model.lifecycle.open(
                self,
                self._tenant,
                request.session_id,
                handle,
                create=request.mode != pb.OPEN_MODE_RESUME,
                resume=request.mode != pb.OPEN_MODE_CREATE,
                wants=OUTPUTS * (request.outputs == pb.OUTPUTS_EVERY_STEP) + GATES * request.gates,
            )
            self._handles.mark(handle, slot)
            self._held += 1
        except Refused as error:
            self._refuse(error, [handle])

    def _control(self, kind: Literal["reset", "close"], named: Sequence[int]) -> None:
        """Reset or close; handles that have no session, or are named twice, are refused, all for one reason as one."""
        try:
            self._check_count(kind, len(named))
        except Refused as error:
            self._refuse(error, [])
            return
        handles = np.fromiter(named, np.int64, len(named))
        handles = handles[self._refuse_all(self._handles.faults(handles, self._handles.slots(handles)), handles)]
        if kind == "close":
            self._close(handles)
            return
        for number, some, slots in self._handles.by_model(handles):
            try:
                self._models[number].lifecycle.reset(self, slots, some)
            except Refused as error:
                self._refuse(error, some)

    def _close(self, handles: Ints) -> None:
        by_model = self._handles.by_model(handles)
        self._handles.close(handles)
        for number, _, slots in by_model:
            self._models[number].lifecycle.close(self, slots)

    def _check_count(self, kind: str, count: int) -> None:
        # An answer repeats the handles: without a bound, one message would be answered by gigabytes.
        if count > self._limits.sessions_per_stream:
            raise InvalidRequest(
                f"{kind}.handle has {count} entries; expected at most {self._limits.sessions_per_stream}, "
                "the sessions that one stream may hold"
            )

    def _large(self, message: bytes) -> None:
        try:
            steps = LargeSteps.read(message, self._limits.sessions_per_stream, self._models.most_inputs)
        except Malformed:
            raise
        except Refused as error:
            self._refuse(error, [])
            return
        if (done := self._steps(steps)) is not None and not self._models.straight:
            self._same = Same.of(steps, *done, self._handles.changes)

    def _step(self, steps: pb.Steps, message: bytes) -> None:
        """Submit a message, and remember it, where others like it are likely."""
        if self._models.straight:
            self._steps(steps)
        elif (one := self._one_entry(steps)) is not None:
            engine, slot, length = one
            if length == 1 and steps.handle[0] == self._latest:
                self._same_step = SameStep.of(message, steps, slot, engine, self._handles.changes)
            self._latest = steps.handle[0]
        elif (done := self._steps(steps)) is not None and (len(steps.handle) >= _MANY or len(message) >= _LARGE):
            self._same = Same.of(steps, *done, self._handles.changes)

    def _one_entry(self, message: pb.Steps) -> tuple[Engine, int, int] | None:
        """Submit a message that has one entry and nothing wrong with it.

        Returns:
            Who has the session, its slot, and how far it is stepped; None where it is no such message.
        """
        handles, lengths, first, columns = message.handle, message.length, message.first, message.input
        if len(handles) != 1 or len(lengths) > 1 or len(first) > 1 or self._models.stopped:
            return None
        handle, length, position = handles[0], lengths[0] if lengths else 1, first[0] if first else -1
        if not 1 <= length <= self._limits.chunk_length or position >= 2**63:
            return None
        slot = self._handles.slot(handle)
        if slot < 0:
            return None
        engine = self._models[self._handles.model(handle)].engine
        if len(columns) != len(engine.layout.inputs):
            return None
        for column, item in zip(columns, engine.layout.inputs, strict=True):
            if len(column) != length * item.row_bytes or len(column) > _LARGE:
                return None
        engine.submit_one(self, handle, slot, length, position, columns, int(engine.wants[slot]))
        return engine, slot, length

    def _one_again(self, same: SameStep, message: bytes) -> bool:
        """As `_again`, for a message of one entry."""
        if same.changes != self._handles.changes or self._models.stopped:
            return False
        rest = same.rest(message)
        if rest is None:
            return False
        same.engine.submit_one(self, same.handle, same.slot, 1, rest[0], rest[1:], same.wants)
        return True

    def _again(self, same: Same, message: bytes) -> bool:
        """Submit a message that steps the same sessions as far as an earlier one; whether it was one, and right."""
        if same.changes != self._handles.changes or self._models.stopped:
            return False
        rest = same.rest(message)
        if rest is None:
            return False
        first, columns = rest
        try:
            inputs = input_columns(same.model, columns, same.entries.rows)
        except Refused:
            return False
        same.model.engine.submit(self, same.entries, first, inputs)
        return True

    def _steps(self, message: pb.Steps | LargeSteps) -> tuple[Entries, Model] | None:
        """Submit a message; what cannot be done is answered by an Error.

        Returns:
            Its entries, if nothing is wrong with any, and their model.
        """
        handles = _NOTHING
        try:
            count = len(message.handle)
            self._check_count("steps", count)
            handles = np.fromiter(message.handle, np.int64, count)
            if count == 0:
                raise InvalidRequest("steps.handle is empty; expected at least one entry")
            lengths = number_column(message.length, "steps.length", count)
            if lengths is None:
                lengths = np.ones(count, np.int64)
            slots, number = self._handles.look_up(handles)
            model = self._models[number]
            first = number_column(message.first, "steps.first", count)
            if self._models.stopped:
                raise Draining("the server stops now and takes no more steps")
            inputs = input_columns(model, message.input, int(lengths.sum()))
        except Refused as error:
            first_sent, lengths_sent = (
                column if len(column) == len(handles) else () for column in (message.first, message.length)
            )
            self._refuse(error, handles, first=first_sent, lengths=lengths_sent)
            return None
        offsets = np.cumsum(lengths) - lengths
        right = (
            lengths.min() >= 1
            and lengths.max() <= self._limits.chunk_length
            and self._handles.all_right(handles, slots, number)
        )
        if not right:
            good = self._refuse_faulty(handles, slots, lengths, first, number)
            if not good.any():
                return None
            handles, slots, lengths, offsets = (column[good] for column in (handles, slots, lengths, offsets))
            first = None if first is None else first[good]
        entries = Entries.of(handles, slots, lengths, offsets, model.engine.wants[slots])
        model.engine.submit(self, entries, first, inputs)
        return (entries, model) if right else None

    def _refuse_faulty(
        self, handles: Ints, slots: Ints, lengths: Ints, first: Ints | None, model: int
    ) -> npt.NDArray[np.bool_]:
        """Refuse the entries that no engine need see; which are left."""
        longest = self._limits.chunk_length
        faults: list[Fault] = [
            *self._handles.faults(handles, slots, model),
            (
                lengths == 0,
                lambda k: InvalidRequest(
                    f"steps.length of handle {handles[k]} is 0; expected at least 1", Reason.CHUNK_EMPTY
                ),
            ),
            (
                lengths > longest,
                lambda k: InvalidRequest(
                    f"steps.length of handle {handles[k]} is {lengths[k]}; expected at most {longest}",
                    Reason.CHUNK_TOO_LONG,
                ),
            ),
        ]
        return self._refuse_all(faults, handles, first, lengths)

    def _refuse_all(
        self, faults: list[Fault], handles: Ints, first: Ints | None = None, lengths: Ints | None = None
    ) -> npt.NDArray[np.bool_]:
        """Refuse the entries that have a fault, all that have the same as one; which are left."""
        good = np.ones(len(handles), np.bool_)
        for fault, error in faults:
            bad = good & fault
            if bad.any():
                self._refuse(
                    error(int(bad.argmax())),
                    handles[bad],
                    first=_NOTHING if first is None else first[bad],
                    lengths=_NOTHING if lengths is None else lengths[bad],
                )
                good &= ~bad
        return good

    # ---- From the engine ----------------------------------------------------------------------

    def opened(self, handle: int, session_id: str, position: int, created: bool) -> None:
        """As `Owner`."""
        spec = self._models[self._handles.model(handle)].spec
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
        self._handles.mark(handle, LEAVING)

    def result(self, handle: int, first: int, length: int, outputs: Sequence[bytes], gates: Sequence[bytes]) -> None:
        """As `Owner`."""
        self.outbox.put(results_of_one(handle, first, length, outputs, gates), length)

    def results(self, handles: Ints, first: Ints, lengths: Ints, outputs: list[Array], gates: list[Array]) -> None:
        """As `Owner`."""
        rows = int(lengths.sum())
        same = self._same
        if same is not None and handles is same.entries.handles and lengths is same.entries.lengths:
            begin = same.begin
        else:
            begin = handles_and_lengths(handles, None if rows == len(handles) else lengths)
        self.outbox.put(results(begin, first, outputs, gates), rows)

    def refused(self, error: Refused, handles: Ints, positions: Ints, first: Ints, lengths: Ints) -> None:
        """As `Owner`."""
        if not self._gone:
            self._refuse(error, handles, positions, first, lengths)

    def reset_done(self, handles: Ints, positions: Ints) -> None:
        """As `Owner`."""
        self.outbox.put(with_columns(pb.ResetDone(), handle=handles, position=positions))

    def closed(self, handles: Ints, positions: Ints, reason: CloseReason) -> None:
        """As `Owner`."""
        self._handles.mark(handles, FREE)
        self._held -= len(handles)
        self.outbox.put(with_columns(pb.Closed(reason=reason), handle=handles, position=positions))
        self._end_when_done()

    def failed(self, error: Exception) -> None:
        """As `Owner`."""
        self.outbox.fail(error)

    def _say(self, message: pb.ServerMessage, rows: int = 0) -> None:
        self.outbox.put(message.SerializeToString(), rows)

    def _end_when_done(self) -> None:
        if self._ending and self._held == 0:
            self.outbox.end()

    def _refuse(
        self,
        error: Refused,
        handles: Sequence[int] | Ints,
        positions: Ints = _NOTHING,
        first: Sequence[int] | Ints = _NOTHING,
        lengths: Sequence[int] | Ints = _NOTHING,
    ) -> None:
        self._models.stats.refused(error)
        said = pb.Error(reason=error.reason, message=str(error), retry_after_ms=int(np.ceil(1000 * error.retry_after)))
        columns = {"handle": handles, "position": positions, "first": first, "length": lengths}
        arrays = {}
        for name, column in columns.items():
            if isinstance(column, np.ndarray):
                arrays[name] = column
            else:
                # As it came, and few: numbers of 64 bits may be among them.
                getattr(said, name).extend(column)
        self.outbox.put(with_columns(said, **arrays))
