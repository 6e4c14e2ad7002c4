"""Every stream that is open, whichever door it came through: admission, reading, writing, the end."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Any, Final, Protocol

from gatestream.server.config import Limits
from gatestream.server.core.accounts import Account
from gatestream.server.core.catalog import Catalog
from gatestream.server.core.send_queue import SendQueue
from gatestream.server.errors import Draining, Exhausted, Idle, InvalidRequest, Reason, Refused, Unauthenticated
from gatestream.server.telemetry import Protocol as StreamProtocol
from gatestream.server.transport.auth import CALLER, Caller, Tenants
from gatestream.server.transport.grpc_server.status import abort
from gatestream.server.transport.writer import Writer

# A message that took the loop longer than this has its sender wait for a turn. One of so few bytes names too little
# for that; it is not timed.
_LONG_SECONDS: Final = 1e-3
_SHORT_BYTES: Final = 512
_LARGE_BYTES: Final = 256 * 2**10
# So many times in a row nothing has happened on a stream that ends for it.
_LOOKS: Final = 8


class Conversation(Protocol):
    """One stream's side of its protocol.

    Attributes:
        rows: accepted and not yet on their way back.
        account: of the tenant.
        send_queue: what waits to be sent.
    """

    rows: int
    account: Account
    send_queue: SendQueue

    @property
    def protocol(self) -> StreamProtocol:
        """That it speaks."""

    def receive(self, message: bytes) -> None:
        """A message came, as it was on the wire.

        Raises:
            InvalidRequest: it is none of this protocol.
        """

    def half_close(self) -> None:
        """No more will come; the send queue ends when all is answered."""

    def disconnect(self) -> None:
        """The peer has gone, or all is said."""

    @property
    def idle(self) -> bool:
        """Whether it holds no session, and nothing that came is to be answered yet."""

    def going_away(self, seconds: float) -> None:
        """The server will stop."""


@dataclass(slots=True)
class _Open:
    """An open stream.

    Attributes:
        tenant: whose it is.
        shown: the token that it showed, as `Tenants.caller` gives it.
        call: what carries it.
        quiet: how often in a row nothing was found to have happened on it.
    """

    tenant: str
    shown: bytes
    call: asyncio.Task[Any] | None
    quiet: int = 0


class Streams:
    """The streams of one server.

    Args:
        models: what is served.
        limits: of the server.
        tenants: who may call.
        prompt: messages leave in the turn of the loop in which they are made, and not in the next.
    """

    def __init__(self, models: Catalog, limits: Limits, tenants: Tenants, *, prompt: bool = False):
        self._models = models
        self._limits = limits
        self._tenants = tenants
        self._prompt = prompt
        self._open: dict[Conversation, _Open] = {}
        tenants.changed.append(self._tokens_changed)
        self._none = asyncio.Event()
        self._none.set()
        self._long = asyncio.Lock()

    def __len__(self) -> int:
        return len(self._open)

    async def hold(self, make: Callable[[str], Conversation], messages: AsyncIterator[bytes], context: Any) -> None:
        """Carry one stream from its admission to its end.

        Args:
            make: what talks to this peer, given its tenant.
            messages: what the peer sends.
            context: of the call.
        """
        try:
            caller = self._admit()
            conversation = make(caller.tenant)
        except (Refused, Unauthenticated) as error:
            self._models.stats.refused(error)
            await abort(context, error)
            raise
        self._open[conversation] = _Open(caller.tenant, caller.shown, asyncio.current_task())
        conversation.account.streams += 1
        stats = self._models.stats.streams[conversation.protocol]
        stats.opened += 1
        status = "CANCELLED"
        self._none.clear()
        reader = asyncio.create_task(self._read(conversation, messages))
        send_queue = conversation.send_queue
        try:
            await Writer(conversation, context, stats, prompt=self._prompt).write_all()
            if send_queue.failure is None and not reader.done():
                # Its client may send more. Who only reads wakes up by this.
                send_queue.failure = Draining("the server stops; go on with another")
            if send_queue.failure is not None:
                status = send_queue.failure.code.name
                await abort(context, send_queue.failure)
            status = "OK"
        finally:
            del self._open[conversation]
            conversation.account.streams -= 1
            stats.ended[status] += 1
            if not self._open:
                self._none.set()
            conversation.disconnect()
            reader.cancel()
            with contextlib.suppress(asyncio.CancelledError, Exception):
                await reader

    def check(self) -> list[str]:
        """What does not add up: each difference, with the numbers."""
        counted = sum(account.streams for account in {each.account for each in self._open})
        return [] if counted == len(self._open) else [f"tenants have {counted} streams, {len(self._open)} are open"]

    def going_away(self, seconds: float) -> None:
        """Tell every peer that the server will stop."""
        for conversation in self._open:
            conversation.going_away(seconds)

    def end(self) -> None:
        """End every stream once it has sent what it has."""
        for conversation in self._open:
            conversation.send_queue.end()

    def _tokens_changed(self) -> None:
        """End the streams whose token is not known any more; there may be more tenants to share, or fewer."""
        self._models.divide(several=self._tenants.several)
        self._models.forget_all_but(self._tenants.names)
        for conversation, opened in list(self._open.items()):
            if not self._tenants.knows(opened.tenant, opened.shown):
                _end(conversation, opened, Unauthenticated("the stream's bearer token is not known any more"))

    async def end_idle(self) -> None:
        """End each stream on which nothing has happened for too long, until cancelled."""
        seconds = self._limits.idle_stream_timeout
        while True:
            await asyncio.sleep(seconds / _LOOKS)
            for conversation, opened in list(self._open.items()):
                send_queue = conversation.send_queue
                opened.quiet = opened.quiet + 1 if send_queue.quiet and conversation.idle else 0
                send_queue.quiet = True
                if opened.quiet < _LOOKS:
                    continue
                why = Idle(f"the stream held no session and had no message for {seconds:g} s; open another")
                _end(conversation, opened, why)

    async def none(self) -> None:
        """Return when no stream is open."""
        await self._none.wait()

    async def _read(self, conversation: Conversation, messages: AsyncIterator[bytes]) -> None:
        send_queue, receive = conversation.send_queue, conversation.receive
        stats = self._models.stats.streams[conversation.protocol]
        try:
            try:
                async for message in messages:
                    stats.received += 1
                    if len(message) <= _SHORT_BYTES:
                        receive(message)
                    else:
                        await self._receive_long(receive, message)
                    if send_queue.full:
                        await send_queue.room()
            except InvalidRequest as error:
                # What was accepted before it is answered first.
                send_queue.failure = error
            conversation.half_close()
        except Exception as error:
            send_queue.fail(error)

    async def _receive_long(self, receive: Callable[[bytes], None], message: bytes) -> None:
        """Have a message received that may name much; of those who send such, one goes on in each turn of the loop."""
        if len(message) > _LARGE_BYTES:
            # Many may have come in the same turn.
            async with self._long:
                receive(message)
                await asyncio.sleep(0)
            return
        began = time.perf_counter()
        receive(message)
        if time.perf_counter() - began > _LONG_SECONDS:
            async with self._long:
                await asyncio.sleep(0)

    def _admit(self) -> Caller:
        caller = CALLER.get()
        if self._models.draining:
            raise Draining("the server is about to stop; connect to another")
        if len(self._open) >= self._limits.streams:
            raise Exhausted(
                f"all {self._limits.streams} streams are taken; put more sessions on one stream, or try later",
                Reason.STREAMS_EXHAUSTED,
                retry_after=1.0,
            )
        accounts = self._models.accounts
        if accounts.of(caller.tenant).streams >= accounts.most.streams:
            raise Exhausted(
                f"all {accounts.most.streams} of this tenant's streams are taken; put more sessions on one stream, or "
                "try later",
                Reason.STREAMS_EXHAUSTED,
                retry_after=1.0,
            )
        return caller


def _end(conversation: Conversation, opened: _Open, why: Refused | Unauthenticated | Idle) -> None:
    send_queue = conversation.send_queue
    unread = send_queue.unread
    send_queue.failure = why
    send_queue.end()
    if unread and opened.call is not None:
        # Its client reads nothing, so neither would it read this.
        opened.call.cancel()
