"""Tokens and certificates that change while a server serves, and what it says of those that are amiss."""

import json
import queue
import socket
import ssl
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest

from gatestream.protos.gatestream.v1 import gatestream_pb2 as pb
from gatestream.protos.gatestream.v1 import gatestream_pb2_grpc as pb_grpc
from gatestream.protos.inference import open_inference_grpc_pb2 as oip
from gatestream.protos.inference import open_inference_grpc_pb2_grpc as oip_grpc
from tests.support.counted import counted, objects
from tests.support.open_inference import request, sums
from tests.support.process import ServerProcess, serving, start_under
from tests.support.tls import Files
from tests.support.wire import PATIENCE, SMALL_WINDOW, Stream, bearer, until

ACME, OTHER_ACME = "token-of-acme-0123456789", "other-token-of-acme-0123456789"
GLOBEX, THIRD = "token-of-globex-0123456789", "token-of-a-third-0123456789"
SERVE = (sys.executable, "-m", "gatestream.cli", "serve", "--provider=cpu", "--listen=127.0.0.1:0")


def logged(server: ServerProcess, event: str) -> list[dict[str, Any]]:
    found = (json.loads(line) for line in server.log.read_text().splitlines() if line.startswith("{"))
    return [line for line in found if line["event"] == event]


def without(server: ServerProcess) -> list[str]:
    return [line["without"] for line in logged(server, "listening beyond this machine")]


class Held:
    """A stream that goes on, of the tenant that a token stands for."""

    def __init__(self, stub: pb_grpc.GatestreamStub, token: str = ""):
        self._asked: queue.SimpleQueue[bool] = queue.SimpleQueue()
        self.call: Any = stub.Stream(self._requests(), metadata=bearer(token or None), timeout=PATIENCE)
        assert next(self.call).opened.created

    def _requests(self) -> Iterator[pb.ClientMessage]:
        yield pb.ClientMessage(open=pb.Open(handle=0))
        while self._asked.get():
            yield pb.ClientMessage(steps=pb.Steps(handle=[0], input=[np.ones(2, "<f4").tobytes()]))

    def step(self) -> float:
        self._asked.put(True)
        return float(np.frombuffer(next(self.call).results.output[0], "<f4")[0])

    def end(self) -> None:
        self._asked.put(False)
        self.call.cancel()


def call(stub: pb_grpc.GatestreamStub, token: str) -> grpc.StatusCode:
    try:
        stub.Describe(pb.DescribeRequest(), metadata=bearer(token), timeout=PATIENCE)
    except grpc.RpcError as error:
        code: grpc.StatusCode = error.code()
        return code
    return grpc.StatusCode.OK


# ---- Tokens --------------------------------------------------------------------------------------


def test_tokens_are_read_again_when_they_change(accumulator_path: Path, tmp_path: Path) -> None:
    workers = 2
    path = tmp_path / "tokens.toml"
    path.write_text(f'"{ACME}" = "acme"\n"{OTHER_ACME}" = "acme"\n"{GLOBEX}" = "globex"\n')
    with (
        serving(accumulator_path, tokens=path, workers=workers) as server,
        grpc.insecure_channel(server.address) as channel,
    ):
        stub = pb_grpc.GatestreamStub(channel)
        stays, goes = Held(stub, GLOBEX), Held(stub, ACME)
        assert (stays.step(), goes.step()) == (1, 1)
        # More than the connection takes of a client that reads nothing.
        mute = Stream(server.address, options=SMALL_WINDOW, token=ACME)
        mute.open(0, "mute")
        for _ in range(6):
            mute.steps({0: np.ones((10_000, 2))})
        mute.flush()

        def mine() -> set[str]:
            listed = mute.calls.ListSessions(pb.ListSessionsRequest(), metadata=bearer(OTHER_ACME), timeout=PATIENCE)
            return {item.session_id for item in listed.sessions}

        assert "mute" in mine()

        # What is no tokens file changes nothing.
        path.write_text("spoilt")
        until(
            lambda: len(logged(server, "not reloaded; what was read before stays in force")) == workers, "it was seen"
        )
        assert "is no TOML file" in logged(server, "not reloaded; what was read before stays in force")[0]["error"]
        assert [call(stub, token) for token in (ACME, GLOBEX)] == [grpc.StatusCode.OK] * 2
        assert (stays.step(), goes.step()) == (2, 2)

        # As files are replaced at one stroke.
        fresh = tmp_path / "fresh"
        fresh.write_text(f'"{OTHER_ACME}" = "acme"\n"{GLOBEX}" = "globex"\n"{THIRD}" = "third"\n')
        fresh.rename(path)
        until(lambda: len(logged(server, "reloaded")) == workers, "it was read")
        with pytest.raises(grpc.RpcError) as ended:
            next(goes.call)
        assert ended.value.code() == grpc.StatusCode.UNAUTHENTICATED
        assert "not known any more" in str(ended.value.details())
        assert call(stub, ACME) == grpc.StatusCode.UNAUTHENTICATED
        assert [call(stub, token) for token in (GLOBEX, THIRD)] == [grpc.StatusCode.OK] * 2
        until(lambda: mine() == set(), "the sessions of its streams have ended")
        assert stays.step() == 3
        stays.end()
        mute.disconnect()
        goes.end()
        text: str = server.log.read_text()
        assert not any(token in text for token in (ACME, GLOBEX, THIRD))


