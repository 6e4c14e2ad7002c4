"""The cases that come with onnx for LSTM, GRU and RNN, run a step at a time."""

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx.backend.test.case import node as node_cases
from onnx.backend.test.case.node import gru, lstm, rnn  # noqa: F401 (an import makes the cases)
from onnx.backend.test.case.test_case import TestCase

from gatestream.export.adopting.expose import expose
from gatestream.export.adopting.reading import fold, read
from gatestream.export.adopting.refusals import check
from gatestream.export.errors import NotStreamableError
from tests.export.adopting import graphs
from tests.export.adopting.stepping import run, start

CASES: dict[str, TestCase] = {
    case.name: case
    for case in node_cases._NodeTestCases
    if case.model is not None and {node.op_type for node in case.model.graph.node} & graphs.GATES.keys()
}
BACKWARDS = {name for name in CASES if name.endswith(("_reverse", "_bidirectional"))}


def test_there_are_18() -> None:
    assert (len(CASES), len(BACKWARDS)) == (18, 6)


@pytest.mark.parametrize("name", sorted(CASES.keys() - BACKWARDS))
def test_steps_give_what_the_case_expects(name: str, tmp_path: Path) -> None:
    case = CASES[name]
    assert case.model is not None
    assert case.data_sets is not None
    proto = onnx.ModelProto()
    proto.CopyFrom(case.model)
    proto.graph.node[0].name = "rnn"
    [(given, expected)] = case.data_sets
    feed = dict(zip((value.name for value in proto.graph.input), given, strict=True))
    for dim in proto.graph.input[0].type.tensor_type.shape.dim[:2]:
        dim.Clear()  # steps and rows, which the cases have as they are
    model = read(graphs.saved(proto, tmp_path))
    layout = next((a.i for a in proto.graph.node[0].attribute if a.name == "layout"), 0)
    x = feed.pop("X")
    lengths = feed.pop("sequence_lens", None)
    # As the cases have them, weights are inputs; states that start from zeros are left to be exposed.
    states = [key for key in feed if key.startswith("initial_")]
    assert not any(feed[key].any() for key in states)
    fold(model, feed)
    check(model)
    found = expose(model)
    values = start(found, x.shape[0] if layout else x.shape[1])
    outputs = []
    for t in range(x.shape[1 if layout else 0]):
        piece = {"X": x.take([t], 1 if layout else 0)}
        if lengths is not None:
            piece["sequence_lens"] = np.clip(lengths - t, 0, 1).astype(np.int32)
        after = run(model, piece | values)
        values = {pair.input.name or "": after[pair.output.name or ""] for pair in found}
        outputs.append(after)
    for output, wanted in zip(proto.graph.output, expected, strict=True):
        if output.name in ("Y", "y", "output"):
            joined = np.concatenate([after[output.name] for after in outputs], 1 if layout else 0)
            np.testing.assert_allclose(joined, wanted, rtol=1e-5, atol=1e-6)
        else:
            [last] = [values[pair.input.name or ""] for pair in found if pair.input.name == "rnn.h"]
            np.testing.assert_allclose(last.swapaxes(0, 1) if layout else last, wanted, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", sorted(BACKWARDS))
def test_the_other_directions_are_refused(name: str, tmp_path: Path) -> None:
    case = CASES[name]
    assert case.model is not None
    with pytest.raises(NotStreamableError, match="last step"):
        check(read(graphs.saved(case.model, tmp_path)))
