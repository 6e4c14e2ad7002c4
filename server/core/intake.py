"""What comes: what is wrong with it, what is accepted of it, and what of that came since the last run."""

from collections.abc import Callable, Sequence
from functools import partial, reduce
from itertools import compress
from operator import or_

import numpy as np
import numpy.typing as npt
import structlog

from gatestream.protos.layout import Input
from gatestream.server.arrays import Array, Ints
from gatestream.server.core.admission import Admission
from gatestream.server.core.batches import GATES, OUTPUTS, Batch, Entries, Gathered, OneEntry, StepBatch, compact
from gatestream.server.core.reply_sink import ReplySink, refuse_one
from gatestream.server.core.sessions import SessionTable
from gatestream.server.errors import InvalidRequest, OutOfStep, Reason, Refused, StepFailed

_log = structlog.get_logger(__name__)
# A NamedTuple's own is Python, and felt where there is one for each message.
_new = tuple.__new__

Fault = tuple[npt.NDArray[np.bool_], Callable[[int], Refused]]
"""Which entries of a message have it, and what to say of one of them."""


class Intake:
    """What came since the last run: one message, or messages of one entry, whose numbers nobody has looked at yet.

    Args:
        inputs: of the model.
        sessions: of the model.
        admission: of the model.
        reply_mask: by session, OUTPUTS and GATES as its owner asked.
        clock: seconds, monotonic.
        refuse: a message of one entry that was admitted: why, where the session takes its next step, and the position
            that it was meant for.

    Attributes:
        message: of many entries, with nothing wrong; None: none.
        steps: messages of one entry, by session.
        rows: of these.
        since: when the first of these came.
    """

    def __init__(
        self,
        inputs: Sequence[Input],
        sessions: SessionTable,
        admission: Admission,
        reply_mask: npt.NDArray[np.uint8],
        clock: Callable[[], float],
        refuse: Callable[[OneEntry, Refused, int, int], None],
    ):
        self._inputs = inputs
        self._sessions = sessions
        self._admission = admission
        self._reply_mask = reply_mask
        self._clock = clock
        self._refuse = refuse
        self.message: Batch | None = None
        self.steps: dict[int, OneEntry] = {}
        self.rows = 0
        self.since = 0.0

    def accept(self, owner: ReplySink, entries: Entries, first: Ints | None, inputs: Sequence[Array]) -> list[Batch]:
        """Check and admit a message's chunks; the owner hears of each entry that is refused.

        Args:
            owner: who holds the sessions.
            entries: of the message.
            first: [entries], the position that each is meant for; None: whatever position it is.
            inputs: in the spec's order, each [rows, *shape].

        Returns:
            What was accepted, a batch for each kind of answer.
        """
        accepted = self._sessions.accepted[entries.sessions]
        meant = accepted if first is None else first
        if refusals := faults(self._inputs, inputs, entries.lengths, entries.offsets, accepted, meant):
            good = np.ones(len(accepted), np.bool_)
            for bad, error in refusals:
                refused = (column[bad] for column in (entries.handles, accepted, meant, entries.lengths))
                owner.refused(error(int(bad.argmax())), *refused)
                good &= ~bad
            if not good.any():
                return []
            accepted, meant, entries = accepted[good], meant[good], self._only(good, entries)
        if entries.rows < len(inputs[0]):
            # Without the refused rows: a message must not stay in memory for the sake of a few.
            inputs = [compact(column, entries.offsets, entries.lengths) for column in inputs]
            entries = entries._replace(offsets=np.cumsum(entries.lengths) - entries.lengths)
        # As if all wanted all that any wants.
        admitted = reduce(or_, entries.kinds)
        try:
            self._admission.take(owner, entries.rows, admitted)
        except Refused as error:
            owner.refused(error, entries.handles, accepted, meant, entries.lengths)
            return []
        self._sessions.accepted[entries.sessions] = accepted + entries.lengths
        if len(entries.kinds) == 1:
            return [self._batch(owner, entries, inputs, admitted)]
        reply_mask = self._reply_mask[entries.sessions]
        return [self._batch(owner, self._only(reply_mask == kind, entries), inputs, admitted) for kind in entries.kinds]

    def accept_one(
        self,
        owner: ReplySink,
        handle: int,
        session: int,
        length: int,
        first: int,
        columns: Sequence[bytes],
        reply_mask: int,
    ) -> bool:
        """Admit a message of one entry, as `Engine.submit_one`; whether there was room for it."""
        try:
            self._admission.take(owner, length, reply_mask)
        except Refused as error:
            accepted = int(self._sessions.accepted[session])
            refuse_one(owner, error, handle, accepted, accepted if first < 0 else first, length)
            return False
        if not self.steps:
            self.since = self._clock()
        self.steps[session] = _new(OneEntry, (owner, handle, session, length, first, columns, reply_mask))
        self.rows += length
        return True

    def take(self) -> Batch | None:
        """All of it; owners hear what is wrong with single entries. None: there is nothing."""
        if self.message is not None:
            batch, self.message = self.message, None
            return batch
        if not self.steps:
            return None
        steps = list(self.steps.values())
        self.clear()
        try:
            return self._put_together(steps)
        except Exception as error:
            # As where there is too little memory for all of them together.
            _log.exception("taking steps in failed")
            failure = StepFailed(f"the server failed before the model ran, no state has changed: {error}")
            for one in steps:
                accepted = int(self._sessions.accepted[one.session])
                self._refuse(one, failure, accepted, accepted if one.first < 0 else one.first)
            return None

    def clear(self) -> None:
        """Forget the messages of one entry."""
        self.steps = {}
        self.rows = 0

    def _put_together(self, steps: list[OneEntry]) -> Batch | None:
        owners, handles, numbers, lengths_given, firsts, columns, reply_mask = zip(*steps, strict=True)
        inputs = [
            item.rows(b"".join(parts)) for item, parts in zip(self._inputs, zip(*columns, strict=True), strict=True)
        ]
        sessions, longest = np.array(numbers), max(lengths_given)
        lengths = np.array(lengths_given) if longest > 1 else np.ones(len(steps), np.int64)
        offsets = np.cumsum(lengths) - lengths if longest > 1 else np.arange(len(steps))
        accepted = meant = self._sessions.accepted[sessions]
        if max(firsts) >= 0:
            first = np.array(firsts)
            meant = np.where(first < 0, accepted, first)
        found = faults(self._inputs, inputs, lengths, offsets, accepted, meant)
        if found:
            good = ~np.logical_or.reduce([bad for bad, _ in found])
            refusals = [
                (steps[k], error(k), int(accepted[k]), int(meant[k]))
                for bad, error in found
                for k in np.flatnonzero(bad).tolist()
            ]
            sessions, lengths, offsets, accepted = (column[good] for column in (sessions, lengths, offsets, accepted))
            inputs, offsets = [compact(column, offsets, lengths) for column in inputs], np.cumsum(lengths) - lengths
            # From here on nothing fails.
            for refusal in refusals:
                self._refuse(*refusal)
            if not good.any():
                return None
            owners, handles, reply_mask = (tuple(compress(given, good)) for given in (owners, handles, reply_mask))
            longest = int(lengths.max())
        self._sessions.accepted[sessions] = accepted + lengths
        rows = len(sessions) if longest == 1 else int(lengths.sum())
        gates = max(reply_mask) >= GATES
        return Gathered(
            sessions, lengths, offsets, rows, longest, inputs, gates, self.since, owners, handles, reply_mask
        )

    def _only(self, which: npt.NDArray[np.bool_], entries: Entries) -> Entries:
        handles, sessions, lengths, offsets = (column[which] for column in entries[:4])
        return Entries.of(handles, sessions, lengths, offsets, self._reply_mask[sessions])

    def _batch(self, owner: ReplySink, entries: Entries, inputs: Sequence[Array], admitted: int) -> Batch:
        """Of entries of which all want the same kind of answer."""
        handles, sessions, lengths, offsets, rows, longest, (kind,) = entries
        outputs, gates = bool(kind & OUTPUTS), bool(kind & GATES)
        now = self._clock()
        return StepBatch(
            sessions, lengths, offsets, rows, longest, inputs, gates, now, owner, handles, outputs, admitted
        )


