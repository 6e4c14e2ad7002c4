"""The Open Inference Protocol: a second door to the same sessions.

A sequence is a session: the parameter sequence_id names it, sequence_start puts it into its initial state, and
sequence_end closes it behind the request. It belongs to the server, not to the stream it came on, and ends when it
has been idle for too long. A request without sequence_id is a session for its own length.
"""

import itertools
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, NamedTuple

import numpy as np

from gatestream.server.arrays import Ints
from gatestream.server.config import Limits
from gatestream.server.core.catalog import Catalog
from gatestream.server.core.engine import Engine
from gatestream.server.core.outbox import Outbox, Pieces
from gatestream.server.errors import Draining, Refused
from gatestream.server.transport.oip_answer import Template, error_answer
from gatestream.server.transport.oip_request import Message, read, request_id

# What a request takes until it is answered, besides its id and the begin of its answer.
_REQUEST_BYTES: Final = 512
# So many that have ended are no matter.
_FEW_SEQUENCES: Final = 1024


@dataclass(frozen=True, slots=True)
class _Known:
    """What a request asked for, and all of its answer but the numbers.

    Attributes:
        engine: of its model.
        id: of it.
        steps, wants, session: as in `Asked`.
        before, columns: as in `Template`.
        weight: bytes that it is counted for until it is answered, besides those of its steps.
    """

    engine: Engine
    id: str
    steps: int
    wants: int
    session: str
    before: Sequence[bytes]
    columns: Sequence[int]
    weight: int


class _Same(NamedTuple):
    """A request that went on with a sequence, to know others by that begin with the same bytes and are as long.

    They ask for the same: a client's requests differ in little else than their numbers.

    Attributes:
        before: its bytes before its numbers.
        size: of it.
        known: what it asked for.
        slot: of its session, when so many `ends` of sessions had been.
    """

    before: bytes
    size: int
    known: _Known
    slot: int
    ends: int


