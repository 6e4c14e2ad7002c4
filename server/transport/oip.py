"""The Open Inference Protocol: a second door to the same sessions.

A sequence is a session: the parameter sequence_id names it, sequence_start puts it into its initial state, and
sequence_end closes it behind the request. It belongs to the server, not to the stream it came on, and ends when it
has been idle for too long. A request without sequence_id is a session for its own length.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from functools import partial
from typing import Any, Final

import numpy as np

from gatestream.server.arrays import Ints
from gatestream.server.config import Limits
from gatestream.server.core.catalog import Catalog
from gatestream.server.core.gate import Void
from gatestream.server.core.send_queue import Pieces, SendQueue
from gatestream.server.core.sequences import Waiting
from gatestream.server.durability.checkpoints import Key
from gatestream.server.errors import Draining, Reason, Refused, StoreUnavailable
from gatestream.server.transport.oip_codec import InferenceCodec, Invalid, Request
from gatestream.server.transport.oip_request import Asked

# So many that have ended are no matter.
_FEW_SEQUENCES: Final = 1024


class _Requests(ABC):
    """Requests on their way through the engine, whose `ReplySink` it is.

    Args:
        models: what is served.
        limits: of the server.
        tenant: whose they are.
        streamed: they are answered by ModelStreamInferResponse.
    """

    def __init__(self, models: Catalog, limits: Limits, tenant: str, *, streamed: bool):
        self.rows = 0
        self.account = models.accounts.of(tenant)
        self.send_queue = SendQueue(self.account)
        self.send_queue.instead = self._what_is_so
        self._models = models
        self._limits = limits
        self._tenant = tenant
        self._codec = InferenceCodec(models, limits, tenant, streamed=streamed)
        # The latest request, and its session when so many of its model's had ended.
        self._known: tuple[Request | None, int, int] = (None, -1, -1)
        # By number, in the order in which they came.
        self._waiting: dict[int, Request] = {}
        self._last = -1
        # Columns of the requests that are answered in part.
        self._parts: dict[int, list[tuple[int, list[bytes]]]] = {}
        # It is to end when all is answered, or even before a sequence's next request.
        self._ending = False

    @abstractmethod
    def _fail(self, number: int, name: str, error: Refused, request: Request | None = None) -> None:
        """A request is refused.

        Args:
            number: of it.
            name: its id.
            error: why.
            request: it; None: it was none.
        """

    @abstractmethod
    def _instead(self, request: Request, error: Refused) -> bytes:
        """What is sent instead of an answer that waits to be stored."""

    @abstractmethod
    def _end_when_done(self) -> None:
        """End, if nothing is to come any more."""

    # ---- From the client ----------------------------------------------------------------------

    def receive(self, message: bytes) -> None:
        """As `Conversation`, and for a call's one message: what cannot be done is answered by the request's error."""
        decoded = self._codec.decode(message)
        self._last = number = self._last + 1
        if isinstance(decoded, Invalid):
            self._fail(number, decoded.id, decoded.error)
            return
        request, columns = decoded
        self._waiting[number] = request
        if request.weight:
            self.account.hold(request.weight)
        if request.asked.starts and request.asked.first < 0 and not self._models.stopped:
            # Once, however often it is taken on: of two starts on two versions the later has the sequence.
            self._leave_others(request.asked)
        self._take_on(number, request, columns)

    def _take_on(self, number: int, request: Request, columns: Sequence[bytes]) -> None:
        """Have a request's steps be taken, or have it wait until it is known where its sequence stands."""
        asked = request.asked
        engine = asked.model.engine
        known, session, generation = self._known
        if known is not request or generation != engine.sessions.generation or self._models.stopped:
            try:
                found = self._look_up(number, request, columns)
            except Refused as error:
                self._refuse(number, error)
                return
            if found is None:
                return
            session = found
            self._known = request, session, engine.sessions.generation
        accepted = engine.submit_one(self, number, session, asked.steps, asked.first, columns, asked.reply_mask)
        # A sequence whose last request was refused for lack of room is to have that request again; and whatever it was
        # refused for, where it says so.
        if not asked.session or (asked.ends and accepted and asked.first < 0):
            asked.model.lifecycle.held.close(self, np.array([session]))

    def _look_up(self, number: int, request: Request, columns: Sequence[bytes]) -> int | None:
        """The session that a request steps; None: it waits, or is refused in its turn.

        Raises:
            Refused: it has none, or takes no steps.
        """
        if self._models.stopped:
            raise Draining("the server stops now and takes no more requests")
        asked = request.asked
        lifecycle = asked.model.lifecycle
        if asked.session:
            self.send_queue.gate = lifecycle.registry.gate
            again, refuse = partial(self._take_on, number, request, columns), partial(self._refuse, number)
            waits = lifecycle.sequences.waits(
                Waiting(self, asked.steps, asked.reply_mask, again, refuse),
                self._tenant,
                asked.session,
                start=asked.starts,
                constants=asked.constants,
                first=asked.first,
            )
            if waits:
                return None
        return lifecycle.sequences.session(
            self, self._tenant, asked.session, start=asked.starts, constants=asked.constants
        )

    def _leave_others(self, asked: Asked) -> None:
        """End a sequence that is about to begin again on one version of its model where it was on another."""
        for other in self._models.versions(asked.model.name):
            if other is not asked.model:
                session = other.engine.sessions.tenants.get(self._tenant, asked.session)
                if session is not None:
                    other.lifecycle.held.close(self, np.array([session]))

    def _refuse(self, number: int, error: Refused) -> None:
        """Answer a request by its error."""
        request = self._waiting.pop(number)
        self.account.hold(-request.weight)
        self._fail(number, request.asked.id, error, request)
        if self._ending:
            self._end_when_done()

    # ---- From the engine ----------------------------------------------------------------------

    def result(self, handle: int, first: int, length: int, outputs: Sequence[bytes], gates: Sequence[bytes]) -> None:
        """As `ReplySink`: a request is answered when all of its steps are."""
        request = self._waiting[handle]
        steps = request.asked.steps
        columns = [*outputs, *gates]
        answer: bytes | Pieces
        if length == steps:
            answer = request.answer(columns)
        else:
            parts = self._parts.setdefault(handle, [])
            parts.append((length, columns))
            self.account.hold(_size(columns))
            if sum(part for part, _ in parts) < steps:
                return
            self._forget_parts(handle)
            answer = request.answer_of([part for _, part in parts])
        del self._waiting[handle]
        if request.weight:
            self.account.hold(-request.weight)
        self.send_queue.put(answer, steps, handle, request)
        if request.asked.ends and request.asked.first >= 0:
            self._close(request.asked)
        if self._ending:
            self._end_when_done()

    def _close(self, asked: Asked) -> None:
        """End a sequence whose last request was done, on whichever version it is by now, if nothing came behind."""
        for model in self._models.versions(asked.model.name):
            table = model.engine.sessions
            session = table.tenants.get(self._tenant, asked.session)
            if session is not None:
                model.engine.edits.take_in()
                if table.accepted[session] == asked.first + asked.steps:
                    model.lifecycle.held.close(self, np.array([session]))

    def _what_is_so(self, message: bytes | Pieces, request: Request, void: Void) -> Sequence[bytes | Pieces]:
        """Refuse what was computed of a sequence and waited to be stored, which it will not be."""
        if Key(self._tenant, request.asked.model.name, request.asked.session) not in void:
            return [message]
        error = StoreUnavailable(
            "another server has claimed the sequence before what was done here was stored, and has nothing of it; send "
            "the request again",
            retry_after=0.02,
        )
        return [self._instead(request, error)]

    def refused(self, error: Refused, handles: Ints, positions: Ints, first: Ints, lengths: Ints) -> None:
        """As `ReplySink`."""
        for handle in handles.tolist():
            # What was computed of it was counted until now, with the answer that will not be.
            self.rows -= self._forget_parts(handle)
            self._refuse(handle, error)

    def _forget_parts(self, handle: int) -> int:
        """Count a request's parts no more; how many steps they were."""
        parts = self._parts.pop(handle, [])
        self.account.hold(-sum(_size(columns) for _, columns in parts))
        return sum(steps for steps, _ in parts)

    def results(self, *_: Any) -> None:
        """As `ReplySink`: never called, since every request has one entry."""
        raise AssertionError("a request has one entry. This is a bug.")

    def opened(self, *_: Any) -> None:
        """As `ReplySink`: sequences are nobody's."""
        raise AssertionError("a sequence has no owner. This is a bug.")

    not_opened = parked = durable = lost = moved = reset_done = closed = opened

    def failed(self, error: Exception) -> None:
        """As `ReplySink`."""
        self.send_queue.fail(error)


