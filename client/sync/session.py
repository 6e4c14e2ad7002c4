"""Sessions and groups of sessions, blocking."""

import contextlib
import queue
import threading
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from functools import partial
from types import TracebackType
from typing import Self, TypeVar

from gatestream.client import unary
from gatestream.client.columns import Array, Inputs, Outputs
from gatestream.client.errors import GatestreamError, InputError, StepError
from gatestream.client.paused import refused, was_not_set, was_set
from gatestream.client.protocol.queue import SessionQueue
from gatestream.client.protocol.requests import Chunk, Ints, Kind
from gatestream.client.session import (
    ALL_RUN,
    ALL_STEP,
    GATHERED,
    ONE_RUN,
    ONE_STEP,
    GroupView,
    Index,
    LaneView,
    SessionView,
)
from gatestream.client.sync.calls import Asking, Calls
from gatestream.client.sync.link import Link
from gatestream.client.unary import State

R = TypeVar("R")


class _Open(LaneView):
    """What a session and a group can both do."""

    def __init__(self, calls: Calls, link: Link, session_queue: SessionQueue) -> None:
        super().__init__(session_queue)
        self._calls = calls
        self._link = link

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            self.close()
        else:
            # What went wrong is the news, and the server may be what went wrong: do not wait for it.
            self._link.close_later(self._queue)

    def reset(self, *, timeout: float | None = None) -> None:
        """Back to the initial state, after what was asked before. The position goes on counting.

        Raises:
            GatestreamError: the state is as it was, or, after a DeadlineExceededError, may be reset yet.
        """
        self._link.ask(self._queue, self._control(Kind.RESET), self._calls.seconds(timeout))

    def close(self, *, timeout: float | None = None) -> None:
        """End it at the server, after what was asked before. What is closed already stays so without an error.

        Raises:
            DeadlineExceededError: the server did not say so in time.
        """
        self._link.ask(self._queue, self._control(Kind.CLOSE), self._calls.seconds(timeout))

    def _take(self, chunk: Chunk, index: Index, timeout: float | None) -> Outputs:
        """Have the steps taken; the output of all of them."""
        seconds = self._calls.seconds(timeout, chunk.length)
        try:
            self._link.ask(self._queue, chunk, seconds)
        except GatestreamError as error:
            self._salvage(chunk, index, error)
            raise
        return self._keep(chunk, index)


class Session(_Open, SessionView):
    """A session at the server: a recurrent state, stepped in order.

    Safe to use from many threads; steps are taken in the order in which they were asked for.
    """

    def step(self, x: Inputs, *, timeout: float | None = None) -> Outputs:
        """Take one step.

        Args:
            x: the model's input at one time step: numbers of the spec's shape, or a token's id or name; for a
                model with several inputs, a mapping with each.
            timeout: seconds to wait for the answer; by default the client's.

        Returns:
            The model's output, of the spec's shape and type; where it has several, a dict with each by its name.
            `last` has them too, `gates` the gates.

        Raises:
            InputError: x does not fit the model; nothing was sent.
            DeadlineExceededError: no answer in time. If the step had left, the server may take it all the
                same. Its answer is dropped when it comes, `position` counts it, and the next call waits for
                it and goes on from there, so that nothing is stepped twice or out of order.
            RowsExhaustedError: the server has no room, and had none until the timeout; not taken.
            StepError, SessionClosedError: not taken; the state is as it was.
            ConnectionLostError: taken or not; the session is gone.
        """
        return self._take(self._of_step(x), ONE_STEP, timeout)

    def run(self, xs: Inputs, *, timeout: float | None = None) -> Outputs:
        """Take many steps: [time, ...] in, [time, ...] out. A chunk of any length; it is split as needed.

        Args:
            xs: the inputs of consecutive time steps; tokens also as a string of one-character tokens.
            timeout: seconds for all of it; by default the client's for each message that it needs.

        Raises:
            GatestreamError: as `step`. The steps before the one that failed were taken: `error.answer` has them.
        """
        return self._take(self._of_run(xs), ONE_RUN, timeout)

    def stream(self, source: Iterable[Inputs], *, timeout: float | None = None) -> Generator[Outputs]:
        """Step each row of a live source as it comes, and yield the answers in order.

        A thread reads the source. A row that comes while nothing is on its way is stepped at once; rows that
        come meanwhile are stepped together. So the source is read ahead of what was yielded, by
        `session.GATHERED` rows at most; `last` and `gates` belong to the row yielded last. The thread ends
        with the source, or, when the iterator is closed before that, with the source's next row.

        Args:
            source: rows, each as for `step`.
            timeout: seconds to wait for the answer to what was gathered; by default the client's.

        Raises:
            GatestreamError: as `run`, after all rows that were taken were answered; InputError and StepError, whoever
                finds the bad row, after all rows before it.
        """
        with contextlib.closing(_gather(source, self._encode_row)) as gathered:
            for rows in gathered:
                yield from self._answers(rows, timeout)

    def _answers(self, rows: list[list[Array]], timeout: float | None) -> Generator[Outputs]:
        """Step encoded rows together; where one of them is refused, and all with it, one by one up to it."""
        chunk = self._of_rows(rows)
        try:
            self._take(chunk, ONE_RUN, timeout)
        except GatestreamError as error:
            taken = 0
            for y in self._keep_taken(error):
                taken += 1
                yield y
            if len(rows) == 1 or not isinstance(error, InputError | StepError):
                raise
        else:
            yield from self._keep_each(self.last, chunk.length)
            return
        for row in rows[taken:]:
            yield from self._answers([row], timeout)

    def get_state(self, *, timeout: float | None = None) -> State:
        """Read the state, after all steps asked for before.

        Raises:
            GatestreamError: there was no answer.
        """
        with self._paused(timeout) as ask:
            return self._calls._read_state(ask, self.id, self.model)

    def set_state(self, state: State, *, timeout: float | None = None) -> None:
        """Put the session into a state and at its position, after all steps asked for before.

        Raises:
            GatestreamError: StateMismatchError and others.
        """
        with self._paused(timeout) as ask:
            try:
                position = self._calls._write_state(ask, self.id, state, self.model)
                self._link.note(partial(was_set, self._queue, position))
            except BaseException as error:
                if refused(self._queue, error):
                    self._link.note(partial(was_not_set, self._queue))
                else:
                    self._link.settle(self._queue)
                raise

    def fork(self, new_id: str = "", *, timeout: float | None = None) -> str:
        """Copy it into a new session that no stream holds, after all steps asked for before; the new one's id.

        Raises:
            GatestreamError: SessionExistsError and others.
        """
        with self._paused(timeout) as ask:
            return ask(unary.fork(self._calls.spec(self.model), self.id, new_id))

    @contextlib.contextmanager
    def _paused(self, timeout: float | None) -> Iterator[Asking]:
        """Nothing is stepped meanwhile: a way to ask about the session, after all that was asked of it before."""
        seconds = self._calls.seconds(timeout)
        deadline = time.monotonic() + seconds
        with self._link.pause(self._queue, seconds):

            def ask(call: unary.Call[R]) -> R:
                return self._link.call(self._queue, call, deadline - time.monotonic())

            yield ask


