"""The calls beside the stream, blocking."""

from collections.abc import Callable, Iterator
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
    """What can be asked of the server without a stream."""

    def __init__(self, stub: pb_grpc.GatestreamStub, settings: Settings, models: Models) -> None:
        super().__init__(settings, models)
        self._stub = stub

    def describe(self, *, timeout: float | None = None) -> pb.DescribeResponse:
        """What the server has now: models with their specs, execution provider and sessions; its limits.

        Raises:
            GatestreamError: there was no answer.
        """
        return self._call(unary.describe(), timeout)

    def list_sessions(self, model: str = "", *, timeout: float | None = None) -> Iterator[pb.SessionInfo]:
        """The server's sessions, of one model or of all; a page at a time is fetched.

        Raises:
            GatestreamError: there was no answer.
        """
        token = ""
        while True:
            page = self._call(unary.list_sessions(model, token), timeout)
            yield from page.sessions
            token = page.next_page_token
            if not token:
                return

    def close_session(self, id: str, model: str = "", *, timeout: float | None = None) -> int:  # noqa: A002
        """End a session, whoever holds it; the steps that it had consumed.

        Raises:
            GatestreamError: SessionUnknownError and others.
        """
        return self._call(unary.close_session(self._models.find(model), id), timeout)

    def get_state(self, id: str, model: str = "", *, timeout: float | None = None) -> State:  # noqa: A002
        """Read the state of a session, whoever holds it.

        Raises:
            GatestreamError: SessionUnknownError and others.
        """
        answer = self._call(unary.get_state(self._models.find(model), id), timeout)
        return unary.state_of(self._spec_of(answer, unary.has_bytes(answer)), answer)

    def set_state(
        self,
        id: str,  # noqa: A002
        state: State,
        model: str = "",
        *,
        timeout: float | None = None,
    ) -> int:
        """Put a session that no stream holds into a state; its position then. Else use `Session.set_state`.

        Raises:
            GatestreamError: StateMismatchError, SessionUnknownError and others.
        """
        spec = self._spec_of(state, unary.has_arrays(state), model)
        return self._call(unary.set_state(spec, id, state), timeout)

    def fork(self, id: str, new_id: str = "", model: str = "", *, timeout: float | None = None) -> str:  # noqa: A002
        """Copy a session, whoever holds it, into a new one that no stream holds; the new one's id.

        Raises:
            GatestreamError: SessionUnknownError, SessionExistsError and others.
        """
        return self._call(unary.fork(self._models.find(model), id, new_id), timeout)

    def _spec_of(
        self, state: State | pb.SessionState, fits: Callable[[ModelLayout], bool], model: str = ""
    ) -> pb.ModelSpec:
        """Of a version that a state is of, which may be there since this client connected; else of the newest."""
        name = model or state.model
        spec = self._models.of_state(name, state.weights_fingerprint, fits)
        if spec is None:
            self._models.learn(self.describe())
            spec = self._models.of_state(name, state.weights_fingerprint, fits)
        return spec or self._models.find(name)

    def _call(self, call: unary.Call[R], timeout: float | None) -> R:
        rpc = getattr(self._stub, call.rpc)
        try:
            seconds = rpc_timeout(self.seconds(timeout))
            return call.read(rpc(call.request, timeout=seconds, metadata=self._settings.metadata))
        except grpc.RpcError as error:
            raise from_rpc(error, self.address) from None
