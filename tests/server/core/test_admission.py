import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gatestream.protos.layout import Column, Gate, Input, ModelLayout
from gatestream.server.config import Limits
from gatestream.server.core.accounts import ITEM_BYTES, Account, Accounts
from gatestream.server.core.admission import Admission, Caller
from gatestream.server.core.batches import GATES, OUTPUTS
from gatestream.server.errors import ConfigError, Exhausted

LIMITS = Limits(rows=12, rows_per_stream=6, chunk_length=6, reply_bytes_per_stream=4096)


def layout(outputs: int, both: int) -> ModelLayout:
    """Of a model whose answer to a row has so many bytes, without gates and with them; a row of its input has 8."""
    y, i = (np.dtype("<f4"), (outputs // 4,)), (np.dtype("<f4"), ((both - outputs) // 4,))
    return ModelLayout("m", "", (Input("x", np.dtype("<f4"), (2,)),), (Column("y", *y),), (), (Gate("i", *i, "input"),))


def accounts(**limits: int) -> Accounts:
    made = Accounts(Limits(**{"rows": 12, "rows_per_stream": 6, "chunk_length": 6, **limits}))
    made.divide(several=True)
    return made


def caller(account: Account | None = None) -> Caller:
    return Caller(account or Accounts(LIMITS).of("tenant"))


def test_rows_are_counted_for_the_model_and_for_the_stream() -> None:
    admission, owner = Admission(layout(4, 8), LIMITS), caller()
    admission.take(owner, 4)
    admission.take(caller(), 2)
    assert (admission.rows, owner.rows) == (6, 4)


def test_a_stream_may_hold_less_than_the_model() -> None:
    admission, owner, other = Admission(layout(4, 8), LIMITS), caller(), caller()
    admission.take(owner, 5)
    with pytest.raises(Exhausted, match="2 rows more than the 5 in flight would be over the stream's 6; wait"):
        admission.take(owner, 2)
    with pytest.raises(Exhausted, match="over the stream's 6; send less in a message") as refusal:
        admission.take(owner, 7)
    assert refusal.value.retry_after == 0.0
    admission.take(other, 6)
    admission.take(caller(), 1)
    with pytest.raises(Exhausted, match="1 rows more than the server has pending would be over its 12; try again"):
        admission.take(caller(), 1)
    assert (admission.rows, owner.rows) == (12, 5)
    admission.take(owner, 1, unlimited=True)
    assert (admission.rows, owner.rows) == (13, 6)


def test_the_wait_that_is_named_is_no_measure_of_what_is_pending() -> None:
    admission = Admission(layout(4, 8), LIMITS)
    waits = set()
    for pending in range(2):
        admission.take(caller(), 6 - pending)
        admission.seconds_per_row = 0.0021
        admission.take(caller(), 6)
        with pytest.raises(Exhausted) as refusal:
            admission.take(caller(), 6)
        waits.add(refusal.value.retry_after)
        admission.rows = 0
    assert waits == {0.032}


def test_answers_with_gates_are_larger_so_fewer_rows_may_wait_for_them() -> None:
    admission = Admission(layout(4, 1024), LIMITS)
    assert (admission.most_rows(False), admission.most_rows(True)) == (6, 4)
    with pytest.raises(Exhausted, match="over the stream's 4"):
        admission.take(caller(), 5, OUTPUTS | GATES)


def test_one_row_must_fit() -> None:
    with pytest.raises(
        ConfigError, match=r"reply_bytes_per_stream is 4096; the answer to one row of model 'm' is 5000"
    ):
        Admission(layout(4, 5000), LIMITS)


def test_a_tenants_rows_have_a_bound_whatever_its_streams() -> None:
    admission, both = Admission(layout(4, 8), LIMITS), accounts()
    assert both.most.rows == 6
    mine = [caller(both.of("a")) for _ in range(2)]
    admission.take(mine[0], 4)
    admission.take(mine[1], 2)
    with pytest.raises(Exhausted, match="1 rows more than the 6 pending would be over this tenant's 6; wait") as caught:
        admission.take(mine[1], 1)
    assert caught.value.retry_after > 0
    admission.take(caller(both.of("b")), 6)
    admission.computed(mine[0], 1)
    admission.take(mine[1], 1)
    # They are the stream's until they are sent.
    assert (mine[0].rows, mine[1].rows, both.of("a").rows, admission.rows) == (4, 3, 6, 12)


ANSWER = 1000
ROW = ITEM_BYTES + 8 + ANSWER


def sized(rows: float, rows_of_tenant: float) -> tuple[Admission, Accounts]:
    """Of a model with answers of so many bytes, where so many rows' bytes may be held, and four on a stream."""
    limits = Limits(
        rows=90,
        rows_per_stream=4,
        chunk_length=4,
        reply_bytes_per_stream=4096,
        reply_bytes=int(rows * ROW),
        tenant_reply_bytes=int(rows_of_tenant * ROW),
    )
    return Admission(layout(ANSWER, 2 * ANSWER), limits), Accounts(limits)


def test_bytes_have_a_bound_for_the_tenant_and_for_all() -> None:
    admission, all_ = sized(rows=12, rows_of_tenant=7)
    mine, more = caller(all_.of("a")), caller(all_.of("a"))
    admission.take(mine, 4, OUTPUTS)
    assert (mine.account.bytes, all_.bytes) == (4 * ROW, 4 * ROW)
    admission.take(more, 3, OUTPUTS)
    over = rf"^{ROW} bytes, of inputs and of .* the {7 * ROW} held would be over this tenant's {7 * ROW}; read"
    with pytest.raises(Exhausted, match=over) as caught:
        admission.take(more, 1, OUTPUTS)
    assert caught.value.retry_after > 0
    admission.take(caller(all_.of("b")), 4, OUTPUTS)
    admission.take(caller(all_.of("c")), 1, OUTPUTS)
    with pytest.raises(Exhausted, match=rf"more than what is held would be over the server's {12 * ROW}; read"):
        admission.take(caller(all_.of("c")), 1, OUTPUTS)
    assert (mine.account.bytes, all_.bytes) == (7 * ROW, 12 * ROW)
    admission.withdrawn(mine, 1, OUTPUTS)
    admission.take(more, 1, OUTPUTS)


def test_what_alone_is_over_a_bound_of_bytes_is_to_be_sent_in_parts() -> None:
    admission, all_ = sized(rows=3.5, rows_of_tenant=3.5)
    with pytest.raises(Exhausted, match=rf"{4 * ROW} bytes, .* over this tenant's .* send less in a message") as caught:
        admission.take(caller(all_.of("a")), 4, OUTPUTS)
    assert caught.value.retry_after == 0
    admission.take(caller(all_.of("a")), 3, OUTPUTS)


async def test_who_has_just_been_answered_may_send_as_much_as_before() -> None:
    admission, all_ = sized(rows=4, rows_of_tenant=4)
    mine, other = caller(all_.of("a")), caller(all_.of("a"))
    for _ in range(3):
        admission.take(mine, 4, OUTPUTS)
        admission.computed(mine, 4, OUTPUTS)
        mine.send_queue.put(b"x" * 4 * ANSWER, 4)
        item = await mine.send_queue.take()
        assert item is not None
        mine.rows -= item[1]
        # It is being sent: to others it counts still.
        with pytest.raises(Exhausted):
            admission.take(other, 4, OUTPUTS)
    mine.send_queue.discard()
    assert (mine.account.bytes, all_.bytes) == (0, 0)


Step = tuple[str, int, int, int]
LIFE = st.lists(
    st.tuples(
        st.sampled_from(["take", "computed", "withdrawn", "put", "take out", "discard"]),
        st.integers(0, 3),
        st.integers(1, 8),
        st.integers(0, 3),
    ),
    max_size=60,
)


@given(LIFE)
async def test_whatever_happens_all_is_given_back(life: list[Step]) -> None:
    """Four streams of two tenants: what is held is what was taken and not given back, and in the end nothing."""
    all_ = accounts(reply_bytes_per_stream=4096, reply_bytes=20_000)
    sizes = Limits(rows=12, rows_per_stream=6, chunk_length=6, reply_bytes_per_stream=4096)
    admission = Admission(layout(100, 500), sizes)
    streams = [caller(all_.of("ab"[k % 2])) for k in range(4)]
    pending: list[list[tuple[int, int]]] = [[] for _ in streams]
    waiting = [0] * len(streams)
    for action, k, rows, reply_mask in life:
        stream = streams[k]
        if action == "take":
            try:
                admission.take(stream, rows, reply_mask)
            except Exhausted:
                continue
            pending[k].append((rows, reply_mask))
        elif action in ("computed", "withdrawn") and pending[k]:
            rows, reply_mask = pending[k].pop()
            getattr(admission, action)(stream, rows, reply_mask)
        elif action == "put":
            stream.send_queue.put(b"x" * 100 * rows)
            waiting[k] += 1
        elif action == "take out" and waiting[k]:
            await stream.send_queue.take()
            waiting[k] -= 1
        elif action == "discard":
            stream.send_queue.discard()
            waiting[k] = 0
        assert all_.bytes == sum(all_.of(tenant).bytes for tenant in "ab")
        assert admission.rows == sum(rows for of_one in pending for rows, _ in of_one)
        assert admission.rows == sum(all_.of(tenant).rows for tenant in "ab")
    for k, stream in enumerate(streams):
        for rows, reply_mask in pending[k]:
            admission.withdrawn(stream, rows, reply_mask)
        stream.send_queue.discard()
    assert (admission.rows, all_.bytes) == (0, 0)
    assert [(all_.of(tenant).rows, all_.of(tenant).bytes) for tenant in "ab"] == [(0, 0), (0, 0)]
