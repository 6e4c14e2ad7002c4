"""What a store does when its file or its server is not as it should be: real files, a real full disk, a real server."""

import asyncio
import os
import shutil
import sqlite3
import ssl
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from gatestream.server.durability.checkpoints import Owned
from gatestream.server.durability.sqlite import SqliteStore
from gatestream.server.durability.valkey import ValkeyStore
from gatestream.server.durability.valkey_url import connect
from gatestream.server.errors import CheckpointUnfit, NotFound, StoreUnavailable
from tests.server.durability.stores import OPEN, at, claim, key, opened, writes
from tests.server.durability.valkey_server import Server
from tests.support.tls import Files

S, OTHER = key("s"), key("other")


async def sqlite_with_two(path: Path) -> SqliteStore:
    """A store with sessions S, at 0 and 3, and OTHER, which nobody has."""
    store = SqliteStore(path)
    for each in (S, OTHER):
        await store.claim(each, claim(first=at(0)))
        await store.write(writes("a", [(each, 1, at(3), 0)]))
    return store


def sql(path: Path, statement: str, *values: object) -> None:
    connection = sqlite3.connect(path)
    connection.execute(statement, values)
    connection.commit()
    connection.close()


DAMAGE = {
    "state": "update checkpoints_zero set state = x'00' || substr(state, 2) where id = 1",
    "short": "update checkpoints_one set state = substr(state, 2) where id = 1",
    "position": "update checkpoints_zero set position = position + 1 where id = 1",
    "checksum": "update checkpoints_one set checksum = checksum + 1 where id = 1",
    "sequence": "update checkpoints_zero set sequence = sequence + 1 where id = 1",
    "gone": "delete from checkpoints_one where id = 1",
    "another's": "update sessions set name = 's', tenant = 'x' where id = 1",
    "text": "update checkpoints_zero set state = 'text' where id = 1",
}


@pytest.mark.parametrize("which", list(DAMAGE))
async def test_a_damaged_checkpoint_is_refused_and_the_others_are_not(which: str, tmp_path: Path) -> None:
    path = tmp_path / "x.db"
    store = await sqlite_with_two(path)
    sql(path, DAMAGE[which])
    damaged = S._replace(tenant="x") if which == "another's" else S
    refused = r"session 's' of model 'm' at sequence [03] is (damaged|missing)"
    with pytest.raises(CheckpointUnfit, match=refused):
        await store.claim(damaged, claim())
    with pytest.raises(CheckpointUnfit, match=refused):
        await store.read(damaged)
    assert (await store.claim(OTHER, claim(acknowledged=3))).checkpoint == at(3)
    # Who has it writes on, and what is written is well.
    if which not in ("another's", "sequence"):
        assert (await store.write(writes("a", [(S, 1, at(9), 9)]))).taken.all()
        assert list((await store.read(S)).checkpoints) == [at(9)]
    assert await store.delete([damaged]) == 1
    await store.close_store("a")


@pytest.mark.parametrize("field", ["s0", "p1", "c0"])
async def test_a_damaged_checkpoint_in_a_server_is_refused(field: str) -> None:
    server = Server()
    server.start()
    store = ValkeyStore(*connect(server.url))
    for each in (S, OTHER):
        await store.claim(each, claim(first=at(0)))
        await store.write(writes("a", [(each, 1, at(3), 0)]))
    with server.client() as client:
        client.hset("gatestream:s:t\0m\0s", field, "1")
    with pytest.raises(CheckpointUnfit, match="damaged"):
        await store.claim(S, claim())
    assert (await store.claim(OTHER, claim(acknowledged=3))).checkpoint == at(3)
    await store.close_store("a")
    server.end()


