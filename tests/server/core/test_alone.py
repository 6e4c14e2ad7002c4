"""Single steps that are taken alone: wholly, with the sums and bits of the general way, or not at all."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gatestream.protos.layout import ModelLayout
from gatestream.server.backend.artifact import Artifact
from gatestream.server.backend.runner import HostRunner
from gatestream.server.backend.state import StateRows
from gatestream.server.config import Limits
from gatestream.server.core.accounts import Accounts
from gatestream.server.core.admission import Admission
from gatestream.server.core.alone import Alone
from gatestream.server.core.batches import GATES, OUTPUTS
from gatestream.server.core.sessions import SessionTable
from gatestream.server.errors import Exhausted
from tests.support.artifacts import POISON
from tests.support.engine import Recorder

SESSIONS = 4


class Model:
    """Sessions that stand at 10 and their number, whose states are all 0."""

    def __init__(self, path: Path):
        artifact = Artifact.load(path)
        self.layout: ModelLayout = artifact.layout
        self.now = 0.0
        self.rows = StateRows(self.layout, HostRunner(artifact, SESSIONS, 1), SESSIONS, self.clock)
        self.table = SessionTable(SESSIONS)
        self.sessions = [self.table.create("tenant", "", 0.0) for _ in range(SESSIONS)]
        self.table.position[self.sessions] = self.table.accepted[self.sessions] = 10 + np.arange(SESSIONS)
        self.rows.runner.write(
            np.arange(SESSIONS), [np.zeros((SESSIONS, *s.shape), s.dtype) for s in self.layout.states]
        )
        limits = Limits(sessions=SESSIONS)
        self.admission, self.accounts = Admission(self.layout, limits), Accounts(limits)
        self.owner = Recorder(account=self.accounts.of("tenant"))
        self.alone = Alone(self.rows, self.table, self.admission)

    def clock(self) -> float:
        """Each look at it takes a second."""
        self.now += 1.0
        return self.now

    def step(self, session: int, row: Any, first: int = -1, mask: int = OUTPUTS) -> Any:
        return self.alone.step(self.owner, session, first, [np.asarray(row, np.float32).tobytes()], mask)

    def all(self) -> list[Any]:
        """All that a step could have changed."""
        states = [self.rows.read(slot)[0].tolist() for slot in self.table.slot[self.sessions].tolist()]
        columns = [
            column[self.sessions].tolist()
            for column in (self.table.position, self.table.accepted, self.table.answered_at)
        ]
        counted = self.admission.rows, self.owner.rows, self.owner.account.rows, self.owner.account.bytes
        return [*states, *columns, *counted]


@given(st.data())
def test_each_session_gives_its_sums(accumulator_path: Path, data: st.DataObject) -> None:
    model = Model(accumulator_path)
    sums = np.zeros((SESSIONS, 2))
    taken = [0] * SESSIONS
    values = st.integers(-1000, 1000)
    for k in data.draw(st.lists(st.integers(0, SESSIONS - 1), max_size=20)):
        row = data.draw(st.lists(values, min_size=2, max_size=2))
        position = 10 + k + taken[k]
        sums[k] += row
        got = model.step(model.sessions[k], row, data.draw(st.sampled_from([-1, position])))
        assert got == (position, [sums[k].astype(np.float32).tobytes()], [])
        taken[k] += 1
        assert model.table.answered_at[model.sessions[k]] == model.now
        assert (model.rows.began, model.rows.seconds) == (model.now - 1, 1.0)
    stands = [10 + k + taken[k] for k in range(SESSIONS)]
    assert model.table.position[model.sessions].tolist() == model.table.accepted[model.sessions].tolist() == stands
    # Its owner has each answer until it is sent; nothing is pending.
    assert (model.owner.rows, model.admission.rows, model.owner.account.rows) == (sum(taken), 0, 0)
    assert model.owner.account.bytes == model.accounts.bytes == 0


def test_it_gives_the_bits_of_the_general_way(lstm_path: Path) -> None:
    rng = np.random.default_rng(0)
    gates = "gates" in lstm_path.name
    model, general = Model(lstm_path), HostRunner(Artifact.load(lstm_path), SESSIONS, 1, straight=True)
    general.write(np.arange(SESSIONS), [np.zeros((SESSIONS, *s.shape), s.dtype) for s in model.layout.states])
    for k in rng.integers(0, SESSIONS, 50).tolist():
        x = rng.standard_normal((1, 1, 3), np.float32)
        mask = int(rng.choice([OUTPUTS, GATES, OUTPUTS | GATES])) if gates else OUTPUTS
        got = model.step(model.sessions[k], x, mask=mask)
        slot = model.table.slot[[model.sessions[k]]]
        outputs, shown = general.step(slot, [x], np.ones(1, np.int32), mask >= GATES)
        assert got[1:] == ([column.tobytes() for column in outputs], [column.tobytes() for column in shown])
    for ours, theirs in zip(
        model.rows.runner.read(np.arange(SESSIONS)), general.read(np.arange(SESSIONS)), strict=True
    ):
        assert ours.tobytes() == theirs.tobytes()


@pytest.mark.parametrize(
    "why", ["position", "nan", "size", "fresh", "fails", "rows", "stream", "tenant", "bytes", "all"]
)
def test_what_is_not_as_simple_is_left_as_it_is(accumulator_path: Path, why: str) -> None:
    model = Model(accumulator_path)
    session = model.sessions[0]
    assert model.step(session, [1, 2]) is not None
    if why == "fresh":
        model.rows.make_fresh(model.table.slot.item(session))
    row = {"nan": [1, np.nan], "size": [1, 2, 3], "fails": [POISON, POISON]}.get(why, [1, 2])
    account = model.owner.account
    match why:
        case "rows":
            model.admission.rows = model.admission.most
        case "stream":
            model.owner.rows = model.admission.most_rows(gates=False)
        case "tenant":
            account.rows = account.most_rows
        case "bytes":
            account.bytes = account.most_bytes
        case "all":
            account.everyone.bytes = account.everyone.most_bytes
    before = model.all()
    assert model.step(session, row, first=10 if why == "position" else -1) is None
    assert model.all() == before


@given(mask=st.sampled_from([OUTPUTS, OUTPUTS | GATES]), data=st.data())
def test_there_is_room_where_admission_says_so(lstm_path: Path, mask: int, data: st.DataObject) -> None:
    """Of what others, and other models, have pending of the same tenant."""
    model = Model(lstm_path)
    owner, account, admission = model.owner, model.owner.account, model.admission
    size = admission._row_bytes[mask]
    owner.rows = data.draw(around(admission._stream_rows[mask], 1))
    account.rows = data.draw(around(account.most_rows, 1))
    account.bytes = data.draw(around(account.most_bytes, size))
    account.everyone.bytes = data.draw(around(account.everyone.most_bytes, size))
    got = model.step(model.sessions[0], np.zeros(3), mask=mask if "gates" in lstm_path.name else OUTPUTS)
    if got is not None:
        owner.rows -= 1
    try:
        admission.take(owner, 1, mask if "gates" in lstm_path.name else OUTPUTS)
    except Exhausted:
        assert got is None
    else:
        assert got is not None


def around(most: int, one: int) -> st.SearchStrategy[int]:
    """What leaves room for one more, or just not."""
    return st.sampled_from([0, most - one - 1, most - one, most - one + 1, most])
