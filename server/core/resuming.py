"""Going on with a task now, and not in the event loop's next turn."""

import asyncio
from asyncio.tasks import _enter_task, _leave_task
from typing import TypeVar

_T = TypeVar("_T")


def resume(future: asyncio.Future[_T], result: _T) -> None:
    """Give a future its result, and have the one task that awaits it run until it waits for something else.

    A turn of the loop costs more than many a step of a model. What the task does must not depend on what whoever calls
    this has yet to do, nor change it.

    Args:
        future: that is not done.
        result: of it.
    """
    callbacks = future._callbacks
    if not callbacks or len(callbacks) > 1:
        future.set_result(result)
        return
    callback, context = callbacks[0]
    future.remove_done_callback(callback)
    future.set_result(result)
    loop = future.get_loop()
    task = asyncio.current_task(loop)
    if task is None:
        context.run(callback, future)
        return
    _leave_task(loop, task)
    try:
        context.run(callback, future)
    finally:
        _enter_task(loop, task)
