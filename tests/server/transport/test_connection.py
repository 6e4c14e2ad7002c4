"""Streams from their admission to their end, with a conversation that says what it is told to, and no transport."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import suppress
from typing import Any, Final

import grpc
import pytest

from gatestream.server.config import Limits
from gatestream.server.core.accounts import Account, Accounts
from gatestream.server.core.catalog import Catalog
from gatestream.server.core.send_queue import SendQueue
from gatestream.server.errors import Malformed
from gatestream.server.transport.auth import CALLER, Caller, Tenants
from gatestream.server.transport.connection import Streams

LIMITS = Limits(streams=4, tenant_streams=2)


class Echo:
    """Answers each message by itself; `spoilt` is no message, `fault` breaks it, `hold` makes it hold a session."""

    protocol: Final = "gatestream"

    def __init__(self, account: Account):
        self.rows = 0
        self.account = account
        self.send_queue = SendQueue(account)
        self.idle = True
        self.told: list[str] = []

    def receive(self, message: bytes) -> None:
        if message == b"spoilt":
            raise Malformed("it is no message")
        if message == b"fault":
            raise RuntimeError("it is broken")
        self.idle = message != b"hold"
        self.rows += 1
        self.send_queue.put(message, 1)

    def half_close(self) -> None:
        self.told.append("half-close")
        self.send_queue.end()

    def disconnect(self) -> None:
        self.told.append("disconnect")
        self.send_queue.discard()

    def going_away(self, seconds: float) -> None:
        self.told.append(f"going away in {seconds:g} s")


class Aborted(Exception):
    """As gRPC raises it."""


class Context:
    """A call's: notes what is written, where there is room, and how it was ended."""

    def __init__(self, room: int = 10**9) -> None:
        self.said: list[bytes] = []
        self.room = asyncio.Semaphore(room)

    async def write(self, message: bytes) -> None:
        await self.room.acquire()
        self.said.append(message)

    async def abort(self, code: grpc.StatusCode, details: str, trailing: Any) -> None:
        raise Aborted(code, details, dict(trailing))


class Call:
    """One stream, as gRPC would carry it."""

    def __init__(self, streams: Streams, accounts: Accounts, tenant: str = "acme"):
        self.sent: asyncio.Queue[bytes | None] = asyncio.Queue()
        self._context = Context()
        self.said = self._context.said
        self.conversation = Echo(accounts.of(tenant))
        self._caller = Caller(tenant, b"")
        self.task = asyncio.ensure_future(self._carry(streams))

    async def _messages(self) -> AsyncIterator[bytes]:
        while (message := await self.sent.get()) is not None:
            yield message

    async def _carry(self, streams: Streams) -> None:
        CALLER.set(self._caller)
        await streams.hold(lambda _: self.conversation, self._messages(), self._context)

    async def say(self, *messages: bytes | None) -> None:
        """None: half-close."""
        for message in messages:
            self.sent.put_nowait(message)
        await turns()

    async def ended(self) -> tuple[grpc.StatusCode, str, dict[str, str]]:
        with pytest.raises(Aborted) as aborted:
            await self.task
        code, details, trailing = aborted.value.args
        return code, details, trailing


async def turns() -> None:
    for _ in range(20):
        await asyncio.sleep(0)


@pytest.fixture
def accounts() -> Accounts:
    return Accounts(LIMITS)


@pytest.fixture
def streams(accounts: Accounts) -> Iterator[Streams]:
    catalog = Catalog(accounts)
    catalog.divide(several=True)
    made = Streams(catalog, LIMITS, Tenants(None))
    yield made
    assert made.check() == []


async def test_what_is_said_is_answered_until_the_half_close(streams: Streams, accounts: Accounts) -> None:
    call = Call(streams, accounts)
    await call.say(b"one", b"two")
    assert (call.said, len(streams), call.conversation.rows) == ([b"one", b"two"], 1, 0)
    await call.say(b"three", None)
    await call.task
    assert (call.said, call.conversation.told) == ([b"one", b"two", b"three"], ["half-close", "disconnect"])
    assert (len(streams), accounts.of("acme").streams, accounts.bytes) == (0, 0, 0)


