"""Doing the controls whose turn has come, between two runs of the model."""

import asyncio
from collections import deque
from collections.abc import Coroutine
from itertools import groupby
from time import perf_counter
from typing import Any, Final

import numpy as np
import structlog

from gatestream.server.core.answers import Answers
from gatestream.server.core.controls import Control, Then
from gatestream.server.core.scheduler import Turn
from gatestream.server.core.session_queues import SessionQueues
from gatestream.server.errors import Refused, StepFailed, session_closed

# So long controls are done before the loop has its next turn.
_SECONDS: Final = 2e-3

_log = structlog.get_logger(__name__)


class ControlRunner:
    """Does the controls of one model's sessions. Nothing here is called while a run is under way.

    Args:
        model: its name, for the log.
        queues: of its sessions.
        answers: to those who asked.
    """

    def __init__(self, model: str, queues: SessionQueues, answers: Answers):
        self._model = model
        self._queues = queues
        self._answers = answers
        # Controls that wait for something, and those that have it now.
        self._tasks: set[asyncio.Task[None]] = set()
        self._waited: deque[tuple[Control, Turn, Then | Refused]] = deque()

    def run(self) -> bool:
        """Do what has its turn, for no longer than the loop can do without; whether there is more."""
        until = perf_counter() + _SECONDS
        self._end_waiting(until)
        while perf_counter() < until:
            turns = self._queues.scheduler.controls()
            if not turns:
                return False
            items = [(item, turn) for turn in turns if isinstance(item := self._queues[turn.work], Control)]
            # What many messages ask for, one after another, is done and answered as one.
            for _, group in groupby(items, lambda each: (each[0].do, each[0].owner)):
                members = list(group)
                if members[0][0].do is None:
                    for control, turn in members:
                        self._begin_waiting(control, turn)
                else:
                    self._do(members)
        return True

    def cancel(self) -> None:
        """Wait for nothing any more."""
        for task in self._tasks:
            task.cancel()

    def _do(self, members: list[tuple[Control, Turn]]) -> None:
        control = members[0][0]
        handles = np.concatenate([each.handles[turn.entries] for each, turn in members])
        sessions = np.concatenate([turn.sessions for _, turn in members])
        self._queues.scheduler.finish(np.concatenate([turn.ids for _, turn in members]))
        for each, turn in members:
            self._answers.done(each, len(turn.ids))
        assert control.do is not None, "all of them do the same"
        try:
            control.do(control.owner, sessions, handles)
        except Exception as error:
            control.fail(self._failure(error), control.owner, sessions, handles)

    def _begin_waiting(self, control: Control, turn: Turn) -> None:
        assert control.wait is not None, "it has something to do, or to wait for"
        try:
            # What it copies it copies now, while no run is under way.
            waiting = control.wait()
        except Exception as error:
            self._waited.append((control, turn, self._failure(error)))
            self._queues.wake.set()
            return
        task = asyncio.create_task(self._wait(control, turn, waiting))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _wait(self, control: Control, turn: Turn, waiting: Coroutine[Any, Any, Then]) -> None:
        result: Then | Refused
        try:
            if self._queues.scheduler.wanted(turn.ids).all():
                result = await waiting
            else:
                # The session ended before this had its turn, and its number may be another's.
                waiting.close()
                result = session_closed()
        except Refused as error:
            result = error
        except Exception as error:
            result = self._failure(error)
        # A run may be under way.
        self._waited.append((control, turn, result))
        self._queues.wake.set()

    def _end_waiting(self, until: float) -> None:
        """Do what was waited for, where the session is still there, and let its queue go on."""
        scheduler = self._queues.scheduler
        while self._waited and perf_counter() < until:
            control, turn, result = self._waited.popleft()
            if scheduler.wanted(turn.ids).all() and not isinstance(result, Refused):
                try:
                    result()
                except Exception as error:
                    result = self._failure(error)
            # What has been done may have ended the session.
            wanted = bool(scheduler.wanted(turn.ids).all())
            scheduler.finish(turn.ids)
            if wanted:
                self._answers.done(control, len(turn.ids))
                if isinstance(result, Refused):
                    control.fail(result, control.owner, turn.sessions, control.handles)

    def _failure(self, error: Exception) -> StepFailed:
        _log.error("control failed", model=self._model, exc_info=error)
        return StepFailed(f"the server failed between two ticks: {error}")
