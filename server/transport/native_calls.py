"""The gRPC service: streams, and the unary calls."""

import base64
import re
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from functools import partial
from typing import Any, Final, TypeVar

import gatestream
from gatestream.protos.gatestream.v1 import gatestream_pb2 as pb
from gatestream.server.config import ServerConfig
from gatestream.server.core.catalog import Catalog, Model
from gatestream.server.core.named import NamedSessions, SessionState
from gatestream.server.core.stored import Listed, Meant
from gatestream.server.errors import CheckpointUnfit, InvalidRequest
from gatestream.server.transport.auth import CALLER
from gatestream.server.transport.connection import Streams
from gatestream.server.transport.grpc_server.definition import MOST_BYTES, ServiceDefinition
from gatestream.server.transport.model_calls import STATES
from gatestream.server.transport.native import ClientStream

_PAGE = 100
_LARGEST_PAGE = 1000
_T = TypeVar("_T")
# What the token of a page begins with, of sessions that the store alone has.
_IN_STORE = "="
_DURABILITY: Final[dict[str, Any]] = {
    "off": pb.DURABILITY_OFF,
    "behind": pb.DURABILITY_BEHIND,
    "before-answer": pb.DURABILITY_BEFORE_ANSWER,
}


DESCRIPTOR: Final[Any] = pb.DESCRIPTOR.services_by_name["Gatestream"]


class Service:
    """Version 1 of the gatestream wire.

    Args:
        models: what is served.
        config: of the server.
        streams: where open streams are kept.
    """

    def __init__(self, models: Catalog, config: ServerConfig, streams: Streams):
        self._models = models
        self._limits = limits = config.limits
        self._durability = config.durability
        self._store = "" if config.durability == "off" else config.store.partition(":")[0]
        self.Stream = partial(streams.hold, partial(ClientStream, models, limits))

    def definition(self) -> ServiceDefinition:
        """The service as gRPC is told of it."""
        return ServiceDefinition(
            DESCRIPTOR,
            self,
            bytes_of={"SetState": lambda: MOST_BYTES + self._models.most_state_bytes},
            streams=("Stream",),
        )

    async def Describe(self, request: pb.DescribeRequest, context: Any) -> pb.DescribeResponse:  # noqa: N802
        """What is served, where it runs and what the bounds are."""
        tenant = CALLER.get().tenant
        models = self._models.versions(request.model) if request.model else self._models.all_versions()
        limits, most = self._limits, self._models.accounts.most
        return pb.DescribeResponse(
            models=[_served(model, tenant) for model in models],
            limits=pb.Limits(
                sessions=limits.sessions,
                sessions_per_stream=limits.sessions_per_stream,
                streams=limits.streams,
                rows=limits.rows,
                rows_per_stream=limits.rows_per_stream,
                chunk_length=limits.chunk_length,
                message_bytes=limits.message_bytes,
                reply_bytes_per_stream=limits.reply_bytes_per_stream,
                idle_timeout_s=limits.idle_timeout,
                reply_bytes=limits.reply_bytes,
                tenant_sessions=most.sessions,
                tenant_streams=most.streams,
                tenant_rows=most.rows,
                tenant_reply_bytes=most.reply_bytes,
                sequence_timeout_s=limits.sequence_timeout,
                idle_stream_timeout_s=limits.idle_stream_timeout,
                park_timeout_s=limits.park_timeout,
                durability=_DURABILITY[self._durability],
                store=self._store,
            ),
            server_version=gatestream.__version__,
        )

    async def ListSessions(  # noqa: N802
        self, request: pb.ListSessionsRequest, context: Any
    ) -> pb.ListSessionsResponse:
        """One page of sessions. The token says behind which of the tenant's sessions of which model the next begins."""
        models = self._models.versions(request.model) if request.model else list(self._models)
        models.sort(key=lambda model: model.number)
        tenant = CALLER.get().tenant
        size = min(request.page_size or _PAGE, _LARGEST_PAGE)
        if request.page_token.startswith(_IN_STORE):
            return await self._stored_page(models, tenant, size, *_read(request.page_token))
        if request.page_token and not re.fullmatch(r"\d{1,9}:\d{1,18}", request.page_token, re.ASCII):
            raise _no_token(request.page_token)
        number, after = (int(part) for part in (request.page_token or "0:-1").split(":"))
        found: list[tuple[Model, int]] = []
        for model in models:
            if model.number >= number and len(found) < size:
                behind = after if model.number == number else -1
                page = model.engine.sessions.page(tenant, behind, size - len(found))
                found += [(model, session) for session in page]
        token = ""
        if len(found) == size:
            model, session = found[-1]
            token = f"{model.number}:{model.engine.sessions.serial[session]}"
        infos = [_session_info(model, session) for model, session in found]
        if token:
            return pb.ListSessionsResponse(sessions=infos, next_page_token=token)
        rest = await self._stored_page(models, tenant, size - len(infos))
        return pb.ListSessionsResponse(sessions=[*infos, *rest.sessions], next_page_token=rest.next_page_token)

    async def _stored_page(
        self, models: list[Model], tenant: str, size: int, name: str = "", behind: str = ""
    ) -> pb.ListSessionsResponse:
        """A page of those that the store alone has, behind a session of a model."""
        infos: list[pb.SessionInfo] = []
        for model in sorted({model.name: model for model in models}.values(), key=lambda model: model.name):
            if model.name < name:
                continue
            most = size - len(infos)
            page, last = await model.lifecycle.named.stored(tenant, behind if model.name == name else "", most)
            infos += [_stored_info(each) for each in page if not self._models.has(each.key.session_id, *each.key[:2])]
            if last:
                return pb.ListSessionsResponse(sessions=infos, next_page_token=_token(model.name, last))
        return pb.ListSessionsResponse(sessions=infos)

    async def CloseSession(  # noqa: N802
        self, request: pb.CloseSessionRequest, context: Any
    ) -> pb.CloseSessionResponse:
        """End a session, after the steps accepted before."""
        position = await self._asked(
            request.model, request.session_id, lambda named, tenant: named.close(tenant, request.session_id)
        )
        return pb.CloseSessionResponse(position=position)

    async def GetState(self, request: pb.GetStateRequest, context: Any) -> pb.SessionState:  # noqa: N802
        """Copy a session's state, after the steps accepted before."""
        state = await self._asked(
            request.model, request.session_id, lambda named, tenant: named.state(tenant, request.session_id)
        )
        return pb.SessionState(
            model=self._models.find(request.model).name,
            weights_fingerprint=state.weights_fingerprint,
            position=state.position,
            state=state.rows,
        )

    async def SetState(self, request: pb.SetStateRequest, context: Any) -> pb.SetStateResponse:  # noqa: N802
        """Put a session into a state."""
        tenant, model = self._of(request.state.model, request.session_id)
        if not self._models.has(request.session_id, tenant, model.name):
            # The store alone has it, if any does, on a version that the state is of.
            its = request.state.weights_fingerprint, [len(row) for row in request.state.state]
            fits = (
                each
                for each in (model, *self._models.others_of_weights(model, request.state.weights_fingerprint))
                if (each.layout.fingerprint, [item.row_bytes for item in each.layout.states]) == its
            )
            model = next(fits, model)
        state = SessionState(request.state.weights_fingerprint, request.state.position, request.state.state)
        meant = Meant(request.sequence if request.HasField("sequence") else None, request.epoch)
        position = await model.lifecycle.named.set_state(tenant, request.session_id, state, meant)
        return pb.SetStateResponse(position=position)

    async def Fork(self, request: pb.ForkRequest, context: Any) -> pb.ForkResponse:  # noqa: N802
        """Copy a session into a new one."""
        session_id, position = await self._asked(
            request.model,
            request.session_id,
            lambda named, tenant: named.fork(tenant, request.session_id, request.new_session_id),
        )
        return pb.ForkResponse(session_id=session_id, position=position)

    async def _asked(self, name: str, session_id: str, ask: Callable[[NamedSessions, str], Awaitable[_T]]) -> _T:
        """What a version of a model answers: the one that has the session, or that has the weights of what is stored.

        Args:
            name: of the model.
            session_id: of the session.
            ask: asks the sessions of a version, in a tenant's name.
        """
        tenant, model = self._of(name, session_id)
        try:
            return await ask(model.lifecycle.named, tenant)
        except CheckpointUnfit as error:
            for other in self._models.others_of_weights(model, error.fingerprint):
                with suppress(CheckpointUnfit):
                    return await ask(other.lifecycle.named, tenant)
            raise

    def _of(self, model: str, session_id: str) -> tuple[str, Model]:
        """The caller's tenant, and the version of a model that its session is on."""
        tenant = CALLER.get().tenant
        return tenant, self._models.find_with(session_id, tenant, model)


