"""A caller that sets a session's state, over the simulated network: what `Session.set_state` and `Link.call` do."""

import asyncio
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from gatestream.client import paused, unary
from gatestream.client.columns import layout_of
from gatestream.client.errors import (
    ConnectionLostError,
    DeadlineExceededError,
    GatestreamError,
    StoreUnavailableError,
    from_reason,
)
from gatestream.client.protocol.requests import Control, Kind
from gatestream.protos.gatestream.v1 import gatestream_pb2 as pb
from gatestream.server.errors import Refused
from gatestream.server.transport.auth import CALLER, Caller

if TYPE_CHECKING:
    from tests.resume.simulated import Server, Session, World


class Setting:
    """Of one session, asked for as often as it takes.

    Args:
        world: that it happens in.
        session: of one member.
        total: that it is to have summed up.
        position: that it is to be at.
    """

    def __init__(self, world: "World", session: "Session", total: float, position: int) -> None:
        self._world, self._session = world, session
        self._total, self._position = total, position
        self._server: Server | None = None
        self._answer: asyncio.Task[pb.SetStateResponse] | None = None
        self._ask()

    def _ask(self) -> None:
        queue = self._session.queue
        self._pause = Control(kind=Kind.PAUSE, members=queue.members)
        self._call: unary.Call[int] | None = None
        self._world.client.add(queue, self._pause)

    def leave(self) -> None:
        """Nobody waits for it any more."""
        if self._answer is not None:
            self._answer.cancel()

    def go_on(self) -> bool:
        """One thing happens; whether the state is set."""
        world, queue = self._world, self._session.queue
        if not self._pause.done:
            return False
        assert self._pause.error is None, f"failed: {self._pause.error!r}"
        if self._call is None:
            state = unary.State(
                world.spec.name,
                world.spec.weights_fingerprint,
                self._position,
                {each.name: np.full(each.shape, self._total, np.float32) for each in layout_of(world.spec).states},
            )
            self._call = unary.set_state(world.spec, queue.ids[0], state)
        if self._answer is None:
            assert not queue.closed, f"closed: {queue.closed}"
            if queue.away:
                return False
            if world.wire is None or world.wire.ended:
                self._failed(ConnectionLostError("lost"))
                return False
            assert paused.aim(self._call.request, queue)
            self._server = world.wire.server
            self._answer = asyncio.create_task(asked(self._server, self._call.request))
            return False
        if self._server not in world.servers:
            self._heard(ConnectionLostError("killed"))
        elif world.rng.random() < 0.05:
            self._heard(world.rng.choice((DeadlineExceededError, ConnectionLostError))("not heard"))
        elif self._answer.done():
            try:
                position = self._answer.result().position
            except Refused as error:
                self._heard(
                    from_reason(cast("pb.Reason", pb.Reason.Value(error.reason)), str(error), error.retry_after)
                )
            else:
                assert position == self._position
                paused.was_set(queue, position)
                world.client.resume(queue)
                return True
        return False

    def _heard(self, error: GatestreamError) -> None:
        self.leave()
        self._answer = None
        self._failed(error)

    def _failed(self, error: GatestreamError) -> None:
        queue, world = self._session.queue, self._world
        assert self._call is not None
        if paused.may_be_done(queue, self._call, error):
            self._settle()
        if paused.asks_again(queue, self._call, error):
            self._call = self._call.once_more()
            return
        assert isinstance(error, DeadlineExceededError | StoreUnavailableError), f"failed: {error!r}"
        if paused.refused(queue, error):
            paused.was_not_set(queue)
        else:
            self._settle()
        world.client.resume(queue)
        world.seen["states of which nobody knew whether they were set"] += 1
        self._ask()

    def _settle(self) -> None:
        if not self._world.client.settle(self._session.queue):
            self._world.part()


async def asked(server: "Server", request: Any) -> pb.SetStateResponse:
    """What a server's service says."""
    CALLER.set(Caller("tenant", b""))
    return await server.service.SetState(request, None)
