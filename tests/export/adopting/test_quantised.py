from pathlib import Path

import numpy as np
import onnx
import pytest
from onnxruntime.quantization import QuantType, quantize_dynamic

from gatestream.export.adopting.dataflow import pairs
from gatestream.export.adopting.expose import expose
from gatestream.export.adopting.reading import read
from gatestream.export.adopting.refusals import check
from gatestream.export.errors import NotStreamableError
from tests.export.adopting import graphs
from tests.export.adopting.stepping import run, start, stepped

X = np.random.default_rng(9).standard_normal((8, 2, 3)).astype(np.float32)


def quantised(folder: Path, direction: str = "forward") -> Path:
    directions = 2 if direction == "bidirectional" else 1
    proto = graphs.plain("LSTM", direction=direction)
    if directions == 2:
        proto.graph.output[0].type.tensor_type.shape.dim[1].dim_value = 2
        for item, array in zip(
            proto.graph.initializer, graphs.weights("LSTM", 3, 4, directions=2).values(), strict=True
        ):
            item.CopyFrom(onnx.numpy_helper.from_array(array, item.name))
    quantize_dynamic(graphs.saved(proto, folder), folder / "int8.onnx", weight_type=QuantType.QInt8)
    assert [node.op_type for node in onnx.load(folder / "int8.onnx").graph.node] == ["DynamicQuantizeLSTM"]
    return folder / "int8.onnx"


def test_states_of_the_quantised_operator(tmp_path: Path) -> None:
    path = quantised(tmp_path)
    model = read(path)
    check(model)
    assert pairs(model) == []
    found = expose(model)
    assert [pair.input.name for pair in found] == ["rnn_quant.h", "rnn_quant.c"]
    assert [tuple(pair.input.shape or ())[2] for pair in found] == [4, 4]
    expected = run(path, {"x": X})["y"]
    np.testing.assert_array_equal(run(model, {"x": X} | start(found, 2))["y"], expected)
    # Each run rounds by a range of its own, so that steps come near the whole and no nearer.
    for cuts in ([1] * 8, [3, 5]):
        np.testing.assert_allclose(stepped(model, found, {"x": X}, cuts, {"x": 0, "y": 0})["y"], expected, atol=0.05)
    apart = stepped(model, found[1:], {"x": X}, [1] * 8, {"x": 0, "y": 0}, forgotten=found[:1])["y"] - expected
    assert np.abs(apart).max() > 0.1


def test_the_quantised_operator_in_two_directions_is_refused(tmp_path: Path) -> None:
    with pytest.raises(NotStreamableError, match="DynamicQuantizeLSTM"):
        check(read(quantised(tmp_path, "bidirectional")))
