"""Tenants and TLS, on a real server process."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import grpc
import pytest
import trustme

from gatestream.protos.gatestream.v1 import gatestream_pb2 as pb
from gatestream.protos.gatestream.v1 import gatestream_pb2_grpc as pb_grpc
from tests.support.process import ServerProcess, serving

ACME, GLOBEX = "token-of-acme-0123456789", "token-of-globex-0123456789"


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture(scope="module")
def server(
    accumulator_path: Path, authority: trustme.CA, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[ServerProcess]:
    folder = tmp_path_factory.mktemp("secrets")
    certificate = authority.issue_cert("localhost")
    certificate.private_key_pem.write_to_path(folder / "key.pem")
    certificate.cert_chain_pems[0].write_to_path(folder / "cert.pem")
    (folder / "tokens.toml").write_text(f'"{ACME}" = "acme"\n"{GLOBEX}" = "globex"\n')
    with serving(
        accumulator_path,
        tls_cert=folder / "cert.pem",
        tls_key=folder / "key.pem",
        tokens=folder / "tokens.toml",
    ) as process:
        yield process


def stub(server: ServerProcess, authority: trustme.CA, token: str | None) -> pb_grpc.GatestreamStub:
    credentials = grpc.ssl_channel_credentials(authority.cert_pem.bytes())
    if token is not None:
        credentials = grpc.composite_channel_credentials(credentials, grpc.access_token_call_credentials(token))
    return pb_grpc.GatestreamStub(grpc.secure_channel(f"localhost:{server.port}", credentials))


def open_session(client: pb_grpc.GatestreamStub, session_id: str, mode: pb.OpenMode) -> pb.ServerMessage:
    request = pb.ClientMessage(open=pb.Open(session_id=session_id, mode=mode))
    call = client.Stream(iter([request]))
    return next(iter(call))


@pytest.mark.parametrize("token", [None, "not-a-token-of-anybody"])
def test_nothing_is_said_to_a_caller_without_a_known_token(
    server: ServerProcess, authority: trustme.CA, token: str | None
) -> None:
    client = stub(server, authority, token)
    with pytest.raises(grpc.RpcError) as unary:
        client.Describe(pb.DescribeRequest(), timeout=10)
    with pytest.raises(grpc.RpcError) as stream:
        open_session(client, "a", pb.OPEN_MODE_EITHER)
    for caught in (unary, stream):
        assert isinstance(caught.value, grpc.Call)
        assert caught.value.code() is grpc.StatusCode.UNAUTHENTICATED
        assert "token" in str(caught.value.details())


def test_a_tenant_reaches_its_own_sessions_only(server: ServerProcess, authority: trustme.CA) -> None:
    acme, globex = stub(server, authority, ACME), stub(server, authority, GLOBEX)
    hang_up = threading.Event()

    def requests() -> Iterator[pb.ClientMessage]:
        yield pb.ClientMessage(open=pb.Open(session_id="s"))
        hang_up.wait(20)

    held = iter(acme.Stream(requests(), timeout=30))
    assert next(held).opened.created
    assert acme.GetState(pb.GetStateRequest(session_id="s"), timeout=10).position == 0
    with pytest.raises(grpc.RpcError, match="no session 's'"):
        globex.GetState(pb.GetStateRequest(session_id="s"), timeout=10)
    with pytest.raises(grpc.RpcError, match="no session 's'"):
        globex.CloseSession(pb.CloseSessionRequest(session_id="s"), timeout=10)
    assert open_session(globex, "s", pb.OPEN_MODE_RESUME).error.reason == pb.REASON_SESSION_UNKNOWN
    assert open_session(globex, "s", pb.OPEN_MODE_CREATE).opened.created
    assert list(globex.ListSessions(pb.ListSessionsRequest(), timeout=10).sessions) == []
    assert [session.session_id for session in acme.ListSessions(pb.ListSessionsRequest(), timeout=10).sessions] == ["s"]
    hang_up.set()
    assert [message.WhichOneof("kind") for message in held] == ["closed"]


def test_a_client_that_does_not_speak_tls_gets_nowhere(server: ServerProcess) -> None:
    with grpc.insecure_channel(f"localhost:{server.port}") as channel, pytest.raises(grpc.RpcError) as caught:
        pb_grpc.GatestreamStub(channel).Describe(pb.DescribeRequest(), timeout=10)
    assert isinstance(caught.value, grpc.Call)
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE


def test_a_tenant_learns_nothing_of_anothers_numbers(server: ServerProcess, authority: trustme.CA) -> None:
    """Counts and page tokens are of its own sessions, however many others there are."""
    acme, globex = stub(server, authority, ACME), stub(server, authority, GLOBEX)

    @contextmanager
    def sessions(client: pb_grpc.GatestreamStub, prefix: str, count: int) -> Iterator[None]:
        hang_up = threading.Event()

        def requests() -> Iterator[pb.ClientMessage]:
            for handle in range(count):
                yield pb.ClientMessage(open=pb.Open(handle=handle, session_id=f"{prefix}-{handle}"))
            hang_up.wait(20)

        call = client.Stream(requests(), timeout=30)
        for _ in range(count):
            assert next(call).opened.created
        yield
        hang_up.set()
        for _ in call:
            pass

    def seen(client: pb_grpc.GatestreamStub) -> tuple[int, str, bytes]:
        (model,) = client.Describe(pb.DescribeRequest(), timeout=10).models
        page = client.ListSessions(pb.ListSessionsRequest(page_size=2), timeout=10)
        assert len(page.sessions) == 2
        return model.sessions, page.next_page_token, page.sessions[0].session_id.encode()

    with sessions(globex, "own", 3):
        before = seen(globex)
        assert before[0] == 3
        with sessions(acme, "other", 7):
            assert seen(globex) == before
            assert seen(acme)[0] == 7
        assert seen(globex) == before
    # Its own activity is all that the next tokens tell of.
    with sessions(acme, "other", 5), sessions(globex, "own", 3):
        token = seen(globex)[1]
    with sessions(globex, "own", 3):
        after = seen(globex)[1]
    assert int(after.split(":")[1]) - int(token.split(":")[1]) == 3
