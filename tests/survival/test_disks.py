"""Disks that are full, folders in which nothing can be written, and files that are damaged, under a real server."""

import os
import resource
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from gatestream.client import connect
from gatestream.client.errors import CheckpointUnfitError, StoreUnavailableError
from gatestream.client.sync import Client, Session
from gatestream.server.durability.database import SLOTS
from tests.support.artifacts import accumulator
from tests.support.process import ServerProcess, serving, start

PATIENCE = 60.0


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return accumulator(tmp_path_factory.mktemp("model") / "accumulator.onnx")


def steps(session: Session, *, until: int) -> None:
    """Each answer is the number of the step, from the first step of the session on."""
    while session.position < until:
        expected = session.position + 1
        np.testing.assert_array_equal(session.step([1, 1], timeout=PATIENCE), [expected, expected])


def five_steps(model: Path, store: str) -> None:
    """Of sessions a and b, which a killed server leaves."""
    with serving(model, store=store, durability="before-answer") as server, connect(server.address) as client:
        for name in "ab":
            steps(client.session(id=name), until=5)
        server.kill()


def needs_no_disk(server: ServerProcess) -> None:
    with connect(server.address, resume=False) as client, client.session() as session:
        steps(session, until=3)


def refused(client: Client) -> None:
    """What is on the way there may still be taken; soon nothing is."""

    def open_many() -> None:
        for _ in range(200):
            client.session(timeout=1)

    with pytest.raises(StoreUnavailableError):
        open_many()


@contextmanager
def full(server: ServerProcess) -> Iterator[None]:
    """No file of the server's grows beyond what is there of the shortest: what a full disk says, to one process."""
    _, most = resource.prlimit(server.popen.pid, resource.RLIMIT_FSIZE)
    resource.prlimit(server.popen.pid, resource.RLIMIT_FSIZE, (16_384, most))
    try:
        yield
    finally:
        resource.prlimit(server.popen.pid, resource.RLIMIT_FSIZE, (most, most))


def test_a_full_disk(model: Path, tmp_path: Path) -> None:
    store = f"sqlite:{tmp_path}/x.db"
    with serving(model, store=store) as server, connect(server.address) as client:
        session = client.session(id="kept")
        steps(session, until=5)
        with full(server):
            refused(client)
            steps(session, until=50)
            needs_no_disk(server)
        steps(client.session(id="after", timeout=PATIENCE), until=3)
        steps(session, until=60)
        listen = server.address
        server.kill()
        with serving(model, store=store, listen=listen):
            steps(session, until=70)


def test_a_folder_in_which_nothing_can_be_written(model: Path, tmp_path: Path) -> None:
    # Not even root can in this one.
    folder, writable = tmp_path / "folder", tmp_path / "writable"
    folder.symlink_to("/proc")
    with pytest.raises(RuntimeError, match="Error: the store of sessions cannot be used: "):
        start(model, store=f"sqlite:{folder}/x.db")
    writable.mkdir()
    folder.unlink()
    folder.symlink_to(writable)
    with serving(model, store=f"sqlite:{folder}/x.db") as server, connect(server.address) as client:
        session = client.session()
        steps(session, until=3)
        folder.unlink()
        folder.symlink_to("/proc")
        refused(client)
        steps(session, until=30)
        needs_no_disk(server)
        folder.unlink()
        folder.symlink_to(writable)
        steps(client.session(timeout=PATIENCE), until=3)
        steps(session, until=60)


@pytest.mark.parametrize("damage", ["truncated", "bits"])
def test_a_damaged_file(model: Path, tmp_path: Path, damage: str) -> None:
    path, store = tmp_path / "x.db", f"sqlite:{tmp_path}/x.db"
    five_steps(model, store)
    good = sqlite3.connect(path)
    good.execute("pragma wal_checkpoint(truncate)")
    good.close()
    content = path.read_bytes()

    def harm() -> None:
        match damage:
            case "truncated":
                os.truncate(path, len(content) // 2)
            case "bits":
                path.write_bytes(content[:100] + bytes(each ^ 16 for each in content[100:]))

    def mend() -> None:
        (tmp_path / "good.db").write_bytes(content)
        (tmp_path / "good.db").replace(path)
        for stale in ("x.db-wal", "x.db-shm"):
            (tmp_path / stale).unlink(missing_ok=True)

    harm()
    with pytest.raises(RuntimeError, match="Error: the store of sessions cannot be used: "):
        start(model, store=store)
    mend()
    with serving(model, store=store) as server, connect(server.address) as client:
        harm()
        refused(client)
        needs_no_disk(server)
        mend()
        for name in "ab":
            session = client.session(id=name, mode="resume", timeout=PATIENCE)
            assert session.position == 5
            steps(session, until=10)


def test_a_bit_of_one_session(model: Path, tmp_path: Path) -> None:
    path = tmp_path / "x.db"
    five_steps(model, f"sqlite:{path}")
    damaged = sqlite3.connect(path)
    for slot in SLOTS:
        flip = f"update {slot} set state = x'01' || substr(state, 2) where id = "
        damaged.execute(flip + "(select id from sessions where name = 'a')")
    damaged.commit()
    damaged.close()
    with serving(model, store=f"sqlite:{path}") as server, connect(server.address) as client:
        with pytest.raises(CheckpointUnfitError, match="damaged"):
            client.session(id="a", mode="resume", timeout=PATIENCE)
        steps(client.session(id="b", mode="resume", timeout=PATIENCE), until=10)
