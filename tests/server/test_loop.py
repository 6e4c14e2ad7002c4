import asyncio
import socket
from collections.abc import AsyncIterator
from functools import partial
from typing import Any

import grpc
import pytest

from gatestream.server.loop import Loop, run
from gatestream.server.polling import BusySelector


class Bell:
    """Something that a byte in a socket tells of an event; `turns` are those of the loop in which it heard of one."""

    def __init__(self) -> None:
        self.ours, self.theirs = socket.socketpair()
        self.turn = 0
        self.turns: list[int] = []

    def handle(self, _loop: Loop) -> None:
        assert self.ours.recv(1) == b"1"
        self.turns.append(self.turn)

    async def ring(self, loop: Loop) -> None:
        loop.add_reader(self.ours, partial(self.handle, loop))
        for count in (3, 1, 5):
            self.theirs.send(b"1" * count)
            for _ in range(20):
                await asyncio.sleep(0)
                self.turn += 1


class PollerCompletionQueue(Bell):
    """As gRPC's, by its name."""


def ring(bell: Bell) -> list[int]:
    loop = Loop(BusySelector(0))
    loop.run_until_complete(bell.ring(loop))
    loop.close()
    bell.ours.close()
    bell.theirs.close()
    return bell.turns


def test_a_reader_is_called_for_every_byte_in_one_turn() -> None:
    turns = ring(PollerCompletionQueue())
    assert len(turns) == 9
    assert len(set(turns)) == 3


def test_other_readers_are_left_alone() -> None:
    assert len(set(ring(Bell()))) == 9


def test_the_installed_grpc_is_one_that_gains_by_it(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    original = Loop._for_every_byte

    def counted(*args: Any) -> None:
        calls.append(args)
        original(*args)

    monkeypatch.setattr(Loop, "_for_every_byte", counted)

    async def echo(messages: AsyncIterator[bytes], _context: Any) -> AsyncIterator[bytes]:
        async for message in messages:
            yield message

    async def main() -> None:
        server = grpc.aio.server()
        handlers: dict[str, Any] = {"Echo": grpc.stream_stream_rpc_method_handler(echo)}
        server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler("test.Echo", handlers)])
        port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            call: Any = channel.stream_stream("/test.Echo/Echo")
            sent = [str(k).encode() for k in range(500)]
            assert [message async for message in call(iter(sent))] == sent
        await server.stop(None)

    run(main(), busy_poll=0)
    assert calls
