import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from gatestream.server.core.batches import compact, flatten, gather

lengths_strategy = st.lists(st.integers(1, 9), min_size=1, max_size=8)


@given(lengths_strategy, st.sets(st.integers(0, 7)))
def test_gathering_then_flattening_gives_back_the_rows(lengths: list[int], left_out: set[int]) -> None:
    column = np.arange(sum(lengths) * 3, dtype=np.float32).reshape(-1, 3)
    ends = np.cumsum(np.array(lengths, np.int64))
    chosen = [k for k in range(len(lengths)) if k not in left_out] or [0]
    size = np.array(lengths, np.int64)[chosen]
    offsets = (ends - lengths)[chosen]
    batch = gather(column, offsets, int(size.max()))
    expected = np.concatenate([column[o : o + n] for o, n in zip(offsets, size, strict=True)])
    np.testing.assert_array_equal(flatten(batch, size), expected)
    np.testing.assert_array_equal(compact(column, offsets, size), expected)
