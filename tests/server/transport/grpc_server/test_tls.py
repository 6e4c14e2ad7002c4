from pathlib import Path
from typing import Any

import grpc
import pytest

from gatestream.server.config import ServerConfig
from gatestream.server.errors import ConfigError
from gatestream.server.transport.grpc_server import tls
from tests.support.tls import Files


@pytest.fixture
def fetches(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What gRPC is given to ask with at each handshake."""
    given: list[Any] = []
    real = grpc.dynamic_ssl_server_credentials

    def note(shown: Any, fetch: Any, **options: Any) -> Any:
        given.extend((fetch, options))
        return real(shown, fetch, **options)

    monkeypatch.setattr(grpc, "dynamic_ssl_server_credentials", note)
    return given


def test_a_handshake_is_told_of_other_files_once_for_each_port(tmp_path: Path, fetches: list[Any]) -> None:
    files = Files(tmp_path)
    shown = tls.Tls(*files.issue("server"), None)
    for _ in range(2):
        shown.credentials()
    first, _, second, options = fetches
    assert options == {"require_client_authentication": False}
    assert first() is None, "nothing has changed"
    files.issue("server")
    assert shown.refresh()
    assert first() is not None
    assert (first(), second() is None) == (None, False)
    assert not shown.refresh()


def test_files_that_are_of_no_use_leave_what_was_shown(tmp_path: Path, fetches: list[Any]) -> None:
    files = Files(tmp_path)
    chain, key = files.issue("server")
    shown = tls.Tls(chain, key, files.ca)
    shown.credentials()
    fetch, options = fetches
    assert options == {"require_client_authentication": True}
    key.write_text("none")
    with pytest.raises(ConfigError, match=r"tls_key: .* holds no private key in PEM"):
        shown.refresh()
    assert fetch() is None


def test_a_server_without_a_certificate_is_spoken_to_in_clear() -> None:
    assert tls.Tls.of(ServerConfig(artifacts=(Path("some.onnx"),))) is None