def _served(model: Model, tenant: str) -> pb.ServedModel:
    runner = model.runner
    return pb.ServedModel(
        spec=model.spec,
        execution_provider=runner.provider,
        placements=[
            pb.NodePlacement(execution_provider=item.execution_provider, nodes=item.nodes, operators=item.operators)
            for item in runner.placements
        ],
        sessions=model.engine.sessions.tenants.count(tenant),
        state=STATES[model.state],
    )


def _session_info(model: Model, session: int) -> pb.SessionInfo:
    table = model.engine.sessions
    return pb.SessionInfo(
        session_id=table.tenants.session_id(session),
        model=model.spec.name,
        position=int(table.position[session]),
        idle_s=model.engine.clock() - float(table.answered_at[session]),
        attached=table.owner[session] is not None,
        version=model.version,
        parked=bool(table.slot[session] < 0),
    )


def _stored_info(listed: Listed) -> pb.SessionInfo:
    key = listed.key
    idle = max(0.0, time.time() - listed.written)
    return pb.SessionInfo(
        session_id=key.session_id,
        model=key.model,
        position=listed.position,
        idle_s=idle,
        version=listed.version,
        parked=True,
    )


def _token(name: str, last: str) -> str:
    return _IN_STORE + base64.urlsafe_b64encode(f"{name}\0{last}".encode()).decode()


def _read(token: str) -> list[str]:
    """The model and the session that a token names.

    Raises:
        InvalidRequest: it names none.
    """
    try:
        name, session_id = base64.urlsafe_b64decode(token.removeprefix(_IN_STORE)).decode().split("\0")
    except ValueError:
        raise _no_token(token) from None
    return [name, session_id]


def _no_token(token: str) -> InvalidRequest:
    return InvalidRequest(f"page_token is {token[:40]!r}; expected a next_page_token")
