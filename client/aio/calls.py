"""The calls beside the stream, for asyncio."""

# A timeout here is not asyncio.timeout: it also decides how long refusals are retried, and which error comes.
# ruff: noqa: ASYNC109

import asyncio
from collections.abc import AsyncIterator, Callable
from functools import partial
from typing import Protocol, TypeVar

from gatestream.client import unary
from gatestream.client.aio.network import Network
from gatestream.client.calls import CallsView
from gatestream.client.errors import GatestreamError, ServerUnreachableError
from gatestream.client.unary import State
from gatestream.protos.gatestream.v1 import gatestream_pb2 as pb
from gatestream.protos.layout import ModelLayout

R = TypeVar("R")


class Asking(Protocol):
    """How a call is made."""

    async def __call__(self, call: unary.Call[R]) -> R:
        """What the server answers."""


class Calls(CallsView):
    """What can be asked of the server without a stream: as `gatestream.client.sync.calls.Calls`."""

    def __init__(self, network: Network) -> None:
        super().__init__(network.settings, network.models)
        self._network = network

    @property
    def address(self) -> str:
        """That of the server which is asked first: of several, the one that answered last."""
        return self._network.current.address

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

    async def close_session(self, id: str, model: str = "", *, timeout: float | None = None) -> int | None:  # noqa: A002
        """End a session, whoever holds it; the steps that it had consumed, None if the answer that said so was lost."""
        return await self._call(unary.close_session(self._models.find(model), id), timeout)

    async def get_state(self, id: str, model: str = "", *, timeout: float | None = None) -> State:  # noqa: A002
        """Read the state of a session, whoever holds it."""
        return await self._read_state(partial(self._call, timeout=timeout), id, model)

    async def set_state(
        self,
        id: str,  # noqa: A002
        state: State,
        model: str = "",
        *,
        timeout: float | None = None,
    ) -> int:
        """Put a session that no stream holds into a state; its position then. Else use `Session.set_state`."""
        return await self._write_state(partial(self._call, timeout=timeout), id, state, model)

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

    async def _read_state(self, ask: Asking, id: str, model: str) -> State:  # noqa: A002
        answer = await ask(unary.get_state(self._models.find(model), id))
        return unary.state_of(await self._spec_of(answer, unary.has_bytes(answer)), answer)

    async def _write_state(self, ask: Asking, id: str, state: State, model: str) -> int:  # noqa: A002
        return await ask(unary.set_state(await self._spec_of(state, unary.has_arrays(state), model), id, state))

    async def _call(self, call: unary.Call[R], timeout: float | None) -> R:
        """Ask the current server, and where it is not there any more, the next that answers."""
        clock = asyncio.get_running_loop().time
        deadline = clock() + self.seconds(timeout)
        settings = self._network.settings
        for attempts_left in range(len(settings.addresses) if settings.resume else 0, -1, -1):
            connection = self._network.use(self._network.current)
            try:
                return await connection.ask(call, max(deadline - clock(), 0.001))
            except ServerUnreachableError:
                if not attempts_left or clock() > deadline:
                    raise
                await self._network.renew(connection)
                call = call.once_more()
            except GatestreamError as error:
                return call.refused(error)
            finally:
                await self._network.release(connection)
        raise AssertionError("it ends by an answer or an error")
