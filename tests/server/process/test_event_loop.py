import asyncio
import socket
from collections.abc import AsyncIterator
from functools import partial
from typing import Any

import grpc
import pytest

from gatestream.server.process.busy_poll import BusySelector
from gatestream.server.process.event_loop import Loop


class Bell:
    """Something that a byte in a socket tells of an event, which takes one byte, and then all events.

    Attributes:
        turn: of the loop.
        heard: how many events it found in which turn.
    """

    def __init__(self) -> None:
        self.ours, self.theirs = socket.socketpair()
        self.turn = 0
        self.events = 0
        self.heard: list[tuple[int, int]] = []

    def handle(self, _loop: Loop) -> None:
        assert self.ours.recv(1) == b"1"
        self.heard.append((self.turn, self.events))
        self.events = 0

    async def ring(self, loop: Loop) -> None:
        loop.add_reader(self.ours, partial(self.handle, loop))
        for count in (3, 1, 5):
            self.events = count
            self.theirs.send(b"1" * count)
            for _ in range(20):
                await asyncio.sleep(0)
                self.turn += 1


class PollerCompletionQueue(Bell):
    """As gRPC's, by its name."""


def ring(bell: Bell, **how: bool) -> list[int]:
    """How many events it found each time that it was called."""
    loop = Loop(BusySelector(0), **how)
    loop.run_until_complete(bell.ring(loop))
    loop.close()
    with pytest.raises(BlockingIOError):
        bell.ours.recv(1, socket.MSG_DONTWAIT)
    bell.ours.close()
    bell.theirs.close()
    assert len({turn for turn, _ in bell.heard}) == len(bell.heard)
    return [events for _, events in bell.heard]


def test_a_reader_is_called_once_for_all_bytes() -> None:
    assert ring(PollerCompletionQueue()) == [3, 1, 5]


def test_other_readers_are_left_alone() -> None:
    assert ring(Bell()) == [3, 0, 0, 1, 5, 0, 0, 0, 0]


def test_a_reader_is_called_for_each_byte_where_that_is_not_wanted() -> None:
    assert ring(PollerCompletionQueue(), all_wake_ups=False) == [3, 0, 0, 1, 5, 0, 0, 0, 0]


def test_the_installed_grpc_loses_no_event_by_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Many streams at once: had its reader taken one event for each byte, all would hang."""
    most = 0
    original = Loop._for_all_bytes

    def counted(loop: Loop, bell: socket.socket, *args: Any) -> None:
        nonlocal most
        most = max(most, len(bell.recv(100, socket.MSG_PEEK)))
        original(loop, bell, *args)

    monkeypatch.setattr(Loop, "_for_all_bytes", counted)

    async def echo(messages: AsyncIterator[bytes], _context: Any) -> AsyncIterator[bytes]:
        async for message in messages:
            yield message

    async def main() -> None:
        server = grpc.aio.server()
        handlers: dict[str, Any] = {"Echo": grpc.stream_stream_rpc_method_handler(echo)}
        # Of methods that are not registered the server's own gRPC, where a test has imported it, knows none.
        server.add_registered_method_handlers("test.Echo", handlers)
        port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            stream: Any = channel.stream_stream("/test.Echo/Echo")
            sent = [str(k).encode() for k in range(50)]

            async def call() -> None:
                assert [message async for message in stream(iter(sent))] == sent

            await asyncio.wait_for(asyncio.gather(*(call() for _ in range(32))), 60)
        await server.stop(None)

    with asyncio.Runner(loop_factory=lambda: Loop(BusySelector(0))) as runner:
        runner.run(main())
    assert most > 1
