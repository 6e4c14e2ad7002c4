"""Calls, from their metadata to their status: admitted, received, parsed, answered."""

import asyncio
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, Final

import grpc
import structlog
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass

from gatestream.server.config import Share
from gatestream.server.core.accounts import share
from gatestream.server.errors import Exhausted, Failed, InvalidRequest, NotOffered, Reason, Refused, Unauthenticated
from gatestream.server.telemetry import ServerStats
from gatestream.server.transport.auth import CALLER, Tenants
from gatestream.server.transport.grpc_server.definition import MOST_BYTES, ServiceDefinition
from gatestream.server.transport.grpc_server.receiving import Receiving
from gatestream.server.transport.grpc_server.status import abort
from gatestream.server.transport.parsing import parse

_MOST_FIELDS: Final = 4096
_RETRY_SECONDS: Final = 1.0

_log = structlog.get_logger(__name__)

Handlers = dict[str, Any]


class Calls(grpc.aio.ServerInterceptor):
    """What all calls of a server have in common, whichever method they are of.

    A call is refused on its metadata, before gRPC receives any message of it: what a caller without a token sends is
    neither unpacked nor parsed. How the messages of unary calls are then received is bounded by `Receiving`, how many
    calls there are by `most`; and each method has bounds of its own, on what it parses.

    Args:
        tenants: who may call.
        most: unary calls that have come and are not answered.
        most_of_tenant: of them, those of one tenant; "auto": all for one that is alone, else half.
        most_lasting: calls at once of health's Watch, and of reflection.
        stats: of the server.

    Attributes:
        unanswered: unary calls that have come and are not answered.
    """

    def __init__(self, tenants: Tenants, most: int, most_of_tenant: Share, most_lasting: int, stats: ServerStats):
        self._tenants = tenants
        self._most = most
        self._most_of_tenant = most_of_tenant
        self._most_lasting = most_lasting
        self._stats = stats
        self.unanswered = 0
        self._unanswered_of: Counter[str] = Counter()
        self._lasting: Counter[str] = Counter()
        self._unread: Handlers = {}
        self._receiving: dict[str, Receiving] = defaultdict(Receiving)
        self._place: dict[asyncio.Task[Any], Receiving] = {}
        tenants.changed.append(self._forget_idle)

    async def intercept_service(self, continuation: Any, handler_call_details: Any) -> Any:
        """The handler of a call, or one that refuses it."""
        handler = await continuation(handler_call_details)
        if handler is None:
            return None
        try:
            caller = self._tenants.caller(handler_call_details.invocation_metadata)
            CALLER.set(caller)
            if not handler.request_streaming:
                await self._admit(caller.tenant, lasting=handler.response_streaming)
                self._stats.calls[handler_call_details.method] += 1
        except Unauthenticated as error:
            return self._unread.get(handler_call_details.method) or self._refusing(error)
        except Refused as error:
            return self._refusing(error)
        return handler

    async def _admit(self, tenant: str, *, lasting: bool) -> None:
        if not lasting:
            self._check_room(tenant)
        # gRPC looks for the handler, receives the message and calls the handler in one task, which ends with the call.
        task = asyncio.current_task()
        assert task is not None
        if not lasting:
            self.unanswered += 1
            self._unanswered_of[tenant] += 1
            task.add_done_callback(partial(self._answered, tenant))
        receiving = self._place[task] = self._receiving[tenant]
        task.add_done_callback(self._received)
        await receiving.enter(task)

    def _check_room(self, tenant: str) -> None:
        if self.unanswered >= self._most:
            which, most = "", self._most
        elif self._unanswered_of[tenant] >= (most := share(self._most_of_tenant, self._most, self._tenants.several)):
            which = " of this tenant"
        else:
            return
        raise Exhausted(
            f"{most} unary calls{which} wait for their answers already; send fewer at once, or use a stream",
            Reason.STREAMS_EXHAUSTED,
            retry_after=_RETRY_SECONDS,
        )

    def _answered(self, tenant: str, _task: asyncio.Task[Any]) -> None:
        self.unanswered -= 1
        self._unanswered_of[tenant] -= 1

    def _forget_idle(self) -> None:
        """Keep of tenants, who come and go, only those who are calling."""
        self._unanswered_of = +self._unanswered_of
        for tenant in [tenant for tenant, receiving in self._receiving.items() if receiving.idle]:
            del self._receiving[tenant]

    def _received(self, task: asyncio.Task[Any] | None) -> None:
        if task is not None and (receiving := self._place.pop(task, None)) is not None:
            receiving.leave(task)

    def handlers(self, services: Iterable[ServiceDefinition]) -> dict[str, Handlers]:
        """What gRPC calls, by service and method; all take and give bytes."""
        found: dict[str, Handlers] = {}
        for service in services:
            methods = {method.name: self._handler(service, method) for method in service.descriptor.methods}
            done = {name: handler for name, handler in methods.items() if handler is not None}
            for name in service.names or (service.descriptor.full_name,):
                found[name] = done
        return found

    def _handler(self, service: ServiceDefinition, method: Any) -> Any:
        """Of one method, by its descriptor; None: nothing does it."""
        behaviour = getattr(service.servicer, method.name)
        if getattr(behaviour, "__module__", "").endswith("_pb2_grpc"):
            return None  # Of a generated base class.
        if method.name in service.streams:
            return grpc.stream_stream_rpc_method_handler(behaviour)
        most = service.bytes_of.get(method.name, lambda: MOST_BYTES)
        request = _Request(GetMessageClass(method.input_type), most, parsed=method.name not in service.unparsed)
        name = f"/{service.descriptor.full_name}/{method.name}"
        if method.name in service.open_to_all:
            call = self._unread_call(name, behaviour, request)
            self._unread[name] = grpc.stream_stream_rpc_method_handler(call, None, _serialised)
        if method.client_streaming:
            return grpc.stream_stream_rpc_method_handler(self._conversing(name, behaviour, request))
        if method.server_streaming:
            return grpc.unary_stream_rpc_method_handler(self._telling(name, behaviour, request), None, _serialised)
        return grpc.unary_unary_rpc_method_handler(self._answering(name, behaviour, request))

    def _answering(self, name: str, behaviour: Any, request: "_Request") -> Any:
        async def call(data: bytes, context: Any) -> Any:
            self._received(asyncio.current_task())
            try:
                return _serialised(await behaviour(request.of(data), context))
            except Exception as error:
                return await self._end(name, context, error)

        return call

    def _telling(self, name: str, behaviour: Any, request: "_Request") -> Any:
        async def call(data: bytes, context: Any) -> None:
            self._received(asyncio.current_task())
            try:
                with self._one_more(name):
                    await behaviour(request.of(data), context)
            except Exception as error:
                await self._end(name, context, error)

        return call

    def _conversing(self, name: str, behaviour: Any, request: "_Request") -> Any:
        async def parsed(messages: AsyncIterator[bytes]) -> AsyncIterator[Any]:
            async for data in messages:
                yield request.of(data)

        async def call(messages: AsyncIterator[bytes], context: Any) -> AsyncIterator[bytes]:
            try:
                with self._one_more(name):
                    async for answer in behaviour(parsed(messages), context):
                        yield _serialised(answer)
            except Exception as error:
                await self._end(name, context, error)

        return call

    def _unread_call(self, name: str, behaviour: Any, request: "_Request") -> Any:
        async def call(_messages: Any, context: Any) -> None:
            try:
                with self._one_more(name):
                    if (answer := await behaviour(request.of(b""), context)) is not None:
                        await context.write(answer)
            except Exception as error:
                await self._end(name, context, error)

        return call

    async def _end(self, name: str, context: Any, error: Exception) -> Any:
        """End a call that has raised something."""
        if isinstance(error, grpc.aio.AbortError):
            raise error
        if not isinstance(error, Refused | Unauthenticated | Failed | NotOffered):
            _log.error("a call failed", method=name, exc_info=error)
            error = Failed("the server failed at this call; its log says how")
        self._stats.refused(error)
        await abort(context, error)

    def _refusing(self, error: Refused | Unauthenticated) -> Any:
        """A handler that receives nothing. A stream of messages and one message are the same on the wire."""

        async def refuse(_messages: Any, context: Any) -> None:
            self._stats.refused(error)
            await abort(context, error)

        return grpc.stream_stream_rpc_method_handler(refuse)

    @contextmanager
    def _one_more(self, name: str) -> Iterator[None]:
        if self._lasting[name] >= self._most_lasting:
            raise Exhausted(
                f"{self._most_lasting} calls of {name} are open already; try later",
                Reason.STREAMS_EXHAUSTED,
                retry_after=_RETRY_SECONDS,
            )
        self._lasting[name] += 1
        try:
            yield
        finally:
            self._lasting[name] -= 1


class _Request:
    """What one method takes.

    Args:
        kind: of message.
        most: bytes of it.
        parsed: whether the method wants it parsed.
    """

    def __init__(self, kind: type[Message], most: Callable[[], int], *, parsed: bool):
        self._kind = kind
        self._most = most
        self._parsed = parsed

    def of(self, data: bytes) -> Message | bytes:
        """The request that these bytes are.

        Raises:
            InvalidRequest: they are none, or too many.
        """
        if len(data) > (most := self._most()):
            raise InvalidRequest(f"the {self._kind.DESCRIPTOR.name} has {len(data)} bytes; expected at most {most}")
        if not self._parsed:
            return data
        return parse(self._kind, data, fields=_MOST_FIELDS)


def _serialised(answer: Message | bytes) -> bytes:
    return answer if isinstance(answer, bytes) else answer.SerializeToString()
