"""No server, the wrong one, one that breaks the protocol, one with TLS and tokens."""

import asyncio
import socket
from collections.abc import Callable, Iterator
from concurrent import futures
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
import trustme
from grpc_health.v1 import health, health_pb2_grpc

from gatestream.client import Client, aio, connect
from gatestream.client.errors import (
    ConnectionLostError,
    GatestreamError,
    ProtocolError,
    RefusedError,
    ServerUnreachableError,
    StreamsExhaustedError,
)
from gatestream.protos.gatestream.v1 import gatestream_pb2 as pb
from gatestream.protos.gatestream.v1 import gatestream_pb2_grpc as pb_grpc
from tests.client.simulated import LIMITS, SPEC
from tests.support.process import serving


def blocking(address: str, **settings: Any) -> None:
    with connect(address, **settings):
        pass


def awaiting(address: str, **settings: Any) -> None:
    async def main() -> None:
        async with aio.connect(address, **settings):
            pass

    asyncio.run(main())


SECRET = "0123456789abcdef"

both = pytest.mark.parametrize("client", [blocking, awaiting])


@both
def test_nobody_there(client: Callable[..., None]) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound and not listening: no one else takes the port meanwhile
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(ServerUnreachableError, match=rf"no answer from {address}: .*Connection refused; check the"):
            client(address)


@both
def test_somebody_who_says_nothing(client: Callable[..., None]) -> None:
    with socket.socket() as mute:
        mute.bind(("127.0.0.1", 0))
        mute.listen()
        with pytest.raises(ServerUnreachableError, match=r"no answer from .* within 0\.2 s; check the address"):
            client(f"127.0.0.1:{mute.getsockname()[1]}", connect_timeout=0.2)


@contextmanager
def answering(add: Callable[[grpc.Server], None]) -> Iterator[str]:
    server = grpc.server(futures.ThreadPoolExecutor(4))
    add(server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        server.stop(None).wait()


@both
def test_another_server(client: Callable[..., None]) -> None:
    def add(server: grpc.Server) -> None:
        health_pb2_grpc.add_HealthServicer_to_server(health.HealthServicer(), server)

    with answering(add) as address, pytest.raises(ServerUnreachableError, match="is not a gatestream server"):
        client(address)


Script = Callable[[grpc.ServicerContext], Iterator[pb.ServerMessage]]


class Scripted(pb_grpc.GatestreamServicer):
    """Opens sessions properly, then answers the first steps as it is told."""

    def __init__(self, script: Script) -> None:
        self.script = script

    def Describe(self, request: pb.DescribeRequest, context: grpc.ServicerContext) -> pb.DescribeResponse:  # noqa: N802
        return pb.DescribeResponse(models=[pb.ServedModel(spec=SPEC)], limits=LIMITS)

    def Stream(  # noqa: N802
        self, request_iterator: Iterator[pb.ClientMessage], context: grpc.ServicerContext
    ) -> Iterator[pb.ServerMessage]:
        for message in request_iterator:
            if message.HasField("open"):
                yield pb.ServerMessage(opened=pb.Opened(handle=message.open.handle, session_id="s"))
            else:
                yield from self.script(context)
                return


def scripted(script: Script) -> Callable[[grpc.Server], None]:
    def add(server: grpc.Server) -> None:
        # The calls that it lacks are not made here.
        pb_grpc.add_GatestreamServicer_to_server(Scripted(script), server)  # type: ignore[abstract]

    return add


def garbage(_: grpc.ServicerContext) -> Iterator[pb.ServerMessage]:
    yield pb.ServerMessage(results=pb.Results(handle=[9], first=[0]))


def goodbye(_: grpc.ServicerContext) -> Iterator[pb.ServerMessage]:
    yield from ()


def failure(context: grpc.ServicerContext) -> Iterator[pb.ServerMessage]:
    context.abort(grpc.StatusCode.PERMISSION_DENIED, "not you")
    yield from ()


def full(context: grpc.ServicerContext) -> Iterator[pb.ServerMessage]:
    context.set_trailing_metadata(
        (("gatestream-reason", "REASON_STREAMS_EXHAUSTED"), ("gatestream-retry-after-ms", "250"))
    )
    context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "all taken")
    yield from ()


def cancelled(context: grpc.ServicerContext) -> Iterator[pb.ServerMessage]:
    context.abort(grpc.StatusCode.CANCELLED, "it ends")
    yield from ()