async def test_what_came_before_a_message_that_is_none_is_answered(streams: Streams, accounts: Accounts) -> None:
    call = Call(streams, accounts)
    await call.say(b"one", b"spoilt", b"two")
    code, details, trailing = await call.ended()
    assert (code, details) == (grpc.StatusCode.INVALID_ARGUMENT, "it is no message")
    assert trailing["gatestream-reason"] == "REASON_MALFORMED"
    assert call.said == [b"one"]


async def test_a_fault_ends_one_stream(streams: Streams, accounts: Accounts) -> None:
    other, call = Call(streams, accounts), Call(streams, accounts)
    await call.say(b"fault")
    assert (await call.ended())[:2] == (
        grpc.StatusCode.INTERNAL,
        "the server failed at this call; its log says how",
    )
    await other.say(b"one", None)
    await other.task
    assert other.said == [b"one"]


async def test_streams_have_a_bound_for_a_tenant_and_for_all(streams: Streams, accounts: Accounts) -> None:
    acme = [Call(streams, accounts) for _ in range(3)]
    await turns()
    code, details, trailing = await acme[2].ended()
    assert (code, trailing["gatestream-reason"]) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "REASON_STREAMS_EXHAUSTED")
    assert details.startswith("all 2 of this tenant's streams are taken")
    others = [Call(streams, accounts, tenant) for tenant in ("a", "b", "c")]
    await turns()
    code, details, _ = await others[2].ended()
    assert details.startswith("all 4 streams are taken")
    # One that ends makes room.
    await acme[0].say(None)
    await acme[0].task
    again = Call(streams, accounts)
    await again.say(b"one")
    assert again.said == [b"one"]
    for call in (acme[1], *others[:2], again):
        await call.say(None)
        await call.task


async def test_a_call_that_is_given_up_is_told_of(streams: Streams, accounts: Accounts) -> None:
    call = Call(streams, accounts)
    await call.say(b"one")
    call.task.cancel()
    with suppress(asyncio.CancelledError):
        await call.task
    assert call.conversation.told == ["disconnect"]
    assert len(streams) == 0
    await asyncio.wait_for(streams.none(), 1)


async def test_who_reads_nothing_is_not_read_from(streams: Streams, accounts: Accounts) -> None:
    """Of a stream that nobody takes from, as much is taken as its send queue holds."""
    conversation = Echo(accounts.of("acme"))
    came = 0

    async def messages() -> AsyncIterator[bytes]:
        nonlocal came
        while True:
            came += 1
            yield b"message"

    CALLER.set(Caller("acme", b""))
    context = Context(room=1)
    held = asyncio.ensure_future(streams.hold(lambda _: conversation, messages(), context))
    await turns()
    assert context.said == [b"message"]
    stopped = came
    await turns()
    assert came == stopped < 1_000
    for _ in range(200):
        context.room.release()
        await turns()
    assert len(context.said) == 201
    assert came > stopped
    held.cancel()
    with suppress(asyncio.CancelledError):
        await held


async def test_a_drain_tells_every_stream_and_ends_it_unavailable(streams: Streams, accounts: Accounts) -> None:
    call = Call(streams, accounts)
    await call.say(b"one")
    streams.going_away(2.0)
    assert call.conversation.told == ["going away in 2 s"]
    streams.end()
    code, details, _ = await call.ended()
    assert (code, details) == (grpc.StatusCode.UNAVAILABLE, "the server stops; go on with another")
    assert call.said == [b"one"]


async def test_only_streams_without_sessions_end_for_idleness(accounts: Accounts) -> None:
    limits = Limits(streams=4, idle_stream_timeout=0.08)
    streams = Streams(Catalog(accounts), limits, Tenants(None))
    looking = asyncio.ensure_future(streams.end_idle())
    holds, idle = Call(streams, accounts), Call(streams, accounts)
    await holds.say(b"hold")
    await idle.say(b"one")
    code, details, _ = await idle.ended()
    assert (code, details) == (
        grpc.StatusCode.UNAVAILABLE,
        "the stream held no session and had no message for 0.08 s; open another",
    )
    assert not holds.task.done()
    await holds.say(None)
    await holds.task
    looking.cancel()
