"""`gatestream sessions` on real stores."""

import asyncio
import json
import os
import time
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from hypothesis import given
from hypothesis import strategies as st

from gatestream.cli.sessions import command
from gatestream.server.durability import session_file
from gatestream.server.durability.checkpoints import Checkpoint, Key, Meaning, Store, Stored
from gatestream.server.durability.opening import open_store
from tests.server.durability.stores import at, claim, key, writes
from tests.server.durability.valkey_server import SERVER


def run(store: str, *arguments: object) -> Result:
    return CliRunner().invoke(command, [store, *map(str, arguments)])


@pytest.fixture(params=["sqlite", "valkey"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A store of three sessions; one of them is a living owner's, another has two checkpoints."""
    name = f"sqlite:{tmp_path}/x.db" if request.param == "sqlite" else SERVER.emptied()

    async def fill() -> None:
        opened = open_store(name)
        await opened.beat("a")
        for each in (key("1"), key("2"), Key("", "n", "é\n")):
            await opened.claim(each, claim(first=at(0)))
        await opened.write(writes("a", [(key("2"), 1, at(5), 0)]))
        await opened.close_store("a")

    asyncio.run(fill())
    return name


async def in_store(name: str, which: Key) -> Stored:
    opened = open_store(name)
    try:
        return await opened.read(which)
    finally:
        await opened.close_store("test")


def test_list(store: str) -> None:
    result = run(store, "list")
    assert result.exit_code == 0
    head, *rows = result.output.splitlines()
    assert head.split()[:4] == ["TENANT", "MODEL", "VERSION", "SESSION"]
    assert [row.split()[:4] for row in rows] == [
        ["-", "n", "3", "é\\n"],
        ["t", "m", "3", "1"],
        ["t", "m", "3", "2"],
    ]
    objects = [json.loads(line) for line in run(store, "list", "--json", "--tenant=t", "--limit=1").output.splitlines()]
    assert [(each["tenant"], each["model"], each["session_id"], each["bytes"]) for each in objects] == [
        ("t", "m", "1", 32)
    ]
    assert run(store, "list", "--model=none").output == ""


def test_list_goes_through_all_pages(tmp_path: Path) -> None:
    name = f"sqlite:{tmp_path}/x.db"

    async def fill() -> None:
        opened = open_store(name)
        await asyncio.gather(
            *(opened.put(Stored(key(f"{k:04}"), 1, "", Meaning("w", "l", ""), (at(0),))) for k in range(1203))
        )
        await opened.close_store("a")

    asyncio.run(fill())
    found = [json.loads(line)["session_id"] for line in run(name, "list", "--json").output.splitlines()]
    assert found == [f"{k:04}" for k in range(1203)]


def test_show(store: str) -> None:
    said = json.loads(run(store, "show", "2", "--tenant=t", "--model=m", "--json").output)
    assert said["checkpoints"] == [{"sequence": 0, "position": 100}, {"sequence": 5, "position": 105}]
    assert said["epoch"] == 1
    text = run(store, "show", "2", "--tenant=t", "--model=m").output
    assert "checkpoint: sequence 5, position 105, 16 bytes" in text
    missing = run(store, "show", "2", "--model=m")
    assert (missing.exit_code, missing.output) == (1, "Error: model 'm' has no session '2'\n")


def test_a_session_goes_to_another_store(store: str, tmp_path: Path) -> None:
    file = tmp_path / "2.json"
    assert run(store, "export", "2", "--tenant=t", "--model=m", "-o", file).output == f"written: {file}\n"
    other = f"sqlite:{tmp_path}/other.db"
    asyncio.run(_made(other))
    assert run(other, "import", file, "--model=k").output == "sessions imported: 1\n"
    found = asyncio.run(in_store(other, Key("t", "k", "2")))
    assert (found.epoch, found.owner, list(found.checkpoints)) == (2, "", [at(0), at(5)])
    again = run(other, "import", file, "--model=k")
    assert (again.exit_code, again.output) == (1, "Error: session '2' of model 'k' exists\n")
    over = run(store, "export", "2", "--tenant=t", "--model=m", "-o", file)
    assert (over.exit_code, over.output) == (1, f"Error: {file} is there already; expected a file that is not\n")


async def _made(name: str) -> Store:
    opened = open_store(name)
    await opened.beat("a")
    await opened.close_store("a")
    return opened


def test_delete_and_prune_say_how_many(store: str) -> None:
    assert run(store, "delete", "1", "3", "--tenant=t", "--model=m").output == "sessions deleted: 1\n"
    assert run(store, "prune", "--older-than=60").output == "sessions forgotten: 0\n"
    time.sleep(0.01)
    assert run(store, "prune", "--older-than=0", "--json").output == '{"forgotten": 2}\n'
    assert run(store, "list").output == ""


@pytest.mark.parametrize(
    ("store", "arguments", "message"),
    [
        ("sqlite:{}/none.db", ["list"], "there is no file {}/none.db"),
        ("sqlite:{}/none/x.db", ["list"], "there is no file"),
        ("memory", ["list"], "the store memory is inside its server"),
        ("postgres:x", ["list"], "expected memory, sqlite:PATH, or valkey://HOST:PORT/DB"),
        ("sqlite:{}/x.db", ["show", "1"], "show needs --model"),
        ("sqlite:{}/x.db", ["show", "--model=m"], "show takes a session's ID; 0 names given"),
        ("sqlite:{}/x.db", ["list", "1"], "list takes no name; 1 names given"),
        ("sqlite:{}/x.db", ["list", "--older-than=1"], "list takes no --older-than"),
        ("sqlite:{}/x.db", ["export", "1", "--model=m"], "export needs --output"),
        ("sqlite:{}/x.db", ["export", "1", "--model=m", "-o", "-"], "--output is -; expected the name of a file"),
        ("sqlite:{}/x.db", ["prune"], "prune needs --older-than"),
        ("sqlite:{}/x.db", ["prune", "--older-than=-1"], "--older-than"),
        ("sqlite:{}/x.db", ["show", "\udcff", "--model=m"], "is no UTF-8"),
    ],
)
def test_what_is_called_wrongly_ends_with_2(store: str, arguments: list[str], message: str, tmp_path: Path) -> None:
    result = run(store.format(tmp_path), *arguments)
    assert result.exit_code == 2
    assert message.format(tmp_path) in result.output
    assert result.output.count("\n") == 1
    assert os.listdir(tmp_path) == []  # noqa: PTH208


def test_a_store_that_cannot_be_used_is_told_in_a_line(tmp_path: Path) -> None:
    path = tmp_path / "x.db"
    path.write_text("no database " * 1000)
    result = run(f"sqlite:{path}", "list")
    assert result.exit_code == 1
    assert result.output == "Error: the store of sessions cannot be used: file is not a database\n"
    gone = run("valkey://127.0.0.1:1/0", "list")
    assert gone.exit_code == 1
    assert "Error: the store of sessions does not answer, or takes nothing more (" in gone.output


SESSION = Stored(Key("t", "m", "s"), 3, "", Meaning("w", "l", "1"), (at(1), at(4)))


def said(**changes: Any) -> bytes:
    """The file of SESSION with something else in it, and the checksum of that."""
    what = json.loads(session_file.encode(SESSION)) | changes
    del what["sha256"]
    return json.dumps(what | {"sha256": session_file._digest(what)}).encode()


def test_a_session_file_says_what_it_was_made_of() -> None:
    assert session_file.decode(session_file.encode(SESSION))._replace(checkpoints=()) == SESSION._replace(
        checkpoints=()
    )
    assert session_file.decode(said()).checkpoints == [at(1), at(4)]


POINT = {"sequence": 1, "position": 1, "state": "AAAA"}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "it is no JSON"),
        (b"\xff", "it is no JSON"),
        (b"[" * 100_000, "it is no JSON"),
        (b"[]", "it is no session"),
        (b"{}", "it is no session"),
        (said(format_version=2), "format_version is 2; expected 1"),
        (session_file.encode(SESSION).replace(b'"epoch": 3', b'"epoch": 4'), "it is damaged"),
        (said(tenant=None), "tenant: expected a text"),
        (said(model=""), "model is empty"),
        (said(session_id="a\0b"), "session_id: expected a text"),
        (said(session_id="x" * 1025), "session_id: expected a text"),
        (said(epoch=-1), "epoch: expected a whole number"),
        (said(epoch=2**53), "epoch: expected a whole number"),
        (said(epoch=True), "epoch: expected a whole number"),
        (said(checkpoints=[]), "checkpoints: expected one or two"),
        (said(checkpoints=[POINT] * 3), "checkpoints: expected one or two"),
        (said(checkpoints=[POINT] * 2), "checkpoints: expected a growing sequence"),
        (said(checkpoints=[POINT, POINT | {"sequence": 2, "state": "AA=="}]), "expected states of one size"),
        (said(checkpoints=[POINT | {"state": "?"}]), "state: expected base64"),
        (said(checkpoints=[POINT | {"state": None}]), "state: expected base64"),
        (said(checkpoints=[POINT | {"position": 1.5}]), "position: expected a whole number"),
        (said(checkpoints=["x"]), "checkpoints: expected objects"),
    ],
)
def test_a_file_that_is_no_session_is_refused(content: bytes, message: str, tmp_path: Path) -> None:
    with pytest.raises(session_file.SessionFileError, match=message):
        session_file.decode(content)
    file = tmp_path / "s.json"
    file.write_bytes(content)
    asyncio.run(_made(f"sqlite:{tmp_path}/x.db"))
    result = run(f"sqlite:{tmp_path}/x.db", "import", file)
    assert result.exit_code == 1
    assert message in result.output
    assert result.output.count("\n") == 1


@given(st.binary(max_size=64), st.integers(0, 10**6))
def test_no_flipped_or_cut_byte_passes(noise: bytes, where: int) -> None:
    content = session_file.encode(SESSION)
    where %= len(content)
    broken = content[:where] + noise + content[where + len(noise) :]
    try:
        found = session_file.decode(broken)
    except session_file.SessionFileError:
        return
    assert json.loads(broken) == json.loads(content)
    assert [Checkpoint(*item) for item in found.checkpoints] == list(SESSION.checkpoints)
