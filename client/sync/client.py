"""Connecting, and opening sessions, blocking."""

import contextlib
import threading
import time
from collections.abc import Sequence
from types import TracebackType
from typing import Self

import grpc

from gatestream.client.addresses import Address
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
from gatestream.client.sync.calls import Calls
from gatestream.client.sync.link import Link
from gatestream.client.sync.network import Network
from gatestream.client.sync.session import Group, Session
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
    direct: bool | None = None,
) -> "Client":
    """Connect to a server, and ask it what it has.

    Args:
        address: "host:port", or any other target that gRPC takes; several, in a list or between commas, of servers of
            which any will do: the first that answers is taken, and the next when it is lost.
        credentials: for TLS (grpc.ssl_channel_credentials()); without them everything goes in clear.
        token: sent with every call as "authorization: Bearer TOKEN"; use it with `credentials`.
        timeout: seconds that a call waits for its answer unless it says otherwise; math.inf: for ever.
        connect_timeout: seconds to wait for each server when connecting.
        retry: what the server refuses for lack of room (`ExhaustedError`), ask again after the time that it
            names, and longer each time, until the call's timeout would pass; then raise it. Nothing was
            stepped meanwhile. False: raise it at once.
        resume: a lost connection, and a server that stops or is killed, end no session that a server keeps
            (docs/sessions.md): this client connects again, to the same address or another, and its calls go on, each
            result once and in order, within their timeouts. False: sessions end with their connection, and calls that
            wait get a ConnectionLostError.
        replay_bytes: how much of what was sent is kept for that, of all sessions together; at this bound steps wait
            until the server has written a checkpoint.
        direct: move messages past two of grpcio's threads, which relies on what is inside it; None: where grpcio is of
            a version with which that was tried (1.85). False: by its public API alone, which is slower.

    Raises:
        ServerUnreachableError: nobody answers there as a gatestream server.
        InputError: no address; a timeout, or a number of bytes, that is not more than 0.
    """
    return Client(
        Network(
            Settings(
                address=address,
                credentials=credentials,
                token=token,
                timeout=timeout,
                connect_timeout=connect_timeout,
                retry=retry,
                resume=resume,
                replay_bytes=replay_bytes,
                direct=direct,
            )
        )
    )


class Client(Calls):
    """A connection: sessions on one stream, and the calls beside it. Safe to use from many threads."""

    def __init__(self, network: Network) -> None:
        super().__init__(network)
        self._lock = threading.Lock()
        self._links: list[Link] = []
        self._budget = Budget(network.settings.replay_bytes) if network.settings.resume else None
        self._closed = False

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

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
    ) -> Session:
        """Open a session.

        Args:
            model: by name; empty: the only model that the server has.
            version: of the model; empty: that of a session which is taken up, or the newest that takes sessions.
            id: of the session; empty: the server makes one.
            mode: "either" takes the session up where it is there, and else makes it; "create" and "resume" do
                one of the two or fail.
            gates: return the gate activations too: `Session.gates`.
            outputs: return the outputs. False: `step` and `run` return an empty array, which is cheaper when
                a session is only run through its history.
            constants: what the model is to be given once for this session, by name, each of the spec's shape: a
                speaker's embedding, say. Those left out are as the model has them; a session that is taken up has its
                own, and the same may be given again.
            timeout: seconds to wait; by default the client's.

        Raises:
            ModelUnknownError, SessionExistsError, SessionUnknownError, SessionIdInvalidError, NoGatesError,
            SessionsExhaustedError, StreamsExhaustedError, DrainingError, DeadlineExceededError,
            ConnectionLostError, ConstantMismatchError: there is no session then.
            InputError: a constant does not fit the model, or one that it needs is missing; there is none either.
        """
        return Session(self, *self._open(model, version, [id], mode, outputs, gates, constants, timeout))

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
    ) -> Group:
        """Open many sessions that step together: arrays with a row for each in, arrays out.

        Args:
            model: by name; empty: the only model that the server has.
            version: as for `session`, the same for all members.
            sessions: how many, or their ids.
            mode: as for `session`.
            gates: as for `session`.
            outputs: as for `session`.
            constants: as for `session`, the same for all members, or with an axis [sessions, ...] in front.
            timeout: as for `session`.

        Raises:
            GatestreamError: as for `session`; those that were opened are closed again.
        """
        return Group(self, *self._open(model, version, member_ids(sessions), mode, outputs, gates, constants, timeout))

    def close(self) -> None:
        """End the connection. The sessions that are open on it are closed."""
        with self._lock:
            self._closed = True
            links, self._links = self._links, []
        for link in links:
            link.close()
        self._network.close()

    def _open(
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
        spec = self._spec(model, version)
        layout = self._models.layout(spec, outputs=outputs, gates=gates)
        seconds = self.seconds(timeout)
        deadline = time.monotonic() + seconds
        refusals = 0
        while True:
            link = self._link()
            try:
                requests = opens(spec, ids, mode, outputs=outputs, gates=gates, version=version, constants=constants)
                session_queue = link.open(layout, requests, seconds)
                if session_queue.versions != {spec.version}:
                    self._on_another_version(link, session_queue, spec.name, outputs=outputs, gates=gates)
                return link, session_queue
            except (StreamsExhaustedError, DrainingError) as refusal:
                if isinstance(refusal, DrainingError) and len(self._settings.addresses) == 1:
                    raise
                refusals += 1
                delay = pause(refusal, refusals)
                seconds = deadline - time.monotonic() - delay
                if seconds <= 0 or not self._settings.retry:
                    raise
                time.sleep(delay)

    def _spec(self, model: str, version: str) -> pb.ModelSpec:
        """The spec of a model, which may be there since this client connected."""
        try:
            return self._models.find(model, version)
        except ModelUnknownError:
            self._models.learn(self.describe())
            return self._models.find(model, version)

    def _on_another_version(
        self, link: Link, session_queue: SessionQueue, model: str, *, outputs: bool, gates: bool
    ) -> None:
        """Go on with sessions that were opened on another version than this client knew to be the newest."""
        try:
            if len(session_queue.versions) > 1:
                raise unlike(session_queue.versions, model)
            (version,) = session_queue.versions
            spec = self._spec(model, version)
        except BaseException:
            link.close_later(session_queue)
            raise
        session_queue.layout = self._models.layout(spec, outputs=outputs, gates=gates)

    def _link(self) -> Link:
        """A stream on which sessions can be opened."""
        with self._lock:
            if self._closed:
                raise ConnectionLostError(f"this client of {self.address} is closed; connect again")
            self._links = [link for link in self._links if not link.lost]
            if self._links and self._links[-1].going_away and self._settings.resume:
                # Where nobody else answers, the server says itself that it opens nothing more.
                with contextlib.suppress(GatestreamError):
                    self._network.renew(self._links[-1].connection, elsewhere=True)
            if not self._links or not self._links[-1].usable:
                self._links.append(Link(self._network, self._budget))
            return self._links[-1]
