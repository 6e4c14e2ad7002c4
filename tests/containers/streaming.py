"""Fifty sessions that stream while something happens, and what they should have been told."""

import asyncio
import itertools
import threading
import traceback
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from types import TracebackType
from typing import Any, Final, Self

import numpy as np
from numpy.typing import NDArray

from gatestream.client import connect
from gatestream.client.aio import connect as connect_aio
from gatestream.model.tasks import reber

MODEL = "reber"
CLIENTS = 10
MEMBERS = 2
# Of each client: two sessions step by step, one in chunks, and a group.
SESSIONS: Final = CLIENTS * (3 + MEMBERS)
_CHUNK = 7
_PAUSE = 0.05
_LONGEST = 100_000
# For a step, with all that may happen meanwhile.
_TIMEOUT = 120.0

Symbols = NDArray[np.int64]


class Streaming:
    """A context in which sessions stream from connections of their own; at its end every result is compared.

    The undisturbed run is the same symbols in one call, in a session that nothing happens to.

    Args:
        address: of the service.
    """

    def __init__(self, address: str) -> None:
        self._address = address
        self._symbols, _, _ = reber.Streams(SESSIONS, 11).take(_LONGEST)
        self.results: list[list[NDArray[np.float32]]] = [[] for _ in range(SESSIONS)]
        self._stop = threading.Event()
        self._failure: BaseException | None = None
        self._grown = threading.Condition()
        self._thread = threading.Thread(target=self._run, name="streaming")

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join()
        if error is None:
            self._check()
            self._compare()

    def advance(self, results: int = 20) -> None:
        """Wait until each session has so many more results than now."""
        before = [len(each) for each in self.results]
        with self._grown:
            grown = self._grown.wait_for(
                lambda: (
                    self._failure is not None
                    or all(len(now) >= then + results for now, then in zip(self.results, before, strict=True))
                ),
                _TIMEOUT,
            )
        self._check()
        assert grown, [len(now) - then for now, then in zip(self.results, before, strict=True)]

    def _check(self) -> None:
        assert self._failure is None, "".join(traceback.format_exception(self._failure))

    def _compare(self) -> None:
        """Bit for bit, and no result more or less than were asked for: a session's results are as many as its steps."""
        with connect(self._address, timeout=_TIMEOUT) as gs:
            for symbols, results in zip(self._symbols, self.results, strict=True):
                found = np.concatenate(results)
                with gs.session(MODEL) as session:
                    expected = session.run(symbols[: len(found)])
                np.testing.assert_array_equal(found.view(np.uint32), expected.view(np.uint32))

    def _run(self) -> None:
        try:
            asyncio.run(self._stream())
        except BaseException as error:
            self._failure = error
            with self._grown:
                self._grown.notify_all()

    async def _stream(self) -> None:
        async with AsyncExitStack() as stack, asyncio.TaskGroup() as tasks:
            for client in range(CLIENTS):
                gs = await stack.enter_async_context(connect_aio(self._address, timeout=_TIMEOUT))
                first = client * (3 + MEMBERS)
                for number in range(first, first + 3):
                    session = await stack.enter_async_context(gs.session(MODEL))
                    if number % 3:
                        tasks.create_task(self._one(number, session.step, 1))
                    else:
                        tasks.create_task(self._one(number, session.run, _CHUNK))
                group = await stack.enter_async_context(gs.group(MODEL, MEMBERS))
                tasks.create_task(self._all(first + 3, group.step))

    async def _one(self, number: int, ask: Callable[[Any], Awaitable[Any]], length: int) -> None:
        async for at in self._turns(length):
            symbols = self._symbols[number, at : at + length]
            answer = await ask(symbols if length > 1 else symbols[0])
            self._keep(number, np.reshape(answer, (length, -1)))

    async def _all(self, first: int, ask: Callable[[Any], Awaitable[Any]]) -> None:
        async for at in self._turns(1):
            answer = await ask(self._symbols[first : first + MEMBERS, at])
            for member in range(MEMBERS):
                self._keep(first + member, answer[member][None])

    async def _turns(self, length: int) -> AsyncIterator[int]:
        for at in itertools.count(0, length):
            if self._stop.is_set() or at + length > _LONGEST:
                return
            yield at
            await asyncio.sleep(_PAUSE)

    def _keep(self, number: int, rows: NDArray[np.float32]) -> None:
        with self._grown:
            self.results[number].append(np.array(rows))
            self._grown.notify_all()
