import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from gatestream.protos.gatestream.v1 import gatestream_pb2 as pb
from gatestream.protos.layout import ModelLayout
from gatestream.server.core.inputs import faults
from gatestream.server.errors import Reason

SPEC = pb.ModelSpec(
    inputs=[
        pb.TensorSpec(name="x", dtype=pb.DATA_TYPE_FLOAT32, shape=[2]),
        pb.TensorSpec(name="token", dtype=pb.DATA_TYPE_INT64, vocabulary=["a", "b", "c"]),
    ]
)
X, TOKEN = ModelLayout.of(SPEC).inputs


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
