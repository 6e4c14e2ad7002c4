"""Connecting, and opening sessions, for asyncio."""

# A timeout here is not asyncio.timeout: it also decides how long refusals are retried, and which error comes.
# ruff: noqa: ASYNC109

import asyncio
import contextlib
from collections.abc import Sequence
from types import TracebackType
from typing import Self

import grpc

from gatestream.client.addresses import Address
from gatestream.client.aio.calls import Calls
from gatestream.client.aio.entering import Entering
from gatestream.client.aio.link import Link
from gatestream.client.aio.network import Network
from gatestream.client.aio.session import Group, Session
from gatestream.client.channel import Settings
from gatestream.client.columns import Constants
from gatestream.client.errors import (
    ConnectionLostError,
    DrainingError,
    GatestreamError,
    ModelUnknownError,
    StreamsExhaustedError,
)
from gatestream.client.models import OpenMode, member_ids, opens, unlike
from gatestream.client.patience import pause
from gatestream.client.protocol.log import Budget
from gatestream.client.protocol.queue import SessionQueue
from gatestream.protos.gatestream.v1 import gatestream_pb2 as pb


def connect(
    address: Address,
    *,
    credentials: grpc.ChannelCredentials | None = None,
    token: str | None = None,
    timeout: float = 30.0,
    connect_timeout: float = 5.0,
    retry: bool = True,
    resume: bool = True,
    replay_bytes: int = 64 << 20,
) -> Entering["Client"]:
    """Connect to a server, and ask it what it has: `await` it, or `async with` it.

    Arguments and errors are those of `gatestream.client.sync.connect`.
    """
    settings = Settings(
        address=address,
        credentials=credentials,
        token=token,
        timeout=timeout,
        connect_timeout=connect_timeout,
        retry=retry,
        resume=resume,
        replay_bytes=replay_bytes,
    )

    async def make() -> Client:
        return Client(await Network.made(settings))

    return Entering(make)


class Client(Calls):
    """A connection: sessions on one stream, and the calls beside it."""

    def __init__(self, network: Network) -> None:
        super().__init__(network)
        self._links: list[Link] = []
        self._budget = Budget(network.settings.replay_bytes) if network.settings.resume else None
        self._closed = False

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    def session(
        self,
        model: str = "",
        *,
        version: str = "",
        id: str = "",  # noqa: A002
        mode: OpenMode = "either",
        gates: bool = False,
        outputs: bool = True,
        constants: Constants | None = None,
        timeout: float | None = None,
    ) -> Entering[Session]:
        """Open a session: `await` it, or `async with` it. As `gatestream.client.sync.Client.session`."""

        async def make() -> Session:
            return Session(self, *await self._open(model, version, [id], mode, outputs, gates, constants, timeout))

        return Entering(make)

    def group(
        self,
        model: str = "",
        sessions: int | Sequence[str] = 1,
        *,
        version: str = "",
        mode: OpenMode = "either",
        gates: bool = False,
        outputs: bool = True,
        constants: Constants | None = None,
        timeout: float | None = None,
    ) -> Entering[Group]:
        """Open many sessions that step together. As `gatestream.client.sync.Client.group`."""

        async def make() -> Group:
            ids = member_ids(sessions)
            return Group(self, *await self._open(model, version, ids, mode, outputs, gates, constants, timeout))

        return Entering(make)

    async def close(self) -> None:
        """End the connection. The sessions that are open on it are closed."""
        self._closed = True
        links, self._links = self._links, []
        for link in links:
            await link.close()
        await self._network.close()

    async def _open(
        self,
        model: str,
        version: str,
        ids: Sequence[str],
        mode: OpenMode,
        outputs: bool,
        gates: bool,
        constants: Constants | None,
        timeout: float | None,
    ) -> tuple[Link, SessionQueue]:
        spec = await self._spec(model, version)
        layout = self._models.layout(spec, outputs=outputs, gates=gates)
        clock = asyncio.get_running_loop().time
        seconds = self.seconds(timeout)
        deadline = clock() + seconds
        refusals = 0
        while True:
            link = await self._link()
            try:
                requests = opens(spec, ids, mode, outputs=outputs, gates=gates, version=version, constants=constants)
                session_queue = await link.open(layout, requests, seconds)
                if session_queue.versions != {spec.version}:
                    await self._on_another_version(link, session_queue, spec.name, outputs=outputs, gates=gates)
                return link, session_queue
            except (StreamsExhaustedError, DrainingError) as refusal:
                if isinstance(refusal, DrainingError) and len(self._settings.addresses) == 1:
                    raise
                refusals += 1
                delay = pause(refusal, refusals)
                seconds = deadline - clock() - delay
                if seconds <= 0 or not self._settings.retry:
                    raise
                await asyncio.sleep(delay)

    async def _spec(self, model: str, version: str) -> pb.ModelSpec:
        """The spec of a model, which may be there since this client connected."""
        try:
            return self._models.find(model, version)
        except ModelUnknownError:
            self._models.learn(await self.describe())
            return self._models.find(model, version)

    async def _on_another_version(
        self, link: Link, session_queue: SessionQueue, model: str, *, outputs: bool, gates: bool
    ) -> None:
        """Go on with sessions that were opened on another version than this client knew to be the newest."""
        try:
            if len(session_queue.versions) > 1:
                raise unlike(session_queue.versions, model)
            (version,) = session_queue.versions
            spec = await self._spec(model, version)
        except BaseException:
            link.close_later(session_queue)
            raise
        session_queue.layout = self._models.layout(spec, outputs=outputs, gates=gates)

    async def _link(self) -> Link:
        """A stream on which sessions can be opened."""
        if self._closed:
            raise ConnectionLostError(f"this client of {self.address} is closed; connect again")
        self._links = [link for link in self._links if not link.lost]
        if self._links and self._links[-1].going_away and self._settings.resume:
            # Where nobody else answers, the server says itself that it opens nothing more.
            with contextlib.suppress(GatestreamError):
                await self._network.renew(self._links[-1].connection, elsewhere=True)
        if not self._links or not self._links[-1].usable:
            self._links.append(Link(self._network, self._budget))
        return self._links[-1]
