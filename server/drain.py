"""The end of a server that was told to stop: what is open may finish, and what was accepted is answered."""

import asyncio
import contextlib
from collections.abc import Coroutine
from typing import Any, Final

import structlog

from gatestream.server.core.catalog import Catalog
from gatestream.server.core.checkpointer import Checkpointer
from gatestream.server.core.reply_sink import CloseReason
from gatestream.server.errors import StoreUnavailable
from gatestream.server.process.signals import StopSignals
from gatestream.server.transport.connection import Streams

_LAST_TICKS_SECONDS: Final = 1.0
_LOOK_SECONDS: Final = 0.05

_log = structlog.get_logger(__name__)


async def drain(
    models: Catalog, streams: Streams, seconds: float, signals: StopSignals, checkpointer: Checkpointer | None = None
) -> None:
    """Open nothing more, and return when all streams have ended: by themselves, or at the deadline, or at a signal.

    Args:
        models: what is served.
        streams: that are open.
        seconds: that they may take.
        signals: of which the second ends them at once.
        checkpointer: of the server; where its store outlives the process, the sessions that it knows are let go of.
    """
    models.drain()
    sessions = sum(len(model.engine.sessions) for model in models)
    _log.info("draining", sessions=sessions, streams=len(streams), deadline_s=seconds)
    streams.going_away(seconds)
    outlives = checkpointer is not None and checkpointer.store.kind != "memory"
    with contextlib.suppress(TimeoutError):
        waits = [streams.none(), signals.second.wait()]
        if outlives:
            waits.append(_hand_over(models))
        await asyncio.wait_for(_first(*waits), seconds)
    models.stopped = True
    with contextlib.suppress(TimeoutError):
        # Nothing is added now: what is queued is a matter of some ticks, or else is answered as not taken.
        for model in models:
            await asyncio.wait_for(_first(model.engine.quiet(), signals.second.wait()), _LAST_TICKS_SECONDS)
    if outlives and checkpointer is not None:
        with contextlib.suppress(TimeoutError, StoreUnavailable):
            await asyncio.wait_for(checkpointer.round(), _LAST_TICKS_SECONDS)
    ended = sum(len(model.engine.sessions) for model in models)
    for model in models:
        await model.lifecycle.expiry.end_all(CloseReason.DRAINED)
    streams.end()
    _log.info("drained", sessions_ended=ended, second_signal=signals.second.is_set())


async def _hand_over(models: Catalog) -> None:
    """Have the sessions that the store knows be let go of as soon as they have nothing queued; it never returns."""
    while True:
        for model in models:
            if (kept := model.lifecycle.kept) is not None:
                kept.hand_over(kept.all())
        await asyncio.sleep(_LOOK_SECONDS)


async def _first(*waits: Coroutine[Any, Any, Any]) -> None:
    tasks = [asyncio.create_task(wait) for wait in waits]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
