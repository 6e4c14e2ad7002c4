import os
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from gatestream.server.errors import ConfigError, Unauthenticated
from gatestream.server.transport.auth import Tenants

TOKEN = "a-token-of-some-length"


def test_without_tokens_everyone_is_one_tenant() -> None:
    tenants = Tenants(None)
    assert tenants.caller([]).tenant == tenants.caller([("authorization", "Bearer whatever")]).tenant == ""


def test_a_token_stands_for_its_tenant(tmp_path: Path) -> None:
    path = tmp_path / "tokens.toml"
    path.write_text(f'"{TOKEN}" = "acme"\n"{TOKEN}-2" = "acme"\n"another-token-of-length" = "globex"\n')
    tenants = Tenants(path)
    assert tenants.caller([("authorization", f"Bearer {TOKEN}")]).tenant == "acme"
    assert tenants.caller([("other", "x"), ("authorization", f"bearer {TOKEN}-2")]).tenant == "acme"
    assert tenants.caller([("authorization", "Bearer another-token-of-length")]).tenant == "globex"


def test_a_token_may_be_an_admins(tmp_path: Path) -> None:
    path = tmp_path / "tokens.toml"
    path.write_text(
        f'"{TOKEN}" = "acme"\n"{TOKEN}-2" = {{ tenant = "ops", admin = true }}\n["{TOKEN}-3"]\ntenant = "acme"\n'
    )
    tenants = Tenants(path)
    callers = [tenants.caller([("authorization", f"Bearer {TOKEN}{k}")]) for k in ("", "-2", "-3")]
    assert [(each.tenant, each.admin) for each in callers] == [("acme", False), ("ops", True), ("acme", False)]
    assert tenants.several
    assert Tenants(None).caller([]).admin


@pytest.mark.parametrize(
    "metadata", [[], [("authorization", TOKEN)], [("authorization", "Bearer x")], [("authorization", b"Bearer x")]]
)
def test_a_call_without_a_known_token_is_refused(tmp_path: Path, metadata: list[tuple[str, str | bytes]]) -> None:
    path = tmp_path / "tokens.toml"
    path.write_text(f'"{TOKEN}" = "acme"\n')
    with pytest.raises(Unauthenticated, match="token"):
        Tenants(path).caller(metadata)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "holds no token"),
        ("not toml", "is no TOML file: .* line 1"),
        ("a = " + 20_000 * "[", "is no TOML file: "),
        ("a = " + 5_000 * "9", "is no TOML file: "),
        ('"secret" = "acme"', "the token of entry 1 has 6 characters; expected .* 16 to 4,096 characters"),
        (f'"{"secret" * 1000}" = "acme"', "the token of entry 1 has 6000 characters"),
        ('"a secret with spaces" = "acme"', "the token of entry 1 has 20 characters; .* none of them a space"),
        ('"sécret-sécret-sécret" = "acme"', "the token of entry 1 has 20 characters; .* all of ASCII"),
        (f'"{TOKEN}" = "secret/b"', "the tenant of entry 1 is not 1 to 128 printable characters without '/'"),
        (f'"{TOKEN}" = ""', "the tenant of entry 1"),
        (f'"{TOKEN}" = "a"\n"{TOKEN}-2" = "{"secret" * 100}"', "the tenant of entry 2"),
        (f'"{TOKEN}" = "secret\\nb"', "the tenant of entry 1"),
        (f'"{TOKEN}" = 7', "the tenant of entry 1"),
        (f"[{TOKEN}]", "the tenant of entry 1"),
        (f'"{TOKEN}" = {{ tenant = "acme", admin = 1 }}', "entry 1 is a table of other things than tenant and admin"),
        (f'"{TOKEN}" = {{ tenant = "acme", amdin = true }}', "entry 1 is a table of other things than tenant and"),
        (f'"{TOKEN}" = {{ admin = true }}', "the tenant of entry 1"),
        (f'"{TOKEN}" = "a"\n"{TOKEN}" = "b"', "is no TOML file: "),
    ],
)
def test_a_file_that_holds_anything_else_is_an_error(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "tokens.toml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=message) as caught:
        Tenants(path)
    assert str(path) in str(caught.value)
    for part in ("a-token", "secret", "sécret"):
        assert part not in str(caught.value)


def test_a_missing_file_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="missing cannot be read: No such file"):
        Tenants(tmp_path / "missing")


@pytest.mark.parametrize("mode", [0o620, 0o602, 0o666, 0o777])
def test_a_file_that_others_can_write_is_refused(tmp_path: Path, mode: int) -> None:
    path = tmp_path / "tokens.toml"
    path.write_text(f'"{TOKEN}" = "acme"\n')
    path.chmod(mode)
    with pytest.raises(ConfigError, match=r"can be written by others than its owner \(.*\); chmod go-w"):
        Tenants(path)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")
def test_a_file_of_another_user_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "tokens.toml"
    path.write_text(f'"{TOKEN}" = "acme"\n')
    os.chown(path, 12345, -1)
    with pytest.raises(ConfigError, match="belongs to user 12345, who could add tokens; expected root, or "):
        Tenants(path)


@pytest.mark.parametrize(("mode", "warnings"), [(0o600, 0), (0o640, 0), (0o444, 1), (0o604, 1)])
def test_a_file_that_every_user_can_read_is_warned_of(tmp_path: Path, mode: int, warnings: int) -> None:
    path = tmp_path / "tokens.toml"
    path.write_text(f'"{TOKEN}" = "acme"\n')
    path.chmod(mode)
    with capture_logs() as logs:
        assert Tenants(path).caller([("authorization", f"Bearer {TOKEN}")]).tenant == "acme"
    assert [line["event"] for line in logs] == warnings * ["every user of this machine can read the tokens file"]


def test_a_bad_file_keeps_what_was_known(tmp_path: Path) -> None:
    path = tmp_path / "tokens.toml"
    path.write_text(f'"{TOKEN}" = "acme"\n')
    tenants = Tenants(path)
    assert not tenants.refresh()
    path.write_text("spoilt")
    with pytest.raises(ConfigError):
        tenants.refresh()
    assert not tenants.refresh()
    assert tenants.caller([("authorization", f"Bearer {TOKEN}")]).tenant == "acme"
    path.write_text(f'"{TOKEN}-2" = "globex"\n')
    assert tenants.refresh()
    assert tenants.caller([("authorization", f"Bearer {TOKEN}-2")]).tenant == "globex"
    with pytest.raises(Unauthenticated):
        tenants.caller([("authorization", f"Bearer {TOKEN}")])
