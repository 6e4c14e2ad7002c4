"""Tasks of the server that nobody waits for."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final

import structlog

_PAUSE_SECONDS: Final = 1.0

_log = structlog.get_logger(__name__)


async def carry_on(name: str, task: Callable[[], Awaitable[object]]) -> None:
    """Do a task until it returns or is cancelled; when it fails, log why, and begin it again a second later.

    A fault in one of these is no reason for the server to end, with everybody's sessions.

    Args:
        name: of the task, in the log.
        task: begins it.
    """
    while True:
        try:
            await task()
            return
        except Exception:
            _log.exception("a task of the server failed and begins again", task=name)
            await asyncio.sleep(_PAUSE_SECONDS)
