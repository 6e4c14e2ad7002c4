"""The reference model with weights in fewer bits, exported and served as a user would."""

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest

from gatestream.client import connect
from gatestream.export.artifact import load
from gatestream.model.tasks import reber
from gatestream.protos.gatestream.v1 import gatestream_pb2 as pb
from tests.support.process import serving
from tests.support.reference import gatestream
from tests.support.wire import Stream

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]  # the model may have to be trained first


def export(reference: Path, folder: Path, weights: str, form: str) -> Path:
    path = folder / f"reber.{form}.{weights}.onnx"
    gatestream("export", reference / "reber.safetensors", "-o", path, "--form", form, "--weights", weights)
    return path


def alone(path: Path, symbols: np.ndarray) -> np.ndarray:
    """Outputs of one session, in onnxruntime and nothing else: [steps, outputs]."""
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    h = c = np.zeros((1, 1, 32), np.float32)
    found = []
    for symbol in symbols:
        feed = {"x": symbol.reshape(1, 1), "length": np.ones(1, np.int32), "h": h, "c": c}
        y, h, c = session.run(["y", "h_next", "c_next"], feed)
        found.append(y[0, 0])
    return np.array(found)


@pytest.mark.parametrize(("weights", "form"), [("int8", "gates"), ("float16", "fused")])
def test_the_reference_model_in_fewer_bits(reference: Path, tmp_path: Path, weights: str, form: str) -> None:
    """No prediction is illegal; every session's numbers are those of the file run for it alone."""
    path = export(reference, tmp_path, weights, form)
    assert path.stat().st_size < (reference / f"reber.{form}.onnx").stat().st_size
    count, steps = 30, 300
    symbols, _, legal = reber.Streams(count, 11).take(steps)
    with serving(path) as server, connect(server.address) as gs:
        group = gs.group("reber", count)
        chunks = [group.run(symbols[:, begin : begin + 40]) for begin in range(0, 200, 40)]
        single = [group.step(symbols[:, step])[:, None] for step in range(200, steps)]
        found = np.concatenate([*chunks, *single], axis=1)
        with Stream(server.address) as stream:
            (served,) = stream.calls.Describe(pb.DescribeRequest()).models
        if form == "gates":
            with gs.session(gates=True) as session:
                session.run(symbols[0])
                gates = {name: np.asarray(array) for name, array in session.gates.items()}
    assert reber.illegal(found, legal) == 0
    for row in (0, count - 1):
        np.testing.assert_allclose(found[row], alone(path, symbols[row]), atol=1e-4)
    assert served.spec == load(path).spec
    assert served.spec.weights == {"int8": pb.WEIGHT_FORMAT_INT8, "float16": pb.WEIGHT_FORMAT_FLOAT16}[weights]
    if form == "gates":
        assert set(gates) == {"input", "forget", "candidate", "output"}
        assert all(np.abs(array).max() <= 1 and array.shape == (steps, 1, 32) for array in gates.values())


def test_a_file_of_whole_numbers_that_was_changed_is_found_out(reference: Path, tmp_path: Path) -> None:
    path = export(reference, tmp_path, "int8", "gates")
    assert "weights  int8, " in gatestream("inspect", path).stdout
    model = onnx.load(path)
    weight = next(each for each in model.graph.initializer if each.name == "cells.0.forget_gate.R.T")
    weight.raw_data = bytes([weight.raw_data[0] ^ 1]) + weight.raw_data[1:]
    onnx.save(model, path)
    with pytest.raises(AssertionError, match="the weights hash to"):
        gatestream("inspect", path)
