"""One client's stream of our own protocol: from handles to sessions, and back."""

from collections.abc import Sequence
from functools import partial
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

from gatestream.protos.layout import ModelLayout
from gatestream.server.arrays import Array, Ints
from gatestream.server.config import Limits
from gatestream.server.core.batches import GATES, OUTPUTS, Entries, OneEntry
from gatestream.server.core.catalog import Catalog, Model
from gatestream.server.core.claims import Wish
from gatestream.server.core.engine import Engine
from gatestream.server.core.gate import Void
from gatestream.server.core.intake import Fault
from gatestream.server.core.kept import key_of
from gatestream.server.core.opening import OnFittingVersion
from gatestream.server.core.reply_sink import CloseReason
from gatestream.server.core.send_queue import Pieces, SendQueue
from gatestream.server.core.sessions import Stands
from gatestream.server.durability.checkpoints import Key
from gatestream.server.errors import AlreadyExists, Draining, InvalidRequest, NotFound, Reason, Refused
from gatestream.server.transport.codec import Codec, check_columns, input_arrays
from gatestream.server.transport.handles import FREE, LEAVING, Handles
from gatestream.server.transport.messages import Acknowledge, Chunk, Close, Invalid, Numbers, Open, Reset, Steps
from gatestream.server.transport.taken_back import without

_NOTHING: Final = np.empty(0, np.int64)

_KnownChunk = tuple[Chunk, int, Engine, int, int, int, int, bool]
"""A chunk with nothing wrong, the generation of the handles in which that was so, the arguments of `Engine.submit_one`
besides its position and columns, and whether the session stays when the stream ends. A plain tuple, since one is made
for each new chunk."""


class _KnownSteps(NamedTuple):
    """What a message steps, so long as its handles stand for the same sessions.

    Attributes:
        generation: of the handles, in which nothing was wrong with any entry.
        entries: of the message.
        engine: of its sessions.
        kept: whether any of them is.
    """

    generation: int
    entries: Entries
    engine: Engine
    kept: bool