@both
def test_a_server_that_cancels_what_it_is_asked_cannot_be_reached(client: Callable[..., None]) -> None:
    class Ending(Scripted):
        def Describe(self, request: pb.DescribeRequest, context: grpc.ServicerContext) -> pb.DescribeResponse:  # noqa: N802
            context.abort(grpc.StatusCode.CANCELLED, "it ends")
            raise AssertionError

    def add(server: grpc.Server) -> None:
        pb_grpc.add_GatestreamServicer_to_server(Ending(goodbye), server)  # type: ignore[abstract]

    with answering(add) as address, pytest.raises(ServerUnreachableError, match="the connection was closed: it ends"):
        client(address)


SCRIPTS = pytest.mark.parametrize(
    ("script", "kind", "text"),
    [
        (garbage, ProtocolError, "an answer came for handles"),
        (goodbye, ConnectionLostError, "the server ended it"),
        (cancelled, ConnectionLostError, "it ends"),
        (failure, RefusedError, "PERMISSION_DENIED: not you"),
        (full, StreamsExhaustedError, "all taken"),
    ],
)


@SCRIPTS
def test_how_a_stream_can_end(script: Script, kind: type[GatestreamError], text: str) -> None:
    with answering(scripted(script)) as address, connect(address) as gs:
        s, other = gs.session(), gs.session()
        with pytest.raises(kind, match=text) as caught:
            s.step(1)
        if isinstance(caught.value, StreamsExhaustedError):
            assert caught.value.retry_after == 0.25
        with pytest.raises(kind, match=text):
            other.step(1)
        # A new stream takes new sessions.
        assert gs.session().position == 0


@SCRIPTS
async def test_how_a_stream_can_end_for_asyncio(script: Script, kind: type[GatestreamError], text: str) -> None:
    with answering(scripted(script)) as address:
        async with aio.connect(address) as gs:
            s, other = await gs.session(), await gs.session()
            with pytest.raises(kind, match=text):
                await s.step(1)
            with pytest.raises(kind, match=text):
                await other.step(1)
            assert (await gs.session()).position == 0


def test_all_streams_are_taken(accumulator_path: Path) -> None:
    with serving(accumulator_path, streams=1) as server, connect(server.address, retry=False) as gs:
        s = gs.session()
        with connect(server.address, retry=False) as other:
            with pytest.raises(StreamsExhaustedError, match="streams are taken") as caught:
                other.session()
            assert caught.value.retry_after > 0
        with connect(server.address) as patient:
            with pytest.raises(StreamsExhaustedError):
                patient.session(timeout=0.5)
            gs.close()
            np.testing.assert_array_equal(patient.session().step([1, 1]), [1, 1])
        assert s.position == 0


def test_tls_and_tokens(accumulator_path: Path, tmp_path: Path) -> None:
    authority = trustme.CA()
    certificate = authority.issue_cert("localhost")
    certificate.private_key_pem.write_to_path(tmp_path / "key.pem")
    certificate.cert_chain_pems[0].write_to_path(tmp_path / "cert.pem")
    (tmp_path / "tokens.toml").write_text(f'"{SECRET}" = "tenant"\n')
    settings = {
        "listen": "localhost:0",
        "tls_cert": tmp_path / "cert.pem",
        "tls_key": tmp_path / "key.pem",
        "tokens": tmp_path / "tokens.toml",
    }
    credentials = grpc.ssl_channel_credentials(authority.cert_pem.bytes())
    with serving(accumulator_path, **settings) as server:
        address = f"localhost:{server.port}"

        def stepped(gs: Client) -> None:
            with gs.session() as s:
                np.testing.assert_array_equal(s.step([1, 2]), [1, 2])
                assert s.get_state().position == 1

        async def stepped_by_asyncio() -> None:
            async with aio.connect(address, credentials=credentials, token=SECRET) as gs, gs.session() as s:
                np.testing.assert_array_equal(await s.step([1, 2]), [1, 2])

        with connect(address, credentials=credentials, token=SECRET) as gs:
            stepped(gs)
        asyncio.run(stepped_by_asyncio())
        with pytest.raises(RefusedError, match="UNAUTHENTICATED") as caught:
            connect(address, credentials=credentials, token="wrong")
        assert caught.value.code is grpc.StatusCode.UNAUTHENTICATED
        with pytest.raises(ServerUnreachableError, match="both sides use TLS or neither does"):
            connect(address)
