from pathlib import Path

import numpy as np
import pytest

from gatestream.export.adopting.expose import expose
from gatestream.export.adopting.reading import read
from gatestream.protos.gatestream.v1 import gatestream_pb2 as pb
from tests.export.adopting import graphs
from tests.export.adopting.stepping import assert_streams

RNG = np.random.default_rng(1)
X = RNG.standard_normal((7, 2, 3)).astype(np.float32)


@pytest.mark.parametrize("operator", graphs.GATES)
def test_a_state_that_is_absent_becomes_an_input_and_an_output(operator: str, tmp_path: Path) -> None:
    original = graphs.plain(operator)
    model = read(graphs.saved(original, tmp_path))
    pairs = expose(model)
    assert [(pair.input.name, pair.output.name) for pair in pairs] == (
        [("rnn.h", "rnn.h_next"), ("rnn.c", "rnn.c_next")] if operator == "LSTM" else [("rnn.h", "rnn.h_next")]
    )
    assert [pair.role for pair in pairs] == [pb.STATE_ROLE_HIDDEN, pb.STATE_ROLE_CELL][: len(pairs)]
    assert_streams(original, model, pairs, {"x": X}, {"x": 0, "y": 0})
