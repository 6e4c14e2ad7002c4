"""Whatever is changed in a graph, inspect refuses the file, or the change makes no difference to any number."""

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from gatestream.export.drawing.inspection import inspect
from gatestream.export.errors import ArtifactError
from gatestream.export.exporter import Form
from gatestream.export.formats import Precision
from tests.export.conftest import Exported
from tests.export.mutations import body

ALIKE = ({"Sigmoid", "Tanh", "Relu", "Identity"}, {"Add", "Mul", "Sub", "Div", "Max"}, {"Less", "Greater"})


def change(model: onnx.ModelProto, data: st.DataObject) -> str:
    """One node takes another tensor, or is another operator, or gives its place among the outputs to another."""
    scans = any(node.op_type == "Scan" for node in model.graph.node)
    graph = data.draw(st.sampled_from([model.graph, body(model)] if scans else [model.graph]))
    node = data.draw(st.sampled_from(list(graph.node)))
    others = next((sorted(kinds) for kinds in ALIKE if node.op_type in kinds), [])
    if data.draw(st.booleans()) and others:
        before, node.op_type = node.op_type, data.draw(st.sampled_from(others))
        return f"{node.name}: {before} to {node.op_type}"
    tensors = [name for each in graph.node for name in each.output]
    tensors += [each.name for values in (graph.input, model.graph.input, model.graph.initializer) for each in values]
    k = data.draw(st.integers(0, len(node.input) - 1))
    before, node.input[k] = node.input[k], data.draw(st.sampled_from(tensors))
    return f"{node.name}: {before} to {node.input[k]}"


def numbers(path: Path) -> list[np.ndarray]:
    """What the file computes for three rows of unlike length, what is of no meaning left out."""
    rng, lengths = np.random.default_rng(0), (5, 2, 1)
    feed = {
        "x": rng.integers(5, size=(3, 5)),
        "length": np.array(lengths, np.int32),
        "h": rng.uniform(-1, 1, (3, 2, 6)).astype(np.float32),
        "c": rng.standard_normal((3, 2, 6)).astype(np.float32),
    }
    y, h, c, *gates = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"]).run(None, feed)
    return [h, c, *(values[row, :length] for values in (y, *gates) for row, length in enumerate(lengths))]


@pytest.mark.parametrize(
    ("form", "weights"), [("gates", "float32"), ("fused", "float32"), ("fused", "float16"), ("gates", "int8")]
)
@settings(
    max_examples=15,
    derandomize=True,
    phases=[Phase.generate],
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(data=st.data())
def test_is_refused_or_makes_no_difference(
    exported: Exported, tmp_path: Path, form: Form, weights: Precision, data: st.DataObject
) -> None:
    original, _ = exported("tokens", form, weights)
    model = onnx.load(original)
    what = change(model, data)
    path = tmp_path / "changed.onnx"
    onnx.save(model, path)
    try:
        inspect(path)
    except ArtifactError:
        return
    for found, expected in zip(numbers(path), numbers(original), strict=True):
        np.testing.assert_allclose(found, expected, atol=1e-5, err_msg=what)
