"""Runs of few single steps that have just come, against what each step asks by itself."""

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
from gatestream.server.core.admission import Admission
from gatestream.server.core.batches import GATES, OUTPUTS, OneEntry
from gatestream.server.core.few import FewEntries, run_of_few
from gatestream.server.core.run import Run
from gatestream.server.core.sessions import SessionTable
from tests.support.engine import Recorder

SESSIONS = 6
MASKS = st.sampled_from([OUTPUTS, GATES, OUTPUTS | GATES])


class Owner(Recorder):
    """Who writes down a single answer as it is given."""

    def result(self, *answer: Any) -> None:
        self.answer = answer


class Planned:
    """Sessions that stand at 10 and their number, and what is planned of steps that come for them."""

    def __init__(self, path: Path):
        artifact = Artifact.load(path)
        self.layout: ModelLayout = artifact.layout
        self.rows = StateRows(self.layout, HostRunner(artifact, SESSIONS, 1), SESSIONS, lambda: 0.0)
        self.table = SessionTable(SESSIONS)
        self.sessions = [self.table.create("tenant", "", 0.0) for _ in range(SESSIONS)]
        self.table.position[self.sessions] = self.table.accepted[self.sessions] = 10 + np.arange(SESSIONS)

    def step(self, session: int, value: float = 0.0, first: int = -1, length: int = 1, mask: int = OUTPUTS) -> OneEntry:
        columns = (np.full((length, 2), value, np.float32).tobytes(),)
        return OneEntry(Owner(rows=1), 20 + session, session, length, first, columns, mask)

    def run(self, steps: list[OneEntry]) -> Run | None:
        return run_of_few(steps, 1.5, self.layout.inputs, self.table, self.rows)


@given(st.data())
def test_steps_with_nothing_wrong_are_one_run(accumulator_path: Path, data: st.DataObject) -> None:
    planned = Planned(accumulator_path)
    sessions = data.draw(st.lists(st.sampled_from(planned.sessions), min_size=1, unique=True))
    steps = [
        planned.step(s, float(s), data.draw(st.sampled_from([-1, 10 + s])), mask=data.draw(MASKS)) for s in sessions
    ]
    run = planned.run(steps)
    assert run is not None
    count = len(steps)
    assert (run.sessions, run.slots) == (tuple(sessions), planned.table.slot[sessions].tolist())
    assert (run.members, run.steps, run.rows, run.since, run.tick) == (count, 1, count, 1.5, None)
    assert run.gates == any(one.reply_mask & GATES for one in steps)
    assert run.where == ("alone" if count == 1 else "at_once")
    assert run.inputs is not None
    assert run.inputs[0].shape == (count, 1, 2)
    assert run.inputs[0][:, 0, 0].tolist() == sessions
    stepped = [10 + s + (s in sessions) for s in planned.sessions]
    assert planned.table.accepted[planned.sessions].tolist() == stepped


@pytest.mark.parametrize("wrong", ["nan", "first", "chunk", "fresh"])
def test_steps_of_which_one_is_not_as_simple_are_left_as_they_are(accumulator_path: Path, wrong: str) -> None:
    planned = Planned(accumulator_path)
    steps = [planned.step(session) for session in planned.sessions[:3]]
    odd: dict[str, dict[str, Any]] = {"nan": {"value": np.nan}, "first": {"first": 9}, "chunk": {"length": 2}}
    steps[1] = planned.step(planned.sessions[1], **odd.get(wrong, {}))
    if wrong == "fresh":
        planned.rows.make_fresh(planned.table.slot.item(planned.sessions[1]))
    assert planned.run(steps) is None
    assert planned.table.accepted[planned.sessions].tolist() == [10 + k for k in range(SESSIONS)]


@given(st.lists(MASKS, min_size=1, max_size=SESSIONS))
def test_each_owner_hears_of_its_own_and_gets_back_what_it_reserved(accumulator_path: Path, masks: list[int]) -> None:
    planned = Planned(accumulator_path)
    steps = [planned.step(session, mask=mask) for session, mask in zip(planned.sessions, masks, strict=False)]
    admission = Admission(planned.layout, Limits())
    for one in steps:
        one.owner.rows = 0
        admission.take(one.owner, 1, one.reply_mask)
    few, count = FewEntries(steps, 0.0), len(steps)
    outputs, gates = ([np.arange(2.0 * count).reshape(count, 1, 2) + k for k in kinds] for kinds in ((0,), (50, 70)))
    columns = few.cut([1] * count, outputs, gates)
    few.release(admission, None, [1] * count)
    few.answer(None, list(range(5, 5 + count)), [1] * count, columns)
    assert admission.rows == 0
    for k, one in enumerate(steps):
        assert one.owner.account.rows == one.owner.account.bytes == 0
        assert isinstance(one.owner, Owner)
        handle, first, length, shown, activations = one.owner.answer
        assert (handle, first, length) == (one.handle, 5 + k, 1)
        assert [np.frombuffer(data).tolist() for data in shown] == [[2 * k, 2 * k + 1]] * bool(one.reply_mask & OUTPUTS)
        expected = [[2 * k + 50, 2 * k + 51], [2 * k + 70, 2 * k + 71]] if one.reply_mask & GATES else []
        assert [np.frombuffer(data).tolist() for data in activations] == expected


def test_as_a_batch_that_can_be_queued_it_says_the_same(accumulator_path: Path) -> None:
    planned = Planned(accumulator_path)
    steps = [planned.step(s, float(s), mask=mask) for s, mask in zip((4, 1, 3), (OUTPUTS, GATES, OUTPUTS), strict=True)]
    few = FewEntries(steps, 2.5)
    batch = few.gathered(planned.layout.inputs)
    assert few.places() == batch.places() == [(4, 0, 1), (1, 1, 1), (3, 2, 1)]
    assert [few.entry(k) for k in range(3)] == [batch.entry(k) for k in range(3)]
    assert (batch.offsets.tolist(), batch.rows, batch.longest, batch.gates, batch.since) == ([0, 1, 2], 3, 1, True, 2.5)
    assert batch.inputs[0].tolist() == [[4, 4], [1, 1], [3, 3]]
