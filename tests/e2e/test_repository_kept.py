"""Kept sessions that move to another version of their model, with a slot and without, and outlive a kill after that."""

from contextlib import closing
from pathlib import Path

import numpy as np

from gatestream.client import Session, connect
from gatestream.protos.gatestream.v1 import gatestream_pb2 as pb
from tests.support.process import start
from tests.support.repository import control, load, put, states, unload
from tests.support.wire import PATIENCE, stub, until

SLOTS, SESSIONS = 8, 24


class Sums:
    """Sessions of an accumulator, each with the sum that it must stand at."""

    def __init__(self, sessions: list[Session]):
        self._sessions = sessions
        self._sums = np.zeros(len(sessions), np.float32)

    def go_on(self, rounds: int) -> None:
        """Steps of all in turn: with fewer slots than sessions each has lost its own by then."""
        for step in range(rounds):
            for k, session in enumerate(self._sessions):
                row = np.full(2, 1 + (k + step) % 5, np.float32)
                self._sums[k] += row[0]
                assert session.step(row).tolist() == [self._sums[k]] * 2, session.id


def versions(address: str) -> list[str]:
    with stub(address) as calls:
        page = calls.ListSessions(pb.ListSessionsRequest(model="m", page_size=1000), timeout=PATIENCE)
    return sorted(each.version for each in page.sessions if not each.parked)


def test_kept_sessions_move_and_outlive_their_server(models: Path, tmp_path: Path) -> None:
    put(models, "m", 1)
    put(models, "m", 2)
    (models / "m" / "config.pbtxt").write_text("version_policy { specific { versions: [1] } }")
    settings = {
        "store": f"sqlite:{tmp_path}/sessions.db",
        "models": models,
        "model_control": True,
        "sessions": SLOTS,
        "held_sessions": 4 * SESSIONS,
    }
    with closing(start(**settings)) as first:
        address = f"127.0.0.1:{first.port}"
        with connect(address, timeout=PATIENCE) as client:
            sums = Sums([client.session("m", id=f"s{k}") for k in range(SESSIONS)])
            sums.go_on(3)
            with control(first) as admin:
                load(admin, "m", "2")
                asked = pb.MigrateSessionsRequest(name="m", from_version="1", to_version="2")
                moved = admin.MigrateSessions(asked, timeout=PATIENCE).migrated
                assert 0 < moved <= SLOTS, "those that have a slot; the others are in the store"
                sums.go_on(2)
                # With the version that they were on, those that have no slot come back on the other.
                unload(admin, "m", "1", deadline_s=0)
                until(lambda: states(admin)["m", "1"] == "UNLOADED", "it was unloaded")
                sums.go_on(2)
                assert set(versions(address)) == {"2"}
            (models / "m" / "config.pbtxt").write_text("version_policy { specific { versions: [2] } }")
            first.kill()
            with closing(start(listen=address, **settings)) as second:
                sums.go_on(3)
                assert set(versions(address)) == {"2"}
                client.close_session("s0", model="m")
                sessions = client.list_sessions()
                assert {each.session_id for each in sessions} == {f"s{k}" for k in range(1, SESSIONS)}
            assert "what must add up does not" not in second.log.read_text()
