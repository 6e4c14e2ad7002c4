import pytest

from gatestream.protos.gatestream.v1 import gatestream_pb2 as pb
from gatestream.server.admission import Admission
from gatestream.server.config import Limits
from gatestream.server.errors import ConfigError, Exhausted
from gatestream.server.work import GATES, OUTPUTS
from tests.server.test_engine import Recorder

LIMITS = Limits(rows=12, rows_per_stream=6, chunk_length=6, reply_bytes_per_stream=4096)


def test_rows_are_counted_for_the_model_and_for_the_stream() -> None:
    admission, owner = Admission(pb.ModelSpec(name="m"), LIMITS, (4, 8)), Recorder()
    admission.take(owner, 4)
    admission.take(None, 2)
    assert (admission.rows, owner.rows) == (6, 4)


def test_a_stream_may_hold_less_than_the_model() -> None:
    admission, owner = Admission(pb.ModelSpec(name="m"), LIMITS, (4, 8)), Recorder()
    admission.take(owner, 5)
    with pytest.raises(Exhausted, match="2 rows more than the 5 in flight would be over the stream's 6; wait"):
        admission.take(owner, 2)
    with pytest.raises(Exhausted, match="over the stream's 6; send less in a message") as refusal:
        admission.take(owner, 7)
    assert refusal.value.retry_after == 0.0
    admission.take(None, 7)
    with pytest.raises(Exhausted, match="1 rows more than the 12 pending would be over the server's 12; try again"):
        admission.take(None, 1)
    assert (admission.rows, owner.rows) == (12, 5)
    admission.take(owner, 1, unlimited=True)
    assert (admission.rows, owner.rows) == (13, 6)


def test_answers_with_gates_are_larger_so_fewer_rows_may_wait_for_them() -> None:
    admission = Admission(pb.ModelSpec(name="m"), LIMITS, (4, 1024))
    assert (admission.most_rows(False), admission.most_rows(True)) == (6, 4)
    with pytest.raises(Exhausted, match="over the stream's 4"):
        admission.take(Recorder(), 5, wants=OUTPUTS | GATES)


def test_one_row_must_fit() -> None:
    with pytest.raises(
        ConfigError, match=r"reply_bytes_per_stream is 4096; the answer to one row of model 'm' is 5000"
    ):
        Admission(pb.ModelSpec(name="m"), LIMITS, (4, 5000))
