"""Going on with a task at once, as against the loop's next turn."""

import asyncio
from contextvars import ContextVar

import pytest

from gatestream.server.core.resuming import resume

NAME: ContextVar[str] = ContextVar("NAME")


async def test_the_task_goes_on_as_itself_and_the_caller_goes_on_after_it() -> None:
    loop = asyncio.get_running_loop()
    futures = [loop.create_future() for _ in range(2)]
    seen: list[object] = []

    async def waiting() -> None:
        NAME.set("waiting")
        for future in futures:
            seen.append(await future)
            seen.append((asyncio.current_task() is task, NAME.get()))

    task = asyncio.create_task(waiting())
    NAME.set("caller")
    await asyncio.sleep(0)
    me = asyncio.current_task()
    resume(futures[0], 1)
    assert seen == [1, (True, "waiting")]
    assert (asyncio.current_task() is me, NAME.get()) == (True, "caller")
    # From a callback of the loop, where no task is running.
    loop.call_soon(resume, futures[1], 2)
    await task
    assert seen[2:] == [2, (True, "waiting")]


async def test_what_the_task_raises_is_its_own() -> None:
    future = asyncio.get_running_loop().create_future()

    async def failing() -> None:
        await future
        raise ValueError("of the task")

    task = asyncio.create_task(failing())
    await asyncio.sleep(0)
    resume(future, None)
    assert task.done()
    with pytest.raises(ValueError, match="of the task"):
        await task


@pytest.mark.parametrize("tasks", [0, 2])
async def test_where_not_one_task_waits_the_result_is_there_all_the_same(tasks: int) -> None:
    future: asyncio.Future[int] = asyncio.get_running_loop().create_future()

    async def waiting() -> int:
        return await asyncio.shield(future)

    waiters = [asyncio.create_task(waiting()) for _ in range(tasks)]
    await asyncio.sleep(0)
    resume(future, 3)
    assert [await waiter for waiter in waiters] == [3] * tasks
    assert future.result() == 3


async def test_a_task_that_was_cancelled_meanwhile_is() -> None:
    future = asyncio.get_running_loop().create_future()

    async def waiting() -> None:
        await future
        await asyncio.sleep(60)

    task = asyncio.create_task(waiting())
    await asyncio.sleep(0)
    resume(future, None)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