def test_a_removed_token_ends_its_streams_of_the_open_inference_protocol(
    accumulator_path: Path, tmp_path: Path
) -> None:
    path = tmp_path / "tokens.toml"
    path.write_text(f'"{ACME}" = "acme"\n"{GLOBEX}" = "globex"\n')
    with serving(accumulator_path, tokens=path) as server, grpc.insecure_channel(server.address) as channel:
        door = oip_grpc.GRPCInferenceServiceStub(channel)
        asked: queue.SimpleQueue[oip.ModelInferRequest | None] = queue.SimpleQueue()
        goes: Any = door.ModelStreamInfer(iter(asked.get, None), metadata=bearer(ACME), timeout=PATIENCE)
        asked.put(request([[1, 2]], 7, start=True))
        assert sums(next(goes).infer_response) == [[1, 2]]
        path.write_text(f'"{GLOBEX}" = "globex"\n')
        with pytest.raises(grpc.RpcError) as ended:
            next(goes)
        asked.put(None)
        assert ended.value.code() == grpc.StatusCode.UNAUTHENTICATED
        assert "not known any more" in str(ended.value.details())
        with pytest.raises(grpc.RpcError) as refused:
            door.ModelInfer(request([[1, 2]], 7), metadata=bearer(ACME), timeout=PATIENCE)
        assert refused.value.code() == grpc.StatusCode.UNAUTHENTICATED
        answer = door.ModelInfer(request([[1, 2]], 7, start=True), metadata=bearer(GLOBEX), timeout=PATIENCE)
        assert sums(answer) == [[1, 2]]


def test_tenants_that_come_and_go_leave_nothing(accumulator_path: Path, tmp_path: Path) -> None:
    path, counts = tmp_path / "tokens.toml", tmp_path / "counts.json"

    def known(*tenants: str) -> None:
        before = len(logged(server, "reloaded"))
        path.write_text("".join(f'"token-of-{tenant}-0123456789" = "{tenant}"\n' for tenant in tenants))
        until(lambda: len(logged(server, "reloaded")) > before, "it was read")

    def infer(tenant: str, **what: Any) -> list[list[float]]:
        shown = bearer(f"token-of-{tenant}-0123456789")
        return sums(door.ModelInfer(request([[1, 2]], **what), metadata=shown, timeout=PATIENCE))

    path.write_text(f'"{ACME}" = "acme"\n')
    server = start_under(counted(counts), accumulator_path, tokens=path)
    try:
        with grpc.insecure_channel(server.address) as channel:
            door = oip_grpc.GRPCInferenceServiceStub(channel)
            known("stays", "first")
            infer("first", sequence=1, start=True, end=True)
            assert infer("stays", sequence=7, start=True) == [[1, 2]]
            known("others")
            infer("others", sequence=1, start=True, end=True)
            before = objects(server, counts)
            for number in range(2):
                tenants = [f"tenant-{number}-{each}" for each in range(50)]
                known(*tenants)
                for tenant in tenants:
                    infer(tenant, sequence=1, start=True, end=True)
                    with Stream(server.address, token=f"token-of-{tenant}-0123456789") as stream:
                        stream.opened(0)
                        assert stream.stepped(0, [[1, 2]]).tolist() == [[1, 2]]
            # There is something of every one of them, and then of none; but who has left a sequence finds it again.
            assert sum((objects(server, counts) - before).values()) > 50
            known("others", "stays")
            until(lambda: sum((objects(server, counts) - before).values()) < 10, "they are forgotten")
            assert infer("stays", sequence=7, end=True) == [[2, 4]]
            assert server.terminate() == 0
    finally:
        server.close()


# ---- Certificates --------------------------------------------------------------------------------


