import asyncio

import pytest

from gatestream.server import background
from gatestream.server.background import carry_on


def test_a_task_that_fails_begins_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(background, "_PAUSE_SECONDS", 0.0)
    begun: list[int] = []

    async def task() -> None:
        begun.append(len(begun))
        if len(begun) < 3:
            raise KeyError("no such session")

    asyncio.run(carry_on("a task", task))
    assert begun == [0, 1, 2]


def test_a_task_that_is_cancelled_ends() -> None:
    async def main() -> None:
        running = asyncio.create_task(carry_on("a task", asyncio.Event().wait))
        await asyncio.sleep(0)
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running

    asyncio.run(main())
