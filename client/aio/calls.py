"""The calls beside the stream, for asyncio."""

# A timeout here is not asyncio.timeout: it also decides how long refusals are retried, and which error comes.
# ruff: noqa: ASYNC109

from collections.abc import AsyncIterator, Callable
from typing import TypeVar

import grpc

from gatestream.client import unary
from gatestream.client.calls import CallsView
from gatestream.client.channel import Settings, from_rpc, rpc_timeout
from gatestream.client.models import Models
from gatestream.client.unary import State
from gatestream.protos.gatestream.v1 import gatestream_pb2 as pb
from gatestream.protos.gatestream.v1 import gatestream_pb2_grpc as pb_grpc
from gatestream.protos.layout import ModelLayout

R = TypeVar("R")


class Calls(CallsView):
    """What can be asked of the server without a stream: as `gatestream.client.sync.calls.Calls`."""

    def __init__(self, stub: "pb_grpc.GatestreamAsyncStub", settings: Settings, models: Models) -> None:
        super().__init__(settings, models)
        self._stub = stub

    async def describe(self, *, timeout: float | None = None) -> pb.DescribeResponse:
        """What the server has now: models with their specs, execution provider and sessions; its limits."""
        return await self._call(unary.describe(), timeout)

    async def list_sessions(self, model: str = "", *, timeout: float | None = None) -> AsyncIterator[pb.SessionInfo]:
        """The server's sessions, of one model or of all; a page at a time is fetched."""
        token = ""
        while True:
            page = await self._call(unary.list_sessions(model, token), timeout)
            for session in page.sessions:
                yield session
            token = page.next_page_token
            if not token:
                return

    async def close_session(self, id: str, model: str = "", *, timeout: float | None = None) -> int:  # noqa: A002
        """End a session, whoever holds it; the steps that it had consumed."""
        return await self._call(unary.close_session(self._models.find(model), id), timeout)

    async def get_state(self, id: str, model: str = "", *, timeout: float | None = None) -> State:  # noqa: A002
        """Read the state of a session, whoever holds it."""
        answer = await self._call(unary.get_state(self._models.find(model), id), timeout)
        return unary.state_of(await self._spec_of(answer, unary.has_bytes(answer)), answer)

    async def set_state(
        self,
        id: str,  # noqa: A002
        state: State,
        model: str = "",
        *,
        timeout: float | None = None,
    ) -> int:
        """Put a session that no stream holds into a state; its position then. Else use `Session.set_state`."""
        spec = await self._spec_of(state, unary.has_arrays(state), model)
        return await self._call(unary.set_state(spec, id, state), timeout)

    async def fork(
        self,
        id: str,  # noqa: A002
        new_id: str = "",
        model: str = "",
        *,
        timeout: float | None = None,
    ) -> str:
        """Copy a session, whoever holds it, into a new one that no stream holds; the new one's id."""
        return await self._call(unary.fork(self._models.find(model), id, new_id), timeout)

    async def _spec_of(
        self, state: State | pb.SessionState, fits: Callable[[ModelLayout], bool], model: str = ""
    ) -> pb.ModelSpec:
        """Of a version that a state is of, which may be there since this client connected; else of the newest."""
        name = model or state.model
        spec = self._models.of_state(name, state.weights_fingerprint, fits)
        if spec is None:
            self._models.learn(await self.describe())
            spec = self._models.of_state(name, state.weights_fingerprint, fits)
        return spec or self._models.find(name)

    async def _call(self, call: unary.Call[R], timeout: float | None) -> R:
        rpc = getattr(self._stub, call.rpc)
        try:
            seconds = rpc_timeout(self.seconds(timeout))
            return call.read(await rpc(call.request, timeout=seconds, metadata=self._settings.metadata))
        except grpc.aio.AioRpcError as error:
            raise from_rpc(error, self.address) from None
