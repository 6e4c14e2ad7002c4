"""Sessions and groups of sessions, for asyncio."""

# A timeout here is not asyncio.timeout: it also decides how long refusals are retried, and which error comes.
# ruff: noqa: ASYNC109

import asyncio
import contextlib
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Callable, Sequence
from types import TracebackType
from typing import Self, TypeVar

from gatestream.client import unary
from gatestream.client.aio.calls import Asking, Calls
from gatestream.client.aio.link import Link
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
from gatestream.client.unary import State

R = TypeVar("R")


class _Open(LaneView):
    """What a session and a group can both do."""

    def __init__(self, calls: Calls, link: Link, session_queue: SessionQueue) -> None:
        super().__init__(session_queue)
        self._calls = calls
        self._link = link

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            await self.close()
        else:
            # What went wrong is the news, and the server may be what went wrong: do not wait for it.
            self._link.close_later(self._queue)

    async def reset(self, *, timeout: float | None = None) -> None:
        """Back to the initial state, after what was asked before. The position goes on counting."""
        await self._link.ask(self._queue, self._control(Kind.RESET), self._calls.seconds(timeout))

    async def close(self, *, timeout: float | None = None) -> None:
        """End it at the server, after what was asked before. What is closed already stays so without an error."""
        await self._link.ask(self._queue, self._control(Kind.CLOSE), self._calls.seconds(timeout))

    async def _take(self, chunk: Chunk, index: Index, timeout: float | None) -> Outputs:
        """Have the steps taken; the output of all of them."""
        seconds = self._calls.seconds(timeout, chunk.length)
        try:
            await self._link.ask(self._queue, chunk, seconds)
        except GatestreamError as error:
            self._salvage(chunk, index, error)
            raise
        return self._keep(chunk, index)


class Session(_Open, SessionView):
    """A session at the server: a recurrent state, stepped in order.

    Steps of many tasks are taken in the order in which they were asked for.
    """

    async def step(self, x: Inputs, *, timeout: float | None = None) -> Outputs:
        """Take one step. As the blocking `Session.step`; a cancelled call is as one that timed out."""
        return await self._take(self._of_step(x), ONE_STEP, timeout)

    async def run(self, xs: Inputs, *, timeout: float | None = None) -> Outputs:
        """Take many steps: [time, ...] in, [time, ...] out. As the blocking `Session.run`."""
        return await self._take(self._of_run(xs), ONE_RUN, timeout)

    async def stream(self, source: AsyncIterable[Inputs], *, timeout: float | None = None) -> AsyncGenerator[Outputs]:
        """Step each row of a live source as it comes, and yield the answers in order.

        As the blocking `Session.stream`, with a task that reads the source; it ends with the iterator. Close
        the iterator (contextlib.aclosing) where a loop over it may end early.
        """
        async with contextlib.aclosing(_gather(source, self._encode_row)) as gathered:
            async for rows in gathered:
                async for y in self._answers(rows, timeout):
                    yield y

    async def _answers(self, rows: list[list[Array]], timeout: float | None) -> AsyncGenerator[Outputs]:
        """Step encoded rows together; where one of them is refused, and all with it, one by one up to it."""
        chunk = self._of_rows(rows)
        try:
            await self._take(chunk, ONE_RUN, timeout)
        except GatestreamError as error:
            taken = 0
            for y in self._keep_taken(error):
                taken += 1
                yield y
            if len(rows) == 1 or not isinstance(error, InputError | StepError):
                raise
        else:
            for y in self._keep_each(self.last, chunk.length):
                yield y
            return
        for row in rows[taken:]:
            async for y in self._answers([row], timeout):
                yield y

    async def get_state(self, *, timeout: float | None = None) -> State:
        """Read the state, after all steps asked for before."""
        async with self._paused(timeout) as ask:
            return await self._calls._read_state(ask, self.id, self.model)

    async def set_state(self, state: State, *, timeout: float | None = None) -> None:
        """Put the session into a state and at its position, after all steps asked for before."""
        async with self._paused(timeout) as ask:
            try:
                position = await self._calls._write_state(ask, self.id, state, self.model)
            except BaseException as error:
                if refused(self._queue, error):
                    was_not_set(self._queue)
                else:
                    self._link.settle(self._queue)
                raise
            was_set(self._queue, position)

    async def fork(self, new_id: str = "", *, timeout: float | None = None) -> str:
        """Copy it into a new session that no stream holds; the new one's id."""
        async with self._paused(timeout) as ask:
            return await ask(unary.fork(self._calls.spec(self.model), self.id, new_id))

    @contextlib.asynccontextmanager
    async def _paused(self, timeout: float | None) -> AsyncIterator[Asking]:
        """Nothing is stepped meanwhile: a way to ask about the session, after all that was asked of it before."""
        seconds = self._calls.seconds(timeout)
        clock = asyncio.get_running_loop().time
        deadline = clock() + seconds
        async with self._link.pause(self._queue, seconds):

            async def ask(call: unary.Call[R]) -> R:
                return await self._link.call(self._queue, call, deadline - clock())

            yield ask


class Group(_Open, GroupView):
    """Sessions that step together: one message, and no Python, for each of them.

    Where members are given, they are those that take part, as increasing indices; by default all.
    """

    async def step(
        self, xs: Inputs, *, members: Sequence[int] | Ints | None = None, timeout: float | None = None
    ) -> Outputs:
        """Take one step of each member: [members, ...] in, [members, ...] out."""
        return await self._take(self._of_step(xs, members), ALL_STEP, timeout)

    async def run(
        self,
        xs: Inputs,
        *,
        members: Sequence[int] | Ints | None = None,
        lengths: Sequence[int] | Ints | None = None,
        timeout: float | None = None,
    ) -> Outputs:
        """Take many steps of each member: [members, time, ...] in, [members, time, ...] out. As the blocking one."""
        return await self._take(self._of_run(xs, members, lengths), ALL_RUN, timeout)


async def _gather(
    source: AsyncIterable[Inputs], encode: Callable[[Inputs, int], list[Array]]
) -> AsyncGenerator[list[list[Array]]]:
    """Rows of a source that a task reads, encoded: as many as have come since the last time, at least one."""
    # Behind the rows: the error that the source ended with, or None.
    come: asyncio.Queue[list[Array] | BaseException | None] = asyncio.Queue(GATHERED)

    async def read() -> None:
        end: BaseException | None = None
        try:
            k = 0
            async for row in source:
                await come.put(encode(row, k))
                k += 1
        except BaseException as error:
            reading = asyncio.current_task()
            if reading is not None and reading.cancelling():
                raise
            # Also a CancelledError that is the source's own.
            end = error
        await come.put(end)

    reader = asyncio.create_task(read(), name="gatestream source")
    try:
        while True:
            items = [await come.get()]
            while len(items) < GATHERED and not come.empty():
                items.append(come.get_nowait())
            rows = [item for item in items if isinstance(item, list)]
            if rows:
                yield rows
            if isinstance(items[-1], BaseException):
                raise items[-1]
            if items[-1] is None:
                return
    finally:
        reader.cancel()
        await asyncio.wait([reader])
