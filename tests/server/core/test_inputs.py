import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gatestream.protos.gatestream.v1 import gatestream_pb2 as pb
from gatestream.server.core.inputs import faults, inputs_of

SPEC = pb.ModelSpec(
    inputs=[
        pb.TensorSpec(name="x", dtype=pb.DATA_TYPE_FLOAT32, shape=[2]),
        pb.TensorSpec(name="token", dtype=pb.DATA_TYPE_INT64, vocabulary=["a", "b", "c"]),
    ]
)
X, TOKEN = inputs_of(SPEC)


def test_an_input_is_what_its_specification_says() -> None:
    assert (X.name, X.shape, X.row_bytes, X.tokens) == ("x", (2,), 8, 0)
    assert (TOKEN.name, TOKEN.shape, TOKEN.row_bytes, TOKEN.tokens) == ("token", (), 8, 3)
    rows = X.rows(np.arange(6, dtype="<f4").tobytes())
    np.testing.assert_array_equal(rows, [[0, 1], [2, 3], [4, 5]])


@pytest.mark.parametrize("token", [-(2**63), -1, 3, 2**62])
def test_tokens_outside_the_vocabulary_are_not_good(token: int) -> None:
    column = np.array([0, token, 2])
    assert TOKEN.good(column).tolist() == [True, False, True]
    assert not TOKEN.all_good(column)
    assert TOKEN.all_good(np.array([0, 1, 2]))


@pytest.mark.parametrize("number", [np.nan, np.inf, -np.inf])
def test_numbers_that_are_none_are_not_good(number: float) -> None:
    assert not X.all_good(np.array([[0, number]], np.float32))
    # The largest numbers are numbers, though their sum is not.
    assert X.all_good(np.full((4, 2), np.finfo(np.float32).max))


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
        pb.REASON_POSITION_MISMATCH: [strays for _, strays, _, _ in entries],
        pb.REASON_NOT_FINITE: [not_finite and not strays for _, strays, not_finite, _ in entries],
        pb.REASON_TOKEN_OUT_OF_RANGE: [u and not n and not s for _, s, n, u in entries],
    }
    assert by_reason == {reason: bad for reason, bad in expected.items() if any(bad)}