class InferenceStream(_Requests):
    """One ModelStreamInfer call: its answers come in the order of its requests.

    Args:
        models: what is served.
        limits: of the server.
        tenant: whose call it is.
    """

    protocol: Final = "open_inference"

    def __init__(self, models: Catalog, limits: Limits, tenant: str):
        super().__init__(models, limits, tenant, streamed=True)
        self._half_closed = False
        # Sequences that requests were of, with the names of their models; some have ended since.
        self._sequences: set[tuple[str, str]] = set()
        self._most_noted = _FEW_SEQUENCES

    def half_close(self) -> None:
        """No more will come."""
        self._ending = self._half_closed = True
        self._end_when_done()

    def disconnect(self) -> None:
        """The peer has gone. Its sequences stay: another call may go on with them."""
        self.send_queue.discard()

    @property
    def idle(self) -> bool:
        """As `Conversation`."""
        return not self._waiting

    def going_away(self, seconds: float) -> None:
        """The protocol has no word for it; health and ServerReady say so. End with the last sequence."""
        self._ending = True
        self._end_when_done()

    def _fail(self, number: int, name: str, error: Refused, request: Request | None = None) -> None:
        self._models.stats.refused(error)
        self.send_queue.put(self._codec.error(name, error), 0, number, request)

    def _instead(self, request: Request, error: Refused) -> bytes:
        self._models.stats.refused(error)
        return self._codec.error(request.asked.id, error)

    def _end_when_done(self) -> None:
        if not self._waiting and (self._half_closed or not self._live_sequences()):
            self.send_queue.end()

    def _look_up(self, number: int, request: Request, columns: Sequence[bytes]) -> int | None:
        session = super()._look_up(number, request, columns)
        asked = request.asked
        if asked.session:
            self._sequences.add((asked.model.name, asked.session))
            if len(self._sequences) > self._most_noted:
                self._sequences = self._live_sequences()
                self._most_noted = 2 * len(self._sequences) + _FEW_SEQUENCES
        return session

    def _live_sequences(self) -> set[tuple[str, str]]:
        return {
            (model, session) for model, session in self._sequences if self._models.has(session, self._tenant, model)
        }