class _Requests(ABC):
    """Requests on their way through the engine, whose `Owner` it is.

    Args:
        models: what is served.
        limits: of the server.
        tenant: whose they are.
        streamed: they are answered by ModelStreamInferResponse.
    """

    def __init__(self, models: Catalog, limits: Limits, tenant: str, *, streamed: bool):
        self.rows = 0
        self.account = models.accounts.of(tenant)
        self.outbox = Outbox(self.account)
        self._models = models
        self._limits = limits
        self._tenant = tenant
        self._streamed = streamed
        # By number, in the order in which they came.
        self._waiting: dict[int, _Known] = {}
        self._last = -1
        # Columns of the requests that are answered in part.
        self._parts: dict[int, list[tuple[int, list[bytes]]]] = {}
        # It is to end when all is answered, or even before a sequence's next request.
        self._ending = False

    @abstractmethod
    def _fail(self, number: int, name: str, error: Refused) -> None:
        """A request is refused.

        Args:
            number: of it.
            name: its id.
            error: why.
        """

    @abstractmethod
    def _end_when_done(self) -> None:
        """End, if nothing is to come any more."""

    # ---- From the client ----------------------------------------------------------------------

    def _take(self, data: bytes) -> tuple[bytes | None, _Known] | None:
        """Take a request; what cannot be done is answered by its error.

        Returns:
            What to know others like it by, if they will ask for the same; None where it is refused.

        Raises:
            InvalidRequest: it is no ModelInferRequest.
        """
        message = Message.read(data)
        try:
            if self._models.stopped:
                raise Draining("the server stops now and takes no more requests")
            asked, columns = read(message, self._models, self._limits)
            lifecycle = asked.model.lifecycle
            slot = lifecycle.sequence(self, self._tenant, asked.session, start=asked.starts)
        except Refused as error:
            self._last += 1
            self._fail(self._last, request_id(message), error)
            return None
        before, places = Template.of(asked, streamed=self._streamed)
        weight = _REQUEST_BYTES + len(asked.id) + sum(map(len, before))
        known = _Known(asked.model.engine, asked.id, asked.steps, asked.wants, asked.session, before, places, weight)
        accepted = self._submit(known, slot, columns)
        # A sequence whose last request was refused for lack of room is to have that request again.
        if not asked.session or (asked.ends and accepted):
            lifecycle.close(self, np.array([slot]))
        same = asked.session and not asked.starts and not asked.ends
        return message.before if same else None, known

    def _submit(self, known: _Known, slot: int, columns: Sequence[bytes]) -> bool:
        self._last = number = self._last + 1
        self._waiting[number] = known
        if known.weight:
            self.account.hold(known.weight)
        return known.engine.submit_one(self, number, slot, known.steps, -1, columns, known.wants)

    # ---- From the engine ----------------------------------------------------------------------

    def result(self, handle: int, first: int, length: int, outputs: Sequence[bytes], gates: Sequence[bytes]) -> None:
        """As `Owner`: a request is answered when all of its steps are."""
        known = self._waiting[handle]
        columns = [*outputs, *gates]
        answer: bytes | Pieces
        if length < known.steps:
            parts = self._parts.setdefault(handle, [])
            parts.append((length, columns))
            self.account.hold(_size(columns))
            if sum(steps for steps, _ in parts) < known.steps:
                return
            self._forget_parts(handle)
        del self._waiting[handle]
        if known.weight:
            self.account.hold(-known.weight)
        if length < known.steps:
            pieces: list[bytes] = []
            for before, k in zip(known.before, known.columns, strict=True):
                pieces.append(before)
                pieces += [part[k] for _, part in parts]
            answer = Pieces(pieces)
        elif len(columns) == 1:
            answer = known.before[0] + columns[0]
        else:
            each = zip(known.before, [columns[k] for k in known.columns], strict=True)
            answer = b"".join(itertools.chain.from_iterable(each))
        self.outbox.put(answer, known.steps, handle)
        if self._ending:
            self._end_when_done()

    def refused(self, error: Refused, handles: Ints, positions: Ints, first: Ints, lengths: Ints) -> None:
        """As `Owner`."""
        for handle in handles.tolist():
            # What was computed of it was counted until now, with the answer that will not be.
            self.rows -= self._forget_parts(handle)
            known = self._waiting.pop(handle)
            self.account.hold(-known.weight)
            self._fail(handle, known.id, error)
        if self._ending:
            self._end_when_done()

    def _forget_parts(self, handle: int) -> int:
        """Count a request's parts no more; how many steps they were."""
        parts = self._parts.pop(handle, [])
        self.account.hold(-sum(_size(columns) for _, columns in parts))
        return sum(steps for steps, _ in parts)

    def results(self, *_: Any) -> None:
        """As `Owner`: never called, since every request has one entry."""
        raise AssertionError("a request has one entry. This is a bug.")

    def opened(self, *_: Any) -> None:
        """As `Owner`: sequences are nobody's."""
        raise AssertionError("a sequence has no owner. This is a bug.")

    lost = reset_done = closed = opened

    def failed(self, error: Exception) -> None:
        """As `Owner`."""
        self.outbox.fail(error)


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
        # Sequences that requests were of; some have ended since.
        self._sequences: set[tuple[Engine, str]] = set()
        self._most_noted = _FEW_SEQUENCES
        # The latest request that went on with a sequence.
        self._same: _Same | None = None

    def receive(self, message: bytes) -> None:
        """As `Conversation`: take a request; what cannot be done is answered by its error."""
        if self._same is not None:
            before, size, known, slot, ends = self._same
            if len(message) == size and message.startswith(before) and not self._models.stopped:
                sessions = known.engine.sessions
                if sessions.ends == ends:
                    self._submit(known, slot, (message[len(before) :],))
                    return
                found = sessions.get(self._tenant, known.session)
                if found is not None:
                    self._same = _Same(before, size, known, found, sessions.ends)
                    self._submit(known, found, (message[len(before) :],))
                    return
        if (taken := self._take(message)) is not None:
            begin, known = taken
            if known.session:
                self._note(known)
            # Those like it share what it weighs. Nobody has looked for its session yet.
            light = replace(known, weight=0)
            self._same = (
                None if begin is None or self._models.straight else _Same(begin, len(message), light, slot=-1, ends=-1)
            )

    def half_close(self) -> None:
        """No more will come."""
        self._ending = self._half_closed = True
        self._end_when_done()

    def disconnect(self) -> None:
        """The peer has gone. Its sequences stay: another call may go on with them."""
        self.outbox.discard()

    @property
    def idle(self) -> bool:
        """As `Conversation`."""
        return not self._waiting

    def going_away(self, seconds: float) -> None:
        """The protocol has no word for it; health and ServerReady say so. End with the last sequence."""
        self._ending = True
        self._end_when_done()

    def _fail(self, number: int, name: str, error: Refused) -> None:
        self._models.stats.refused(error)
        self.outbox.put(error_answer(name, str(error)), 0, number)

    def _end_when_done(self) -> None:
        if not self._waiting and (self._half_closed or not self._live_sequences()):
            self.outbox.end()

    def _note(self, known: _Known) -> None:
        self._sequences.add((known.engine, known.session))
        if len(self._sequences) > self._most_noted:
            self._sequences = self._live_sequences()
            self._most_noted = 2 * len(self._sequences) + _FEW_SEQUENCES

    def _live_sequences(self) -> set[tuple[Engine, str]]:
        return {
            (engine, session)
            for engine, session in self._sequences
            if engine.sessions.get(self._tenant, session) is not None
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
        self._take(message)
        item = await self.outbox.take()
        if item is not None:
            return bytes(item[0])
        error = self._refusal or self.outbox.failure
        assert error is not None, "a call without an answer has failed"
        raise error

    def end(self) -> None:
        """The caller has its answer, or has gone."""
        self.outbox.discard()

    def _fail(self, number: int, name: str, error: Refused) -> None:
        self._refusal = error
        self.outbox.end()

    def _end_when_done(self) -> None:
        """It ends with its one request."""


def _size(columns: Sequence[bytes]) -> int:
    return sum(map(len, columns))