def shown(server: ServerProcess, files: Files) -> str:
    """The common name of the certificate that a new connection is shown."""
    context = ssl.create_default_context(cafile=str(files.ca))
    context.set_alpn_protocols(["h2"])
    with (
        socket.create_connection(("127.0.0.1", server.port), PATIENCE) as plain,
        context.wrap_socket(plain, server_hostname="localhost") as connected,
    ):
        subject: Any = connected.getpeercert()
        return dict(part[0] for part in subject["subject"])["commonName"]  # type: ignore[no-any-return]


def replace(pair: tuple[Path, Path], fresh: tuple[Path, Path]) -> None:
    for path, new in zip(pair, fresh, strict=True):
        path.write_bytes(new.read_bytes())


def test_a_new_connection_sees_the_new_certificate_and_an_open_stream_goes_on(
    accumulator_path: Path, tmp_path: Path
) -> None:
    files = Files(tmp_path)
    chain, key = files.issue("server", common_name="first")
    with serving(accumulator_path, tls_cert=chain, tls_key=key) as server:
        assert without(server) == []
        with grpc.secure_channel(server.address, files.trusting()) as channel:
            held = Held(pb_grpc.GatestreamStub(channel))
            assert held.step() == 1
            assert shown(server, files) == "first"

            # A certificate whose key has not come yet.
            chain.write_bytes(files.issue("other")[0].read_bytes())
            until(lambda: bool(logged(server, "not reloaded; what was read before stays in force")), "it was seen")
            error = logged(server, "not reloaded; what was read before stays in force")[0]["error"]
            assert error == f"tls_key: {key} is not the key of the certificate in {chain}"
            assert shown(server, files) == "first"

            replace((chain, key), files.issue("second"))
            until(lambda: shown(server, files) == "second", "the new one is shown")
            assert held.step() == 2
            held.end()
        with grpc.secure_channel(server.address, files.trusting()) as channel:
            assert call(pb_grpc.GatestreamStub(channel), "") == grpc.StatusCode.OK


def test_the_authorities_of_clients_are_read_again(accumulator_path: Path, tmp_path: Path) -> None:
    files = Files(tmp_path)
    (tmp_path / "elsewhere").mkdir()
    others = Files(tmp_path / "elsewhere")
    chain, key = files.issue("server")
    trusted = tmp_path / "clients.pem"
    trusted.write_bytes(files.ca.read_bytes())

    def enters(client: tuple[Path, Path] | None) -> bool:
        options = [("grpc.use_local_subchannel_pool", 1)]
        with grpc.secure_channel(server.address, files.trusting(client), options) as channel:
            return call(pb_grpc.GatestreamStub(channel), ACME) == grpc.StatusCode.OK

    tokens = tmp_path / "tokens.toml"
    tokens.write_text(f'"{ACME}" = "acme"\n')
    tls = {"tls_cert": chain, "tls_key": key, "tls_client_ca": trusted}
    with serving(accumulator_path, listen="0.0.0.0:0", tokens=tokens, **tls) as server:
        assert without(server) == []
        ours, theirs = files.issue("client"), others.issue("client")
        assert [enters(client) for client in (ours, theirs, None)] == [True, False, False]
        trusted.write_bytes(others.ca.read_bytes())
        until(lambda: bool(logged(server, "reloaded")), "it was read")
        assert [enters(client) for client in (ours, theirs, None)] == [False, True, False]


def test_a_certificate_that_clients_refuse_is_warned_of(accumulator_path: Path, tmp_path: Path) -> None:
    now = datetime.now(UTC)
    chain, key = Files(tmp_path).issue("server", since=now - timedelta(9), until=now - timedelta(2))
    with serving(accumulator_path, tls_cert=chain, tls_key=key) as server:
        (line,) = logged(server, "the TLS certificate needs to be replaced")
    assert (line["level"], line["file"]) == ("warning", str(chain))
    assert line["why"] == f"it expired on {now - timedelta(2):%Y-%m-%d %H:%M} UTC"


def test_a_tls_file_that_is_not_what_it_should_be(accumulator_path: Path, tmp_path: Path) -> None:
    files = Files(tmp_path)
    files.issue("server")
    files.issue("other")
    done = subprocess.run(
        [*SERVE, str(accumulator_path), "--tls-cert=server.pem", "--tls-key=other.key"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )
    assert done.returncode == 1
    says = "tls_key: other.key is not the key of the certificate in server.pem"
    assert done.stderr.splitlines()[-1] == f"Error: {says}"


# ---- What is open to all -------------------------------------------------------------------------


def test_listening_beyond_this_machine_is_warned_of_once(accumulator_path: Path) -> None:
    with serving(accumulator_path, listen="0.0.0.0:0", workers=2) as server:
        assert without(server) == ["tokens", "TLS"]