class InferenceCall(_Requests):
    """One ModelInfer call.

    Args:
        models: what is served.
        limits: of the server.
        tenant: whose call it is.
    """

    def __init__(self, models: Catalog, limits: Limits, tenant: str):
        super().__init__(models, limits, tenant, streamed=False)
        self._refusal: Refused | None = None

    async def infer(self, message: bytes) -> bytes:
        """The ModelInferResponse to a ModelInferRequest, counted until `end`.

        Raises:
            Refused: it cannot be done, or is none.
            Failed: the server failed at it.
        """
        self.receive(message)
        item = await self.send_queue.take()
        if item is not None and self._refusal is None:
            return bytes(item[0])
        error = self._refusal or self.send_queue.failure
        assert error is not None, "a call without an answer has failed"
        raise error

    def end(self) -> None:
        """The caller has its answer, or has gone."""
        self.send_queue.discard()

    def _fail(self, number: int, name: str, error: Refused, request: Request | None = None) -> None:
        self._refusal = error
        if error.reason is Reason.POSITION_MISMATCH:
            # What it tells of the steps that were taken waits until they are stored, as an answer does.
            self.send_queue.put(b"", 0, number, request)
        else:
            self.send_queue.end()

    def _instead(self, request: Request, error: Refused) -> bytes:
        self._refusal = error
        return b""

    def _end_when_done(self) -> None:
        """It ends with its one request."""


def _size(columns: Sequence[bytes]) -> int:
    return sum(map(len, columns))
