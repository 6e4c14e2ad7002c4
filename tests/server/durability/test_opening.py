from pathlib import Path

import pytest

from gatestream.server.durability.opening import open_store
from gatestream.server.errors import ConfigError


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "store is ''; expected memory, or sqlite:PATH"),
        ("Memory", "store is 'Memory'; expected memory, or"),
        ("sqlite", "store is 'sqlite'; expected memory, or"),
        ("sqlite:", "store is 'sqlite:'; expected memory, or"),
        ("sqlite:x\0y", "expected memory, or"),
        ("sqlite:{0}", "store is 'sqlite:{0}'; {0} is no file"),
        ("sqlite:{0}/no/x.db", "there is no folder {0}/no"),
        ("file:{0}/x.db", "expected memory, or"),
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
