"""Whatever is changed in the body of a cell, data flow alone refuses it, or the change makes no difference."""

from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from gatestream.export import artifact
from gatestream.export.errors import ArtifactError
from gatestream.export.finder.claims import check_claims
from gatestream.export.proof.contract import check_model
from gatestream.export.rewriting.reform import reform
from tests.support import recurrent
from tests.support.recurrent import Numbers

RNG = np.random.default_rng(5)
CELLS = {
    "gru, reset behind": recurrent.random("GRU", 3, 3, RNG).with_options(linear_before_reset=True),
    "gru, reset before": recurrent.random("GRU", 3, 3, RNG).with_options(clip=2.0),
    "lstm": recurrent.random("LSTM", 3, 3, RNG, peepholes=True),
    "coupled lstm": recurrent.random("LSTM", 3, 3, RNG).with_options(input_forget=True),
}
ALIKE = ({"Sigmoid", "Tanh", "Relu", "Identity"}, {"Add", "Mul", "Sub", "Div", "Max"}, {"Less", "Greater"})
LENGTHS = (5, 2, 1)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder, paths = tmp_path_factory.mktemp("made"), {}
    for name, cell in CELLS.items():
        original, spec = recurrent.streaming([cell], length=True)
        model = ir.from_proto(original)
        reform(model, spec, "gates")
        paths[name] = folder / f"{name}.onnx"
        artifact.save(model, spec, paths[name])
    return paths


def change(model: onnx.ModelProto, data: st.DataObject) -> str:
    """One node takes another tensor, or is another operator."""
    scan = next(node for node in model.graph.node if node.op_type == "Scan")
    body = next(attribute.g for attribute in scan.attribute if attribute.name == "body")
    node = data.draw(st.sampled_from(list(body.node)))
    others = next((sorted(kinds) for kinds in ALIKE if node.op_type in kinds), [])
    if data.draw(st.booleans()) and others:
        before, node.op_type = node.op_type, data.draw(st.sampled_from(others))
        return f"{node.name}: {before} to {node.op_type}"
    tensors = [name for each in body.node for name in each.output] + [each.name for each in body.input]
    tensors += [each.name for each in model.graph.initializer if each.name.startswith("cell0.")]
    k = data.draw(st.integers(0, len(node.input) - 1))
    before, node.input[k] = node.input[k], data.draw(st.sampled_from(tensors))
    return f"{node.name}: {before} to {node.input[k]}"


def numbers(model: onnx.ModelProto) -> dict[str, Numbers]:
    """What three rows of unlike length give, what is of no meaning left out."""
    rng = np.random.default_rng(0)
    feed = {"x": rng.normal(size=(3, 5, 3)).astype(np.float32), "length": np.array(LENGTHS, np.int32)}
    feed |= {
        each.name: rng.uniform(-1, 1, (3, 3)).astype(np.float32)
        for each in model.graph.input
        if each.name.startswith("cell0_")
    }
    found = recurrent.outputs(model, feed)
    live = (np.arange(5) < np.array(LENGTHS)[:, None])[..., None]
    return {name: values * live if values.ndim == 3 else values for name, values in found.items()}


@pytest.mark.parametrize("name", CELLS)
@settings(
    max_examples=80,
    derandomize=True,
    deadline=None,
    phases=[Phase.generate],
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(data=st.data())
def test_is_refused_or_makes_no_difference(
    made: dict[str, Path], tmp_path: Path, name: str, data: st.DataObject
) -> None:
    model = onnx.load(made[name])
    what = change(model, data)
    onnx.save(model, tmp_path / "changed.onnx")
    found = artifact.load(tmp_path / "changed.onnx")
    try:
        check_model(found)
        check_claims(found.model, found.spec)
    except ArtifactError:
        return
    right = numbers(onnx.load(made[name]))
    for tensor, values in numbers(model).items():
        np.testing.assert_allclose(values, right[tensor], atol=1e-5, err_msg=what)
