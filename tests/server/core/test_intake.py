import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gatestream.protos.gatestream.v1 import gatestream_pb2 as pb
from gatestream.protos.layout import Column, Input, ModelLayout
from gatestream.server.config import Limits
from gatestream.server.core.admission import Admission
from gatestream.server.core.batches import OUTPUTS, Gathered, OneEntry
from gatestream.server.core.intake import Intake, faults
from gatestream.server.core.reply_sink import refuse_one
from gatestream.server.core.sessions import SessionTable
from gatestream.server.errors import Reason, Refused
from tests.support.engine import Recorder

FLOAT = np.dtype("<f4")
LAYOUT = ModelLayout("m", "", (Input("x", FLOAT, (1,)),), (Column("y", FLOAT, (1,)),), ())
SPEC = pb.ModelSpec(
    inputs=[
        pb.TensorSpec(name="x", dtype=pb.DATA_TYPE_FLOAT32, shape=[2]),
        pb.TensorSpec(name="token", dtype=pb.DATA_TYPE_INT64, vocabulary=["a", "b", "c"]),
    ]
)
X, TOKEN = ModelLayout.of(SPEC).inputs


def intake(sessions: int) -> Intake:
    table = SessionTable(sessions)
    for _ in range(sessions):
        table.create("tenant", "", 0.0)
    admission = Admission(LAYOUT, Limits())

    def refuse(one: OneEntry, error: Refused, accepted: int, meant: int) -> None:
        admission.withdrawn(one.owner, one.length, one.reply_mask)
        refuse_one(one.owner, error, one.handle, accepted, meant, one.length)

    return Intake(LAYOUT.inputs, table, admission, np.full(sessions, OUTPUTS, np.uint8), lambda: 0.0, refuse)


def test_of_nothing_there_is_nothing() -> None:
    assert intake(1).take() is None


@given(st.lists(st.tuples(st.integers(1, 3), st.sampled_from(["good", "strays", "nan"])), min_size=1, max_size=6))
def test_what_is_good_is_taken_and_each_owner_hears_of_its_own(arrivals: list[tuple[int, str]]) -> None:
    box = intake(len(arrivals))
    owners = [Recorder(rows=length) for length, _ in arrivals]
    box._admission.rows = sum(length for length, _ in arrivals)
    for slot, (owner, (length, kind)) in enumerate(zip(owners, arrivals, strict=True)):
        x = np.full(length, slot, np.float32)
        if kind == "nan":
            x[-1] = np.nan
        first = 7 if kind == "strays" else -1
        box.steps[slot] = OneEntry(owner, 10 + slot, slot, length, first, (x.tobytes(),), OUTPUTS)
    batch = box.take()
    good = [slot for slot, (_, kind) in enumerate(arrivals) if kind == "good"]
    lengths = [arrivals[slot][0] for slot in good]
    if batch is None:
        assert not good
    else:
        assert isinstance(batch, Gathered)
        assert batch.sessions.tolist() == good
        assert batch.lengths.tolist() == lengths
        assert list(batch.handles) == [10 + slot for slot in good]
        assert [owner is owners[slot] for owner, slot in zip(batch.owners, good, strict=True)] == [True] * len(good)
        assert batch.inputs[0].ravel().tolist() == [slot for slot in good for _ in range(arrivals[slot][0])]
        assert (batch.longest, batch.rows) == (max(lengths), sum(lengths))
    assert box._admission.rows == sum(lengths)
    for slot, (owner, (length, kind)) in enumerate(zip(owners, arrivals, strict=True)):
        assert int(box._sessions.accepted[slot]) == (length if kind == "good" else 0)
        reason = {"strays": "POSITION_MISMATCH", "nan": "NOT_FINITE"}.get(kind)
        first = 7 if kind == "strays" else 0
        assert owner.take() == ([] if reason is None else [(reason, [10 + slot], [0], [first], [length])])
        assert owner.rows == (length if kind == "good" else 0)
    assert box.take() is None


def test_steps_that_cannot_be_put_together_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    box = intake(2)
    owners = [Recorder(rows=1), Recorder(rows=1)]
    box._admission.rows = 2
    for slot, owner in enumerate(owners):
        box.steps[slot] = OneEntry(owner, 10 + slot, slot, 1, -1, (np.zeros(1, np.float32).tobytes(),), OUTPUTS)

    def lacking(*_: object) -> None:
        raise MemoryError("no more")

    monkeypatch.setattr("gatestream.server.core.intake.faults", lacking)
    assert box.take() is None
    for slot, owner in enumerate(owners):
        assert owner.take() == [("STEP_FAILED", [10 + slot], [0], [0], [1])]
        assert owner.rows == 0
    assert box._admission.rows == 0
    assert box.take() is None


@given(st.lists(st.tuples(st.integers(1, 4), st.booleans(), st.booleans(), st.booleans()), min_size=1, max_size=6))
def test_each_entry_is_found_out_once(entries: list[tuple[int, bool, bool, bool]]) -> None:
    lengths = np.array([length for length, *_ in entries])
    offsets = np.cumsum(lengths) - lengths
    x, token = np.zeros((int(lengths.sum()), 2), np.float32), np.zeros(int(lengths.sum()), np.int64)
    accepted, meant = np.full(len(entries), 5), np.full(len(entries), 5)
    for k, (length, strays, not_finite, unknown) in enumerate(entries):
        meant[k] += strays
        if not_finite:
            x[offsets[k] + length - 1, 1] = np.nan
        if unknown:
            token[offsets[k]] = 9
    found = faults([X, TOKEN], [x, token], lengths, offsets, accepted, meant)
    by_reason = {error(int(bad.argmax())).reason: bad.tolist() for bad, error in found}
    expected = {
        Reason.POSITION_MISMATCH: [strays for _, strays, _, _ in entries],
        Reason.NOT_FINITE: [not_finite and not strays for _, strays, not_finite, _ in entries],
        Reason.TOKEN_OUT_OF_RANGE: [u and not n and not s for _, s, n, u in entries],
    }
    assert by_reason == {reason: bad for reason, bad in expected.items() if any(bad)}