class Group(_Open, GroupView):
    """Sessions that step together: one message, and no Python, for each of them.

    Where members are given, they are those that take part, as increasing indices; by default all.
    """

    def step(self, xs: Inputs, *, members: Sequence[int] | Ints | None = None, timeout: float | None = None) -> Outputs:
        """Take one step of each member: [members, ...] in, [members, ...] out.

        Raises:
            GatestreamError: as `Session.step`; `error.members` says for whom, and `error.failures` why, member by
                member. The others have taken it: `error.answer` has their results, and `error.taken` says whose.
        """
        return self._take(self._of_step(xs, members), ALL_STEP, timeout)

    def run(
        self,
        xs: Inputs,
        *,
        members: Sequence[int] | Ints | None = None,
        lengths: Sequence[int] | Ints | None = None,
        timeout: float | None = None,
    ) -> Outputs:
        """Take many steps of each member: [members, time, ...] in, [members, time, ...] out.

        Args:
            xs: the inputs.
            members: who takes part.
            lengths: how many of its `time` steps each of them takes, 1 or more; the outputs behind are zero. None: all.
            timeout: seconds for all of it; by default the client's for each message that it needs.

        Raises:
            GatestreamError: as `step`; no message of it leaves after one in which a member failed.
        """
        return self._take(self._of_run(xs, members, lengths), ALL_RUN, timeout)


def _gather(source: Iterable[Inputs], encode: Callable[[Inputs, int], list[Array]]) -> Generator[list[list[Array]]]:
    """Rows of a source that a thread reads, encoded: as many as have come since the last time, at least one."""
    # Behind the rows: the error that the source ended with, or None.
    come: queue.Queue[list[Array] | BaseException | None] = queue.Queue(GATHERED)
    stopped = threading.Event()

    def read() -> None:
        end: BaseException | None = None
        try:
            for k, row in enumerate(source):
                come.put(encode(row, k))
                if stopped.is_set():
                    return
        except BaseException as error:
            end = error
        come.put(end)

    threading.Thread(target=read, name="gatestream source", daemon=True).start()
    try:
        while True:
            items = [come.get()]
            with contextlib.suppress(queue.Empty):
                while len(items) < GATHERED:
                    items.append(come.get_nowait())
            rows = [item for item in items if isinstance(item, list)]
            if rows:
                yield rows
            if isinstance(items[-1], BaseException):
                raise items[-1]
            if items[-1] is None:
                return
    finally:
        stopped.set()
        # The reader may wait for room.
        with contextlib.suppress(queue.Empty):
            while True:
                come.get_nowait()
