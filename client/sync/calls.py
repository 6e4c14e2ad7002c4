"""The calls beside the stream, blocking."""

import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Protocol, TypeVar

from gatestream.client import unary
from gatestream.client.calls import CallsView
from gatestream.client.errors import GatestreamError, ServerUnreachableError
from gatestream.client.sync.network import Network
from gatestream.client.unary import State
from gatestream.protos.gatestream.v1 import gatestream_pb2 as pb
from gatestream.protos.layout import ModelLayout

R = TypeVar("R")


class Asking(Protocol):
    """How a call is made."""

    def __call__(self, call: unary.Call[R]) -> R:
        """What the server answers."""


class Calls(CallsView):
    """What can be asked of the server without a stream."""

    def __init__(self, network: Network) -> None:
        super().__init__(network.settings, network.models)
        self._network = network

    @property
    def address(self) -> str:
        """That of the server which is asked first: of several, the one that answered last."""
        return self._network.current.address

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

    def close_session(self, id: str, model: str = "", *, timeout: float | None = None) -> int | None:  # noqa: A002
        """End a session, whoever holds it; the steps that it had consumed, None if the answer that said so was lost.

        Raises:
            GatestreamError: SessionUnknownError and others.
        """
        return self._call(unary.close_session(self._models.find(model), id), timeout)

    def get_state(self, id: str, model: str = "", *, timeout: float | None = None) -> State:  # noqa: A002
        """Read the state of a session, whoever holds it.

        Raises:
            GatestreamError: SessionUnknownError and others.
        """
        return self._read_state(partial(self._call, timeout=timeout), id, model)

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
        return self._write_state(partial(self._call, timeout=timeout), id, state, model)

    def fork(self, id: str, new_id: str = "", model: str = "", *, timeout: float | None = None) -> str:  # noqa: A002
        """Copy a session, whoever holds it, into a new one that no stream holds; the new one's id.

        Raises:
            GatestreamError: SessionUnknownError, SessionExistsError and others.
        """
        return self._call(unary.fork(self._models.find(model), id, new_id), timeout)

    def _read_state(self, ask: Asking, id: str, model: str) -> State:  # noqa: A002
        answer = ask(unary.get_state(self._models.find(model), id))
        return unary.state_of(self._spec_of(answer, unary.has_bytes(answer)), answer)

    def _write_state(self, ask: Asking, id: str, state: State, model: str) -> int:  # noqa: A002
        return ask(unary.set_state(self._spec_of(state, unary.has_arrays(state), model), id, state))

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
        """Ask the current server, and where it is not there any more, the next that answers."""
        deadline = time.monotonic() + self.seconds(timeout)
        settings = self._network.settings
        for attempts_left in range(len(settings.addresses) if settings.resume else 0, -1, -1):
            connection = self._network.use(self._network.current)
            try:
                return connection.ask(call, max(deadline - time.monotonic(), 0.001))
            except ServerUnreachableError:
                if not attempts_left or time.monotonic() > deadline:
                    raise
                self._network.renew(connection)
                call = call.once_more()
            except GatestreamError as error:
                return call.refused(error)
            finally:
                self._network.release(connection)
        raise AssertionError("it ends by an answer or an error")
