"""A store that does not answer while it is asked to set a session's state and to end one: real stores and servers."""

import sqlite3
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import numpy as np
import pytest

from gatestream.client import connect
from gatestream.client.errors import DeadlineExceededError, SessionUnknownError
from tests.server.durability.valkey_server import Server
from tests.support.process import serving

TIMEOUT = 60.0
ONE = np.ones(2, np.float32)


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Another process' transaction, as the store sees it."""
    with sqlite3.connect(path, isolation_level=None) as other:
        other.execute("begin immediate")
        yield
        other.execute("rollback")
    other.close()


@pytest.fixture(params=["sqlite", "valkey"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[str, AbstractContextManager[None]]]:
    """A store's name, and what has it not answer."""
    if request.param == "sqlite":
        path = tmp_path / "sessions.db"
        yield f"sqlite:{path}", locked(path)
        return
    server = Server()
    server.start()
    try:
        yield server.url, server.paused()
    finally:
        server.end()


def test_what_nobody_knows_to_be_done_is_done_once(
    accumulator_path: Path, store: tuple[str, AbstractContextManager[None]]
) -> None:
    """States are set and a session ends, and a neighbour that asks the store for nothing notices nothing."""
    name, away = store
    with (
        serving(accumulator_path, store=name) as server,
        connect(server.address, timeout=TIMEOUT) as client,
        ThreadPoolExecutor(8) as threads,
    ):
        neighbour, ended = client.session(id="neighbour"), client.session(id="ended")
        told = [client.session(id=f"told-{k}") for k in range(4)]
        for session in (neighbour, ended, *told):
            session.run(np.ones((10, 2), np.float32))
        impatient = told[-1]
        states = [session.get_state() for session in told]
        for session in told:
            session.step(5 * ONE)
        with away:
            with pytest.raises(DeadlineExceededError):
                impatient.set_state(states[-1], timeout=0.5)
            setting = [threads.submit(each.set_state, state) for each, state in zip(told, states, strict=True)]
            ending = threads.submit(ended.close)
            count = 10
            # For longer than it is waited for: then nobody knows whether it was done.
            while "the store cannot be used" not in server.log.read_text() or count < 500:
                count += 1
                assert neighbour.step(ONE).tolist() == [count, count]
        for each in (*setting, ending):
            each.result(TIMEOUT)
        for session in told:
            for k in range(1, 4):
                assert session.step(ONE).tolist() == [10 + k, 10 + k]
            assert session.position == 13
        with pytest.raises(SessionUnknownError):
            client.session(id="ended", mode="resume")
        assert neighbour.step(ONE).tolist() == [count + 1, count + 1]
