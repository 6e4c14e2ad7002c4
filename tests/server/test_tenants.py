from pathlib import Path

import pytest

from gatestream.server.errors import ConfigError, Unauthenticated
from gatestream.server.tenants import Tenants

TOKEN = "a-token-of-some-length"


def test_without_tokens_everyone_is_one_tenant() -> None:
    tenants = Tenants.load(None)
    assert tenants.of([]) == tenants.of([("authorization", "Bearer whatever")]) == ""


def test_a_token_stands_for_its_tenant(tmp_path: Path) -> None:
    path = tmp_path / "tokens.toml"
    path.write_text(f'"{TOKEN}" = "acme"\n"{TOKEN}-2" = "acme"\n"another-token-of-length" = "globex"\n')
    tenants = Tenants.load(path)
    assert tenants.of([("authorization", f"Bearer {TOKEN}")]) == "acme"
    assert tenants.of([("other", "x"), ("authorization", f"bearer {TOKEN}-2")]) == "acme"
    assert tenants.of([("authorization", "Bearer another-token-of-length")]) == "globex"


@pytest.mark.parametrize(
    "metadata", [[], [("authorization", TOKEN)], [("authorization", "Bearer x")], [("authorization", b"Bearer x")]]
)
def test_a_call_without_a_known_token_is_refused(metadata: list[tuple[str, str | bytes]]) -> None:
    with pytest.raises(Unauthenticated, match="token"):
        Tenants({TOKEN: "acme"}).of(metadata)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "holds no token"),
        ("not toml", "tokens: "),
        ('"short" = "acme"', "at least 16 characters"),
        (f'"{TOKEN}" = "a/b"', "without '/'"),
        (f'"{TOKEN}" = 7', "expected lines of"),
    ],
)
def test_a_file_that_holds_anything_else_is_an_error(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "tokens.toml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=message) as caught:
        Tenants.load(path)
    assert "a-token" not in str(caught.value)


def test_a_missing_file_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="missing"):
        Tenants.load(tmp_path / "missing")