class ClientStream:
    """The sessions that one stream holds, by handle. The engine's `ReplySink`.

    Args:
        models: what is served.
        limits: of the server.
        tenant: whose stream it is.
    """

    protocol: Final = "gatestream"

    def __init__(self, models: Catalog, limits: Limits, tenant: str):
        self.rows = 0
        self.account = models.accounts.of(tenant)
        self.send_queue = SendQueue(self.account)
        self.send_queue.instead = self._instead
        self._models = models
        self._limits = limits
        self._tenant = tenant
        self._codec = Codec(limits.sessions_per_stream, templates=not models.straight)
        self._handles = Handles()
        # The latest of each, for those that follow and are recognised.
        self._known_chunk: _KnownChunk | None = None
        self._known_steps: _KnownSteps | None = None
        self._held = 0
        # No session will come: the stream ends with the last one.
        self._ending = False
        # Nothing more comes from the client.
        self._half_closed = False
        # Nobody is told anything any more.
        self._gone = False
        # What the session is called that the store knows and each handle stood for last; it may be another's by now.
        self._keys: dict[int, Key] = {}

    # ---- From the client ----------------------------------------------------------------------

    def receive(self, message: bytes) -> None:
        """As `Conversation`: do what a message asks; what cannot be done is answered by an Error."""
        match self._codec.decode(message):
            case Chunk() as chunk:
                self._submit_chunk(chunk)
            case Steps() as steps:
                self._submit_steps(steps)
            case Open() as asked:
                self._open(asked)
            case Reset(handles, sequences):
                good = self._held_of(handles)
                self._reset(handles[good], None if sequences is None else sequences[good])
            case Close(handles, sequences):
                good = self._held_of(handles)
                self._close_at(handles[good], None if sequences is None else sequences[good])
            case Acknowledge(handles, sequences) if sequences is not None:
                # It asks for nothing: of a session that has just ended it says nothing.
                good = self._handles.sessions(handles) >= 0
                self._acknowledge(handles[good], sequences[good])
            case Invalid(error, handles, first, lengths):
                self._refuse(error, handles, first=first, lengths=lengths)

    def half_close(self) -> None:
        """Nothing more comes: let go of what is open when it has been answered, then end."""
        self._ending = self._half_closed = True
        self._leave(self._handles.held())
        self._end_when_done()

    def _leave(self, handles: Ints) -> None:
        """Let go of the sessions of handles: some stay, the others end."""
        for number, some, sessions in self._handles.by_model(handles):
            stays = self._models[number].lifecycle.held.leave_behind(self, sessions)
            self._close(some[~stays])

    def disconnect(self) -> None:
        """The client has gone: end its sessions, or leave them behind, without the steps that are pending."""
        self._gone = True
        if self._held:
            for number, _, sessions in self._handles.by_model(self._handles.held(closing=True)):
                self._models[number].lifecycle.held.disconnected(self, sessions)
            self._handles.mark(slice(None), FREE)
        self.send_queue.discard()

    @property
    def idle(self) -> bool:
        """As `Conversation`."""
        return self._held == 0

    def going_away(self, seconds: float) -> None:
        """Tell the client that the server will stop; without sessions, there is nothing to wait for."""
        self.send_queue.put(self._codec.going_away(seconds))
        self._ending = True
        self._end_when_done()

    def _open(self, asked: Open) -> None:
        handle = asked.handle
        try:
            if self._models.draining:
                raise Draining("the server is about to stop; open the session on another server")
            if handle >= self._limits.sessions_per_stream:
                raise InvalidRequest(
                    f"open.handle is {handle}; expected less than {self._limits.sessions_per_stream}, "
                    "the sessions that one stream may hold"
                )
            if self._handles.session(handle) != FREE:
                raise AlreadyExists(
                    f"open.handle {handle} is in use on this stream; close it and wait for Closed, or take another",
                    Reason.HANDLE_IN_USE,
                )
            # A session that is to be taken up stays on the version that it is on.
            taken_up = asked.session_id if asked.resume else ""
            comes_back = asked.acknowledged is not None and not asked.create
            model = self._models.find_with(taken_up, self._tenant, asked.model, asked.version, comes_back=comes_back)
            self._handles.reserve(handle, model.number)
            fixed = asked.version and not comes_back
            elsewhere = None if fixed else partial(self._open_where_it_fits, model, asked)
            session = self._open_on(model, asked, elsewhere)
            self._handles.mark(handle, session)
            self._held += 1
            registry = model.lifecycle.registry
            self._keys.pop(handle, None)
            if registry.gate is not None and registry.stored(session):
                self.send_queue.gate = registry.gate
                self._keys[handle] = key_of(model.engine, session)
        except Refused as error:
            self._refuse(error, [handle])

    def _open_on(self, model: Model, asked: Open, elsewhere: OnFittingVersion | None = None) -> int:
        """Open a session on a version of a model; the session. Raises: as `Opening.open`."""
        return model.lifecycle.opening.open(
            self,
            self._tenant,
            asked.session_id,
            asked.handle,
            create=asked.create,
            resume=asked.resume,
            reply_mask=OUTPUTS * asked.outputs + GATES * asked.gates,
            constants=asked.constants,
            wish=Wish(asked.parks, asked.epoch, asked.acknowledged),
            elsewhere=elsewhere,
        )

    def _open_where_it_fits(self, instead_of: Model, asked: Open, fingerprint: str, steps: Sequence[OneEntry]) -> bool:
        """Open a session on the version that has the weights of a fingerprint; whether there is one.

        Args:
            instead_of: the version that it was to be opened on.
            asked: how.
            fingerprint: of the weights.
            steps: of it, that were sent meanwhile.

        Raises:
            Refused: it cannot be opened there.
        """
        for model in self._models.others_of_weights(instead_of, fingerprint):
            session = self._open_on(model, asked)
            closes = self._handles.session(asked.handle) < LEAVING
            handles = np.array([asked.handle])
            self._handles.move(handles, model.number, np.array([session]))
            if model.layout.inputs == instead_of.layout.inputs:
                mask = int(model.engine.reply_mask[session])
                for step in steps:
                    model.engine.submit_one(self, asked.handle, session, step.length, -1, step.columns, mask)
            elif steps:
                error = InvalidRequest(
                    f"handle {asked.handle} is opened on version {model.version!r} of model {model.name!r}, which "
                    f"takes other inputs than version {instead_of.version!r}; send its steps as that takes them"
                )
                for step in steps:
                    self._refuse(error, [asked.handle], lengths=[step.length])
            # What was asked for behind the steps is asked for there.
            if closes:
                self._close(handles)
            elif self._half_closed:
                self._leave(handles)
            return True
        return False

    def _held_of(self, handles: Ints) -> npt.NDArray[np.bool_]:
        """Which handles have a session; of the others those that are refused for one reason are refused as one."""
        return self._only_good(self._handles.faults(handles, self._handles.sessions(handles)), handles)

    def _reset(self, handles: Ints, sequences: Ints | None) -> None:
        for number, some, sessions in self._handles.by_model(handles):
            meant = None if sequences is None else sequences[np.isin(handles, some)]
            try:
                self._models[number].lifecycle.held.reset(self, sessions, some, meant)
            except Refused as error:
                self._refuse(error, some)

    def _acknowledge(self, handles: Ints, sequences: Ints) -> None:
        for number, some, sessions in self._handles.by_model(handles):
            self._models[number].lifecycle.held.acknowledge(sessions, sequences[np.isin(handles, some)])

    def _close_at(self, handles: Ints, sequences: Ints | None) -> None:
        """Close sessions, of those that are meant for a sequence the ones that stand there and have nothing queued."""
        if sequences is None:
            self._close(handles)
            return
        for number, some, sessions in self._handles.by_model(handles):
            meant = sequences[np.isin(handles, some)]
            good = self._models[number].lifecycle.held.closable(self, sessions, some, meant)
            self._close(some[good])

    def _close(self, handles: Ints) -> None:
        by_model = self._handles.by_model(handles)
        self._handles.close(handles)
        for number, _, sessions in by_model:
            self._models[number].lifecycle.held.close(self, sessions)

    def _submit_chunk(self, chunk: Chunk) -> None:
        """Submit steps of one session; what is wrong with them, `_submit_steps` says."""
        known = self._known_chunk
        if known is None or known[0] is not chunk or known[1] != self._handles.generation or self._models.stopped:
            known = self._known_chunk = self._look_up(chunk)
            if known is None:
                self._submit_steps(chunk.steps())
                return
        _, _, engine, handle, session, length, reply_mask, kept = known
        if kept:
            engine.sessions.acknowledge(session, chunk.first, chunk.acknowledged)
        engine.submit_one(self, handle, session, length, chunk.first, chunk.columns, reply_mask)

    def _look_up(self, chunk: Chunk) -> _KnownChunk | None:
        """Who has the session of a chunk; None where something is wrong with it."""
        handle, length = chunk.handle, 1 if chunk.length is None else chunk.length
        session = self._handles.session(handle)
        if session < 0 or not 1 <= length <= self._limits.chunk_length or self._models.stopped:
            return None
        model = self._models[self._handles.model(handle)]
        engine = model.engine
        model.lifecycle.places.bring_back(session)
        try:
            check_columns(engine.layout, chunk.columns, length)
        except InvalidRequest:
            return None
        kept = bool(engine.sessions.parks[session])
        return chunk, self._handles.generation, engine, handle, session, length, int(engine.reply_mask[session]), kept

    def _submit_steps(self, steps: Steps) -> None:
        """Submit steps; what cannot be done of them is answered by an Error."""
        known = self._known_steps
        if known is None or known.entries.handles is not steps.handles or known.generation != self._handles.generation:
            self._submit_new_steps(steps)
        elif (inputs := self._inputs(steps, known.engine.layout, known.entries.rows)) is not None:
            if known.kept:
                known.engine.sessions.acknowledge_all(known.entries.sessions, steps.first, steps.acknowledged)
            known.engine.submit(self, known.entries, steps.first, inputs)

    def _submit_new_steps(self, steps: Steps) -> None:
        """Submit steps whose handles are to be looked up."""
        handles, first, acknowledged = steps.handles, steps.first, steps.acknowledged
        lengths = np.ones(len(handles), np.int64) if steps.lengths is None else steps.lengths
        try:
            sessions, number = self._handles.look_up(handles)
        except NotFound as error:
            self._refuse_whole(error, steps)
            return
        engine = self._models[number].engine
        inputs = self._inputs(steps, engine.layout, int(lengths.sum()))
        if inputs is None:
            return
        offsets = np.cumsum(lengths) - lengths
        right = (
            lengths.min() >= 1
            and lengths.max() <= self._limits.chunk_length
            and self._handles.all_right(handles, sessions, number)
        )
        if not right:
            good = self._refuse_faulty(handles, sessions, lengths, first, self._taking_the_same(number))
            # While sessions are being moved to another version of their model, a message may be for both.
            for other, which in self._handles.split(handles, np.flatnonzero(good)):
                engine, some = self._models[other].engine, sessions[which]
                self._models[other].lifecycle.places.bring_all_back(some)
                entries = Entries.of(handles[which], some, lengths[which], offsets[which], engine.reply_mask[some])
                meant, lacks = (None if column is None else column[which] for column in (first, acknowledged))
                engine.sessions.acknowledge_all(some, meant, lacks)
                engine.submit(self, entries, meant, inputs)
            return
        self._models[number].lifecycle.places.bring_all_back(sessions)
        entries = Entries.of(handles, sessions, lengths, offsets, engine.reply_mask[sessions])
        kept = bool(engine.sessions.parks[sessions].any())
        self._known_steps = _KnownSteps(self._handles.generation, entries, engine, kept)
        if kept:
            engine.sessions.acknowledge_all(sessions, first, acknowledged)
        engine.submit(self, entries, first, inputs)

    def _taking_the_same(self, number: int) -> list[int]:
        """The numbers of a model and of its other versions that take the same inputs."""
        model = self._models[number]
        versions = self._models.versions(model.name)
        return [each.number for each in versions if each.layout.inputs == model.layout.inputs]

    def _inputs(self, steps: Steps, layout: ModelLayout, rows: int) -> list[Array] | None:
        """The inputs of steps; None: they are refused."""
        try:
            if self._models.stopped:
                raise Draining("the server stops now and takes no more steps")
            return input_arrays(layout, steps.columns, rows)
        except Refused as error:
            self._refuse_whole(error, steps)
            return None

    def _refuse_whole(self, error: Refused, steps: Steps) -> None:
        first, lengths = (() if column is None else column for column in (steps.first, steps.lengths))
        self._refuse(error, steps.handles, first=first, lengths=lengths)

    def _refuse_faulty(
        self, handles: Ints, sessions: Ints, lengths: Ints, first: Ints | None, models: Sequence[int]
    ) -> npt.NDArray[np.bool_]:
        """Refuse the entries that no engine need see; which are left."""
        longest = self._limits.chunk_length
        faults: list[Fault] = [
            *self._handles.faults(handles, sessions, models),
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
        return self._only_good(faults, handles, first, lengths)

    def _only_good(
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

    def opened(self, handle: int, session_id: str, stands: Stands, created: bool) -> None:
        """As `ReplySink`."""
        spec = self._models[self._handles.model(handle)].spec
        self.send_queue.put(
            self._codec.opened(
                handle,
                session_id,
                model=spec.name,
                version=spec.version,
                stands=stands,
                idle_timeout=self._limits.idle_timeout,
                created=created,
            )
        )

    def not_opened(self, handle: int, error: Refused) -> None:
        """As `ReplySink`."""
        self._handles.mark(handle, FREE)
        self._held -= 1
        if not self._gone:
            self._refuse(error, [handle])
        self._end_when_done()

    def parked(self, handle: int) -> None:
        """As `ReplySink`."""
        self._handles.touch()

    def durable(self, handles: Ints, sequences: Ints) -> None:
        """As `ReplySink`."""
        self.send_queue.put(self._codec.durable(handles, sequences), stored=True)

    def lost(self, handle: int) -> None:
        """As `ReplySink`."""
        self._handles.mark(handle, LEAVING)

    def moved(self, handles: Ints, model: int, sessions: Ints) -> None:
        """As `ReplySink`: the client need not know."""
        if self._gone:
            self._models[model].lifecycle.held.disconnected(self, sessions)
            return
        self._handles.move(handles, model, sessions)
        if self._half_closed:
            # What was asked of the sessions that these take the place of was asked in their owner's name.
            self._leave(handles)

    def result(self, handle: int, first: int, length: int, outputs: Sequence[bytes], gates: Sequence[bytes]) -> None:
        """As `ReplySink`."""
        message = self._codec.result(handle, first, length, outputs, gates)
        queue = self.send_queue
        queue.put(message, length, of=None if queue.gate is None else self._keys_of((handle,)))

    def results(self, handles: Ints, first: Ints, lengths: Ints, outputs: list[Array], gates: list[Array]) -> None:
        """As `ReplySink`."""
        rows = int(lengths.sum())
        message = self._codec.results(handles, first, lengths, rows, outputs, gates)
        self.send_queue.put(message, rows, of=self._keys_of(handles))

    def refused(self, error: Refused, handles: Ints, positions: Ints, first: Ints, lengths: Ints) -> None:
        """As `ReplySink`."""
        if self._gone:
            return
        if len(positions) and positions.min() < 0:
            # Where some session stands is being asked.
            positions, first = _NOTHING, _NOTHING if len(first) and first.min() < 0 else first
        if error.reason is Reason.SESSION_CLOSED and self.send_queue.gate is not None:
            # It may count steps that will not be told of.
            positions = _NOTHING
        sequences = _NOTHING
        if error.reason is Reason.POSITION_MISMATCH and len(positions):
            sequences = self._sequences(handles, positions)
            if len(sequences) and sequences.min() < 0:
                # What a session comes to by a state that is to be set is known when it is.
                positions = sequences = _NOTHING
        self._tell(error, handles, positions, first, lengths, sequences)

    def _sequences(self, handles: Ints, positions: Ints) -> Ints:
        """Those that go with positions, -1 where that is not known; nothing, where a session is on its way out."""
        sessions = self._handles.sessions(handles)
        if sessions.min() < 0:
            return _NOTHING
        sequences = positions.copy()
        for number, entries in self._handles.split(handles, np.arange(len(handles))):
            table, theirs = self._models[number].engine.sessions, sessions[entries]
            sequences[entries] = np.where(table.setting[theirs], -1, sequences[entries] + table.offset[theirs])
        return sequences

    def reset_done(self, handles: Ints, positions: Ints) -> None:
        """As `ReplySink`."""
        self.send_queue.put(self._codec.reset_done(handles, positions), of=self._keys_of(handles))

    def closed(self, handles: Ints, positions: Ints, reason: CloseReason) -> None:
        """As `ReplySink`."""
        self._handles.mark(handles, FREE)
        self._held -= len(handles)
        self.send_queue.put(self._codec.closed(handles, positions, reason))
        self._end_when_done()

    def _keys_of(self, handles: Numbers) -> Sequence[Key | None] | None:
        """What the sessions of handles are called that the store knows; None: nothing waits here until it is stored."""
        if self.send_queue.gate is None:
            return None
        return list(map(self._keys.get, handles.tolist() if isinstance(handles, np.ndarray) else handles))

    def _instead(self, message: bytes | Pieces, keys: Sequence[Key | None], void: Void) -> Sequence[bytes | Pieces]:
        """Refuse what was computed of sessions and waited to be stored, which it will not be."""
        return without(bytes(message), [key in void for key in keys]) if void.has_any(keys) else [message]

    def failed(self, error: Exception) -> None:
        """As `ReplySink`."""
        self.send_queue.fail(error)

    def _end_when_done(self) -> None:
        if self._ending and self._held == 0:
            self.send_queue.end()

    def _refuse(self, error: Refused, handles: Numbers, first: Numbers = (), lengths: Numbers = ()) -> None:
        """Refuse what no engine need see, behind what is wrong with the messages before it."""
        for model in self._models:
            model.engine.edits.take_in()
        self._tell(error, handles, first=first, lengths=lengths)

    def _tell(
        self,
        error: Refused,
        handles: Numbers,
        positions: Ints = _NOTHING,
        first: Numbers = (),
        lengths: Numbers = (),
        sequences: Ints = _NOTHING,
    ) -> None:
        self._models.stats.refused(error)
        message = self._codec.error(error, handles, positions, first, lengths, sequences)
        self.send_queue.put(message, of=self._keys_of(handles))