@pytest.mark.parametrize("damage", ["truncated", "no database", "bits", "another's", "newer"])
async def test_a_damaged_file_is_not_used_until_it_is_mended(damage: str, tmp_path: Path) -> None:
    path, good = tmp_path / "x.db", tmp_path / "good.db"
    store = await sqlite_with_two(path)
    await store.close_store("a")
    shutil.copy(path, good)
    match damage:
        case "truncated":
            os.truncate(path, path.stat().st_size // 2)
        case "no database":
            path.write_bytes(b"This is no database. " * 1000)
        case "bits":
            content = bytearray(path.read_bytes())
            for k in range(100, len(content), 7):
                content[k] ^= 0x10
            path.write_bytes(content)
        case "another's":
            path.unlink()
            sql(path, "create table people(name)")
        case "newer":
            sql(path, "pragma user_version = 99")
    was = path.read_bytes()
    store = SqliteStore(path)
    for _ in range(2):
        with pytest.raises(StoreUnavailable, match="the store of sessions cannot be used: ") as caught:
            await store.claim(S, claim(first=at(0)))
        assert str(tmp_path) not in str(caught.value)
        assert caught.value.retry_after > 0
    if damage != "truncated":
        assert path.read_bytes()[100:] == was[100:], "nothing begins anew over it"
    good.replace(path)
    for stale in ("x.db-wal", "x.db-shm"):
        (tmp_path / stale).unlink(missing_ok=True)
    assert (await store.claim(S, claim(acknowledged=3))).checkpoint == at(3)
    await store.close_store("a")


async def test_a_file_that_is_removed_is_missed_until_it_is_back(tmp_path: Path) -> None:
    path, away = tmp_path / "x.db", tmp_path / "away.db"
    store = await sqlite_with_two(path)
    await store.close_store("a")
    store = SqliteStore(path)
    await store.read(S)
    path.rename(away)
    for _ in range(2):
        with pytest.raises(StoreUnavailable, match="it was removed"):
            await store.read(S)
    assert not path.exists()
    away.rename(path)
    assert (await store.read(S)).checkpoints[-1] == at(3)
    # Another in its place, with nothing in it that this one had.
    empty = SqliteStore(tmp_path / "empty.db")
    await empty.beat("a")
    await empty.close_store("a")
    (tmp_path / "empty.db").replace(path)
    with pytest.raises(NotFound):
        await store.read(S)
    assert not (await store.write(writes("a", [(S, 1, at(9), 9)]))).taken.any()
    await store.close_store("a")


async def test_a_full_disk_is_told_and_gone_on_after(tmp_path: Path) -> None:
    """SQLite's own bound on pages fails as a disk without room does."""
    path = tmp_path / "x.db"
    store = await sqlite_with_two(path)
    use = await store._transactions.do(lambda use: use)
    [pages] = await store._transactions.do(lambda use: use.connection.execute("pragma page_count").fetchone())
    await store._transactions.do(lambda use: use.connection.execute(f"pragma max_page_count = {pages}").fetchone())
    many = [key(f"{k}") for k in range(400)]
    with capture_logs() as logs:
        done = await asyncio.gather(*(store.claim(each, claim(first=at(0))) for each in many), return_exceptions=True)
        assert (await store.read(OTHER)).checkpoints[-1] == at(3)
    # What fits in is taken, and the rest is told of once.
    assert [line["event"] for line in logs][-1] == "the store cannot be used"
    full = [error for error in done if isinstance(error, StoreUnavailable)]
    assert full
    assert all("full" in str(error) for error in full)
    # What needs no room goes on meanwhile.
    assert (await store.read(S)).checkpoints[-1] == at(3)
    assert (await store.write(writes("a", [(S, 1, at(4), 0)]))).taken.all()
    await store._transactions.do(lambda use: use.connection.execute("pragma max_page_count = 1000000").fetchone())
    assert use.connection is (await store._transactions.do(lambda use: use)).connection
    left = [each for each, error in zip(many, done, strict=True) if isinstance(error, StoreUnavailable)]
    await asyncio.gather(*(store.claim(each, claim(first=at(0), taken_up=False)) for each in left))
    await store.close_store("a")


async def test_a_folder_that_takes_nothing(tmp_path: Path) -> None:
    """Its name is a file's for a while: even root cannot write there."""
    folder = tmp_path / "folder"
    folder.write_text("")
    store = SqliteStore(folder / "x.db")
    with pytest.raises(StoreUnavailable, match="unable to open database file"):
        await store.claim(S, claim(first=at(0)))
    folder.unlink()
    folder.mkdir()
    assert (await store.claim(S, claim(first=at(0)))).created
    await store.close_store("a")


OWNER = """
import asyncio, sys
from pathlib import Path
from gatestream.server.durability.sqlite import SqliteStore
from tests.server.durability.stores import at, claim, key

async def main():
    store = SqliteStore(Path(sys.argv[1]))
    await store.beat("killed")
    await store.claim(key("s"), claim("killed", first=at(0)))
    print("has it", flush=True)
    await asyncio.sleep(1000)

asyncio.run(main())
"""


@contextmanager
def owner(path: Path) -> Iterator[subprocess.Popen[str]]:
    """Another process, which has S."""
    with subprocess.Popen([sys.executable, "-c", OWNER, str(path)], stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "has it\n"
            yield process
        finally:
            process.kill()


async def test_the_sessions_of_a_killed_process_are_to_be_had_at_once(tmp_path: Path) -> None:
    with owner(tmp_path / "x.db") as process:
        store = SqliteStore(tmp_path / "x.db", silence=1000.0)
        with pytest.raises(Owned):
            await store.claim(S, claim())
        process.kill()
        process.wait()
        assert (await store.claim(S, claim(acknowledged=0))).checkpoint == at(0)
    await store.close_store("a")


async def test_a_server_that_is_away_for_a_while() -> None:
    server = Server()
    server.start()
    store = ValkeyStore(*connect(server.url))
    await store.beat("a")
    await store.claim(S, claim(first=at(0)))
    await store.write(writes("a", [(S, 1, at(3), 0)]))
    server.stop()
    for ask in (store.beat("a"), store.read(S), store.write(writes("a", [(S, 1, at(4), 0)]))):
        with pytest.raises(StoreUnavailable, match="does not answer"):
            await ask
    server.start()
    await store.beat("a")
    assert (await store.write(writes("a", [(S, 1, at(4), 0)]))).taken.all()
    assert list((await store.read(S)).checkpoints) == [at(0), at(4)]
    await store.close_store("a")
    server.end()


async def test_many_calls_wait_for_their_turn_and_fail_together() -> None:
    server = Server()
    server.start()
    store = ValkeyStore(*connect(server.url))
    keys = [key(f"{k}") for k in range(3000)]
    assert all(item.created for item in await asyncio.gather(*(store.claim(each, claim(first=at(0))) for each in keys)))
    # It says nothing, for longer than a call waits: each is told so, and none waits behind another's wait.
    with server.paused():
        done = await asyncio.gather(*(store.read(each) for each in keys), return_exceptions=True)
    assert {type(item) for item in done} == {StoreUnavailable}
    assert (await store.read(keys[0])).checkpoints
    await store.close_store("a")
    server.end()


async def test_a_server_that_has_no_room() -> None:
    server = Server()
    server.start()
    store = ValkeyStore(*connect(server.url))
    await store.claim(S, claim(first=at(0)))
    with server.client() as client:
        client.config_set("maxmemory", "1")
        with pytest.raises(StoreUnavailable):
            await store.claim(OTHER, claim(first=at(0)))
        assert (await store.read(S)).checkpoints[-1] == at(0)
        client.config_set("maxmemory", "0")
    assert (await store.claim(OTHER, claim(first=at(0)))).created
    await store.close_store("a")
    server.end()


async def test_a_password_from_the_url_or_a_file(tmp_path: Path) -> None:
    server = Server("--requirepass", "se/cret")
    server.start()
    file = tmp_path / "password"
    file.write_text("se/cret\n")
    at_host = f"127.0.0.1:{server.port}/0"
    for url in (f"valkey://:se%2Fcret@{at_host}", f"redis://{at_host}?password-file={file}"):
        store = ValkeyStore(*connect(url))
        await store.beat("a")
        await store.close_store("a")
    wrong = ValkeyStore(*connect(f"valkey://:other@{at_host}"))
    with pytest.raises(StoreUnavailable):
        await wrong.beat("a")
    await wrong.close_store("a")
    server.end()


async def test_a_server_is_reached_by_tls(tmp_path: Path) -> None:
    """Behind a proxy of TLS: whatever the server was built with."""
    server = Server()
    server.start()
    files = Files(tmp_path)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*files.issue("server"))

    async def carry(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        while data := await source.read(2**16):
            sink.write(data)
        sink.close()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        behind, ahead = await asyncio.open_connection("127.0.0.1", server.port)
        await asyncio.gather(carry(reader, ahead), carry(behind, writer), return_exceptions=True)

    async with await asyncio.start_server(serve, "127.0.0.1", 0, ssl=context) as proxy:
        port = proxy.sockets[0].getsockname()[1]
        store = ValkeyStore(*connect(f"rediss://127.0.0.1:{port}/0?ca-file={files.ca}"))
        assert (await store.claim(S, claim(first=at(0)))).created
        await store.close_store("a")
        stranger = ValkeyStore(*connect(f"valkeys://127.0.0.1:{port}/0"))
        with pytest.raises(StoreUnavailable):
            await stranger.beat("a")
        await stranger.close_store("a")
    server.end()


@pytest.mark.parametrize("kind", list(OPEN))
async def test_a_store_that_is_closed_twice(kind: str, tmp_path: Path) -> None:
    async with opened(kind, tmp_path) as store:
        await store.close_store("b")
