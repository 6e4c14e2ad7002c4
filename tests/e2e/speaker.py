"""A client of one stream that knows, for everything it sends, what must come back."""

import itertools
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import grpc
import numpy as np

from gatestream.protos.gatestream.v1 import gatestream_pb2 as pb
from tests.e2e.oracles import Oracle, Rows
from tests.support.wire import Stream, encode, parts

Event = tuple[Any, ...]
"""What one session hears: ("opened", position, created), ("step", position, y, gates), ("reset", position), ("closed",
position, reason). A step's y and gates are None where they are not wanted."""


@dataclass
class Session:
    """A session as it must be once all that was sent has run."""

    id: str
    state: Any
    position: int = 0
    outputs: bool = True
    gates: bool = False


class Speaker:
    """One stream; nothing here waits for an answer but `settle` and what ends the stream."""

    def __init__(self, address: str, oracle: Oracle):
        self.stream = Stream(address, seconds=20)
        self.sessions: dict[int, Session] = {}
        self._oracle = oracle
        self._handles = itertools.count()
        # By handle, no handle used twice: the order of one session's answers is settled, that of two sessions' is not.
        self._expected: dict[int, list[Event]] = defaultdict(list)
        self._came: dict[int, list[Event]] = defaultdict(list)
        # What is wrong is answered at once, before what was right before it: (reason, handle, position, first, length).
        self._expected_errors: list[tuple[int, int, int, int, int]] = []
        self._errors_came: list[tuple[int, int, int, int, int]] = []

    # ---- What is sent -------------------------------------------------------------------------

    def open(self, session: Session, mode: pb.OpenMode, *, created: bool) -> int:
        handle = next(self._handles)
        outputs = pb.OUTPUTS_EVERY_STEP if session.outputs else pb.OUTPUTS_NONE
        self.stream.open(handle, session.id, mode=mode, outputs=outputs, gates=session.gates)
        self.sessions[handle] = session
        self._expected[handle].append(("opened", session.position, created))
        return handle

    def steps(self, chunks: dict[int, Rows], *, positions: bool, lengths: bool, faults: dict[int, str]) -> None:
        """One message.

        Args:
            chunks: by handle, [steps, features].
            positions, lengths: whether these columns are sent; they must be where they are needed.
            faults: what is wrong with which of the chunks, which are then refused.
        """
        first, rows = [], []
        for handle, chunk in chunks.items():
            session, fault = self.sessions[handle], faults.get(handle)
            first.append(session.position + (fault == "position"))
            rows.append(np.full_like(chunk, np.nan) if fault == "nan" else chunk)
            if fault is None:
                self._expect_steps(handle, chunk)
            else:
                reason = pb.REASON_NOT_FINITE if fault == "nan" else pb.REASON_POSITION_MISMATCH
                self._expected_errors.append((reason, handle, session.position, first[-1], len(chunk)))
        message = pb.Steps(
            handle=list(chunks),
            length=[len(chunk) for chunk in chunks.values()] if lengths else [],
            first=first if positions else [],
            input=[encode(np.concatenate(rows))],
        )
        self.stream.send(pb.ClientMessage(steps=message))

    def _expect_steps(self, handle: int, chunk: Rows) -> None:
        session = self.sessions[handle]
        ys, gates, session.state = self._oracle.run(chunk, session.state)
        for t, y in enumerate(ys):
            wanted = (y if session.outputs else None, [gate[t] for gate in gates] if session.gates else None)
            self._expected[handle].append(("step", session.position + t, *wanted))
        session.position += len(chunk)

    def reset(self, handles: Sequence[int]) -> None:
        self.stream.reset(*handles)
        for handle in handles:
            self.sessions[handle].state = self._oracle.initial()
            self._expected[handle].append(("reset", self.sessions[handle].position))

    def close(self, handles: Sequence[int]) -> None:
        self.stream.close(*handles)
        for handle in handles:
            self.expect_closed(handle, pb.CLOSE_REASON_REQUESTED)

    def expect_closed(self, handle: int, reason: pb.CloseReason) -> Session:
        """The session is no longer this stream's."""
        session = self.sessions.pop(handle)
        self._expected[handle].append(("closed", session.position, reason))
        return session

    # ---- What comes ---------------------------------------------------------------------------

    def settle(self) -> None:
        """Read until all has been answered, and check it."""
        while self._missing():
            self._hear(self.stream.read())
        self._check()

    def settle_opens(self) -> None:
        """Read until the server has said of every session that it is open."""
        while any(handle not in self._came for handle in self._expected):
            self._hear(self.stream.read())

    def half_close(self) -> None:
        """Say that nothing more comes: everything is answered, the sessions are closed, and the stream ends well."""
        self.stream.half_close()
        for handle in list(self.sessions):
            self.expect_closed(handle, pb.CLOSE_REASON_REQUESTED)
        for message in self.stream.call:
            self._hear(message)
        assert self.stream.call.code() == grpc.StatusCode.OK
        assert not self._missing()
        self._check()
        self.stream.disconnect()

    def disconnect(self) -> None:
        """Vanish, with answers outstanding."""
        self.settle_opens()
        self.stream.disconnect()

    def _missing(self) -> int:
        expected, came = (sum(map(len, events.values())) for events in (self._expected, self._came))
        return expected - came + len(self._expected_errors) - len(self._errors_came)

    def _hear(self, message: pb.ServerMessage) -> None:
        kind = message.WhichOneof("kind")
        if kind == "opened":
            opened = message.opened
            self._came[opened.handle].append(("opened", opened.position, opened.created))
        elif kind == "results":
            self._hear_results(message.results)
        elif kind == "reset_done":
            for handle, position in zip(message.reset_done.handle, message.reset_done.position, strict=True):
                self._came[handle].append(("reset", position))
        elif kind == "closed":
            for handle, position in zip(message.closed.handle, message.closed.position, strict=True):
                self._came[handle].append(("closed", position, message.closed.reason))
        else:
            error = message.error
            columns = error.handle, error.position, error.first, error.length
            self._errors_came += [(error.reason, *entry) for entry in zip(*columns, strict=True)]

    def _hear_results(self, results: pb.Results) -> None:
        # Sessions that want unlike answers share no message.
        columns = [(column, self._oracle.outputs) for column in results.output]
        columns += [(column, self._oracle.hidden) for column in results.gate]
        lengths = list(results.length) or [1] * len(results.handle)
        rows = [[part for _, _, part in parts(results, size, column=column)] for column, size in columns]
        for k, (handle, first, length) in enumerate(zip(results.handle, results.first, lengths, strict=True)):
            for t in range(length):
                numbers = [column[k][t] for column in rows]
                y = numbers.pop(0) if results.output else None
                self._came[handle].append(("step", first + t, y, numbers if results.gate else None))

    def _check(self) -> None:
        assert sorted(self._errors_came) == sorted(self._expected_errors)
        assert self._came.keys() == self._expected.keys()
        for handle, expected in self._expected.items():
            came = self._came[handle]
            assert [event[:2] for event in came] == [event[:2] for event in expected]
            for got, wanted in zip(came, expected, strict=True):
                if wanted[0] == "step":
                    self._check_numbers(got[2:], wanted[2:])
                else:
                    assert got == wanted
        # What was right needs no second look.
        for events in (self._expected, self._came):
            events.clear()
        self._expected_errors, self._errors_came = [], []

    def _check_numbers(self, got: Event, wanted: Event) -> None:
        assert [numbers is None for numbers in got] == [numbers is None for numbers in wanted]
        for these, those in zip(got, wanted, strict=True):
            if those is not None:
                np.testing.assert_allclose(these, those, rtol=0, atol=self._oracle.tolerance)
