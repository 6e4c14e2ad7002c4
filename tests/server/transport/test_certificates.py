"""TLS files, and what is said of those that are not what they should be."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from gatestream.server.errors import ConfigError
from gatestream.server.transport.certificates import concern, read_authorities, read_pair
from tests.support.tls import Files

NOW = datetime.now(UTC)


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Files:
    """Certificates `a` and `b` with their keys, and files that are none, in the folder that is the current one."""
    monkeypatch.chdir(tmp_path)
    files = Files(Path())
    files.issue("a")
    files.issue("b")
    Path("empty").touch()
    Path("bytes").write_bytes(bytes(range(256)))
    Path("hollow").write_text("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n")
    Path("locked.key").write_text("-----BEGIN ENCRYPTED PRIVATE KEY-----\nAAAA\n-----END ENCRYPTED PRIVATE KEY-----\n")
    return files


def test_a_pair_is_read_with_what_stands_around_it(files: Files) -> None:
    chain, key = files.issue("server")
    chain.write_bytes("Zertifikat für alle\n".encode() + chain.read_bytes())
    assert read_pair(chain, key) == (chain.read_bytes(), key.read_bytes())
    assert read_authorities(files.ca, "tls_client_ca") == files.ca.read_bytes()


@pytest.mark.usefixtures("files")
@pytest.mark.parametrize(
    ("chain", "key", "says"),
    [
        ("none", "a.key", "tls_cert: none cannot be read: No such file or directory"),
        (".", "a.key", "tls_cert: . cannot be read: is a folder, expected a file"),
        ("empty", "a.key", "tls_cert: empty holds no certificate in PEM"),
        ("bytes", "a.key", "tls_cert: bytes holds no certificate in PEM"),
        ("hollow", "a.key", "tls_cert: hollow holds no certificate in PEM"),
        ("a.key", "a.key", "tls_cert: a.key holds no certificate in PEM"),
        ("a.pem", "none", "tls_key: none cannot be read: No such file or directory"),
        ("a.pem", "a.pem", "tls_key: a.pem holds no private key in PEM"),
        ("a.pem", "b.key", "tls_key: b.key is not the key of the certificate in a.pem"),
        ("a.pem", "locked.key", "tls_key: locked.key has a passphrase; expected a key without one"),
    ],
)
def test_a_pair_that_is_none(chain: str, key: str, says: str) -> None:
    with pytest.raises(ConfigError) as caught:
        read_pair(Path(chain), Path(key))
    assert str(caught.value) == says


@pytest.mark.usefixtures("files")
@pytest.mark.parametrize("name", ["empty", "bytes", "hollow", "a.key"])
def test_authorities_that_are_none(name: str) -> None:
    with pytest.raises(ConfigError) as caught:
        read_authorities(Path(name), "tls_client_ca")
    assert str(caught.value) == f"tls_client_ca: {name} holds no certificate in PEM"


@pytest.mark.parametrize(
    ("since", "until", "says"),
    [
        (-9, 40, ""),
        (-9, 29, f"it expires on {NOW + timedelta(29):%Y-%m-%d %H:%M} UTC"),
        (-9, -2, f"it expired on {NOW - timedelta(2):%Y-%m-%d %H:%M} UTC"),
        (2, 400, f"it is not valid before {NOW + timedelta(2):%Y-%m-%d %H:%M} UTC"),
    ],
)
def test_when_clients_refuse_a_certificate(files: Files, since: int, until: int, says: str) -> None:
    pair = files.issue("server", since=NOW + timedelta(since), until=NOW + timedelta(until))
    assert concern(*pair, NOW) == says
