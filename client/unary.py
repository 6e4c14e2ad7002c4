"""The calls beside the stream: what each asks, and what its answer means."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from secrets import token_hex
from typing import Any, Generic, TypeVar

import numpy as np
from google.protobuf.message import Message

from gatestream.client.columns import Array, array_of, layout_of
from gatestream.client.errors import (
    GatestreamError,
    InputError,
    ProtocolError,
    SessionExistsError,
    SessionUnknownError,
    StateMismatchError,
)
from gatestream.client.numbers import shown
from gatestream.protos.gatestream.v1 import gatestream_pb2 as pb
from gatestream.protos.layout import ModelLayout

R = TypeVar("R")


@dataclass(frozen=True, slots=True)
class State:
    """A session's recurrent state.

    Attributes:
        model: the model's name.
        weights_fingerprint: of the weights that made it: it belongs to no others.
        position: steps consumed.
        arrays: by the name of the state's input ("h", "c"), each of the spec's shape.
    """

    model: str
    weights_fingerprint: str
    position: int
    arrays: Mapping[str, Array]


@dataclass(frozen=True, slots=True)
class Call(Generic[R]):
    """One unary call.

    Attributes:
        rpc: its method.
        request: its message.
        read: what the answer means.
        lost: how often it was asked without hearing the answer.
        repeated: what a refusal means then: that it was done before, or, by raising it, nothing of the kind.
    """

    rpc: str
    request: Message
    read: Callable[[Any], R]
    repeated: Callable[[GatestreamError], R] | None = None
    lost: int = 0

    def refused(self, error: GatestreamError) -> R:
        """The answer to a call that may have been done before, and is refused now.

        Raises:
            GatestreamError: the refusal.
        """
        if self.repeated is None or not self.lost:
            raise error
        return self.repeated(error)

    def once_more(self) -> "Call[R]":
        """The same call, after one whose answer was not heard."""
        return replace(self, lost=self.lost + 1)


def describe() -> Call[pb.DescribeResponse]:
    """What the server has."""
    return Call("Describe", pb.DescribeRequest(), lambda answer: answer)


def list_sessions(model: str, page_token: str) -> Call[pb.ListSessionsResponse]:
    """One page of sessions."""
    request = pb.ListSessionsRequest(model=model, page_token=page_token, page_size=1000)
    return Call("ListSessions", request, lambda answer: answer)


def close_session(spec: pb.ModelSpec, session_id: str) -> Call[int | None]:
    """End a session; its last position, None where nobody heard it."""

    def repeated(error: GatestreamError) -> None:
        if not isinstance(error, SessionUnknownError):
            raise error

    request = pb.CloseSessionRequest(model=spec.name, session_id=session_id)
    return Call("CloseSession", request, lambda answer: int(answer.position), repeated)


def get_state(spec: pb.ModelSpec, session_id: str) -> Call[pb.SessionState]:
    """Read a session's state, as bytes."""
    return Call("GetState", pb.GetStateRequest(model=spec.name, session_id=session_id), lambda answer: answer)


def state_of(spec: pb.ModelSpec, answer: pb.SessionState) -> State:
    """What `get_state` gave.

    Args:
        spec: of a version with the weights that made it.
        answer: the server's.

    Raises:
        ProtocolError: it has other columns.
    """
    layout = layout_of(spec)
    states = layout.states
    if not has_bytes(answer)(layout):
        expected, found = [each.row_bytes for each in states], [len(data) for data in answer.state]
        raise ProtocolError(f"a state of '{spec.name}' came in columns of {found} bytes; {expected} were expected")
    arrays = {each.name: each.rows(data)[0].copy() for each, data in zip(states, answer.state, strict=True)}
    return State(answer.model, answer.weights_fingerprint, int(answer.position), arrays)


def has_bytes(answer: pb.SessionState) -> Callable[[ModelLayout], bool]:
    """Whether a state that came is one of a model of these columns."""
    return lambda layout: [each.row_bytes for each in layout.states] == [len(data) for data in answer.state]


def has_arrays(state: State) -> Callable[[ModelLayout], bool]:
    """Whether a state that a caller passes is one of a model of these columns; what is in it is not looked at."""
    return lambda layout: (
        {each.name: each.shape for each in layout.states}
        == {name: getattr(array, "shape", None) for name, array in state.arrays.items()}
    )


def set_state(spec: pb.ModelSpec, session_id: str, state: State) -> Call[int]:
    """Put a session into a state; the position it then has.

    Args:
        spec: of a version with the weights that made it.
        session_id: which.
        state: of it.

    Raises:
        StateMismatchError: the state is of another model, or its arrays have other shapes.
        InputError: what is no finite number in one of them, or no position.
    """
    if state.model != spec.name:
        raise StateMismatchError(f"a state of model '{state.model}' came; one of '{spec.name}' was expected")
    states = layout_of(spec).states
    names = [each.name for each in states]
    if sorted(state.arrays) != sorted(names):
        raise StateMismatchError(f"states {sorted(state.arrays)} came; '{spec.name}' has {sorted(names)}")
    rows = [
        array_of(
            f"state '{each.name}' of '{spec.name}'", each, state.arrays[each.name], wrong_shape=StateMismatchError
        ).tobytes()
        for each in states
    ]
    counts = isinstance(state.position, int | np.integer) and not isinstance(state.position, bool)
    if not counts or not 0 <= state.position < 2**64:
        raise InputError(f"position: {shown(state.position)} came; steps consumed, 0 or more, were expected")
    message = pb.SessionState(
        model=spec.name, weights_fingerprint=state.weights_fingerprint, position=int(state.position), state=rows
    )
    request = pb.SetStateRequest(session_id=session_id, state=message)
    return Call("SetState", request, lambda answer: int(answer.position))


def fork(spec: pb.ModelSpec, session_id: str, new_id: str) -> Call[str]:
    """Copy a session; the id of the copy: chosen here where the caller has none, so that a repeat is known for one."""
    if new_id:
        request = pb.ForkRequest(model=spec.name, session_id=session_id, new_session_id=new_id)
        return Call("Fork", request, lambda answer: str(answer.session_id))
    chosen = token_hex(16)

    def repeated(error: GatestreamError) -> str:
        if isinstance(error, SessionExistsError):
            return chosen
        raise error

    request = pb.ForkRequest(model=spec.name, session_id=session_id, new_session_id=chosen)
    return Call("Fork", request, lambda answer: str(answer.session_id), repeated)
