from pathlib import Path

import pytest

from gatestream.server.durability.opening import open_store
from gatestream.server.errors import ConfigError


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "store is ''; expected memory, sqlite:PATH, or valkey://HOST:PORT/DB"),
        ("Memory", "store is 'Memory'; expected memory, sqlite"),
        ("sqlite", "store is 'sqlite'; expected memory, sqlite"),
        ("sqlite:", "store is 'sqlite:'; expected memory, sqlite"),
        ("sqlite:x\0y", "expected memory, sqlite"),
        ("sqlite:{0}", "store is 'sqlite:{0}'; {0} is no file"),
        ("sqlite:{0}/no/x.db", "there is no folder {0}/no"),
        ("valkey:x", "expected memory, sqlite"),
        ("valkey://", "store is 'valkey://:6379'; expected valkey://"),
        ("valkey://h:x", "store is no URL of a server"),
        ("valkey://h:99999", "store is no URL of a server"),
        ("redis://h/x", "store is 'redis://h:6379/x'; expected valkey://"),
        ("redis://u:secret@h/-1", "store is 'redis://h:6379/-1'; expected valkey://"),
        ("redis://h/0?db=1", "store 'redis://h:6379/0' has the option 'db'; expected password-file or ca-file"),
        ("redis://h?ca-file=x", "store 'redis://h:6379' has a ca-file without TLS"),
        ("redis://:p@h?password-file=x", "store 'redis://h:6379' has a password and a password-file"),
        ("redis://h?password-file={0}/no", "the password-file {0}/no cannot be read"),
        ("file:{0}/x.db", "expected memory, sqlite"),
    ],
)
def test_a_text_that_names_no_store_is_refused(text: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        open_store(text.format(tmp_path))
    assert message.format(tmp_path) in str(caught.value)


def test_a_file_that_is_not_there_is_made_only_where_it_may_be(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"there is no file .*/x\.db"):
        open_store(f"sqlite:{tmp_path}/x.db", create=False)


@pytest.mark.parametrize(("text", "kind", "shared"), [("memory", "memory", False), ("sqlite:{}/x.db", "sqlite", True)])
async def test_a_store_is_opened(text: str, kind: str, shared: bool, tmp_path: Path) -> None:
    store = open_store(text.format(tmp_path))
    assert (store.kind, store.shared) == (kind, shared)
    await store.beat("a")
    await store.close_store("a")
