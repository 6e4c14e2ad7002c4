"""A worker from its supervisor's side: its process, its end of the link, and what came over that."""

import asyncio
import contextlib
import os
import signal
import sys
from asyncio.subprocess import DEVNULL, Process
from collections.abc import Callable
from dataclasses import dataclass, field
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from typing import Final

from gatestream.server.process.link import (
    Answer,
    Ask,
    Changed,
    Command,
    Do,
    Done,
    Failed,
    Failures,
    Order,
    Orders,
    Reply,
    Serving,
)
from gatestream.server.telemetry import Totals

REPORT_SECONDS: Final = 1.0
"""So often workers report: of one that dies, what it has counted since is lost. So long they are waited for."""

_HAS_ENDED: Final = "it has ended"
_COMMAND: Final = "from gatestream.server.worker import main; main({})"


@dataclass(eq=False, slots=True)
class WorkerProcess:
    """The process of a worker.

    Attributes:
        process: as the kernel knows it.
        link: to it.
        said: that it serves, or that it cannot; None when it ended without a word.
        totals: as it has reported them last.
        reported: the report that it was asked for and has not given yet, if there is one.
        heard: called with what else it says.
    """

    process: Process
    link: Connection
    said: "asyncio.Future[Serving | Failed | None]"
    totals: Totals = field(default_factory=Totals)
    reported: "asyncio.Future[None] | None" = None
    heard: Callable[[Ask | Changed | Failures], None] | None = None
    _last: int = 0
    _doing: "dict[int, asyncio.Future[Reply]]" = field(default_factory=dict)

    @classmethod
    async def start(cls, orders: Orders) -> "WorkerProcess":
        """Start a worker: a fresh interpreter, since gRPC does not live through a fork."""
        ours, theirs = Pipe()
        with theirs:
            process = await asyncio.create_subprocess_exec(
                sys.executable,
                "-c",
                _COMMAND.format(theirs.fileno()),
                stdin=DEVNULL,
                pass_fds=(theirs.fileno(), *orders.files.descriptors),
                # It imports from where this one did, and not from the folder that this one happens to be in.
                env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "PYTHONSAFEPATH": "1"},
            )
        loop = asyncio.get_running_loop()
        running = cls(process, ours, loop.create_future())
        loop.add_reader(ours.fileno(), running._hear)
        with contextlib.suppress(OSError):  # It has ended.
            ours.send(orders)
        return running

    def _hear(self) -> None:
        try:
            said: Serving | Failed | Totals | Ask | Changed | Failures | Done | None = self.link.recv()
        except (EOFError, OSError):
            asyncio.get_running_loop().remove_reader(self.link.fileno())
            said = None
            for doing in self._doing.values():
                doing.set_result(Reply(error=_HAS_ENDED))
            self._doing.clear()
        if isinstance(said, Done):
            self._doing.pop(said.number).set_result(said.reply)
            return
        if isinstance(said, Ask | Changed | Failures):
            assert self.heard is not None, "whoever started it listens"
            self.heard(said)
            return
        if self.reported is not None:
            self.reported.set_result(None)
            self.reported = None
        if isinstance(said, Totals):
            self.totals = said
        elif not self.said.done():
            self.said.set_result(said)

    async def report(self) -> None:
        """Have it report, if it can do so soon."""
        if not self.serves:
            return
        if self.reported is None:
            self.reported = asyncio.get_running_loop().create_future()
            with contextlib.suppress(OSError):  # It has ended.
                order: Order = "report"
                self.link.send(order)
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(asyncio.shield(self.reported), REPORT_SECONDS)

    @property
    def serves(self) -> bool:
        """Whether it has said that it serves, and has not ended."""
        return self.said.done() and isinstance(self.said.result(), Serving) and self.process.returncode is None

    async def do(self, command: Command) -> Reply:
        """Have it do something."""
        self._last += 1
        done = self._doing[self._last] = asyncio.get_running_loop().create_future()
        try:
            self.link.send(Do(self._last, command))
        except OSError:
            del self._doing[self._last]
            return Reply(error=_HAS_ENDED)
        reply: Reply = await done
        return reply

    def answer(self, answer: Answer) -> None:
        """Tell it what came of what it has asked for."""
        with contextlib.suppress(OSError):  # It has ended.
            self.link.send(answer)

    @property
    def message(self) -> str:
        """How it ended."""
        said = self.said.result()
        code = self.process.returncode
        if isinstance(said, Failed):
            return said.message
        return f"killed by {signal.Signals(-code).name}" if code is not None and code < 0 else f"exit code {code}"

    async def ended(self) -> None:
        """Return when it has ended."""
        await self.process.wait()
        await self.said
        asyncio.get_running_loop().remove_reader(self.link.fileno())
        self.link.close()

    def order(self, order: Order, seconds: float) -> None:
        """Tell it to stop, within some time."""
        if self.process.returncode is not None:
            return
        if not self.said.done():
            # It does not serve yet and has nothing to drain.
            self._signal(signal.SIGTERM)
        else:
            with contextlib.suppress(OSError):  # It has ended.
                self.link.send(order)
        asyncio.get_running_loop().call_later(seconds, self._signal, signal.SIGKILL)

    def _signal(self, number: signal.Signals) -> None:
        with contextlib.suppress(ProcessLookupError):  # It has ended.
            self.process.send_signal(number)
