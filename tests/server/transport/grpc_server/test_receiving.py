import asyncio

from gatestream.server.transport.grpc_server.receiving import Receiving

AT_ONCE = 8


class Crowd:
    """Calls of one tenant that come at once; each keeps its place until it is let go."""

    def __init__(self) -> None:
        self.receiving = Receiving()
        self.entered: list[int] = []
        self.calls: list[asyncio.Task[None]] = []
        self._goes: list[asyncio.Event] = []

    async def come(self, count: int) -> None:
        for number in range(len(self.calls), len(self.calls) + count):
            self._goes.append(asyncio.Event())
            self.calls.append(asyncio.create_task(self._call(number)))
        await self.settled()

    async def go(self, *numbers: int) -> None:
        for number in numbers:
            self._goes[number].set()
        await self.settled()

    async def settled(self) -> None:
        # A place that is given reaches its call two turns of the loop later.
        for _ in range(4):
            await asyncio.sleep(0)

    async def _call(self, number: int) -> None:
        task = asyncio.current_task()
        assert task is not None
        await self.receiving.enter(task)
        self.entered.append(number)
        await self._goes[number].wait()
        self.receiving.leave(task)


async def test_few_are_received_at_once_and_the_others_in_the_order_of_their_coming() -> None:
    crowd = Crowd()
    await crowd.come(AT_ONCE + 3)
    assert crowd.entered == list(range(AT_ONCE))
    await crowd.go(3)
    assert crowd.entered == list(range(AT_ONCE + 1))
    await crowd.go(0, 1)
    assert crowd.entered == list(range(AT_ONCE + 3))
    assert not crowd.receiving.idle
    await crowd.go(*range(AT_ONCE + 3))
    assert crowd.receiving.idle
    await asyncio.gather(*crowd.calls)


async def test_a_call_that_has_gone_while_it_waited_takes_no_place() -> None:
    crowd = Crowd()
    await crowd.come(AT_ONCE + 2)
    crowd.calls[AT_ONCE].cancel()
    await crowd.settled()
    await crowd.go(0)
    assert crowd.entered == [*range(AT_ONCE), AT_ONCE + 1]
    await crowd.come(1)
    assert len(crowd.entered) == AT_ONCE + 1, "all places are taken"
    await crowd.go(*range(AT_ONCE + 3))
    assert crowd.receiving.idle
    await asyncio.gather(*crowd.calls, return_exceptions=True)


async def test_one_that_leaves_twice_gives_one_place_back() -> None:
    receiving = Receiving()
    task = asyncio.current_task()
    assert task is not None
    await receiving.enter(task)
    for _ in range(2):
        receiving.leave(task)
    assert receiving.idle