def faults(
    inputs: Sequence[Input], columns: Sequence[Array], lengths: Ints, offsets: Ints, accepted: Ints, meant: Ints
) -> list[Fault]:
    """What is wrong with which entries; each entry has one fault at most.

    Args:
        inputs: of the model.
        columns: in the same order, each [rows, *shape].
        lengths: [entries], steps of each.
        offsets: [entries], where in the columns each begins.
        accepted: [entries], where each session takes its next step.
        meant: [entries], the position that each is meant for.
    """
    found: list[Fault] = []
    bad = accepted != meant
    if meant is not accepted and bad.any():
        found.append((bad, lambda k: _out_of_step(int(meant[k]), int(accepted[k]))))
    for item, column in zip(inputs, columns, strict=True):
        if item.all_good(column):
            continue
        bad_rows = np.logical_not(item.good(column).reshape(len(column), -1).all(axis=1))
        before = np.concatenate(([0], np.cumsum(bad_rows)))
        new = (before[offsets + lengths] > before[offsets]) & ~bad
        if not new.any():
            continue
        found.append((new, partial(_bad_number, item, column, bad_rows, lengths, offsets)))
        bad = bad | new
    return found


def _out_of_step(meant: int, accepted: int) -> OutOfStep:
    if accepted < 0:
        text = f"first is {meant}; where the session stands is being asked: wait for Opened, or leave first out"
        return OutOfStep(text, Reason.POSITION_MISMATCH)
    return OutOfStep(f"first is {meant}; the session's next step is {accepted}", Reason.POSITION_MISMATCH)


def _bad_number(
    item: Input, column: Array, bad_rows: npt.NDArray[np.bool_], lengths: Ints, offsets: Ints, entry: int
) -> InvalidRequest:
    begin = int(offsets[entry])
    step = int(bad_rows[begin : begin + int(lengths[entry])].argmax())
    if item.dtype.kind == "f":
        text = f"holds NaN or infinity at step {step} of the entry; expected finite numbers"
        return InvalidRequest(f"input {item.name!r} {text}", Reason.NOT_FINITE)
    numbers = column[begin + step : begin + step + 1]
    bad = (numbers.view(np.uint8) if item.dtype.kind == "b" else numbers)[~item.good(numbers)][0]
    text = f"is {bad} at step {step} of the entry; expected 0 to {item.limit - 1 if item.limit else 1}"
    return InvalidRequest(f"input {item.name!r} {text}", Reason.TOKEN_OUT_OF_RANGE)
